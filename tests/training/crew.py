"""Processes that wait for jobs, so that many tests share one start of several processes."""

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PATIENCE = 240  # seconds that a job may take


class Crew:
    """So many processes on gloo, started when the first job comes. If a job fails, so does the
    test that asked for it, and others get new processes.

    Args:
        ranks: number of processes.
        folder: where they meet and leave their results.
    """

    def __init__(self, ranks: int, folder: Path) -> None:
        self.ranks = ranks
        self.folder = folder
        self._jobs = 0
        self._queues: list[Any] = []
        self._processes: Any = None

    def __call__(self, job: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `job(rank, ranks, *arguments)` returns on each process. It must be a function of a
        module, and its result something that torch saves."""
        if self._processes is None:
            self._start()
        self._jobs += 1
        for queue in self._queues:
            queue.put((self._jobs, job, arguments))
        paths = [self.folder / f"{self._jobs}.{rank}.pt" for rank in range(self.ranks)]
        try:
            deadline = time.monotonic() + PATIENCE
            while not all(path.exists() for path in paths):
                assert not self._processes.join(timeout=0.02), "they left before the job was done"
                assert time.monotonic() < deadline, "the job hangs"
        except BaseException:
            self._kill()
            raise
        return [torch.load(path) for path in paths]

    def close(self) -> None:
        """Sends all home."""
        if self._processes is not None:
            for queue in self._queues:
                queue.put(None)
            while not self._processes.join(timeout=PATIENCE):
                pass
            self._processes = None

    def _start(self) -> None:
        self._queues = [mp.get_context("spawn").SimpleQueue() for _ in range(self.ranks)]
        meeting = f"file://{self.folder}/meet{self._jobs}"
        arguments = (self.ranks, meeting, free_port(), self._queues, self.folder)
        self._processes = mp.spawn(_work, arguments, nprocs=self.ranks, join=False)

    def _kill(self) -> None:
        for process in self._processes.processes:
            process.kill()
            process.join()
        self._processes = None


def _work(rank, ranks, meeting, port, queues, folder):
    torch.set_num_threads(1)
    os.environ.update(  # DeepSpeed looks there
        RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
    )
    while given := queues[rank].get():
        number, job, arguments = given
        written = folder / f"{number}.{rank}.part"
        torch.save(job(rank, ranks, *arguments), written)
        written.rename(folder / f"{number}.{rank}.pt")
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
