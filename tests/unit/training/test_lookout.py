"""Who is told what when a process of a job fails, falls silent or stands still.

The processes are threads here, each with a connection of its own to a real store.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from biggan_sn.training import lookout
from biggan_sn.training.launching import LOST, WRONG_INPUT, LostError, VerdictError
from biggan_sn.training.lookout import REMEDY, Lookout
from biggan_sn.training.meeting import Meeting
from biggan_sn.training.pulse import Pulse
from tests.training.crew import free_port

ROOT = Path(__file__).parents[3]
BEAT = 0.2  # short, but longer than a busy machine pauses
LONG = 60.0  # seconds after which a test gives up


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(lookout, "BEAT", BEAT)


@pytest.fixture(autouse=True)
def left(monkeypatch):
    """The exit codes of processes that were ended; here it is the thread that goes no further."""
    codes, over = [], threading.Event()

    def leave(code):
        codes.append(code)
        over.wait()

    monkeypatch.setattr(lookout.os, "_exit", leave)
    yield codes
    over.set()


class Job:
    """Processes with a lookout each.

    Args:
        ranks: how many there are.
        launchers: whether a launcher keeps the store, not rank 0.
    """

    def __init__(self, ranks, launchers=True):
        self.store = None
        self._environment = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
        if launchers:
            self.store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=LONG), False)
            self._environment["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        self._port = self.store.port if launchers else free_port()
        self.pulses = [Pulse() for _ in range(ranks)]
        self.meetings = [self.meeting(rank) for rank in range(ranks)]
        self.lookouts = {}

    def meeting(self, rank, attempt=0):
        more = {
            "RANK": str(rank),
            "MASTER_PORT": str(self._port),
            "TORCHELASTIC_RESTART_COUNT": str(attempt),
        }
        return Meeting({**self._environment, **more}, LONG)

    def look_out(self, *ranks, timeout=LONG):
        for rank in ranks:
            self.lookouts[rank] = Lookout(self.pulses[rank], self.meetings[rank], timeout)

    def dies(self, rank):
        """It reports no more."""
        self.lookouts[rank].close()

    def explain(self, errors):
        """What each rank makes of its error, all at once; ends them."""

        def one(rank):
            explained = self.lookouts[rank].explain(errors[rank])
            self.lookouts[rank].close()
            return explained

        with ThreadPoolExecutor(len(errors)) as pool:
            return dict(zip(errors, pool.map(one, errors), strict=True))

    def close(self):
        for one in self.lookouts.values():
            one.close()


@pytest.fixture
def start():
    jobs = []

    def begin(ranks, *, launchers=True, watched=True):
        jobs.append(Job(ranks, launchers))
        if watched:
            jobs[-1].look_out(*range(ranks))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.close()


def lost(explained):
    """The message of one that speaks for all."""
    assert type(explained) is LostError
    return str(explained)


def is_quiet(explained, code=LOST):
    """Whether it ends without a word, with the code of the reason."""
    return type(explained) is SystemExit and explained.code == code


def eventually(condition):
    deadline = time.monotonic() + LONG
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


CLOSED = RuntimeError("Connection closed by peer")


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, OSError, VerdictError])
def test_alone_an_error_is_what_it_is(kind):
    mine = Lookout(Pulse(), None, LONG)
    error = kind("mine")
    assert mine.explain(error) is error
    mine.close()


def test_the_thread_that_speaks_is_gone_before_its_process_ends(start, monkeypatch):
    """One within a call of the store at that time would abort it (SIGABRT): C++ that it calls
    cannot be unwound."""
    job = start(2, watched=False)
    slow, report = threading.Event(), Lookout._report

    def slowly(self):
        report(self)
        if threading.current_thread() is not threading.main_thread():
            slow.set()
            time.sleep(0.5)

    monkeypatch.setattr(Lookout, "_report", slowly)
    job.look_out(0)
    assert slow.wait(LONG)
    job.lookouts[0].close()
    assert "speak" not in {thread.name for thread in threading.enumerate()}


def test_a_store_that_does_not_answer_holds_nobody_up(start, monkeypatch):
    monkeypatch.setattr(lookout, "FAREWELL", 0.1)
    job, over = start(2, watched=False), threading.Event()
    monkeypatch.setattr(Lookout, "_exchange_words", lambda self: over.wait(LONG))
    job.look_out(0)
    begin = time.monotonic()
    job.lookouts[0].close()
    assert time.monotonic() - begin < LONG / 2
    over.set()


@pytest.mark.parametrize("kind", [ValueError, OSError])
def test_what_all_find_wrong_is_said_once(start, kind):
    """By whoever comes first; another thing is said as well."""
    job = start(3)
    error = kind("shard 7 is gone")
    assert job.explain({1: error})[1] is error
    found = job.explain({0: kind("shard 7 is gone"), 2: (other := kind("shard 9 is gone"))})
    assert is_quiet(found[0], WRONG_INPUT)
    assert found[2] is other


def test_of_those_who_say_the_same_at_once_one_is_heard(start):
    job = start(4)
    found = job.explain({rank: ValueError("shard 7 is gone") for rank in range(4)})
    assert sorted(type(each).__name__ for each in found.values()) == [
        *["SystemExit"] * 3,
        "ValueError",
    ]


@pytest.mark.parametrize(("gone", "launchers"), [(0, True), (1, True), (2, True), (1, False)])
def test_a_process_that_fell_silent_is_named_once(start, gone, launchers):
    """By the first that is left, with all that is known of it."""
    job = start(3, launchers=launchers)
    job.pulses[gone].at(7, "evaluating")
    assert eventually(lambda: last_report(job, gone)["doing"] == "evaluating")
    job.dies(gone)
    first, second = (rank for rank in range(3) if rank != gone)
    found = job.explain({first: CLOSED, second: CLOSED})
    assert lost(found[first]) == (
        f"rank {gone} (process {os.getpid()} on {socket.gethostname()}, step 7, evaluating) "
        f"no longer answers; {REMEDY}"
    )
    assert is_quiet(found[second])


def last_report(job, rank):
    return json.loads(job.meetings[rank].store.get(f"pulse/{rank}"))


def test_all_that_fell_silent_are_named(start):
    job = start(4)
    job.dies(0)
    job.dies(2)
    found = job.explain({1: CLOSED, 3: CLOSED})
    assert re.findall(r"rank (\d) \(", lost(found[1])) == ["0", "2"]
    assert is_quiet(found[3])


def test_an_error_where_nobody_is_missing_is_ones_own(start):
    """And the others, whose exchanges break, say whose it was."""
    job = start(3)
    job.lookouts[0]._host = "node2"
    error = RuntimeError("out of memory")
    assert job.explain({0: error})[0] is error
    found = job.explain({1: CLOSED, 2: CLOSED})
    assert lost(found[1]) == "rank 0 on node2 failed: RuntimeError: out of memory"
    assert is_quiet(found[2])


def test_what_is_wrong_with_the_input_of_one_is_said_to_the_others(start):
    job = start(3)
    job.lookouts[2]._host = "node2"
    job.explain({2: ValueError("shard 7 is gone")})
    found = job.explain({0: CLOSED, 1: CLOSED})
    assert lost(found[0]) == "rank 2 on node2 failed: shard 7 is gone"
    assert found[0].code == WRONG_INPUT
    assert is_quiet(found[1], WRONG_INPUT)


def test_on_one_node_it_is_said_once(start):
    """By the process that it happened to."""
    job = start(3)
    job.explain({2: ValueError("shard 7 is gone")})
    found = job.explain({0: CLOSED, 1: CLOSED})
    assert is_quiet(found[0], WRONG_INPUT)
    assert is_quiet(found[1], WRONG_INPUT)


def test_where_the_store_is_gone_so_is_rank_0(start):
    job = start(2)
    job.store = None
    assert lost(job.explain({1: CLOSED})[1]) == f"rank 0 no longer answers; {REMEDY}"


def test_a_process_that_never_reported_is_named(start):
    """It was lost on its way from the roll call to the first step."""
    job = start(3, watched=False)
    job.look_out(0, 1)
    found = job.explain({0: CLOSED, 1: CLOSED})
    assert lost(found[0]) == f"rank 2 no longer answers; {REMEDY}"
    assert is_quiet(found[1])


def test_a_verdict_is_only_itself(start):
    """All know it, and none is a consequence of another's."""
    job = start(2)
    verdict = VerdictError("step 7: it collapsed")
    assert job.explain({1: verdict})[1] is verdict


