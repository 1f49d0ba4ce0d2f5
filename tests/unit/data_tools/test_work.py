"""Work that is cut into tasks: whatever ends it, what was done is kept, and nobody stays."""

import json
import multiprocessing
import os
import signal
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import pytest

from biggan_sn import progress
from biggan_sn.files import whole_file
from biggan_sn.progress import noticed_stops, show_progress
from data_tools import work
from data_tools.work import Journal, complete, exit_code
from tests.unit.data_tools import tasks
from tests.unit.data_tools.making import PYTHON, without_progress
from tests.unit.data_tools.tasks import PLAN, TASKS

ROOT = Path(__file__).parents[3]
PATIENCE = 60.0  # seconds


def journal_of(folder):
    return Journal(folder / "journal", PLAN)


def begun(folder):
    """How often each task was."""
    names = [path.name.partition(".")[0] for path in folder.glob("*.begun")]
    return {name: names.count(name) for name in names}


@contextmanager
def started(folder, name, processes=2):
    """The program, in a session of its own."""
    words = [*PYTHON, "-m", "tests.unit.data_tools.tasks", str(folder), str(processes), name]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    program = subprocess.Popen(words, cwd=ROOT, start_new_session=True, **pipes)
    try:
        yield program
    finally:
        for pid in members(program.pid):
            os.kill(pid, signal.SIGKILL)
        program.communicate()


def members(session):
    """Processes of a session that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def wait_for_lines(folder, count):
    """Until the journal has so many results."""

    def there():
        path = folder / "journal"
        return path.exists() and path.read_text().count("\n") > count

    wait_for(there)


def finish(folder, processes=1):
    """Goes on in this process. Returns the tasks that were done before."""
    journal = journal_of(folder)
    before = set(journal.results)
    times = begun(folder)
    done = complete(TASKS, tasks.quick, folder, processes, journal)
    assert [result["name"] for result in done.values()] == list(TASKS)
    again = {name for name, count in begun(folder).items() if count > times.get(name, 0)}
    assert again == TASKS.keys() - before
    return before


# ------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("processes", [1, 3])
def test_all_are_done_once(tmp_path, processes):
    done = complete(TASKS, tasks.quick, tmp_path, processes, journal_of(tmp_path))
    assert list(done) == list(TASKS)
    assert [result["name"] for result in done.values()] == list(TASKS)
    assert begun(tmp_path) == dict.fromkeys(TASKS, 1)
    assert (os.getpid() in {result["pid"] for result in done.values()}) == (processes == 1)
    assert finish(tmp_path) == set(TASKS)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_keeps_what_is_done(tmp_path, processes):
    with pytest.raises(ValueError, match=r"^task3 is wrong$"):
        complete(TASKS, tasks.failing, tmp_path, processes, journal_of(tmp_path))
    before = finish(tmp_path)
    assert "task3" not in before
    assert before >= {"task0", "task1"}


def test_an_error_ends_the_others(tmp_path):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"^task3 is wrong$"):
        complete(TASKS, tasks.failing_beside_long, tmp_path, 2, journal_of(tmp_path))
    assert time.monotonic() - start < 10
    assert "task0" not in journal_of(tmp_path).results


def test_the_counter_is_read_without_its_lock():
    done = multiprocessing.Value("q", 7)
    future = Future()
    future.set_result({})
    shown = []
    with ThreadPoolExecutor(1) as pool, done.get_lock():
        gathered = pool.submit(
            work._gather, {future: "task"}, done, lambda *_: None, shown.append, []
        )
        gathered.result(timeout=5)
    assert shown == [7]


def test_what_ended_together_with_an_error_counts(tmp_path, monkeypatch):
    everything = {"timeout": None, "return_when": "ALL_COMPLETED"}
    monkeypatch.setattr(work, "wait", lambda futures, **_: wait(futures, **everything))
    with pytest.raises(ValueError, match="task3"):
        complete(TASKS, tasks.failing, tmp_path, 2, journal_of(tmp_path))
    assert finish(tmp_path) == TASKS.keys() - {"task3"}


# ------------------------------------------------------------------------------------- stops


def test_kill_of_a_worker(tmp_path):
    with started(tmp_path, "slow") as program:
        wait_for_lines(tmp_path, 2)
        os.kill(worker_of(program.pid), signal.SIGKILL)
        out, err = program.communicate(timeout=PATIENCE)
        assert program.returncode == 1
        err = without_progress(err)
        assert err.startswith("tasks: error: a process was killed") and err.count("\n") == 1
        assert out == ""
        wait_for(lambda: not members(program.pid))
    assert len(finish(tmp_path)) >= 2


def worker_of(session):
    """A process of the pool: it ignores Ctrl-C and is a child of the server."""
    children = {}
    for pid in members(session):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children.setdefault(int(fields[1]), []).append(pid)
    return next(
        max(pids)
        for parent, pids in children.items()
        if parent not in (session, 1) and parent in members(session)
    )


def test_kill_of_the_main_process(tmp_path):
    with started(tmp_path, "slow") as program:
        wait_for_lines(tmp_path, 2)
        program.kill()
        program.wait()
        wait_for(lambda: not members(program.pid))
    assert len(finish(tmp_path)) >= 2


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_stop(tmp_path, signal_, processes):
    # To the whole group, as a terminal does it, and a scheduler may.
    with started(tmp_path, "slow", processes) as program:
        wait_for_lines(tmp_path, 2)
        os.killpg(program.pid, signal_)
        out, err = program.communicate(timeout=PATIENCE)
        assert (program.returncode, out) == (130, "")
        assert without_progress(err) == "tasks: stopped; the same command goes on\n"
        wait_for(lambda: not members(program.pid))
    assert len(finish(tmp_path)) >= 2


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_waits_for_the_executor(tmp_path, monkeypatch, signal_):
    """Which takes locks, one after the other, and would not let go of them."""
    left = []

    def wait_and_stop(futures, **options):
        os.kill(os.getpid(), signal_)
        time.sleep(0.01)
        left.append(wait(futures, **options))
        return left[-1]

    monkeypatch.setattr(work, "wait", wait_and_stop)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        complete(TASKS, tasks.slow, tmp_path, 2, journal_of(tmp_path))
    assert len(left) == 1
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_stops_in_the_background():
    """What is ignored stays so; elsewhere than in the main thread there is nothing to notice."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noticed_stops() as stops:
            os.kill(os.getpid(), signal.SIGINT)
        assert stops == []
    finally:
        signal.signal(signal.SIGINT, before)

    def elsewhere():
        with noticed_stops() as stops:
            return stops

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result() == []


