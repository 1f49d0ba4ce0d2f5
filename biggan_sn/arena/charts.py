"""The pictures of an arena."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from biggan_sn.arena.play import SAMPLES
from biggan_sn.arena.points import POINTS, Mixture
from biggan_sn.arena.schedule import Cell
from biggan_sn.arena.table import COLUMNS, grouped, rank, values_of
from biggan_sn.evaluation.charts import COLOURS

MEASURES = ("modes", "quality", "kl", "fid")
SHOWN = 2000  # points of a picture


def scores_chart(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes a PNG with a row of panels for each game: a dot for each seed, a bar at their mean,
    the best method on top. What a game has no score of has no panel."""
    from matplotlib.figure import Figure  # slow to import, and only charts need it

    games = grouped(lines, "game")
    heights = [len(grouped(played, "method")) for played in games.values()]
    measures = [name for name in MEASURES if values_of(lines, name)]
    size = (3.0 * len(measures) + 1.5, 0.26 * sum(heights) + 0.9 * len(games))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(
        len(games), len(measures), squeeze=False, sharey="row", height_ratios=heights
    )
    for row, (game, played) in zip(panels, games.items(), strict=True):
        methods = grouped(played, "method")
        names = sorted(methods, key=lambda name: rank(methods[name]), reverse=True)
        row[0].set_yticks(range(len(names)), names, fontsize=8)
        row[0].set_ylabel(game)
        for panel, measure in zip(row, measures, strict=True):
            _dots(panel, [values_of(methods[name], measure) for name in names])
            panel.set_title(COLUMNS[measure].title, fontsize=9)
            panel.set_visible(bool(values_of(played, measure)))
    figure.savefig(path, dpi=110)


def _dots(panel: Any, values: Sequence[Sequence[float]]) -> None:
    """A line of dots for each method."""
    for height, found in enumerate(values):
        panel.plot(found, [height] * len(found), "o", ms=4, color=COLOURS[5], alpha=0.6)
        if found:
            panel.plot([mean(found)], [height], "|", ms=12, color=COLOURS[0])
    panel.grid(alpha=0.3)
    panel.tick_params(labelsize=8)
    panel.set_ylim(-0.6, len(values) - 0.4)
    panel.set_xlim(left=0)
    panel.margins(x=0.08)


def samples_chart(cells: Sequence[Cell], path: Path) -> bool:
    """Writes a PNG with the samples of every method, of its first seed, on the modes of the games
    of points; False if there is none of these."""
    from matplotlib.figure import Figure

    shown: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        if (cell.folder / SAMPLES).exists() and cell.result() is not None:
            shown.setdefault(cell.game, {}).setdefault(cell.method, cell)
    if not shown:
        return False
    methods = list(dict.fromkeys(method for row in shown.values() for method in row))
    size = (1.5 * len(methods) + 0.4, 1.7 * len(shown) + 0.2)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(shown), len(methods), squeeze=False)
    for row, (game, row_cells) in zip(panels, shown.items(), strict=True):
        row[0].set_ylabel(game, fontsize=8)
        for panel, method in zip(row, methods, strict=True):
            panel.set_title(method, fontsize=7)
            panel.set(xticks=[], yticks=[], aspect="equal")
            if method in row_cells:
                cell = row_cells[method]
                _scatter(panel, POINTS[cell.config.data.path], np.load(cell.folder / SAMPLES))
    figure.savefig(path, dpi=130)
    return True


def _scatter(panel: Any, mixture: Mixture, points: np.ndarray[Any, Any]) -> None:
    limit = 1.35 * np.abs(mixture.centres).max()
    panel.set(xlim=(-limit, limit), ylim=(-limit, limit))
    panel.plot(*mixture.centres.T, "o", ms=5, mfc="none", mec=COLOURS[1], mew=0.7)
    panel.plot(*points[:SHOWN].T, ".", ms=1, color=COLOURS[5], alpha=0.5)
