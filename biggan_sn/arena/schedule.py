"""Many games side by side, each in a process of its own, so that none can spoil another; what was
stopped goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biggan_sn.arena.play import RESULT
from biggan_sn.config import Config
from biggan_sn.config_io import to_dict
from biggan_sn.files import check_plan, write_whole
from biggan_sn.progress import noticed_stops, show_progress
from biggan_sn.training.records import SCALARS, read

PLAN, OUTPUT = "plan.json", "output.txt"
STOPPED = 130  # exit code of a game that was told to stop
POLL = 0.5  # seconds

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Cell:
    """One game with one method and one seed.

    Args:
        game, method: their names.
        config: all of it, with its seed.
        folder: everything it writes goes there.
    """

    game: str
    method: str
    config: Config
    folder: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.game}, {self.method}, seed {self.config.seed}"

    def result(self) -> dict[str, Any] | None:
        """How it went; None if it has not been played to its end."""
        path = self.folder / RESULT
        return json.loads(path.read_text()) if path.exists() else None

    def plan(self) -> None:
        """Writes down what is to be played.

        Raises:
            ValueError: something else was begun there.
        """
        plan = {"game": self.game, "method": self.method, "config": to_dict(self.config)}
        path = self.folder / PLAN
        if path.exists():
            check_plan(path, json.loads(path.read_text()), plan, self.folder)
        else:
            write_whole(path, (json.dumps(plan, indent=1) + "\n").encode())

    def steps(self) -> int:
        """How many have been played."""
        if self.result() is not None:
            return self.config.steps
        lines = read(self.folder / SCALARS)
        return int(lines[-1]["step"]) if lines else 0


def play_all(cells: Sequence[Cell], jobs: int, say: Callable[[str], None]) -> list[Cell]:
    """Plays all that have not been played, `jobs` at a time. Returns those that failed.

    Args:
        cells: in this order.
        jobs: how many play side by side.
        say: is told of each that ends.

    Raises:
        ValueError: something else was begun in one of the folders.
        KeyboardInterrupt: it was told to stop; all that played have saved what they can.
    """
    for cell in cells:
        cell.plan()
    waiting = deque(cell for cell in cells if cell.result() is None)
    playing: dict[int, tuple[Cell, Process]] = {}  # by the place that each has
    failed: list[Cell] = []
    total = sum(cell.config.steps for cell in cells)
    with noticed_stops() as stops, show_progress(total, "step") as advance:
        shown = 0
        while waiting or playing:
            if stops:
                waiting.clear()
                _stop(process for _, process in playing.values())
            for place in sorted(set(range(jobs)) - playing.keys()):
                if waiting:
                    playing[place] = (waiting[0], _start(waiting.popleft(), place, jobs))
            time.sleep(POLL)
            for place, (cell, process) in list(playing.items()):
                if process.poll() is not None:
                    del playing[place]
                    failed += [] if _ended(cell, process.returncode, say) else [cell]
            now = sum(cell.steps() for cell in cells)
            advance(now - shown)
            shown = now
    return failed


def _ended(cell: Cell, code: int, say: Callable[[str], None]) -> bool:
    """Says how a game ended; whether it ended well, or as it was told to."""
    result = cell.result()
    if result is None and code != STOPPED:
        say(f"{cell.name}: failed (exit code {code}); {cell.folder / OUTPUT} says why")
        return False
    if result is not None:
        modes, lost = result["modes"], result["lost"]
        say(f"{cell.name}: " + (f"{modes:.0f} modes" if lost < 0 else f"lost at step {lost}"))
    return True


def _start(cell: Cell, place: int, jobs: int) -> Process:
    """A process that plays, with its share of the processors, or a GPU, and a log."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment = {
        "OMP_NUM_THREADS": str(max(1, (cores or 1) // jobs)),
        **os.environ,
        **_gpu(place),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with (cell.folder / OUTPUT).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "biggan_sn.arena", str(cell.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches it through here, once
        )


def _gpu(place: int) -> dict[str, str]:
    """That of a place, where there are some: they take turns."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = named.split(",") if named else list(map(str, range(torch.cuda.device_count())))
    return {"CUDA_VISIBLE_DEVICES": there[place % len(there)]} if there else {}


def _stop(processes: Iterable[Process]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
