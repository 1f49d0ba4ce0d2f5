"""What scores are called, and which end of each is the good one."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from biggan_sn.report.scales import brief

NEAR = "\N{NO-BREAK SPACE}"  # the parts of a score stay in one line
SPREAD = "_std"  # ends the name of the standard deviation of a score


class Score(NamedTuple):
    """A row: what people call it; min or max, whichever is good, None if neither is by itself;
    whether it belongs into a summary."""

    title: str
    best: Callable[[Iterable[float]], float] | None = None
    leads: bool = False


def title(name: str) -> str:
    """What people call a score; one that is not in the table by its own name."""
    return SCORES[name].title if name in SCORES else name


def best_of(name: str, values: Mapping[int, float]) -> tuple[int, float] | None:
    """The first step at which a score was best, and the score; None where it has no good end, or
    never was a number."""
    finite = {step: value for step, value in values.items() if math.isfinite(value)}
    best = SCORES[name].best if name in SCORES else None
    if best is None or not finite:
        return None
    value = best(finite.values())
    return next(step for step, found in finite.items() if found == value), value


def ordered(names: Iterable[str]) -> list[str]:
    """Names of scores in the order of the table, others after them; none twice, and without their
    standard deviations."""
    known = list(dict.fromkeys(names))
    rest = [name for name in known if name not in SCORES and not _is_spread(name, known)]
    return [name for name in SCORES if name in known] + rest


def _is_spread(name: str, known: list[str]) -> bool:
    return name.endswith(SPREAD) and name.removesuffix(SPREAD) in known


def told(name: str, scores: Mapping[str, float]) -> str:
    """A score with its standard deviation, if that is known; nothing where it was not measured."""
    if name not in scores:
        return ""
    if not math.isfinite(scores[name]):
        return "not finite"
    spread = scores.get(name + SPREAD, math.nan)
    return brief(scores[name]) + (f"{NEAR}±{NEAR}{spread:.2g}" if math.isfinite(spread) else "")


SCORES: dict[str, Score] = {
    "fid": Score("FID", min, leads=True),
    "is": Score("Inception score", max, leads=True),
    "kid": Score("KID", min),
    "precision": Score("precision", max),
    "recall": Score("recall", max),
    "density": Score("density"),
    "coverage": Score("coverage", max),
    "class_fid": Score("mean FID of a class", min),
    "accuracy": Score("accuracy of classes", max, leads=True),
    "classes": Score("classes that appear", max),
    "variety": Score("variety over the real one"),
}
