"""What each process of a job says of itself, and who of them keeps the others waiting."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PLAYING = "playing"
MOST_NAMED = 8


@dataclass(frozen=True)
class Report:
    """What a process says of itself.

    Args:
        beat: how many reports it has made.
        step: the step it is at.
        doing: and what it does there.
        seconds: for how long.
        host, pid: where it runs.
    """

    beat: int
    step: int
    doing: str
    seconds: float
    host: str
    pid: int

    def shown(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host}, step {self.step}, {self.doing}"


class Pulse:
    """What this process is at. The thread that works says it, others read it.

    Attributes:
        undisturbed: held while something is written that must come to its end.
    """

    def __init__(self) -> None:
        self.undisturbed = threading.Lock()
        self._beats = 0
        self._at = (time.monotonic(), 0, "starting")

    @property
    def since(self) -> float:
        """When it began what it is at."""
        return self._at[0]

    def at(self, step: int, doing: str = PLAYING) -> None:
        """Notes what this process is at from now on."""
        self._at = (time.monotonic(), step, doing)

    def lives(self) -> None:
        """Notes that what this process is at goes on: others may wait for it anew."""
        self._at = (time.monotonic(), *self._at[1:])

    @contextlib.contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """To be put around what others may have to wait for."""
        _, step, before = self._at
        self.at(step, doing)
        yield
        self.at(step, before)

    def beat(self) -> Report:
        """The next report."""
        self._beats += 1
        return self.now()

    def now(self) -> Report:
        """The report as it would be."""
        since, step, doing = self._at
        seconds = time.monotonic() - since
        return Report(self._beats, step, doing, seconds, socket.gethostname(), os.getpid())


def culprits(reports: Mapping[int, Report]) -> str:
    """Who keeps the others waiting, of processes that all still report.

    Args:
        reports: that of each, by rank.
    """
    elsewhere = [rank for rank, report in reports.items() if report.doing != PLAYING]
    first = min(report.step for report in reports.values())
    behind = [rank for rank, report in reports.items() if report.step == first]
    who = elsewhere or behind
    if not elsewhere and len(behind) == len(reports):
        return "all processes are in it: a GPU hangs, or the network between them"
    return f"{named(who, reports)} keeps the job waiting"


def named(ranks: list[int], reports: Mapping[int, Report]) -> str:
    """These ranks with all that is known of them, for messages."""
    told = [
        f"rank {rank} ({reports[rank].shown()})" if rank in reports else f"rank {rank}"
        for rank in ranks[:MOST_NAMED]
    ]
    more = len(ranks) - len(told)
    return ", ".join(told) + (f" and {more} more" if more else "")
