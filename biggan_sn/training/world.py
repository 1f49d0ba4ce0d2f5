"""The processes of a job and this one's place among them."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist

from biggan_sn.run_folder import LOCK
from biggan_sn.training.holder import name_of_this_process
from biggan_sn.training.launching import (
    LaunchError,
    check_processes,
    meant_engine,
    parent_command,
)
from biggan_sn.training.lookout import Lookout
from biggan_sn.training.meeting import Meeting, is_met
from biggan_sn.training.memory import keep_freed_memory
from biggan_sn.training.pulse import Pulse

PATIENCE = 120  # seconds in which the file server forgets the lock of a node that died
LATER = 60  # seconds after which an exchange gives up by itself: the lookout knows more to say


@dataclass(frozen=True)
class World:
    """This process's place.

    Args:
        rank: number of this process, from 0.
        ranks: number of processes.
        device: where its tensors live.
        engine: how processes move a network together (rows of ENGINES).
        pulse: what this process is at, which the others can see.
    """

    rank: int = 0
    ranks: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    engine: str = "ddp"
    pulse: Pulse = field(default_factory=Pulse)

    @property
    def leads(self) -> bool:
        """Whether this process writes what a job writes once."""
        return self.rank == 0

    def most(self, *numbers: float) -> list[float]:
        """The largest of each number over all processes. Every process must call it."""
        if self.ranks == 1:
            return list(numbers)
        ours = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(ours, op=dist.ReduceOp.MAX)
        return ours.tolist()

    def agree(self, *numbers: int) -> bool:
        """Whether all processes have the same numbers. Every process must call it."""
        return self.most(*numbers) == [-least for least in self.most(*(-n for n in numbers))]

    def gather(self, *numbers: float) -> list[list[float]]:
        """The numbers of every process, by its rank. Every process must call it."""
        if self.ranks == 1:
            return [list(numbers)]
        table = torch.zeros(self.ranks, len(numbers), dtype=torch.float64, device=self.device)
        table[self.rank] = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(table)
        return table.tolist()

    def stack(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows [N, D] of every process, by its rank: [ranks, N, D]. Every process must call
        it."""
        if self.ranks == 1:
            return rows[None]
        table = rows.new_empty(self.ranks, *rows.shape)
        dist.all_gather(list(table), rows.contiguous())
        return table

    def lives(self) -> None:
        """Notes that this process goes on with what it is at."""
        self.pulse.lives()

    def tell(self, text: str) -> list[str]:
        """What every process says, by its rank. Every process must call it."""
        if self.ranks == 1:
            return [text]
        letters = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        longest = int(self.most(len(letters))[0])
        page = torch.zeros(self.ranks, longest, dtype=torch.uint8, device=self.device)
        page[self.rank, : len(letters)] = letters
        dist.all_reduce(page)
        return [bytes(row.tolist()).rstrip(b"\0").decode() for row in page]

    @contextmanager
    def holding(self, folder: Path) -> Iterator[None]:
        """Keeps every other job out of a run's folder meanwhile.

        Raises:
            LaunchError: another job is at work there.
        """
        if not self.leads:
            yield
            return
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("a+") as file:
            patience = PATIENCE if _started_again(os.environ) else 0
            deadline = time.monotonic() + patience
            while not _locked(file):
                if patience:
                    patience = 0  # said once
                    file.seek(0)
                    print(f"{folder}: waits for {file.read()}, which trains it", flush=True)  # noqa: T201
                if time.monotonic() >= deadline:
                    file.seek(0)
                    raise LaunchError(
                        f"{folder}: another job is training there ({file.read()}); if this one was "
                        "to be part of it, the launch fell in two: start launch/local.sh, or "
                        "launch/node.sh on each node"
                    )
                time.sleep(0.5)
            file.truncate(0)
            file.write(name_of_this_process())
            file.flush()
            yield

    def wait(self) -> None:
        """Until every process is here."""
        if self.ranks > 1:
            dist.barrier()


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _started_again(environment: Mapping[str, str]) -> bool:
    """Whether torchrun or Slurm says that the job ran before."""
    names = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(environment.get(name, "0") != "0" for name in names)


@contextmanager
def joined(timeout: float) -> Iterator[World]:
    """This process's place in the job that accelerate or torchrun launched, from beginning to end;
    a world of one outside a job.

    Args:
        timeout: seconds that a process may wait for others, or they for it, before the job ends.

    Raises:
        LaunchError: the launcher meant more processes than found one another, or an engine that
            cannot be.
        LostError: another process was lost.
    """
    pulse = Pulse()
    meeting = Meeting(os.environ, timeout) if is_met(os.environ) else None
    if meeting:
        meeting.call_the_roll()
    lookout = Lookout(pulse, meeting, timeout)
    try:
        yield _join(meeting, pulse, timeout)
        if dist.is_initialized():
            dist.destroy_process_group()
    except Exception as error:
        if meeting:  # the launcher will want an end; first say what is known
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise lookout.explain(error) from error
    finally:
        lookout.close()


def _join(meeting: Meeting | None, pulse: Pulse, timeout: float) -> World:
    engine = meant_engine(os.environ)
    # DeepSpeed comes later, one for each player: accelerate need not know of it.
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "false"
    if meeting:
        dist.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo",
            store=meeting.store,
            rank=meeting.rank,
            world_size=meeting.ranks,
            timeout=timedelta(seconds=timeout + LATER),
        )
    from accelerate import PartialState  # brings half a library along

    state = PartialState(cpu=not torch.cuda.is_available())
    if state.device.type == "cpu":
        keep_freed_memory()
    check_processes(state.num_processes, os.environ, parent_command())
    return World(state.process_index, state.num_processes, state.device, engine, pulse)
