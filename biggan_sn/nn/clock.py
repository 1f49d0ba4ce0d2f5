"""How long a step exchanges numbers with other processes, or waits for them to come to it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

Mark = float | torch.cuda.Event


def mark(device: torch.device) -> Mark:
    """Now, by the clock of the device: a GPU works off long after what it was told."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(first: Mark, last: Mark) -> float:
    """Seconds from one mark to a later one of the same device, once it has come there."""
    if isinstance(first, float) or isinstance(last, float):
        assert isinstance(first, float) and isinstance(last, float)
        return last - first
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3


class Meter:
    """Adds up spans of time.

    Attributes:
        on: whether it does; off, it costs nothing.
    """

    def __init__(self) -> None:
        self.on = False
        self._spans: list[tuple[Mark, Mark]] = []

    @contextmanager
    def span(self, device: torch.device) -> Iterator[None]:
        """Counts what happens within; not within a compiled pass, which has no time of day."""
        if torch.compiler.is_compiling() or not self.on:
            yield
            return
        first = mark(device)
        yield
        self.add(first, mark(device))

    def add(self, first: Mark, last: Mark) -> None:
        """Counts the time between two marks."""
        if self.on:
            self._spans.append((first, last))

    def read(self) -> float:
        """Seconds since it was read last."""
        spans, self._spans = self._spans, []
        return sum(seconds_between(*span) for span in spans)


# Of everything that waits for other processes: one, for it happens deep within backward passes.
EXCHANGES = Meter()
