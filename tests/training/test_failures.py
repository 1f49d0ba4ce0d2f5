"""Jobs of two processes that lose one, or are told to stop, as users start them: they end in time,
say which process it was and what to do, and go on as if nothing had happened."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree

import pytest
import torch
import yaml

from biggan_sn.checkpoint import Checkpoints, load_state, load_tensors
from tests.training.jobs import ROOT, around, free_port, write_tiny_config

LONG = 150  # seconds after which a test gives up
EVERY = 4
MORE = 4  # steps after the last event
PLAYED = re.compile(r"^step +(\d+)/", re.MULTILINE)
WENT_ON = re.compile(r"goes on from step_(\d+)")


@pytest.fixture(scope="module")
def given(shards, tmp_path_factory):
    """A run without an end."""
    path = tmp_path_factory.mktemp("given") / "given.yaml"
    # A timeout so long that where a test waits for less, it was not this that ended the job.
    return write_tiny_config(path, shards, every=EVERY, steps=10**7, timeout=60.0)


class Job:
    """A job that was started, and what it says. What is left of it ends with the block.

    Args:
        folder: of the run; named on its command line, by which its processes are known.
        words: that start it.
        variables: of its environment.
    """

    def __init__(self, folder, words, **variables):
        self.folder = folder
        self._files = [folder.parent / f"{folder.name}.{name}" for name in ("out", "err")]
        with self._files[0].open("w") as out, self._files[1].open("w") as err:
            self.launcher = subprocess.Popen(
                [*words, "--run_dir", str(folder)],
                stdout=out,
                stderr=err,
                env=around(**variables),
                cwd=ROOT,
            )

    @property
    def out(self):
        return self._files[0].read_text()

    @property
    def err(self):
        return self._files[1].read_text()

    def processes(self):
        """Those that train, by rank."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
                environment = (path / "environ").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            ranks = [entry[5:] for entry in environment if entry.startswith(b"RANK=")]
            if ranks and str(self.folder).encode() in words:
                found[int(ranks[0])] = int(path.name)
        return found

    def until(self, condition, what):
        """Waits for the condition."""
        deadline = time.monotonic() + LONG
        while not condition():
            assert self.launcher.poll() is None, f"it ended before {what}\n{self.err[-3000:]}"
            assert time.monotonic() < deadline, f"waited for {what}\n{self.err[-3000:]}"
            time.sleep(0.02)

    def has_saved(self, step):
        """Waits for a checkpoint of this step, or a later one."""
        self.until(lambda: max(steps_of(self.folder), default=-1) >= step, f"step {step}")

    def has_played(self, steps):
        """Waits for so many steps."""
        self.until(lambda: len(PLAYED.findall(self.out)) >= steps, f"{steps} steps")

    def kill(self, rank):
        """Kills one process; returns those that there were."""
        processes = self.processes()
        os.kill(processes[rank], signal.SIGKILL)
        return processes

    def end(self):
        """Its exit code."""
        return self.launcher.wait(timeout=LONG)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Launchers that are killed leave their processes behind."""
        if self.launcher.poll() is None:
            self.launcher.kill()
            self.launcher.wait()
        for pid in self.processes().values():
            os.kill(pid, signal.SIGKILL)


def local(given, folder, *more, **variables):
    """Two processes that launch/local.sh starts."""
    config = ["--config", str(given)] if given else []
    words = ["bash", str(ROOT / "launch" / "local.sh"), *config, *more]
    return Job(folder, words, PROCESSES="2", **variables)


def complaints(text):
    return [line for line in text.splitlines() if line.startswith("biggan-sn: error: ")]


def first_to_end(report):
    """What the launcher tells: the rank, and how."""
    found = re.search(r"^launch: rank (\d+) was the first here to end, (.+)$", report, re.MULTILINE)
    return int(found[1]), found[2]


def steps_of(folder):
    return [int(path.name[5:]) for path in Checkpoints(folder / "checkpoints").all()]


def assert_all_load(folder):
    for path in Checkpoints(folder / "checkpoints").all():
        groups = [file.stem for file in path.glob("*.safetensors")]
        assert len(groups) == len(load_state(path)["files"]) >= 7
        for group in groups:
            load_tensors(path, group)


def last_printed_step(out):
    return int(PLAYED.findall(out)[-1])


def logged_steps(folder):
    lines = (folder / "scalars.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def assert_same_end(folder, other):
    one, two = (Checkpoints(f / "checkpoints").newest() for f in (folder, other))
    groups = {file.stem for file in two.glob("*.safetensors")}
    assert one.name == two.name
    assert groups == {file.stem for file in one.glob("*.safetensors")} >= {"ema", "spectra"}
    for group in groups:
        found, wanted = load_tensors(one, group), load_tensors(two, group)
        assert found.keys() == wanted.keys()
        for name in found:
            assert torch.equal(found[name], wanted[name]), (group, name)


@dataclass
class Part:
    """What became of one job of a run.

    Attributes:
        code: how it ended.
        out, err: what it said.
        steps: of the checkpoints when it had ended.
        stopped: contents of STOPPED then.
        processes: by rank, whenever one was killed.
    """

    code: int
    out: str
    err: str
    steps: list[int]
    stopped: str
    processes: list[dict[int, int]] = field(default_factory=list)


def end_of(job):
    """After the job's end; what it left on disk must be whole."""
    code = job.end()
    assert_all_load(job.folder)
    word = job.folder / "STOPPED"
    stopped = word.read_text() if word.exists() else ""
    return Part(code, job.out, job.err, steps_of(job.folder), stopped)


