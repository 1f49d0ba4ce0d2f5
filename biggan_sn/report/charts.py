"""The curves of a run: which chart shows what."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from biggan_sn.report.curves import Chart, Line, Mark, draw
from biggan_sn.report.markup import Html, element, join, paragraph, text
from biggan_sn.report.reading import SCORE, SPEED, History
from biggan_sn.report.scores import SPREAD, ordered, title

ALARM, ROLLBACK = "alarm", "rollback"  # classes of the style sheet, and words of the legend


class Group(NamedTuple):
    """A row: the chart that logged values belong to, under which heading; its unit; whether it is
    left out where all is 0, as with a single process."""

    heading: str
    title: str
    names: tuple[str, ...]
    up: str = ""
    idle: bool = False


def curves(run: History) -> Html:
    """Every value that was logged is in one of the charts."""
    parts = []
    for heading, charts in _charts(run).items():
        if shown := [draw(chart) for chart in charts if chart.lines]:
            parts.append(element("h3", text(heading)))
            parts.append(element("div", join(shown), {"class": "charts"}))
    return join(parts) if parts else paragraph("Nothing was logged so far.")


def marks_of(run: History) -> list[Mark]:
    """Alarms that stand, and where rollbacks led back to."""
    alarms = [
        Mark(alarm["step"], ALARM, f"step {alarm['step']}, alarm: {alarm.get('reason', '')}")
        for alarm in run.alarms
    ]
    rollbacks = [
        Mark(event["to"], ROLLBACK, f"rollback from step {event['from']} to {event['to']}")
        for event in run.events
        if event["event"] == "rollback"
    ]
    return alarms + rollbacks


def over_steps(
    run: History, chart: str, values: Mapping[str, Mapping[int, float]], up: str = ""
) -> Chart:
    """A chart of values by name and step, from step 0 to where the run is."""
    lines = [Line(name, list(points.items())) for name, points in values.items()]
    return Chart(chart, lines, up=up, last=run.step, marks=marks_of(run))


def _charts(run: History) -> dict[str, list[Chart]]:
    """By heading."""
    found = {SCORES_HEADING: _scores(run)}
    for group in GROUPS:
        values = _chosen(run, group.names)
        if group.idle and not any(any(points.values()) for points in values.values()):
            continue
        chart = over_steps(run, group.title, values, group.up)
        found.setdefault(group.heading, []).append(chart)
    grouped = {name for group in GROUPS for name in group.names}
    others = [name for name in run.scalars if name not in grouped and not name.startswith(SCORE)]
    found[OTHERS_HEADING] = [over_steps(run, name, _chosen(run, [name])) for name in others]
    return found


def _scores(run: History) -> list[Chart]:
    """A chart for each score, with its standard deviation."""
    names = [name.removeprefix(SCORE) for name in run.scalars if name.startswith(SCORE)]
    charts = []
    for score in ordered(names):
        lines = {SCORE + score: title(score), SCORE + score + SPREAD: "standard deviation"}
        values = {lines[name]: points for name, points in _chosen(run, lines).items()}
        charts.append(over_steps(run, title(score), values))
    return charts


def _chosen(run: History, names: Iterable[str]) -> dict[str, dict[int, float]]:
    """Those of the values that were logged; what is in the title of the chart goes without."""
    there = [name for name in names if name in run.scalars]
    return {name.removeprefix(SPEED): run.scalars[name] for name in there}


SCORES_HEADING, GAME, PACE = "Scores of samples", "The game", "Pace"
OTHERS_HEADING = "Other values"
GROUPS = (
    Group(GAME, "Losses", ("d_loss", "g_loss")),
    Group(GAME, "Logits of D in training", ("d_real", "d_fake")),
    Group(GAME, "Logits of D, probed", ("d_on_train", "d_on_heldout", "d_on_fake")),
    Group(GAME, "Learning rates", ("d_lr", "g_lr")),
    Group(GAME, "Variety within a class", ("diversity", "contrast")),
    Group(PACE, "Images per second", (f"{SPEED}images_per_second",)),
    Group(PACE, "What holds it up", (f"{SPEED}data_wait", f"{SPEED}saving"), "ms per step"),
    Group(PACE, "Parts of a step", (f"{SPEED}communication", f"{SPEED}lag"), "", idle=True),
    Group(PACE, "Slowest process", (f"{SPEED}slowest_rank",), "rank", idle=True),
)
