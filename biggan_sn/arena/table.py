"""The results of an arena: a CSV with a line for each game played, and a table of their means."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from statistics import mean, stdev
from typing import Any, NamedTuple

from biggan_sn.arena.schedule import Cell


class Column(NamedTuple):
    """A row of COLUMNS.

    Args:
        title: above the column.
        shown: what was found at the seeds -> what stands in the column.
    """

    title: str
    shown: Callable[[Sequence[float]], str]


def lines_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A line for each game that was played to its end."""
    named = [
        {"game": c.game, "method": c.method, "seed": c.config.seed, "steps": c.config.steps}
        for c in cells
    ]
    results = [cell.result() for cell in cells]
    return [{**n, **r} for n, r in zip(named, results, strict=True) if r is not None]


def csv_of(lines: Sequence[Mapping[str, Any]]) -> str:
    """All lines as CSV."""
    text = StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def markdown_of(lines: Sequence[Mapping[str, Any]]) -> str:
    """For each game a table: a row for each method, the mean over its seeds and their standard
    deviation; the best first. `lost` counts the seeds that ended in numbers that are not finite,
    and have no scores."""
    parts = []
    for game, played in grouped(lines, "game").items():
        methods = grouped(played, "method")
        titles = [column.title for column in COLUMNS.values()]
        rows = [["method", "seeds", *titles]]
        for method in sorted(methods, key=lambda name: rank(methods[name])):
            seeds = methods[method]
            rows.append([method, str(len(seeds)), *_row(seeds)])
        rows.insert(1, ["---"] * len(rows[0]))
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts.append(f"## {game}, {played[0]['steps']} steps\n\n{table}\n")
    return "\n".join(parts)


def grouped(lines: Sequence[Mapping[str, Any]], by: str) -> dict[str, list[Mapping[str, Any]]]:
    """Lines by what they say, in the order of the first of each."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        found.setdefault(str(line[by]), []).append(line)
    return found


def values_of(seeds: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """What was found of something that has a value."""
    return [float(seed[name]) for seed in seeds if seed[name] is not None]


def rank(seeds: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """What puts a method before others: more modes; where they are as many, a smaller KL."""
    modes, divergence = values_of(seeds, "modes"), values_of(seeds, "kl")
    return (-mean(modes) if modes else math.inf, mean(divergence) if divergence else math.inf)


def _row(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    return [column.shown(values_of(seeds, name)) for name, column in COLUMNS.items()]


def _mean(digits: int) -> Callable[[Sequence[float]], str]:
    """Mean and standard deviation, with so many digits after the point."""

    def shown(values: Sequence[float]) -> str:
        spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{mean(values):.{digits}f}{spread}" if values else ""

    return shown


def _how_many(steps: Sequence[float]) -> str:
    """Of the seeds, those that were lost at some step; -1 stands for none."""
    return str(sum(step >= 0 for step in steps))


COLUMNS: dict[str, Column] = {
    "modes": Column("modes covered", _mean(1)),
    "quality": Column("high quality", _mean(3)),
    "kl": Column("KL", _mean(3)),
    "fid": Column("FID", _mean(1)),
    "ms_per_step": Column("ms per step", _mean(1)),
    "alarms": Column("alarms", _mean(1)),
    "lost": Column("lost", _how_many),
}