def killed_twice(first, given, folder):
    """A job that starts again by itself once loses first the one process, then the other."""
    with local(given, folder, RESTARTS="1") as job:
        job.has_saved(EVERY)
        before = job.kill(first)
        job.until(lambda: WENT_ON.search(job.out), "its second start")
        job.has_saved(int(WENT_ON.search(job.out)[1]) + EVERY)
        then = job.kill(1 - first)
        part = end_of(job)
    part.processes = [before, then]
    return part


def stopped(tell, folder):
    """The run goes on, and is told to stop between two checkpoints."""
    with local(None, folder, "--checkpoint.every", "1000000") as job:
        job.has_played(3)
        tell(job)
        part = end_of(job)
    assert not (folder / "STOP").exists()
    return part


def first_life(given, folder):
    return [killed_twice(1, given, folder), stopped(leave_word, folder)]


def second_life(given, folder):
    parts = [killed_twice(0, given, folder)]
    return [*parts, stopped(signal_one, folder), stopped(terminate_launcher, folder)]


def goes_on(given, folder, last):
    """To the end, in its own folder or a new one."""
    with local(None if folder.exists() else given, folder, "--steps", str(last)) as job:
        return end_of(job)


def halted(given, folder):
    """One process stands still. The launcher would wait half a minute for it."""
    with local(given, folder, "--timeout", "12") as job:
        job.has_saved(EVERY)
        processes = job.processes()
        os.kill(processes[1], signal.SIGSTOP)
        try:
            job.until(lambda: complaints(job.err), "a complaint")
            job.until(lambda: 0 not in job.processes(), "rank 0 to end, as the first")
            job.until(lambda: "closing signal" in job.err, "the launcher to notice")
        finally:
            os.kill(processes[1], signal.SIGKILL)
        part = end_of(job)
    part.processes = [processes]
    return part


def terminate_launcher(job):
    job.launcher.terminate()


def signal_one(job):
    """As Slurm does; what it sends to the launcher as well is not for it."""
    job.launcher.send_signal(signal.SIGUSR1)
    os.kill(job.processes()[1], signal.SIGUSR1)


def leave_word(job):
    (job.folder / "STOP").touch()


def damaged(given, folder):
    """A shard is cut short while it is read, then it is gone."""
    data = folder.parent / "noise"
    copytree(yaml.safe_load(given.read_text())["data"]["path"], data)
    with local(given, folder, "--data.path", str(data)) as job:
        job.has_saved(EVERY)
        os.truncate(data / "000000.tar", 4096)
        cut = end_of(job)
    (data / "000000.tar").unlink()
    with local(None, folder) as job:
        return [cut, end_of(job)]


def mounted(*words):
    try:
        return subprocess.run(["mount", *words], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def full_disk(given, folder, last):
    """The run's folder is a disk of a megabyte, which then grows."""
    folder.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)):
        return None
    with local(given, folder, "--checkpoint.keep", "99", "--steps", str(last)) as job:
        full = end_of(job)
    assert mounted("-o", "remount,size=64m", str(folder))
    return [full, goes_on(given, folder, last)]


