"""Jobs as a user submits them, on a real Slurm: whatever ends one early, its run is kept, goes on
and comes out the same to the last bit; and what cannot get anywhere ends and says so."""

import csv
import fcntl
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from biggan_sn.checkpoint import Checkpoints, load_tensors
from biggan_sn.training.stopping import STOP, STOPPED
from tests.slurm.cluster import OVER, REPOSITORY, TRACKERS, Cluster
from tests.training.jobs import around, write_tiny_config

STEPS = 40
LONG = 240  # seconds after which a test gives up
HERE = {"PROCESSES": "1", "TOPOLOGY": "cpu", "CUDA_VISIBLE_DEVICES": "", "PREFLIGHT": "no"}
NEVER = ("--checkpoint.every", "1000")  # then only who stops saves
SCRIPTS = ("train", "evaluate", "sweep")


def under(tracker):
    """The way to keep track of processes under which a test runs: each under the harder one, all
    under both with TRACKERS=both in the environment."""
    trackers = TRACKERS if os.environ.get("TRACKERS") == "both" else [tracker]
    return pytest.mark.parametrize("tracker", trackers, indirect=True)


reaching_few = under("cgroup")  # signals end at the first process
outliving = under("linuxproc")  # orphans survive


def come(condition, what, over=lambda: False):
    """Waits for a condition, no longer than until `over`."""
    deadline = time.monotonic() + LONG
    while not condition():
        too_late = over() or time.monotonic() >= deadline
        assert not too_late or condition(), what()
        time.sleep(0.1)


class Job:
    """A job of slurm/train.sbatch, as one submits it in the root of the repository."""

    def __init__(self, cluster, root, given, name, *more, options=(), **variables):
        self.cluster = cluster
        self.folder = root / "runs" / name
        self.line = ("slurm/train.sbatch", "--config", given, "--run_dir", f"runs/{name}", *more)
        self.number = cluster.submit(*self.line, options=options, env=HERE | variables, cwd=root)
        self.log = root / f"biggan_sn-{self.number}.log"

    def said(self):
        return self.log.read_text() if self.log.exists() else ""

    def report(self):
        """All there is to say of it, short of the steps."""
        lines = [line for line in self.said().splitlines() if not line.startswith("step ")]
        return "\n".join([str(self.cluster.show(self.number)), *lines[-40:]])

    def says(self, pattern, times=1):
        """Waits until its log says something for the n-th time; the number in it, if one is."""

        def found():
            return re.findall(pattern, self.said())

        come(
            lambda: len(found()) >= times,
            lambda: f"waited for {pattern!r} ({times})\n{self.report()}",
            over=lambda: self.cluster.state(self.number) in OVER,
        )
        text = found()[times - 1]
        return int(text) if text.isdecimal() else text

    def trains(self, start=1, steps=3):
        """Waits until it has trained so many steps since its n-th start; where that began."""
        begun = self.says(r"goes on from step_(\d+): ", start - 1) if start > 1 else 0
        self.says(rf"start {start}\n(?s:.*?)step +{begun + steps}/{STEPS} ")
        return begun

    def stops(self, times=1):
        """Waits until it has stopped for the n-th time, and gone on; the step, which it saved."""
        step = self.says(r"stopped at step (\d+); queued again", times)
        assert 0 < step < STEPS
        assert self.says(r"goes on from step_(\d+): ", times) == step
        assert (self.folder / "checkpoints" / f"step_{step:08d}").is_dir()
        return step

    def completes(self, restarts):
        """Waits for its end, which must be a good one after so many starts by Slurm."""
        assert self.cluster.wait(self.number, seconds=LONG) == "COMPLETED", self.report()
        assert self.cluster.show(self.number)["Restarts"] == str(restarts)
        assert len(re.findall(rf"^job {self.number} on ", self.said(), re.M)) == restarts + 1
        assert self.said().count(" starts: ") == 1, "one voice for the job, and one run"
        assert not (self.folder / STOP).exists()
        assert not (self.folder / STOPPED).exists()


@pytest.fixture(scope="module")
def given(shards, tmp_path_factory):
    """A run of seconds."""
    path = tmp_path_factory.mktemp("given") / "given.yaml"
    return write_tiny_config(path, shards, every=5, keep=100, steps=STEPS, timeout=60.0)


