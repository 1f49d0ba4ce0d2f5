"""What truncation gains and costs: quality against variety, as curves and as a table."""

import math
from typing import NamedTuple

from biggan_sn.report.curves import Chart, Line, Spot, draw
from biggan_sn.report.markup import Html, element, join, paragraph, table, text
from biggan_sn.report.pictures import BEST, link_to, marks_of, viewer
from biggan_sn.report.scales import brief, drawable
from biggan_sn.report.scores import ordered, title, told
from biggan_sn.report.sweeps import Sweep, SweepPoint


class Pair(NamedTuple):
    """A row: a chart of one score over another."""

    title: str
    across: str
    up: str


def trade_off(sweep: Sweep) -> Html:
    """Slider, curves, table."""
    if not sweep.points:
        return paragraph("The sweep has no points so far.")
    charts = [_chart(sweep, pair) for pair in PAIRS]
    shown = element("div", join(draw(chart) for chart in charts if chart), {"class": "charts wide"})
    return join([paragraph(_said(sweep)), viewer(sweep), shown, _table(sweep)])


def _said(sweep: Sweep) -> str:
    parts = [f"Drawn from {sweep.checkpoint or 'a checkpoint'}"]
    parts += [f"of step {sweep.step}"] if sweep.step is not None else []
    parts += [f"scored by {sweep.samples} samples a point"] if sweep.samples is not None else []
    parts += [f"with the features of {sweep.extractor}"] if sweep.extractor else []
    real = [
        f"{title(name)} {brief(sweep.real[name])}"
        for name in ordered(sweep.real)
        if name in REAL and math.isfinite(sweep.real[name])
    ]
    images = f" Real images: {', '.join(real)}." if real else ""
    return f"{', '.join(parts)}.{images}"


def _chart(sweep: Sweep, pair: Pair) -> Chart | None:
    """A line per mode, a spot per point; None where no point has both scores."""
    lines, spots = [], []
    for mode, points in sweep.modes().items():
        found = [_spot(sweep, pair, point) for point in points]
        there = [spot for spot in found if all(map(drawable, spot.place))]
        lines.append(Line(mode, [spot.place for spot in there]))
        spots += there
    if not spots:
        return None
    return Chart(pair.title, lines, title(pair.across), title(pair.up), spots=spots)


def _spot(sweep: Sweep, pair: Pair, point: SweepPoint) -> Spot:
    """Its label says what of the chart's own scores it is the best of."""
    across, up = (point.scores.get(name, math.nan) for name in (pair.across, pair.up))
    bests = sweep.bests()
    best = [BEST[name] for name in (pair.across, pair.up) if bests.get(name) is point]
    words = [f"{point.mode}, truncation {point.name}"]
    words += [f"{title(name)} {told(name, point.scores)}" for name in (pair.across, pair.up)]
    words += marks_of(point, sweep)
    label = " ".join([point.name, *best])
    return Spot((across, up), label, "; ".join(words), link_to(point), bool(best))


def _table(sweep: Sweep) -> Html:
    names = ordered(name for point in sweep.points for name in point.scores)
    rows = []
    for points in sweep.modes().values():
        for point in points:
            link = element("a", text(point.name), {"href": link_to(point)})
            first = (point.mode, point.standing_statistics, brief(point.diversity))
            values = [*first, *(told(name, point.scores) for name in names)]
            badges = ", ".join(marks_of(point, sweep))
            rows.append([link, *(text(value) for value in (badges, *values))])
    head = ["truncation", "best", "mode", "standing statistics", "diversity", *map(title, names)]
    return table("All points of the sweep", head, rows)


REAL = ("is",)  # scores that real images have too
PAIRS = (
    Pair("FID over Inception score", "is", "fid"),
    Pair("Precision over recall", "recall", "precision"),
)
