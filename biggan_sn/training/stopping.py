"""How a run is told to stop, and how all its processes come to know."""

import signal
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from biggan_sn.run_folder import STOP, STOPPED
from biggan_sn.training.world import World

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
LOOK_EVERY = 1.0  # seconds between two looks for STOP


class Stopping:
    """Within it, Ctrl-C, SIGTERM and SIGUSR1 only leave word: the run ends after the step at hand,
    with a checkpoint. So does a file STOP in its folder, which reaches a run where signals do not:
    Slurm's go to the launcher alone. A run that stopped leaves STOPPED.

    Args:
        folder: of the run.
        leads: whether this process looks for the file, and leaves the other.

    Attributes:
        told: whether a signal came.
    """

    told = False

    def __init__(self, folder: Path, leads: bool) -> None:
        self._folder = folder
        self._leads = leads
        self._looked = 0.0

    def asked(self) -> bool:
        """Whether a signal came or the file is there."""
        if self._leads and not self.told and time.monotonic() - self._looked >= LOOK_EVERY:
            self._looked = time.monotonic()
            self.told = (self._folder / STOP).exists()
        return self.told

    def end(self, step: int, finished: bool) -> bool:
        """Leaves word how the run ended."""
        if self._leads:
            if not finished:
                (self._folder / STOPPED).write_text(f"step {step}\n")
            (self._folder / STOP).unlink(missing_ok=True)
        return finished

    def __enter__(self) -> "Stopping":
        if self._leads:
            (self._folder / STOPPED).unlink(missing_ok=True)  # of an earlier part of the run
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.told = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class AnyProcess:
    """What any process wants, all know one step later: a message of a byte that nobody waits for,
    for it travels while the next step is played.

    Args:
        world: the processes.
    """

    def __init__(self, world: World) -> None:
        self._alone = world.ranks == 1
        self._said = torch.zeros(1, dtype=torch.uint8, device=world.device)
        on_gpu = world.device.type == "cuda"
        self._heard = torch.zeros(1, dtype=torch.uint8, pin_memory=True) if on_gpu else self._said
        # Beside the step: read in its stream, the answer would wait for all of the next step.
        self._aside = torch.cuda.Stream() if on_gpu else None
        self._way: Any = None  # to wait for

    def __call__(self, here: bool) -> bool:
        """Whether some process called this with True the time before; alone, what it says now.
        Every process must call it."""
        if self._alone:
            return here
        heard = self._listen()
        self._send(here)
        return heard

    def _listen(self) -> bool:
        if self._way is None:
            return False
        if self._aside:
            self._way.synchronize()
        else:
            self._way.wait()
        return bool(self._heard.item())

    def _send(self, here: bool) -> None:
        with torch.cuda.stream(self._aside):
            self._said.fill_(here)
            self._way = dist.all_reduce(self._said, op=dist.ReduceOp.MAX, async_op=True)
            if self._aside:
                self._way.wait()  # the stream does
                self._heard.copy_(self._said, non_blocking=True)
                self._way = self._aside.record_event()
