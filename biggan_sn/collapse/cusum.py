"""Cumulative sums (Page 1954) that notice when a series begins to rise faster than it used to."""

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Memory = dict[str, Numbers]

DRIFT = 0.5  # standard deviations that an increment may lie above the usual one for ever
CLIP = 30.0  # most that one increment counts: from calm, one alone does not reach a sum of 30
CAP = 100.0  # most that a sum comes to, so that it is calm again some time after
WINDOW = 10  # increments that make a burst
FORGETTING = 0.05  # weight of the newest increment in what is usual
BURN_IN = 25  # increments until that is known
OUTLIER = 3.0  # deviations; what is usual learns no more than this from one increment
DEVIATION = math.sqrt(math.pi / 2)  # standard deviation of a normal variable of mean |x| = 1
LEAST = 1e-4  # of a deviation: what stood still may tremble


def new_memory(size: int) -> Memory:
    """Of `size` series that were never looked at; in it are arrays [size].

    sums: the CUSUMs, 0 where nothing is unusual. burst: by how much more than usual it rose of
    late, older increments counting less and less. value: the newest. seen, mean, deviation: number
    of increments so far, and the usual ones: mean and mean absolute deviation.
    """
    nothing = {name: np.zeros(size) for name in ("sums", "burst", "seen", "mean", "deviation")}
    return nothing | {"value": np.full(size, np.nan)}


def observe(memory: Memory, values: Numbers) -> None:
    """Takes the next values [size] into the memory, in place. An increment counts by how many of
    its own standard deviations it lies above the usual. A series without a finite value rests."""
    known = np.isfinite(values)
    moved = known & np.isfinite(memory["value"])
    away = np.where(moved, values - memory["value"] - memory["mean"], 0.0)
    ready = moved & (memory["seen"] >= BURN_IN)
    score = np.minimum(away / (DEVIATION * memory["deviation"] + LEAST), CLIP) - DRIFT
    burst = np.maximum((1 - 1 / WINDOW) * memory["burst"] + away, 0.0)
    memory["burst"] = np.where(ready, burst, memory["burst"])
    memory["sums"] = np.clip(memory["sums"] + np.where(ready, score, 0.0), 0.0, CAP)
    memory["value"] = np.where(known, values, memory["value"])
    _learn(memory, away, moved, ready)


def _learn(
    memory: Memory, away: Numbers, moved: NDArray[np.bool_], ready: NDArray[np.bool_]
) -> None:
    """Plain means at first, then forgetting ones, from deviations that are cut off."""
    memory["seen"] = memory["seen"] + moved
    rate = moved * np.maximum(FORGETTING, 1 / np.maximum(memory["seen"], 1))
    most = OUTLIER * np.where(ready, memory["deviation"] + LEAST, np.inf)
    size = np.minimum(np.abs(away), most)
    memory["mean"] = memory["mean"] + rate * np.copysign(size, away)
    memory["deviation"] = memory["deviation"] + rate * (size - memory["deviation"])
