"""Charts with axes, drawn by matplotlib."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COLUMNS = 4
# Okabe and Ito's colours, which the colour-blind can tell apart, and line styles for print.
COLOURS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#999999")
STYLES = ("-", "--", "-.", ":")


def spectra_chart(runs: Mapping[str, Mapping[str, Tensor]], title: str, path: Path) -> None:
    """Writes a PNG with a panel per layer: sigma_i / sigma_0 over i / rank, a line per run (as
    figure 3 of Miyato et al. 2018 compares normalisations). The last panel is the mean over layers.

    Args:
        runs: name of a run -> layer -> singular values, largest first. All have the same layers.
        title: above the chart.
        path: where it goes.
    """
    from matplotlib.figure import Figure  # slow to import, and only charts need it

    layers = list(next(iter(runs.values())))
    rows = -(-(len(layers) + 1) // COLUMNS)
    figure = Figure(figsize=(3.1 * COLUMNS, 2.5 * rows + 1), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True, sharey=True).flat
    grid = torch.linspace(0, 1, 101, dtype=torch.float64)
    for panel, layer in zip(panels, [*layers, "mean over layers"], strict=False):
        panel.set_title(layer, fontsize=9)
        panel.set(xlim=(0, 1), ylim=(0, 1.05))
        panel.grid(alpha=0.3)
        for number, (name, spectra) in enumerate(runs.items()):
            chosen = [spectra[layer]] if layer in spectra else list(spectra.values())
            curve = torch.stack([_relative(values, grid) for values in chosen]).mean(0)
            panel.plot(
                grid,
                curve,
                label=name,
                color=COLOURS[number % len(COLOURS)],
                linestyle=STYLES[number // len(COLOURS) % len(STYLES)],
            )
    for panel in list(figure.axes)[len(layers) + 1 :]:
        panel.set_axis_off()
    figure.suptitle(f"{title}: sigma_i / sigma_0 over i / rank")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


def _relative(values: Tensor, grid: Tensor) -> Tensor:
    """sigma_i / sigma_0 read off at the fractions `grid` of the rank."""
    place = grid * (len(values) - 1)
    below = place.floor().long().clamp_max(len(values) - 2)
    part = place - below
    inside = values[below] * (1 - part) + values[below + 1] * part
    return inside / values[0].clamp_min(1e-300)


BEST = {"fid": ("best FID", "*"), "real_is": ("IS of real images", "D"), "is": ("best IS", "^")}
PAIRS = (  # x and y of the two charts of a sweep
    (("is", "Inception score"), ("fid", "FID")),
    (("recall", "recall"), ("precision", "precision")),
)


def sweep_chart(record: Mapping[str, Any], path: Path) -> None:
    """Writes a PNG with the curves of a truncation sweep: FID over Inception score (figure 17 of
    Brock et al. 2019) and precision over recall, a line for each kind of truncation, the points
    that the paper reports marked. What was not measured has no chart.

    Args:
        record: of the sweep, as in sweep.json.
        path: where it goes.
    """
    from matplotlib.figure import Figure

    points = record["points"]
    pairs = [p for p in PAIRS if all(any(key in q["scores"] for q in points) for key, _ in p)]
    pairs = pairs or [(("truncation", "truncation"), ("fid", "FID"))]
    figure = Figure(figsize=(5.4 * len(pairs), 4.6), layout="constrained")
    panels = figure.subplots(1, len(pairs), squeeze=False).flat
    for panel, ((x, x_label), (y, y_label)) in zip(panels, pairs, strict=True):
        panel.set(xlabel=x_label, ylabel=y_label)
        panel.grid(alpha=0.3)
        for number, mode in enumerate(dict.fromkeys(point["mode"] for point in points)):
            line = sorted((p for p in points if p["mode"] == mode), key=_truncation)
            places = [(_value(p, x), _value(p, y)) for p in line]
            panel.plot(*zip(*places, strict=True), "o-", color=COLOURS[number], label=mode, ms=4)
            for point, place in zip(line, places, strict=True):
                panel.annotate(_named(point), place, (4, 4), textcoords="offset points", fontsize=7)
        for name, number in record["best"].items():
            label, marker = BEST[name]
            place = (_value(points[number], x), _value(points[number], y))
            panel.plot(*place, marker, ms=13, mfc="none", mec=COLOURS[4], mew=1.6, label=label)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def _truncation(point: Mapping[str, Any]) -> float:
    return float("inf") if point["truncation"] is None else float(point["truncation"])


def _value(point: Mapping[str, Any], key: str) -> float:
    return float(point["scores"].get(key, point.get(key) or float("nan")))


def _named(point: Mapping[str, Any]) -> str:
    return "none" if point["truncation"] is None else f"{point['truncation']:g}"