def lonely_node(given, folder):
    """One of two nodes."""
    words = ["bash", str(ROOT / "launch" / "node.sh"), "train", "--config", str(given)]
    meeting = {"NODES": "2", "NODE_RANK": "0", "HEAD": "127.0.0.1", "PORT": free_port()}
    with Job(folder, words, PROCESSES="1", TOPOLOGY="cpu", WAIT="5", **meeting) as job:
        return end_of(job)


def lonely_task(given, folder):
    """One of two processes as srun's scripts start them, without a launcher."""
    words = [sys.executable, "-m", "biggan_sn", "train", "--config", str(given)]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    with Job(folder, [*words, "--timeout", "5"], RANK="0", WORLD_SIZE="2", **meeting) as job:
        return end_of(job)


# Name -> what happens, in the order of the tests; to a run of its own, or one that goes on to where
# all do.
EVENTS = {
    "first life": first_life,
    "second life": second_life,
    "halted": halted,
    "lonely task": lonely_task,
    "damaged": damaged,
    "undisturbed": goes_on,
    "first life goes on": goes_on,
    "second life goes on": goes_on,
    "full disk": full_disk,
    "lonely node": lonely_node,
}
LIVES = ("first life", "second life")
LAST = ("undisturbed", *(f"{life} goes on" for life in LIVES), "full disk")


class Happened:
    """What became of each event. While one is waited for the next one runs too, for most of each
    is waiting.

    Args:
        given: the config.
        root: where the folders are.
        pool: two threads.
    """

    def __init__(self, given, root, pool):
        self._given, self._root, self._pool = given, root, pool
        self._begun = {}

    def __call__(self, name):
        at = list(EVENTS).index(name)
        for now in list(EVENTS)[at : at + 2]:
            self._begin(now)
        return self._begun[name].result()

    def folder(self, name):
        return self._root / name.removesuffix(" goes on").replace(" ", "_") / "run"

    def last(self):
        """The step to which all go on that go on."""
        return max(max(self(life)[-1].steps) for life in LIVES) + MORE

    def _begin(self, name):
        if name in self._begun:
            return
        folder = self.folder(name)
        folder.parent.mkdir(exist_ok=True)
        to = (self._given, folder, self.last()) if name in LAST else (self._given, folder)
        self._begun[name] = self._pool.submit(EVENTS[name], *to)


@pytest.fixture(scope="module")
def happened(given, tmp_path_factory):
    root = tmp_path_factory.mktemp("events")
    with ThreadPoolExecutor(2) as pool:
        yield Happened(given, root, pool)
    for place in root.glob("*/run"):
        if place.is_mount():
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def assert_names(line, teller, lost, part, life):
    """The line that a process says of one that was killed: which, and what becomes of the job."""
    pid = part.processes[life][lost]
    assert line.startswith(
        f"biggan-sn: error: rank {teller}: rank {lost} (process {pid} on {socket.gethostname()}, "
    )
    assert re.search(r"step \d+, [\w ]+\) no longer answers; ", line)
    if life == 0:
        assert line.endswith("; all start again from the newest checkpoint (1 of 1 times)")
        return
    assert "start it again with the same command and it goes on" in line
    assert "RESTARTS=" in line


@pytest.mark.parametrize(("life", "first"), [("first life", 1), ("second life", 0)])
def test_a_job_that_lost_a_process_says_which_and_starts_again(happened, life, first):
    """As often as it may; then it ends."""
    part = happened(life)[0]
    other = 1 - first
    assert "2 x cpu" in part.out
    before, then = complaints(part.err)
    assert_names(before, other, first, part, 0)
    assert_names(then, first, other, part, 1)
    assert part.processes[0].keys() == part.processes[1].keys() == {0, 1}
    (begun,) = WENT_ON.findall(part.out)
    assert int(begun) >= EVERY
    assert part.code == 128 + signal.SIGKILL
    assert first_to_end(part.err) == (other, "by SIGKILL")
    assert "finished" not in part.out
    assert "stopped" not in part.out
    assert part.steps[-1] >= int(begun) + EVERY


