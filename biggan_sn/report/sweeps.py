"""A truncation sweep as its folder has it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biggan_sn.report.reading import number
from biggan_sn.report.scales import brief

SWEEP = "sweep.json"


@dataclass(frozen=True)
class SweepPoint:
    """One truncation.

    Args:
        number: its place in the record, from 0.
        truncation: None where z is as it was drawn.
        mode: kind of truncation.
        standing_statistics: passes that renewed the batch norms' statistics.
        diversity: within a class; nan if it is not known.
        scores: by name; nan where one is not a number.
        grid: its picture, if it names one in its folder.
    """

    number: int
    truncation: float | None
    mode: str
    standing_statistics: int
    diversity: float
    scores: Mapping[str, float]
    grid: Path | None

    @property
    def name(self) -> str:
        """Of the truncation, for people."""
        return "none" if self.truncation is None else brief(self.truncation)


@dataclass(frozen=True)
class Sweep:
    """All of them.

    Args:
        checkpoint: what was drawn from.
        step: its own; None if it is not known.
        extractor: of the features that scores are made of.
        samples: that each point was scored by.
        real: scores of real images.
        points: in the order of the record.
        best: score -> number of its best point.
    """

    checkpoint: str
    step: int | None
    extractor: str
    samples: int | None
    real: Mapping[str, float]
    points: tuple[SweepPoint, ...]
    best: Mapping[str, int]

    def modes(self) -> dict[str, list[SweepPoint]]:
        """The points of each mode, from the smallest truncation to none at all."""
        found: dict[str, list[SweepPoint]] = {}
        for point in sorted(self.points, key=_freedom):
            found.setdefault(point.mode, []).append(point)
        return found

    def bests(self) -> dict[str, SweepPoint]:
        """The best point by the name of the score."""
        there = {point.number: point for point in self.points}
        return {name: there[at] for name, at in self.best.items()}


def _freedom(point: SweepPoint) -> float:
    return math.inf if point.truncation is None else point.truncation


def read_sweep(folder: Path) -> Sweep:
    """The sweep in a folder; points that cannot be understood are left out.

    Raises:
        ValueError: it cannot be read.
        OSError: there is none.
    """
    try:
        found = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / SWEEP}: cannot be read ({error})") from error
    listed = found.get("points") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError(f"{folder / SWEEP}: not a sweep; it has no points")
    points = tuple(
        _point(place, point, folder) for place, point in enumerate(listed) if _is_point(point)
    )
    numbers = {point.number for point in points}
    best = _mapping(found.get("best"))
    return Sweep(
        checkpoint=str(found.get("checkpoint", "")),
        step=_integer(found.get("step")),
        extractor=str(found.get("extractor", "")),
        samples=_integer(found.get("samples")),
        real={name: number(value) for name, value in _mapping(found.get("real")).items()},
        points=points,
        best={name: at for name, at in best.items() if type(at) is int and at in numbers},
    )


def _is_point(point: Any) -> bool:
    if not isinstance(point, dict) or "truncation" not in point:
        return False
    return point["truncation"] is None or math.isfinite(number(point["truncation"]))


def _point(place: int, point: dict[str, Any], folder: Path) -> SweepPoint:
    truncation, grid = point["truncation"], point.get("grid")
    scores = _mapping(point.get("scores"))
    return SweepPoint(
        number=place,
        truncation=None if truncation is None else number(truncation),
        mode=str(point.get("mode", "")),
        standing_statistics=_integer(point.get("standing_statistics")) or 0,
        diversity=number(point.get("diversity")),
        scores={name: number(value) for name, value in scores.items()},
        # Only its own pictures: a page must not show whatever file a record names.
        grid=folder / grid if isinstance(grid, str) and _is_plain(grid) else None,
    )


def _is_plain(name: str) -> bool:
    """Whether it is the name of a file, without a folder."""
    return Path(name).name == name not in ("", "..") and "\0" not in name


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _integer(value: object) -> int | None:
    return value if type(value) is int else None
