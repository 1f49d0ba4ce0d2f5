"""A job that has lost one of its processes ends in time, and says which.

Exchanges alone do not tell: where one process is killed the others see a closed connection, or wait
in the network for ever; where one hangs, all do. So beside its work each process sends a report of
itself to the store where the job met, and looks at those of the others when its own stands still.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

from biggan_sn.training.launching import LOST, WRONG_INPUT, LostError, VerdictError
from biggan_sn.training.meeting import Meeting
from biggan_sn.training.pulse import Pulse, Report, culprits, named

BEAT = 1.0  # seconds between two reports of a process, in a job of up to MANY
MANY = 64
SILENT = 4  # so many beats without a report are silence
FAREWELL = 5.0  # seconds in which the store has to answer when all is over
REMEDY = (
    "the run is at its newest checkpoint: start it again with the same command and it goes on "
    "(with RESTARTS=3, launch/node.sh does so by itself)"
)


def remedy() -> str:
    """What becomes of a job that has lost a process, or what a person may do."""
    names = ("RESTART_COUNT", "MAX_RESTARTS")  # as torchrun has it, and accelerate
    done, most = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in names)
    if done < most:
        return f"all start again from the newest checkpoint ({done + 1} of {most} times)"
    return REMEDY


class Lookout:
    """Two threads: one speaks with the store, and may have to wait for it; the other waits for
    nothing, and ends this process where it stands still.

    Args:
        pulse: what this process is at.
        meeting: where the processes speak; None in a job of one.
        timeout: seconds that this process may be at one thing.
    """

    def __init__(self, pulse: Pulse, meeting: Meeting | None, timeout: float) -> None:
        self.timeout = timeout
        self._pulse = pulse
        self._meeting = meeting
        self._host = socket.gethostname()
        self._rank = meeting.rank if meeting else 0
        self._ranks = meeting.ranks if meeting else 1
        self._beat = BEAT * max(1.0, self._ranks / MANY)
        self._over = threading.Event()
        self._wake = threading.Event()
        self._curious = False  # whether to ask for the reports of the others
        self._heard = time.monotonic()  # when the store last answered
        self._reports: dict[int, Report] = {}
        self._changed: dict[int, float] = {}  # when each was first seen, or missed
        self._last_words: dict[str, Any] = {}  # of this process, to be sent
        self._words: dict[str, Any] = {}  # of the process that failed first
        self._speaker: threading.Thread | None = None
        if meeting:
            self._line = meeting.line()
            self._report()
            self._speaker = threading.Thread(target=self._speak, name="speak", daemon=True)
            self._speaker.start()
        threading.Thread(target=self._judge, name="judge", daemon=True).start()

    def close(self) -> None:
        """Ends the threads. Waits for the one that speaks: a process that ends within its call of
        the store, which is C++, would be aborted."""
        self._over.set()
        self._wake.set()
        if self._speaker:
            self._speaker.join(FAREWELL)

    def explain(self, error: Exception) -> BaseException:
        """What is to be raised in the place of `error`: itself, or that another process was lost or
        failed first, of which this is but the consequence. Leaves word for the others."""
        if self._meeting is None or isinstance(error, VerdictError):
            return error
        # Of input and files each process knows for itself; what the network complains of, not.
        return self._tell(error) if isinstance(error, (ValueError, OSError)) else self._ask(error)

    def _tell(self, error: Exception) -> BaseException:
        self._say(str(error), WRONG_INPUT)
        said_by_another = self._words_of_another() and self._words["message"] == str(error)
        return SystemExit(WRONG_INPUT) if said_by_another else error

    def _ask(self, error: Exception) -> BaseException:
        self._curious = True
        self._heard = time.monotonic()  # it may have been suspended for long
        self._wait_until(lambda: bool(self._words or self._silent()), SILENT + 3)
        if silent := self._silent():
            reason, code = f"{named(silent, self._reports)} no longer answers; {remedy()}", LOST
        elif self._words_of_another():
            reason, code = self._failed()
        else:
            self._say(f"{type(error).__name__}: {error}", LOST)
            return error
        speaks = reason and self._speaks_for_all()
        return LostError(reason, code) if speaks else SystemExit(code)

    def _say(self, message: str, code: int) -> None:
        """Last words, for all others."""
        self._last_words = {
            "rank": self._rank,
            "host": self._host,
            "message": message,
            "code": code,
        }
        self._wait_until(lambda: bool(self._words), 3)

    def _wait_until(self, condition: Any, beats: float) -> None:
        end = time.monotonic() + beats * self._beat
        while not condition() and time.monotonic() < end:
            self._wake.set()
            time.sleep(self._beat / 10)

    # The thread that speaks.

    def _speak(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone, and with it rank 0
            while not self._over.is_set():
                self._report()
                self._exchange_words()
                if self._curious:
                    self._look_around()
                self._heard = time.monotonic()
                self._wake.wait(self._beat)
                self._wake.clear()

    def _report(self) -> None:
        self._line.set(f"pulse/{self._rank}", json.dumps(asdict(self._pulse.beat())))

    def _exchange_words(self) -> None:
        if self._last_words and not self._words:
            mine = json.dumps(self._last_words)
            self._words = json.loads(self._line.compare_set("words", "", mine))
        elif not self._words and self._line.check(["words"]):
            self._words = json.loads(self._line.get("words"))

    def _look_around(self) -> None:
        keys = {rank: f"pulse/{rank}" for rank in range(self._ranks)}
        there = list(keys)
        if not self._line.check(list(keys.values())):  # what is missing it would wait for
            there = [rank for rank, key in keys.items() if self._line.check([key])]
        texts = self._line.multi_get([keys[rank] for rank in there])
        for rank in keys:
            self._changed.setdefault(rank, time.monotonic())
        for rank, text in zip(there, texts, strict=True):
            report = Report(**json.loads(text))
            if rank not in self._reports or self._reports[rank].beat != report.beat:
                self._changed[rank] = time.monotonic()
            self._reports[rank] = report

    # The thread that judges.

    def _judge(self) -> None:
        suspicion = max(self.timeout - (SILENT + 2) * self._beat, 0.0)
        tick = min(self._beat, self.timeout / 10)
        stood, since = 0.0, self._pulse.since
        while not self._over.wait(tick):
            # By one's own ticks: while the whole job is suspended nobody waits for anybody.
            stood = stood + tick if since == self._pulse.since else 0.0
            since = self._pulse.since
            self._curious = self._curious or stood > suspicion
            if stood > self.timeout:
                self._end(self._stands_still(stood), LOST)
            elif self._words_of_another():
                self._over.wait((SILENT + 3) * self._beat)  # it will see for itself, or waits
                self._end(*self._failed())

    def _end(self, reason: str, code: int) -> None:
        """Ends this process, whatever its work is waiting for."""
        if self._over.is_set():
            return
        if reason and self._speaks_for_all():
            sys.stderr.write(f"biggan-sn: error: rank {self._rank}: {reason}\n")
            sys.stderr.flush()
        self._pulse.undisturbed.acquire(timeout=self.timeout)  # a checkpoint is written to its end
        os._exit(code)

    def _stands_still(self, seconds: float) -> str:
        now = self._pulse.now()
        held_up = f"step {now.step} has taken {seconds:.0f} s (timeout: {self.timeout:g} s)"
        if silent := self._silent():
            return f"{held_up}: {named(silent, self._reports)} no longer answers; {remedy()}"
        reports = {**self._reports, self._rank: now}
        return f"{held_up}: {culprits(reports)}. If that is how long it takes, raise timeout"

    def _failed(self) -> tuple[str, int]:
        """What another process said last, unless that was on this terminal; and its exit code."""
        words = self._words
        reason = f"rank {words['rank']} on {words['host']} failed: {words['message']}"
        return "" if words["host"] == self._host else reason, words["code"]

    def _words_of_another(self) -> bool:
        return bool(self._words) and self._words["rank"] != self._rank

    def _silent(self) -> list[int]:
        """The ranks that have stopped to report."""
        if self._meeting is None:
            return []
        now, long = time.monotonic(), SILENT * self._beat
        if now - self._heard > long:
            return [0]  # the store is where rank 0 is
        others = (rank for rank in self._changed if rank != self._rank)
        return [rank for rank in others if now - self._changed[rank] > long]

    def _speaks_for_all(self) -> bool:
        """Whether this is the first of those that still report and have not failed."""
        others = [*self._silent(), self._words.get("rank", -1)]
        return (
            next(r for r in range(self._ranks) if r == self._rank or r not in others) == self._rank
        )
