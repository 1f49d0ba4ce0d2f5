"""The processes of a job and this one's place among them."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from biggan_sn.training.launching import (
    LaunchError,
    check_processes,
    meant_engine,
    parent_command,
)


@dataclass(frozen=True)
class World:
    """This process's place.

    Args:
        rank: number of this process, from 0.
        ranks: number of processes.
        device: where its tensors live.
        engine: how processes move a network together (rows of ENGINES).
    """

    rank: int = 0
    ranks: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    engine: str = "ddp"

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
        with (folder / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise LaunchError(
                    f"{folder}: another job is training there ({file.read()}); if this one was to "
                    "be part of it, the launch fell in two: start launch/local.sh, or "
                    "launch/node.sh on each node"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    def wait(self) -> None:
        """Until every process is here."""
        if self.ranks > 1:
            dist.barrier()


def join() -> World:
    """Joins the job that accelerate or torchrun launched; a world of one outside a job.

    Raises:
        LaunchError: the launcher meant more processes than found one another, or an engine that
            cannot be.
    """
    engine = meant_engine(os.environ)
    # DeepSpeed comes later, one for each player: accelerate need not know of it.
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "false"
    from accelerate import PartialState  # brings half a library along

    state = PartialState(cpu=not torch.cuda.is_available())
    check_processes(state.num_processes, os.environ, parent_command())
    return World(state.process_index, state.num_processes, state.device, engine)


def leave() -> None:
    """Leaves the job."""
    if dist.is_initialized():
        dist.destroy_process_group()
