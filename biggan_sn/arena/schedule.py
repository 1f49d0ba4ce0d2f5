"""Many games side by side, each in a process of its own, so that none can spoil another; what was
stopped goes on."""

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import biggan_sn
from biggan_sn.arena.play import RESULT
from biggan_sn.arena.points import POINTS
from biggan_sn.config import Config
from biggan_sn.config_io import from_dict, to_dict
from biggan_sn.files import check_plan, write_whole
from biggan_sn.progress import noticed_stops, show_progress
from biggan_sn.training.records import SCALARS, last

PLAN, OUTPUT = "plan.json", "output.txt"
STOPPED = 130  # exit code of a game that was told to stop
POLL = 0.5  # seconds
ROOT = Path(biggan_sn.__file__).parents[1]  # from which this package was imported

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
        """Writes down what is to be played. What a game of points left that was stopped goes: it
        begins anew.

        Raises:
            ValueError: something else was begun there.
        """
        plan = {"game": self.game, "method": self.method, "config": to_dict(self.config)}
        path = self.folder / PLAN
        if path.exists():
            written = json.loads(path.read_text())
            check_plan(path, {**written, "config": _as_now(written["config"])}, plan, self.folder)
        else:
            write_whole(path, (json.dumps(plan, indent=1) + "\n").encode())
        if self.config.data.path in POINTS and self.result() is None:
            (self.folder / SCALARS).unlink(missing_ok=True)

    def steps(self) -> int:
        """How many have been played."""
        if self.result() is not None:
            return self.config.steps
        newest = last(self.folder / SCALARS)
        return int(newest["step"]) if newest else 0


def _as_now(config: dict[str, Any]) -> dict[str, Any]:
    """A config as this version writes it: fields that it added have their defaults. One that it
    cannot read stays as it is."""
    try:
        return to_dict(from_dict(config))
    except (TypeError, ValueError):
        return config


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
    stage = Stage([cell for cell in cells if cell.result() is None], jobs, say)
    total = sum(cell.config.steps for cell in cells)
    with noticed_stops() as stops, show_progress(total, "step") as advance:
        shown = 0
        while stage.fill():
            time.sleep(POLL)
            if stops:
                stage.clear()
            stage.sweep()
            now = sum(cell.steps() for cell in cells)
            advance(now - shown)
            shown = now
    return stage.failed


class Stage:
    """Places on which games are played, each by a process.

    Args:
        cells: those that wait.
        places: how many there are.
        say: is told of each that ends.

    Attributes:
        failed: those that did not come to their end, and were not told to stop.
    """

    def __init__(self, cells: Sequence[Cell], places: int, say: Callable[[str], None]) -> None:
        self._waiting = deque(cells)
        self._places = places
        self._say = say
        self._playing: dict[int, tuple[Cell, Process]] = {}
        self._told = False
        self.failed: list[Cell] = []

    def fill(self) -> bool:
        """Begins games on all free places; whether any is played."""
        for place in sorted(set(range(self._places)) - self._playing.keys()):
            if self._waiting:
                cell = self._waiting.popleft()
                self._playing[place] = (cell, _start(cell, place, self._places))
        return bool(self._playing)

    def clear(self) -> None:
        """Tells all to stop, and begins no other."""
        self._waiting.clear()
        for _, process in () if self._told else self._playing.values():
            process.terminate()
        self._told = True

    def sweep(self) -> None:
        """Takes away those that have ended."""
        for place, (cell, process) in list(self._playing.items()):
            if process.poll() is not None:
                del self._playing[place]
                if cell.result() is not None or not self._told:
                    self._note(cell, process.returncode)

    def _note(self, cell: Cell, code: int) -> None:
        result = cell.result()
        if result is None:
            self.failed.append(cell)
            why = f"{cell.folder / OUTPUT} says why"
            self._say(f"{cell.name}: failed (exit code {code}); {why}")
        elif result["lost"] >= 0:
            self._say(f"{cell.name}: lost at step {result['lost']}")
        else:
            self._say(f"{cell.name}: {result['modes']:.0f} modes")


def _start(cell: Cell, place: int, jobs: int) -> Process:
    """A process that plays, with its share of the processors, or a GPU, and a log."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment = {
        "OMP_NUM_THREADS": str(max(1, (cores or 1) // jobs)),
        **os.environ,
        **_gpu(place),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
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
