"""The head of the page: what run this is, how far it is, how good, and what is wrong."""

import math
from datetime import datetime
from statistics import median

from biggan_sn.report.markup import NOTHING, Html, element, join, paragraph, text
from biggan_sn.report.reading import SCORE, SPEED, History
from biggan_sn.report.scales import brief
from biggan_sn.report.scores import SCORES, best_of, title
from biggan_sn.report.sweeps import Sweep

NEWEST = 3  # alarms in the box
RECENT = 10  # records of speed that count


def head(run: History, sweep: Sweep | None) -> Html:
    """Name, progress, state and the best scores."""
    tiles = _tiles(run, sweep)
    state = element("span", text(run.state), {"class": "state", "data-state": run.state})
    parts = [
        element("h1", join([text(run.name), state], " ")),
        _progress(run),
        element("dl", join(tiles), {"class": "tiles"}) if tiles else NOTHING,
        _alarms(run),
    ]
    return element("header", join(parts))


def _progress(run: History) -> Html:
    reached = f"step {run.step} of {run.steps}" if run.steps else f"step {run.step}"
    words = [
        reached,
        f"last sign of life {_moment(run.written)}",
        f"page written {_moment(run.now)}",
    ]
    bar = element(
        "progress",
        text(reached),
        {"value": min(run.step, run.steps), "max": run.steps, "aria-label": reached},
    )
    return join([bar if run.steps else NOTHING, paragraph(" · ".join(words), "progress")])


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M %Z").strip()


def _tiles(run: History, sweep: Sweep | None) -> list[Html]:
    found = []
    for name, score in SCORES.items():
        best = best_of(name, run.scalars.get(SCORE + name, {})) if score.leads else None
        if best:
            step, value = best
            found.append(_tile(f"best {title(name)}", brief(value), f"at step {step}"))
    for name, point in sweep.bests().items() if sweep else ():
        if name in SCORES and SCORES[name].leads:
            where = f"truncation {point.name}, {point.mode}"
            best_there = brief(point.scores.get(name, math.nan))
            found.append(_tile(f"best {title(name)} of the sweep", best_there, where))
    if speeds := list(run.scalars.get(f"{SPEED}images_per_second", {}).values())[-RECENT:]:
        found.append(
            _tile(
                "images per second",
                brief(median(speeds)),
                f"median of the last {len(speeds)} logged",
            )
        )
    return found


def _tile(name: str, value: str, where: str) -> Html:
    inside = [
        element("dt", text(name)),
        element("dd", text(value), {"class": "value"}),
        element("dd", text(where)),
    ]
    return element("div", join(inside))


def _alarms(run: History) -> Html:
    """A box in red if alarms stand."""
    standing = run.alarms
    if not standing:
        return NOTHING
    count = f"{len(standing)} standing alarm{'s' if len(standing) > 1 else ''}"
    newest = [
        element("li", text(f"step {alarm['step']}, {alarm.get('channel')}: {alarm.get('reason')}"))
        for alarm in standing[: -NEWEST - 1 : -1]
    ]
    more = element("a", text("all alarms and rollbacks"), {"href": "#alarms"})
    inside = [element("h2", text(count)), element("ul", join(newest)), element("p", more)]
    return element("section", join(inside), {"class": "alarm-box", "aria-label": "alarms"})