@pytest.fixture(scope="module")
def undisturbed(given, tmp_path_factory):
    """The run as two processes of one machine train it, without Slurm: what all others must be.
    Trained once for all processes of pytest."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "undisturbed" / "run"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not Checkpoints(folder / "checkpoints").path_of(STEPS).exists():
            train_undisturbed(given, folder)
    return folder


def train_undisturbed(given, folder):
    line = ["bash", "launch/local.sh", "--config", given, "--run_dir", folder]
    done = subprocess.run(
        line,
        env=around() | HERE | {"PROCESSES": "2"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def root(tmp_path):
    """The root of a repository, where jobs leave their logs."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("biggan_sn", "launch", "slurm"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


@contextmanager
def calm(cluster):
    """The cluster, where no job is forgotten and no process outlives its own."""
    try:
        yield cluster
        come(lambda: not cluster.leftovers(), cluster.leftovers)
    finally:
        cluster.login("scancel", "--user=root")
        queue = ("squeue", "--noheader")
        come(lambda: not cluster.login(*queue).stdout, lambda: cluster.login(*queue).stdout)


@pytest.fixture
def slurm(cluster):
    with calm(cluster):
        yield cluster


def assert_same_run(folder, other):
    path, other_path = (Checkpoints(f / "checkpoints").newest() for f in (folder, other))
    assert path.name == other_path.name == f"step_{STEPS:08d}"
    files = sorted(file.stem for file in other_path.glob("*.safetensors"))
    assert {"generator", "ema", "discriminator_optimizer"} <= set(files)
    for name in files:
        found, wanted = load_tensors(path, name), load_tensors(other_path, name)
        assert found.keys() == wanted.keys()
        for key, tensor in found.items():
            torch.testing.assert_close(tensor, wanted[key], rtol=0, atol=0, equal_nan=True)


def take_all_nodes(cluster, root):
    """A more urgent job that wants all nodes, from beginning to end."""
    script = root / "urgent.sbatch"
    script.write_text("#!/bin/bash\nsrun hostname\n")
    options = ("--partition=urgent", f"--nodes={len(cluster.nodes)}", "--exclusive")
    number = cluster.submit(script, options=options, cwd=root)
    assert cluster.wait(number, seconds=LONG) == "COMPLETED"


def complaints(said):
    """The lines of a log that are neither Slurm's nor tell when the job began."""
    others = ("srun: ", "slurmstepd", "job ")
    return [line for line in said.splitlines() if line.strip() and not line.startswith(others)]


def worker(job, rank):
    """The process of a job that has this rank."""
    marks = {f"SLURM_JOB_ID={job.number}".encode(), f"RANK={rank}".encode()}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            if marks <= set((process / "environ").read_bytes().split(b"\0")):
                return int(process.name)
    raise AssertionError(f"no rank {rank}")


@outliving
def test_two_nodes_train_one_run(slurm, root, given, undisturbed):
    job = Job(slurm, root, given, "one")
    job.completes(restarts=0)
    (line,) = [line for line in job.said().splitlines() if " starts: " in line]
    assert "2 x cpu" in line
    assert_same_run(job.folder, undisturbed)


@reaching_few
def test_who_must_stop_saves_and_goes_on(slurm, root, given, undisturbed):
    """By a signal before it trains, by one to all its processes, and for another job."""
    job = Job(slurm, root, given, "one", *NEVER)
    job.says(r"start 1\n")
    slurm.signal(job.number, "USR1")
    assert job.stops(1) <= 5
    job.trains(2)
    slurm.login("scancel", "--signal=USR1", "--full", str(job.number))
    job.stops(2)
    job.trains(3)
    take_all_nodes(slurm, root)
    job.stops(3)
    job.completes(restarts=3)
    assert_same_run(job.folder, undisturbed)


@reaching_few
def test_without_the_signal_it_asked_for_too(tracker, root, given, undisturbed, tmp_path):
    """Preempted where Slurm ends steps and leaves the batch script alone; then the user does the
    opposite: a cancelled job is saved and stays where it is, until it is submitted again."""
    folder = tmp_path / "slurm"
    with Cluster(folder, nodes=2, tracker=tracker, user_signal=False) as cluster, calm(cluster):
        job = Job(cluster, root, given, "one", *NEVER)
        job.trains(1)
        take_all_nodes(cluster, root)
        job.stops(1)
        begun = job.trains(2)
        cluster.cancel(job.number)
        assert cluster.wait(job.number, seconds=LONG) == "CANCELLED", job.report()
        assert cluster.show(job.number)["Restarts"] == "1"
        step = int(Checkpoints(job.folder / "checkpoints").newest().name.removeprefix("step_"))
        assert begun < step < STEPS, job.report()
        again = Job(cluster, root, given, "one", *NEVER)
        assert again.says(r"goes on from step_(\d+): ") == step
        assert cluster.wait(again.number, seconds=LONG) == "COMPLETED", again.report()
        assert cluster.state(job.number) == "CANCELLED", "nor does it come back"
        assert_same_run(job.folder, undisturbed)


