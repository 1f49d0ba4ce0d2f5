"""Where the time of a step goes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from biggan_sn.data.loader import Batch
from biggan_sn.nn.clock import EXCHANGES, Mark, mark, seconds_between
from biggan_sn.training.step import GANStep

Watched = tuple[object, str, Callable[[], str]]  # whose method, which, and the phase it belongs to

OTHER = "other"


class Phases:
    """Divides a stretch of time into phases. What happens in a phase within another belongs to the
    inner one only.

    Args:
        device: by whose clock.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._open = [OTHER]
        self._marks: list[tuple[str, Mark]] = []  # the phase that ends there

    def timed(self, phase: Callable[[], str], function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as a phase."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._enter(phase())
            try:
                return function(*args, **kwargs)
            finally:
                self._leave()

        return wrapped

    def _enter(self, phase: str) -> None:
        self._marks.append((self._open[-1], mark(self.device)))
        self._open.append(phase)

    def _leave(self) -> None:
        self._marks.append((self._open.pop(), mark(self.device)))

    @contextmanager
    def running(self) -> Iterator[None]:
        """To be put around the whole stretch."""
        self._marks = [(OTHER, mark(self.device))]
        yield
        self._marks.append((OTHER, mark(self.device)))

    def seconds(self) -> dict[str, float]:
        """By phase, once the device has come there."""
        total: dict[str, float] = {}
        for (_, before), (phase, after) in zip(self._marks, self._marks[1:], strict=False):
            total[phase] = total.get(phase, 0.0) + seconds_between(before, after)
        return total


def break_down(
    step: GANStep, play: Callable[[Iterator[Batch]], object], reals: Iterator[Batch]
) -> dict[str, float]:
    """Seconds of one step by phase: data, G forward (samples for D), D step and G step (the passes
    forward and backward), terms (regularizers, forward), Adam, spectra (u, v, sigma, clamps), EMA,
    other. And, a part of these, communication: exchanges and waiting for others there."""
    phases = Phases(step.device)
    EXCHANGES.read()
    EXCHANGES.on = True
    try:
        with _watched(phases, _methods(step)), phases.running():
            play(_timed_batches(phases, reals))
    finally:
        EXCHANGES.on = False
    return {**phases.seconds(), "communication": EXCHANGES.read()}


def _methods(step: GANStep) -> list[Watched]:
    def sampling() -> str:
        return "G step" if torch.is_grad_enabled() else "G forward"

    return [
        (step, "update_discriminator", lambda: "D step"),
        (step, "update_generator", lambda: "G step"),
        (step, "sample", sampling),
        (step, "d_regularizer", lambda: "terms"),
        (step, "g_regularizer", lambda: "terms"),
        (step.d.engine, "step", lambda: "Adam"),
        (step.g.engine, "step", lambda: "Adam"),
        (step.d_constraint, "after_step", lambda: "spectra"),
        (step.g_constraint, "after_step", lambda: "spectra"),
        (step.ema, "update", lambda: "EMA"),
    ]


@contextmanager
def _watched(phases: Phases, methods: list[Watched]) -> Iterator[None]:
    """While open, the methods are phases."""
    before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in methods]
    for owner, name, phase in methods:
        setattr(owner, name, phases.timed(phase, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, own in before:
            delattr(owner, name)
            if own is not None:
                setattr(owner, name, own)


def _timed_batches(phases: Phases, reals: Iterator[Batch]) -> Iterator[Batch]:
    following = phases.timed(lambda: "data", lambda: next(reals))
    while True:
        yield following()
