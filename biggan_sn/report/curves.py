"""Curves as SVG: axes, lines, marks. It can be read without any script; with one, values too."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from biggan_sn.evaluation.charts import COLOURS, STYLES
from biggan_sn.report.markup import NOTHING, Html, element, join, text
from biggan_sn.report.scales import Scale, brief, drawable, fitting, linear

WIDTH, HEIGHT = 380, 230  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 46, 370, 18, 186  # of what its axes enclose
MOST = 500  # points of a line

LETTER = 5.4  # width of one in a label, about
# Where the label of a spot may stand, best first: right of it, below it, and where it is anchored.
SIDES = tuple(
    (right, down, anchor) for right, anchor in ((9, "start"), (-9, "end")) for down in (-7, 4, 15)
)

Point = tuple[float, float]


class Box(NamedTuple):
    """A part of the picture; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Line:
    """A curve.

    Args:
        name: for the legend.
        points: from left to right; where a value is not finite, the curve has a gap.
    """

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Mark:
    """A vertical mark: at which step, of which kind (a class of the style sheet), and why."""

    step: float
    kind: str
    why: str


@dataclass(frozen=True)
class Spot:
    """A point of its own, with a label beside it.

    Args:
        place: of the point.
        label: beside it.
        why: the same in more words.
        link: where it leads.
        best: whether it is one to look for.
    """

    place: Point
    label: str
    why: str
    link: str
    best: bool = False


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Args:
        title: above it.
        lines: at least one.
        across, up: what the axes are.
        last: where the horizontal axis ends, if it is one of steps from 0 on.
        marks, spots: on top of the lines.
    """

    title: str
    lines: Sequence[Line]
    across: str = "step"
    up: str = ""
    last: float | None = None
    marks: Sequence[Mark] = field(default=())
    spots: Sequence[Spot] = field(default=())


def thinned(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most so many of the points, so that what is drawn of them looks the same: of each of
    equal parts the lowest, the highest and one that is not finite; the first and the last."""
    if len(points) <= most:
        return list(points)
    parts = (most - 2) // 3
    kept = {0, len(points) - 1}
    edges = [len(points) * number // parts for number in range(parts + 1)]
    for first, end in pairwise(edges):
        part = range(first, end)
        finite = [index for index in part if drawable(points[index][1])]
        holes = [index for index in part if not drawable(points[index][1])]
        finite.sort(key=lambda index: points[index][1])
        kept.update(finite[:1], finite[-1:], holes[:1])
    return [points[index] for index in sorted(kept)]


def draw(chart: Chart) -> Html:
    """A figure with a caption, axes, lines, a legend and room for a readout."""
    across, up = _scales(chart)
    inside = [
        _axes(chart, across, up),
        join(_mark(mark, across) for mark in chart.marks),
        join(_line(number, line, across, up) for number, line in enumerate(chart.lines)),
        join(_spots(chart, across, up)),
    ]
    # No title inside: browsers would show it over the readout.
    about = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": _described(chart)}
    drawing = element("svg", join(inside), about)
    plot = element("div", drawing, _plot_attributes(chart, across))
    caption = element("figcaption", text(chart.title))
    readout = element("p", NOTHING, {"class": "readout", "aria-live": "polite"})
    return element("figure", join([caption, plot, readout, _legend(chart)]), {"class": "chart"})


def _plot_attributes(chart: Chart, across: Scale) -> dict[str, object]:
    """The script reads off values where a chart is one of steps."""
    if chart.spots:
        return {"class": "plot"}
    return {
        "class": "plot",
        "tabindex": 0,
        "role": "group",
        "aria-label": f"{chart.title}: the arrow keys read off values",
        "data-frame": f"{LEFT} {RIGHT} {TOP} {BOTTOM} {WIDTH}",
        "data-low": across.low,
        "data-high": across.high,
    }


def _scales(chart: Chart) -> tuple[Scale, Scale]:
    points = [point for line in chart.lines for point in line.points]
    points += [spot.place for spot in chart.spots]
    up = fitting(y for _, y in points)
    if chart.last is None:
        return fitting(x for x, _ in points), up
    return linear(0, max(chart.last, 1), tight=True), up


def _described(chart: Chart) -> str:
    """For those who do not see it."""
    parts = []
    for line in chart.lines:
        finite = [y for _, y in line.points if math.isfinite(y)]
        ends = f"from {brief(finite[0])} to {brief(finite[-1])}" if finite else "nowhere finite"
        least = f", at least {brief(min(finite))}, at most {brief(max(finite))}" if finite else ""
        parts.append(f"{line.name} {ends}{least}")
    return f"{chart.title} over {chart.across}. {'; '.join(parts)}."


def _x(value: float, scale: Scale) -> float:
    return LEFT + (RIGHT - LEFT) * scale.place(value)


def _y(value: float, scale: Scale) -> float:
    return BOTTOM - (BOTTOM - TOP) * scale.place(value)


def _axes(chart: Chart, across: Scale, up: Scale) -> Html:
    parts = []
    for tick, label in zip(up.ticks, up.labels, strict=True):
        y = _y(tick, up)
        parts += [_stroke(LEFT, y, RIGHT, y, "grid"), _label(LEFT - 6, y + 3.5, label, "end")]
    for tick, label in zip(across.ticks, across.labels, strict=True):
        x = _x(tick, across)
        parts += [_stroke(x, BOTTOM, x, BOTTOM + 4, "tick"), _label(x, BOTTOM + 17, label)]
    parts.append(_stroke(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"))
    parts.append(_label((LEFT + RIGHT) / 2, BOTTOM + 35, chart.across, kind="name"))
    notes = [chart.up, "log scale" if up.logarithmic else ""]
    parts.append(_label(2, TOP - 8, ", ".join(filter(None, notes)), "start", "name"))
    return element("g", join(parts), {"class": "axes", "aria-hidden": "true"})


def _stroke(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    places = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element(
        "line", NOTHING, {"class": kind, **{name: f"{at:.2f}" for name, at in places.items()}}
    )


def _label(x: float, y: float, words: str, anchor: str = "middle", kind: str = "label") -> Html:
    place = {"x": f"{x:.2f}", "y": f"{y:.2f}", "text-anchor": anchor, "class": kind}
    return element("text", text(words), place)


def _colour(number: int) -> str:
    """Classes of the style sheet: a colour, and a style of line where colours come again."""
    return f"c{number % len(COLOURS)} s{number // len(COLOURS) % len(STYLES)}"


def _line(number: int, line: Line, across: Scale, up: Scale) -> Html:
    shown = thinned(line.points)
    values = ";".join(f"{x:.15g},{y:.6g}" for x, y in shown)
    attributes = {"class": f"line {_colour(number)}", "d": path_of(shown, across, up)}
    attributes |= {"data-name": line.name, "data-values": values}
    path = element("path", NOTHING, attributes)
    drawn = [point for point in shown if drawable(point[1])]
    if len(drawn) != 1:
        return path
    place = {"cx": f"{_x(drawn[0][0], across):.2f}", "cy": f"{_y(drawn[0][1], up):.2f}", "r": 3}
    dot = element("circle", NOTHING, {"class": f"dot {_colour(number)}", **place})
    return join([path, dot])  # a path of one point is as small as its line is thin


def path_of(points: Iterable[Point], across: Scale, up: Scale) -> str:
    """The commands of an SVG path: a new piece begins after every value that is not finite, and a
    point that is alone is a dot."""
    pieces: list[list[str]] = [[]]
    for x, y in points:
        if drawable(y):
            pieces[-1].append(f"{_x(x, across):.2f} {_y(y, up):.2f}")
        elif pieces[-1]:
            pieces.append([])
    return "".join(f"M{'L'.join(piece if piece[1:] else piece * 2)}" for piece in pieces if piece)


def _mark(mark: Mark, across: Scale) -> Html:
    x = _x(min(max(mark.step, across.low), across.high), across)
    inside = join([element("title", text(mark.why)), _stroke(x, TOP, x, BOTTOM, "mark")])
    return element("g", inside, {"class": mark.kind, "data-step": f"{mark.step:.15g}"})


def _spots(chart: Chart, across: Scale, up: Scale) -> list[Html]:
    """The best find room for their labels first, and are drawn last: nothing lies on them."""
    if not chart.spots:
        return []
    spots = sorted(chart.spots, key=lambda spot: not spot.best)
    places = [(_x(spot.place[0], across), _y(spot.place[1], up)) for spot in spots]
    taken = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    taken.append(_extent(2, TOP - 8, chart.up, "start"))
    lines = [box for line in chart.lines for box in _along(line, across, up)]
    drawn = []
    for spot, (x, y) in zip(spots, places, strict=True):
        sides = [(x + right, y + down, anchor) for right, down, anchor in SIDES]
        free = [side for side in sides if _is_free(_extent(*side[:2], spot.label, side[2]), taken)]
        better = [s for s in free if _is_free(_extent(*s[:2], spot.label, s[2]), lines)]
        where = (better or free or sides)[0]
        taken.append(_extent(*where[:2], spot.label, where[2]))
        drawn.append(_spot(spot, (x, y), _label(*where[:2], spot.label, where[2])))
    return drawn[::-1]


def _along(line: Line, across: Scale, up: Scale) -> Iterator[Box]:
    """Small boxes that a line lies in."""
    places = [(_x(x, across), _y(y, up)) for x, y in line.points if drawable(y)]
    for (x, y), (further, then) in pairwise(places):
        pieces = max(1, round(math.hypot(further - x, then - y) / 4))
        for piece in range(pieces + 1):
            part = piece / pieces
            at = (x + part * (further - x), y + part * (then - y))
            yield Box(at[0] - 1, at[1] - 1, at[0] + 1, at[1] + 1)


def _extent(x: float, y: float, words: str, anchor: str) -> Box:
    """About what a label covers."""
    width = LETTER * len(words)
    left = x - width if anchor == "end" else x
    return Box(left, y - 9, left + width, y + 2)


def _is_free(box: Box, taken: Iterable[Box]) -> bool:
    """Whether it lies in the picture, and on nothing that is there."""
    inside = box.left >= LEFT and box.right <= WIDTH and box.bottom <= BOTTOM
    return inside and not any(
        box.left < other.right
        and other.left < box.right
        and box.top < other.bottom
        and other.top < box.bottom
        for other in taken
    )


def _spot(spot: Spot, place: Point, label: Html) -> Html:
    kind = "spot best" if spot.best else "spot"
    circle = element(
        "circle",
        NOTHING,
        {"cx": f"{place[0]:.2f}", "cy": f"{place[1]:.2f}", "r": 6 if spot.best else 4},
    )
    inside = join([element("title", text(spot.why)), circle, label])
    return element("a", inside, {"href": spot.link, "class": kind, "aria-label": spot.why})


def _legend(chart: Chart) -> Html:
    """What is which: lines with their last values, and the kinds of marks that are there."""
    items = []
    for number, line in enumerate(chart.lines):
        finite = [y for _, y in line.points if math.isfinite(y)]
        last = element("b", text(brief(finite[-1]) if finite else "never finite"))
        items.append(_item(_colour(number), line.name, NOTHING if chart.spots else last))
    kinds = dict.fromkeys(mark.kind for mark in chart.marks)
    items += [_item(kind, kind, NOTHING) for kind in kinds]
    return element("ul", join(items), {"class": "legend"})


def _item(kind: str, name: str, value: Html) -> Html:
    line = element("line", NOTHING, {"x1": 1, "y1": 5, "x2": 21, "y2": 5, "class": f"line {kind}"})
    swatch = element(
        "svg", line, {"viewBox": "0 0 22 10", "class": "swatch", "aria-hidden": "true"}
    )
    return element("li", join([swatch, text(name), value], " "))