@outliving
def test_a_run_survives_its_nodes(tracker, root, given, undisturbed, tmp_path):
    """The node of the batch script, then the other."""
    with Cluster(tmp_path / "slurm", nodes=4, tracker=tracker) as cluster, calm(cluster):
        job = Job(cluster, root, given, "one")
        for times, head in enumerate((True, False), start=1):
            job.trains(times, steps=7)
            shown = cluster.show(job.number)
            names = cluster.login("scontrol", "show", "hostnames", shown["NodeList"]).stdout.split()
            (lost,) = [name for name in names if (name == shown["BatchHost"]) is head]
            cluster.kill(lost)
            cluster.set_down(lost)
            assert job.says(r"goes on from step_(\d+): ", times) >= 5 * times
            ends = [run.state for run in cluster.ended() if run.job == job.number]
            assert ends == ["NODE_FAIL"] * times
        job.completes(restarts=2)
        assert_same_run(job.folder, undisturbed)


@outliving
def test_a_job_that_met_a_dead_node_is_queued_again(tracker, root, given, tmp_path):
    """A node that Slurm still counts on: the processes of the job cannot be started."""
    with Cluster(tmp_path / "slurm", nodes=3, tracker=tracker) as cluster, calm(cluster):
        cluster.kill(cluster.nodes[1])
        job = Job(cluster, root, given, "one")
        job.says(r" starts: (?s:.*)step +1/")
        cluster.cancel(job.number)


@outliving
def test_a_job_at_its_time_limit_is_queued_again(slurm, root, given):
    """Where no signal came before it."""
    short = ("--time=00:01:00", "--signal=B:CONT@1")
    job = Job(slurm, root, given, "one", *NEVER, "--steps", "10000000", options=short)
    job.says(r"at its time limit, and was not stopped before; queued again\n")
    job.says(r"start 2\n")
    assert job.says(r"goes on from step_(\d+): ") > 0, "it was saved"
    slurm.cancel(job.number)


@outliving
def test_a_killed_process_is_started_again_without_queueing(slurm, root, given, undisturbed):
    job = Job(slurm, root, given, "one")
    job.trains(steps=7)
    os.kill(worker(job, 1), signal.SIGKILL)
    assert job.says(r"goes on from step_(\d+): ") >= 5
    job.completes(restarts=0)
    assert_same_run(job.folder, undisturbed)


@outliving
def test_a_job_that_gets_nowhere_gives_up(slurm, root, given):
    """It is queued again and again before it trains."""
    job = Job(slurm, root, given, "one", TRIES="2")
    for start in (1, 2):
        job.says(rf"start {start}\n")
        slurm.login("scontrol", "requeue", str(job.number))
    assert slurm.wait(job.number, seconds=LONG) == "FAILED", job.report()
    assert slurm.show(job.number)["Restarts"] == "2"
    assert job.said().splitlines()[-1] == (
        "runs/one: 2 starts in a row brought no checkpoint after none; gives up"
    )
    again = Job(slurm, root, given, "one", TRIES="2")
    again.says(r"start 1\n")