@pytest.mark.parametrize(
    ("life", "number", "told"),
    [("first life", 1, "STOP"), ("second life", 1, "SIGUSR1"), ("second life", 2, "SIGTERM")],
    ids=["STOP", "SIGUSR1", "SIGTERM"],
)
def test_all_processes_stop_at_one_step(happened, life, number, told):
    """With a checkpoint of it, from which the run goes on."""
    parts, folder = happened(life), happened.folder(life)
    before, part = parts[number - 1 : number + 1]
    assert complaints(part.err) == []
    assert part.code == (1 if told == "SIGTERM" else 0), part.err[-3000:]
    assert f"goes on from step_{before.steps[-1]:08d}" in part.out
    step = int(re.fullmatch(r"step (\d+)\n", part.stopped)[1])
    assert step == part.steps[-1] == last_printed_step(part.out) >= before.steps[-1] + 3
    again = f"go on with: biggan-sn train --run_dir {folder}"
    assert part.out.splitlines()[-1] == f"{folder}: stopped at step {step}; {again}"


@pytest.mark.parametrize("life", LIVES)
def test_what_happened_to_a_run_changes_nothing(happened, life):
    """To the last bit it is where an undisturbed one is."""
    part, wanted = happened(f"{life} goes on"), happened("undisturbed")
    for one in (part, wanted):
        assert one.code == 0, one.err[-3000:]
        assert complaints(one.err) == []
        assert one.out.splitlines()[-1].partition(";")[0].endswith("run: finished")
        assert one.steps[-1] == happened.last()
        assert one.stopped == ""
    assert "goes on from" not in wanted.out
    assert_same_end(happened.folder(life), happened.folder("undisturbed"))
    assert logged_steps(happened.folder(life)) == [*range(1, happened.last() + 1)]


def test_a_process_that_stands_still_ends_the_job(happened):
    part = happened("halted")
    assert part.code == 3
    (line,) = complaints(part.err)
    assert re.match(r"biggan-sn: error: rank 0: step \d+ has taken \d+ s \(timeout: 12 s\): ", line)
    where = f"rank 1 (process {part.processes[0][1]} on {socket.gethostname()}, step "
    assert where in line
    assert "no longer answers" in line
    assert "start it again with the same command" in line
    assert first_to_end(part.err) == (0, "with exit code 3")


def test_a_shard_that_is_cut_short_ends_the_job(happened):
    """One process hits it, or both at different images: each says so, and nobody waits."""
    part, _ = happened("damaged")
    assert part.code == 2
    lines = complaints(part.err)
    hit = {int(found[1]) for line in lines if (found := re.match(r".*: rank (\d): /", line))}
    assert hit, lines
    for line in lines:
        assert "/noise/000000.tar" in line
        assert "bytes are there" in line
    assert first_to_end(part.err)[1] == "with exit code 2"


def test_a_shard_that_is_gone_keeps_a_job_from_going_on(happened):
    _, part = happened("damaged")
    assert part.code == 2
    (line,) = complaints(part.err)
    assert "/noise/000000.tar" in line
    assert first_to_end(part.err)[1] == "with exit code 2"
    assert "goes on from" not in part.out


def test_a_full_disk_ends_the_job_in_one_line(happened):
    """And when there is room it goes on, to the last bit as if there always had been."""
    parts = happened("full disk")
    if parts is None:
        pytest.skip("to mount a disk of a megabyte takes rights that are not ours")
    full, then = parts
    assert full.code == 2
    assert first_to_end(full.err) == (0, "with exit code 2")
    (line,) = complaints(full.err)
    found = re.search(r"checkpoints/step_(\d+): cannot be written \(.*No space left", line)
    failed = int(found[1])
    assert full.steps == [*range(0, failed, EVERY)]
    assert "finished" not in full.out
    assert then.code == 0, then.err[-3000:]
    assert f"goes on from step_{failed - EVERY:08d}" in then.out
    happened("undisturbed")
    assert_same_end(happened.folder("full disk"), happened.folder("undisturbed"))


def test_a_node_that_never_comes_is_missed(happened):
    part = happened("lonely node")
    assert part.code == 3
    assert "launch: only 1 of 2 nodes came to where they meet in time: start" in part.err
    assert "Traceback" not in part.err
    assert not happened.folder("lonely node").exists()


def test_a_process_that_never_comes_is_named(happened):
    part = happened("lonely task")
    assert part.code == 2
    (line,) = complaints(part.err)
    assert "rank 0: rank 1 did not come to 127.0.0.1:" in line
    assert "within 5 s" in line
    assert not happened.folder("lonely task").exists()