def test_who_waits_for_one_that_failed_is_ended(start, left, capsys):
    """It may be in an exchange that never breaks. One of them says why."""
    job = start(3)
    job.lookouts[1]._host = "node2"
    job.explain({1: ValueError("shard 7 is gone")})
    assert eventually(lambda: len(left) == 2)
    assert left == [WRONG_INPUT, WRONG_INPUT]
    assert capsys.readouterr().err == (
        "biggan-sn: error: rank 0: rank 1 on node2 failed: shard 7 is gone\n"
    )


@pytest.mark.parametrize("beats", [6, 15])
def test_who_waits_for_one_that_fell_silent_says_so(start, left, capsys, beats):
    """Also where there is little time to find it out."""
    timeout = beats * BEAT
    job = start(3, watched=False)
    job.look_out(1, 2)
    job.pulses[2].at(7, "saving")
    assert eventually(lambda: last_report(job, 2)["doing"] == "saving")
    job.dies(2)
    job.pulses[0].at(8)
    job.look_out(0, timeout=timeout)
    assert eventually(lambda: left)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"biggan-sn: error: rank 0: step 8 has taken {timeout:.0f} s (timeout: {timeout:g} s): "
        f"rank 2 (process {os.getpid()} on {socket.gethostname()}, step 7, saving) no longer "
        f"answers; {REMEDY}"
    )