@outliving
def test_wrong_use_ends_in_one_line(slurm, root, given):
    """And is not tried again."""
    wrong = given.with_name("wrong.yaml")
    wrong.write_text(given.read_text().replace("d_steps: 1", "d_stepz: 1"))
    elsewhere = root / "runs"
    elsewhere.mkdir()
    script = REPOSITORY / "slurm" / "train.sbatch"
    cases = [
        (root, ("--config", given), "say where the run goes: sbatch slurm/train.sbatch"),
        (elsewhere, ("--config", given, "--run_dir", "one"), "is not the root of the repository"),
        (root, ("--config", wrong, "--run_dir", "runs/one"), "d_stepz"),
    ]
    without = root / "bin"  # no installed package says where its scripts lie
    without.mkdir()
    (without / "biggan-sn").write_text("#!/bin/sh\nexit 127\n")
    (without / "biggan-sn").chmod(0o755)
    paths = f"{without}:{os.environ['PATH']}:/usr/sbin:/usr/bin:/sbin:/bin"
    plain = {root: HERE, elsewhere: HERE | {"PATH": paths}}
    jobs = [
        (slurm.submit(script, *line, env=plain[folder], cwd=folder), folder, words)
        for folder, line, words in cases
    ]
    for number, folder, words in jobs:
        assert slurm.wait(number, seconds=LONG) == "FAILED"
        said = (folder / f"biggan_sn-{number}.log").read_text()
        shown = slurm.show(number)
        assert (shown["ExitCode"], shown["Restarts"]) == ("2:0", "0"), said
        assert words in said
        assert len(complaints(said)) == 1, said
    assert not (root / "one").exists()


@outliving
def test_what_stays_wrong_is_not_tried_again(slurm, root, given):
    """What only the processes of the job find out, each for itself."""
    wrong = given.with_name("negative.yaml")
    wrong.write_text(given.read_text().replace("d_steps: 1", "d_steps: -1"))
    job = Job(slurm, root, wrong, "one")
    assert slurm.wait(job.number, seconds=LONG) == "FAILED", job.report()
    assert job.said().count("biggan-sn: error: ") in {1, 2}, job.report()
    assert slurm.show(job.number)["ExitCode"] == "2:0", job.report()


@outliving
def test_processes_without_a_launcher_are_refused(slurm, root, given):
    line = ("python", "-m", "biggan_sn", "train", "--config", str(given), "--run_dir", "runs/one")
    done = slurm.srun("--ntasks=2", *line, env=HERE, cwd=root, check=False)
    assert done.returncode == 2, done.stderr
    assert "2 processes were meant (SLURM_STEP_NUM_TASKS=2)" in done.stderr
    assert "launch/node.sh" in done.stderr
    assert not (root / "runs").exists()


@outliving
def test_checkpoints_are_drawn_from_and_judged(slurm, root, undisturbed):
    def submit(verb, *words):
        line = (f"slurm/{verb}.sbatch", undisturbed, *words)
        number = slurm.submit(*line, env=HERE, cwd=root)
        return number, root / f"biggan_sn_{verb}-{number}.log"

    scored = ("--extractor", "digits", "--metrics", "fid", "--samples", "20")
    drawn = ("--per_class", "2", "--truncations", "0.5", "1", "--out", "out")
    sweep, drew = submit("sweep", *scored, *drawn)
    evaluate, judged = submit("evaluate", *scored, "--metrics", "class_accuracy")
    assert slurm.wait(sweep, seconds=LONG) == "COMPLETED", drew.read_text()
    rows = list(csv.DictReader((root / "out" / "sweep.csv").read_text().splitlines()))
    assert [row["truncation"] for row in rows] == ["0.5", "1.0", ""]
    assert all(float(row["fid"]) > 0 for row in rows)
    assert (root / "out" / "sweep.png").stat().st_size
    assert slurm.wait(evaluate, seconds=LONG) == "FAILED", "there are no ten digits in noise"
    assert slurm.show(evaluate)["ExitCode"] == "2:0"
    (line,) = complaints(judged.read_text())
    assert line.startswith("biggan-sn: error: ")


@outliving
@pytest.mark.parametrize("script", SCRIPTS)
def test_headers_are_as_slurm_reads_them(slurm, root, script):
    path = f"slurm/{script}.sbatch"
    said = slurm.login("sbatch", "--test-only", "-v", path, env=HERE, cwd=root).stderr
    assert re.search(r"Job \d+ to start at ", said)
    read = dict(re.findall(r"^sbatch: ([\w-]+) +: (\S+)$", said, re.M))
    assert read["requeue"] == "requeue"
    assert read["open-mode"] == "a"
    training = script == "train"
    assert read["nodes"] == ("2" if training else "1")
    assert read.get("signal") == ("B:USR1@300" if training else None)
    number = slurm.submit(path, options=["--hold"], env=HERE, cwd=root)
    shown = slurm.show(number)
    name = "biggan_sn" if training else f"biggan_sn_{script}"
    assert shown["StdOut"] == shown["StdErr"] == str(root / f"{name}-{number}.log")
