"""From values to places on an axis, and the round numbers beside it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

DECADES = 2.0  # positive values that span more have a logarithmic axis
TICKS = 5  # about so many
ROUND = (1.0, 2.0, 5.0, 10.0)
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
EXTREME = 1e150  # beyond it, and below its inverse, differences of floats are no numbers
SLACK = 1e-9  # of a step between ticks: sums of floats end beside where they should


@dataclass(frozen=True)
class Scale:
    """An axis.

    Args:
        low, high: its ends, low < high.
        ticks: values that are written beside it.
        labels: how.
        logarithmic: whether equal distances are equal factors.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, from 0 at the low end to 1 at the high one."""
        if self.logarithmic:
            low, high, value = math.log10(self.low), math.log10(self.high), math.log10(value)
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low)


def drawable(value: float) -> bool:
    """Whether it has a place on an axis: finite, and not so large that nothing else would."""
    return abs(value) <= EXTREME


def fitting(values: Iterable[float]) -> Scale:
    """The scale of these values, logarithmic where they are positive, not next to nothing, and span
    more than two decades; those that are not drawable do not count."""
    finite = [value for value in values if drawable(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low > 1 / EXTREME and math.log10(high) - math.log10(low) > DECADES:
        return _logarithmic(low, high)
    return linear(low, high)


def linear(low: float, high: float, tight: bool = False) -> Scale:
    """Equal steps of 1, 2 or 5 times a power of ten, from tick to tick around `low` and `high`, or
    if `tight` from one to the other."""
    largest = max(abs(low), abs(high))
    if high - low <= max(SLACK * largest, 1 / EXTREME):  # all the same, but for rounding
        room = largest / 2 if largest > 1 / EXTREME else 0.5
        low, high = low - room, high + room
    step = _round_up((high - low) / TICKS)
    first = math.ceil(low / step - SLACK) if tight else math.floor(low / step + SLACK)
    last = math.floor(high / step + SLACK) if tight else math.ceil(high / step - SLACK)
    ticks = tuple(number * step for number in range(first, last + 1))
    ends = (low, high) if tight else (ticks[0], ticks[-1])
    return Scale(*ends, ticks, _labels(ticks, step))


def _logarithmic(low: float, high: float) -> Scale:
    """From power of ten to power of ten, some of which are named."""
    first, last = math.floor(math.log10(low) + SLACK), math.ceil(math.log10(high) - SLACK)
    apart = max(1, math.ceil((last - first) / (TICKS + 1)))
    exponents = range(first, last + 1, apart)
    ticks = tuple(10.0**exponent for exponent in exponents)
    return Scale(10.0**first, 10.0**last, ticks, tuple(map(_power, exponents)), True)


def _power(exponent: int) -> str:
    return f"{10.0**exponent:g}" if -3 <= exponent <= 3 else f"1e{exponent}"


def _round_up(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(factor for factor in ROUND if factor * power >= step * (1 - SLACK)) * power


def _labels(ticks: tuple[float, ...], step: float) -> tuple[str, ...]:
    """With as many digits as tell one from the next."""
    most = max(map(abs, ticks))
    unit, sign = next(((size, sign) for size, sign in UNITS if 10 * size <= most < 1e13), (1.0, ""))
    if most / unit >= 1e4 or step < 1e-4:
        places = math.floor(math.log10(most)) - math.floor(math.log10(step) + SLACK)
        figures = max(3, places + 1)
        return tuple("0" if tick == 0 else _short(f"{tick:.{figures}g}") for tick in ticks)
    digits = max(0, -math.floor(math.log10(step / unit) + SLACK))
    return tuple("0" if tick == 0 else f"{tick / unit:.{digits}f}{sign}" for tick in ticks)


def brief(value: float) -> str:
    """A number for people: four digits, and what is not finite as a word."""
    return _short(f"{value:.4g}")


def _short(number: str) -> str:
    """1e-05 as 1e-5."""
    digits, e, exponent = number.partition("e")
    return f"{digits}e{int(exponent)}" if e else number