def test_who_waits_for_one_that_is_slow_says_so(start, left, capsys):
    job = start(3, watched=False)
    for rank, step in enumerate((8, 8, 7)):
        job.pulses[rank].at(step)
    job.look_out(1, 2)
    job.look_out(0, timeout=1.5)
    assert eventually(lambda: left)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        f"(timeout: 1.5 s): rank 2 (process {os.getpid()} on {socket.gethostname()}, step 7, "
        "playing) keeps the job waiting. If that is how long it takes, raise timeout"
    )


def test_only_the_first_that_stands_still_says_so(start, left, capsys):
    """All do where one keeps them waiting."""
    job = start(3, watched=False)
    job.look_out(0, 1, 2, timeout=1.5)
    assert eventually(lambda: len(left) == 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("biggan-sn: error: rank 0: step 0 has taken 2 s")


STANDS_STILL = """
pulse.at(5, "evaluating")
Lookout(pulse, None, 1.5)
time.sleep(60)
"""

WRITES = """
said = threading.Event()

class Stderr:
    flush = sys.stderr.flush

    def write(self, text):
        sys.__stderr__.write(text)
        said.set()

sys.stderr = Stderr()
pulse.at(5, "saving")
with pulse.undisturbed:
    Lookout(pulse, None, 2.0)
    said.wait()
    time.sleep(0.5)
    file.write_text("whole")
time.sleep(60)
"""

WRITES_FOR_EVER = WRITES.replace("    time.sleep(0.5)", "    time.sleep(60)")

MOVES = """
lookout = Lookout(pulse, None, 1.5)
for step in range(80):
    pulse.at(step)
    time.sleep(0.05)
lookout.close()
time.sleep(2)
file.write_text("arrived")
"""

IS_SUSPENDED = """
Lookout(pulse, None, 1.5)
file.touch()
while file.exists():
    time.sleep(0.01)
file.write_text("arrived")
"""

PROGRAMS = {
    "stands still": STANDS_STILL,
    "writes": WRITES,
    "writes for ever": WRITES_FOR_EVER,
    "moves": MOVES,
    "is suspended": IS_SUSPENDED,
}

# Runs all at once; torch is imported but once.
STAGE = """
import json, os, signal, sys, threading, time, traceback
from pathlib import Path
from biggan_sn.training.lookout import Lookout
from biggan_sn.training.pulse import Pulse

def play(text, file):
    os.dup2(os.open(f"{file}.err", os.O_CREAT | os.O_WRONLY), 2)
    try:
        exec(text, {**globals(), "pulse": Pulse(), "file": file})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

folder, pids = Path(sys.argv[1]), {}
for name, text in json.load(sys.stdin).items():
    pids[name] = os.fork()
    if pids[name] == 0:
        play(text, folder / name)

suspended = folder / "is suspended"
while not suspended.exists():
    time.sleep(0.01)
os.kill(pids["is suspended"], signal.SIGSTOP)
time.sleep(2.5)
suspended.unlink()
os.kill(pids["is suspended"], signal.SIGCONT)
ends = {name: (os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), pid) for name, pid in pids.items()}
json.dump(ends, sys.stdout)
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Name of a program -> its exit code, its process, what it complained of and what it wrote."""
    folder = tmp_path_factory.mktemp("programs")
    done = subprocess.run(
        [sys.executable, "-c", STAGE, str(folder)],
        input=json.dumps(PROGRAMS),
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    def told(name):
        written = (folder / name).read_text() if (folder / name).exists() else None
        return (folder / f"{name}.err").read_text(), written

    return {name: (*end, *told(name)) for name, end in json.loads(done.stdout).items()}


def test_a_process_that_stands_still_is_ended(ends):
    code, pid, err, _ = ends["stands still"]
    assert code == LOST
    assert err == (
        "biggan-sn: error: rank 0: step 5 has taken 2 s (timeout: 1.5 s): rank 0 (process "
        f"{pid} on {socket.gethostname()}, step 5, evaluating) keeps the job waiting. If that is "
        "how long it takes, raise timeout\n"
    )


def test_a_checkpoint_that_is_being_written_is_written_to_its_end(ends):
    code, _, err, written = ends["writes"]
    assert code == LOST
    assert "step 5, saving" in err
    assert written == "whole"


def test_but_not_for_ever(ends):
    code, _, err, written = ends["writes for ever"]
    assert code == LOST
    assert len(err.splitlines()) == 1
    assert written is None


def test_a_process_that_moves_is_left_alone(ends):
    """However long it runs in all, and when its lookout is closed it may stand still."""
    code, _, err, written = ends["moves"]
    assert (code, err, written) == (0, "", "arrived")


def test_a_process_that_was_suspended_is_not_one_that_stands_still(ends):
    code, _, err, written = ends["is suspended"]
    assert (code, err, written) == (0, "", "arrived")


def test_threads_end_with_the_job(start):
    before = set(threading.enumerate())
    job = start(2)
    begun = set(threading.enumerate()) - before
    assert sorted(thread.name for thread in begun) == ["judge", "judge", "speak", "speak"]
    job.close()
    for thread in begun:
        thread.join(timeout=LONG)
        assert not thread.is_alive()
