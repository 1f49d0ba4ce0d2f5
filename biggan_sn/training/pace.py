"""How fast a whole job goes, and what holds it up."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from biggan_sn.data.loader import Batch
from biggan_sn.nn.clock import EXCHANGES, Mark, mark, seconds_between
from biggan_sn.training.world import World


@dataclass(frozen=True)
class Speed:
    """That of the job since the last report. Parts of a step are those of the step reported.

    Args:
        images_per_second: real images that D has seen, over all processes.
        data_wait: milliseconds per step that the process which waited longest waited for images.
        communication: part of a step that goes into exchanges and into waiting for other processes
            there, the mean over them.
        slowest_rank: the process whose own work took longest.
        lag: how much longer than the median's, as a part of it.
        saving: milliseconds per step that training stood still for checkpoints.
    """

    images_per_second: float
    data_wait: float
    communication: float
    slowest_rank: int
    lag: float
    saving: float

    def record(self) -> dict[str, float]:
        """By name."""
        return asdict(self)

    def held_up(self) -> str:
        """For a line of the log: what keeps the job from going faster, where it is worth saying."""
        parts = {
            f"data {self.data_wait:.0f} ms": self.data_wait >= 1,
            f"comm {self.communication:.0%}": self.communication > 0,
            f"rank {self.slowest_rank} +{self.lag:.0%}": self.lag >= 0.05,
        }
        return "".join(f"{part}  " for part, worth in parts.items() if worth)


class Pace:
    """Times the steps of a run.

    Args:
        world: this process's place.
        images_per_step: real images of one step, over all processes.
        step: where the run starts, or goes on.
    """

    def __init__(self, world: World, images_per_step: int, step: int) -> None:
        self._world = world
        self._images_per_step = images_per_step
        self._begin(step)

    def _begin(self, step: int) -> None:
        self._since = (step, time.perf_counter())
        self._waited = 0.0
        self._saved = 0.0
        self._own, self._exchanged = 0.0, 0.0

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; how long they are waited for is noted."""
        while True:
            start = time.perf_counter()
            with self._world.pulse.busy("waiting for images"):
                batch = next(batches)
            self._waited += time.perf_counter() - start
            yield batch

    @contextmanager
    def saving(self) -> Iterator[None]:
        """To be put around what training stands still for while it is saved."""
        start = time.perf_counter()
        with self._world.pulse.busy("saving"):
            yield
        self._saved += time.perf_counter() - start

    @contextmanager
    def step(self, measured: bool) -> Iterator[None]:
        """To be put around a step; those that will be reported are looked at more closely."""
        if not measured:
            yield
            return
        EXCHANGES.read()
        EXCHANGES.on = True
        waited, first = self._waited, mark(self._world.device)
        try:
            yield
        finally:
            EXCHANGES.on = False
        self._divide(first, mark(self._world.device), self._waited - waited)

    def _divide(self, first: Mark, last: Mark, waited: float) -> None:
        """A step into this process's own work and what it waits for."""
        whole = seconds_between(first, last)
        exchanging = EXCHANGES.read()
        self._own = max(0.0, whole - exchanging - waited)
        self._exchanged = exchanging / whole

    def report(self, step: int) -> Speed:
        """Since the last report; `step` is the number of steps done, the last of them measured.
        Every process must call it."""
        before, start = self._since
        steps, elapsed = step - before, time.perf_counter() - start
        numbers = (self._own, self._exchanged, self._waited, self._saved)
        own, exchanged, waited, saved = zip(*self._world.gather(*numbers), strict=True)
        slowest = max(range(len(own)), key=own.__getitem__)
        typical = statistics.median(own)
        self._begin(step)
        return Speed(
            images_per_second=self._images_per_step * steps / elapsed,
            data_wait=1e3 * max(waited) / steps,
            communication=statistics.fmean(exchanged),
            slowest_rank=slowest,
            lag=own[slowest] / typical - 1 if typical > 0 else 0.0,
            saving=1e3 * max(saved) / steps,
        )
