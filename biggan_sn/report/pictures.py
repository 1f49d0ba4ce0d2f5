"""Samples: the newest grid, and the grids of a sweep under a slider."""

from collections.abc import Sequence
from pathlib import Path

from biggan_sn.report.markup import (
    NOTHING,
    Html,
    element,
    join,
    paragraph,
    picture,
    pixels_of,
    text,
    void,
)
from biggan_sn.report.reading import History
from biggan_sn.report.scales import brief
from biggan_sn.report.scores import ordered, title, told
from biggan_sn.report.sweeps import Sweep, SweepPoint

SAMPLES = "pictures/samples.png"  # of a run's folder
BEST = {
    "fid": "best FID",
    "is": "best IS",
    "real_is": "IS nearest to real",
}


def samples(run: History) -> Html:
    """The newest grid."""
    words = "Samples of the averaged generator, without truncation, a column per class"
    logs = run.config.get("logs")
    columns = logs.get("columns") if isinstance(logs, dict) else None
    named = f": {', '.join(run.classes[:columns])}" if run.classes and columns else ""
    shown = _from_file(run.folder / SAMPLES, words)
    caption = element("figcaption", text(words + named))
    return element("figure", join([shown, caption]), {"class": "card samples"})


def _from_file(path: Path, alt: str) -> Html:
    try:
        return picture(pixels_of(path.read_bytes()), alt)
    except FileNotFoundError:
        return paragraph("No picture was drawn so far.")
    except (OSError, ValueError):
        return paragraph(f"{path.name} cannot be read.")


def viewer(sweep: Sweep) -> Html:
    """All points one below the other; the script shows one of them, that of the slider."""
    modes = list(sweep.modes().values())
    first = next(iter(sweep.bests().values()), modes[0][-1])
    parts = [element("div", join(_controls(sweep, modes)), {"class": "controls", "hidden": True})]
    parts += [_point(point, sweep) for points in modes for point in points]
    return element("div", join(parts), {"id": "viewer", "data-first": first.number})


def _controls(sweep: Sweep, modes: Sequence[Sequence[SweepPoint]]) -> list[Html]:
    parts = [_choice(modes)] if len(modes) > 1 else []
    parts += [_slider(number, points) for number, points in enumerate(modes)]
    jumps = []
    for name, point in sweep.bests().items():
        value = told(name, point.scores)
        words = f"{BEST.get(name, f'best {title(name)}')}{f': {value}' if value else ''}"
        jumps.append(element("a", text(words), {"href": link_to(point), "class": "jump"}))
    return [*parts, element("p", join(jumps, " "), {"class": "jumps"})] if jumps else parts


def _choice(modes: Sequence[Sequence[SweepPoint]]) -> Html:
    options = [element("legend", text("Kind of truncation"))]
    for number, points in enumerate(modes):
        dot = void("input", {"type": "radio", "name": "mode", "value": number})
        options.append(element("label", join([dot, text(points[0].mode)], " ")))
    return element("fieldset", join(options), {"class": "modes"})


def _slider(number: int, points: Sequence[SweepPoint]) -> Html:
    """From the smallest truncation to the largest; the script knows the points by their names."""
    ends = {"min": 0, "max": len(points) - 1, "step": 1, "value": 0}
    attributes = {"type": "range", "id": f"slider-{number}", **ends}
    attributes["data-points"] = " ".join(str(point.number) for point in points)
    attributes["data-names"] = ";".join(point.name for point in points)
    label = element("label", text("Truncation"), {"for": f"slider-{number}"})
    shown = element("output", NOTHING, {"for": f"slider-{number}"})
    parts = [label, void("input", attributes), shown]
    return element("div", join(parts), {"class": "slide", "data-mode": number})


def link_to(point: SweepPoint) -> str:
    """To its picture on the page."""
    return f"#point-{point.number}"


def marks_of(point: SweepPoint, sweep: Sweep) -> list[str]:
    """What it is the best of."""
    found = [name for name, best in sweep.bests().items() if best.number == point.number]
    return [BEST.get(name, f"best {title(name)}") for name in found]


def _point(point: SweepPoint, sweep: Sweep) -> Html:
    words = f"Samples at truncation {point.name}, {point.mode}"
    shown = paragraph("This point has no picture.")
    if point.grid is not None:
        shown = _from_file(point.grid, words)
    badges = [element("b", text(mark), {"class": "badge"}) for mark in marks_of(point, sweep)]
    name = element("h3", join([text(f"{point.mode}, truncation {point.name}"), *badges], " "))
    values = {title(score): told(score, point.scores) for score in ordered(point.scores)}
    values["diversity"] = brief(point.diversity)
    values["standing statistics"] = str(point.standing_statistics)
    rows = [
        element("div", join([element("dt", text(key)), element("dd", text(value))]))
        for key, value in values.items()
    ]
    caption = element("figcaption", join([name, element("dl", join(rows))]))
    attributes = {"class": "card point", "id": f"point-{point.number}"}
    return element("figure", join([element("div", shown), caption]), attributes)