def test_a_process_killed_with_the_lock(tmp_path):
    with started(tmp_path, "killed_with_lock") as program:
        _, err = program.communicate(timeout=PATIENCE)
        assert program.returncode == 1
        assert "a process was killed" in err


# ------------------------------------------------------------------------------------- journal


def test_journal_cut_anywhere(tmp_path):
    journal = journal_of(tmp_path)
    for number in range(3):
        journal.note(f"task{number}", {"number": number})
    whole = journal.path.read_bytes()
    for length in range(len(whole) + 1):
        journal.path.write_bytes(whole[:length])
        count = max(0, whole[:length].count(b"\n") - 1)
        found = journal_of(tmp_path)
        assert found.results == {f"task{i}": {"number": i} for i in range(count)}
        found.note("more", {})  # what was cut is gone, not in the way
        assert set(journal_of(tmp_path).results) == {*found.results}
    assert list(tmp_path.iterdir()) == [tmp_path / "journal"]


def test_journal_of_another_plan(tmp_path):
    journal_of(tmp_path).note("task0", {})
    before = (tmp_path / "journal").read_bytes()
    for plan, named in [
        ({**PLAN, "version": 2}, "version differ"),
        ({**PLAN, "more": 1}, "more differ"),
        ({"version": 1}, "of differ"),
    ]:
        with pytest.raises(ValueError, match=rf"journal: .*another work \({named}\).*{tmp_path}$"):
            Journal(tmp_path / "journal", plan)
    assert (tmp_path / "journal").read_bytes() == before


@pytest.mark.parametrize(
    "damage", [b"garbage\n", b"\xff\xfe\n", b"[1]\n", b'{"task": 1}\n', b"\0\0\0\n", b'"task"\n']
)
@pytest.mark.parametrize("where", [0, 1])
def test_damaged_journal(tmp_path, damage, where):
    journal_of(tmp_path).note("task0", {})
    lines = (tmp_path / "journal").read_bytes().splitlines(keepends=True)
    lines[where] = damage
    (tmp_path / "journal").write_bytes(b"".join(lines))
    with pytest.raises(
        ValueError, match=f"^{tmp_path / 'journal'}: .*remove {tmp_path}$"
    ) as caught:
        journal_of(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_journal_is_json_lines(tmp_path):
    # A plan may hold tuples; JSON makes them lists, and that is no other plan.
    plan = {"names": ("a", "b")}
    Journal(tmp_path / "journal", plan).note("one", {"found": (1, "\u2028")})
    assert Journal(tmp_path / "journal", plan).results == {"one": {"found": [1, "\u2028"]}}
    assert [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()] == [
        {"names": ["a", "b"]},
        {"task": "one", "result": {"found": [1, "\u2028"]}},
    ]


# ------------------------------------------------------------------------------------- the rest


def test_whole_file(tmp_path):
    path = tmp_path / "file"
    with whole_file(path) as file:
        file.write(b"old")
        assert not path.exists()

    def fail(error):
        with whole_file(path) as file:
            file.write(b"new")
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("a\n  b"), 2, "p: error: a b"),
        (OSError("full"), 2, "p: error: full"),
        (RuntimeError("lost"), 1, "p: error: lost"),
        (KeyboardInterrupt(), 130, "p: stopped; the same command goes on"),
        (KeyboardInterrupt("it begins anew"), 130, "p: stopped; it begins anew"),
    ],
)
def test_exit_code(capsys, error, code, line):
    def fail():
        raise error

    assert exit_code("p", fail) == code
    assert capsys.readouterr().err == line + "\n"
    assert exit_code("p", lambda: 7) == 7


def test_progress_in_a_log(capsys, monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with show_progress(1000) as advance:
        advance(400)  # there from a run before
        now += 10
        advance(0)
        assert capsys.readouterr().err == "400/1000 images\n"
        now += 9.9
        advance(100)
        assert capsys.readouterr().err == ""
        now += 0.1
        advance(100)
        assert capsys.readouterr().err == "600/1000 images, 10/s, 40 s to go\n"
        now += 5
        advance(400)
    assert capsys.readouterr().err == ""
