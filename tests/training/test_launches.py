"""Jobs as they are started, on the CPU: those that come together train one run, and one that falls
apart ends before it has touched anything, in a line that says what to do."""

import json
import math
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from biggan_sn.checkpoint import Checkpoints
from tests.training.jobs import ROOT, around, free_port, write_tiny_config

LONG = 150  # seconds after which a test gives up

PYTHON = [sys.executable]
TORCHRUN = [*PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = [*PYTHON, "-m", "accelerate.commands.launch"]
PLAIN = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
         "--main_process_port", "0"]  # fmt: skip
ZERO = [*ACCELERATE, "--use_deepspeed", *PLAIN]
ON_CPU = {"ACCELERATE_USE_CPU": "true"}


def two_machines():
    return [*ACCELERATE, "--cpu", "--num_machines", "2", "--machine_rank", "0",
            "--main_process_ip", "127.0.0.1", "--main_process_port", free_port()]  # fmt: skip


# Name -> launcher, environment; in the order of the tests.
LAUNCHES = {
    "zero2": ([*ZERO, "--num_processes", "2", "--zero_stage", "2"], ON_CPU),
    "zero1": ([*ZERO, "--num_processes", "2", "--zero_stage", "1"], ON_CPU),
    "torchrun": (TORCHRUN, ON_CPU),
    "torchrun, unasked": (TORCHRUN, {}),
    "zero3": ([*ZERO, "--num_processes", "1", "--zero_stage", "3"], ON_CPU),
    "two processes": ([*ACCELERATE, "--cpu", "--num_processes", "2"], {}),
    "two machines": (two_machines(), {}),
    "two tasks": (PYTHON, {"SLURM_STEP_NUM_TASKS": "2"}),
}
TRAIN = ["zero2", "zero1", "torchrun", "torchrun, unasked"]
LONELY = ["two processes", "two machines", "two tasks"]
REMEDIES = ("launch/local.sh", "launch/node.sh", "torchrun")


@pytest.fixture(scope="module")
def given(shards, tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("given")
    return write_tiny_config(folder / "given.yaml", shards, every=2, steps=2)


def words(launcher, given, folder, *more):
    return [*launcher, "-m", "biggan_sn", "train", "--config", str(given),
            "--run_dir", str(folder), *more]  # fmt: skip


def launch(launcher, environment, given, folder):
    return subprocess.run(
        words(launcher, given, folder),
        check=False,
        capture_output=True,
        text=True,
        timeout=LONG,
        env=around(**environment),
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def launched(given, tmp_path_factory):
    """Name of a launch -> what became of it, and its run's folder. While one is waited for the next
    one runs too, for most of each is waiting."""
    root = tmp_path_factory.mktemp("launches")
    folders = {name: root / name.replace(" ", "_").replace(",", "") for name in LAUNCHES}
    begun = {}
    with ThreadPoolExecutor(2) as pool:

        def result(name):
            names = list(LAUNCHES)
            at = names.index(name)
            for now in names[at : at + 2]:
                if now not in begun:
                    begun[now] = pool.submit(launch, *LAUNCHES[now], given, folders[now])
            return begun[name].result(), folders[name]

        yield result


def complaints(text):
    return [line for line in text.splitlines() if "biggan-sn: error: " in line]


def scalars(folder):
    lines = [json.loads(line) for line in (folder / "scalars.jsonl").read_text().splitlines()]
    clock = {"images_per_second", "speed"}
    return [{name: v for name, v in line.items() if name not in clock} for line in lines]


@pytest.mark.parametrize("name", TRAIN)
def test_processes_train_one_run(launched, name):
    done, folder = launched(name)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"{folder} starts: ") == 1
    assert "2 x cpu" in done.stdout
    assert done.stdout.count(f"{folder}: finished") == 1
    assert complaints(done.stderr) == []
    assert [record["step"] for record in scalars(folder)] == [1, 2]
    assert Checkpoints(folder / "checkpoints").newest().name == "step_00000002"


def test_a_cpu_need_not_be_asked_for(launched):
    """Where there is no GPU the run is the same, to the last bit."""
    (_, asked), (_, unasked) = launched("torchrun"), launched("torchrun, unasked")
    assert scalars(asked) == scalars(unasked)


@pytest.mark.parametrize("name", ["zero1", "zero2"])
def test_zero_is_only_another_way_to_keep_things(launched, name):
    """The engine is another one: its numbers are those of DDP."""
    (done, folder), (_, plain) = launched(name), launched("torchrun")
    assert f"2 x cpu, {name}, " in done.stdout
    for mine, expected in zip(scalars(folder), scalars(plain), strict=True):
        assert mine.keys() == expected.keys()
        assert "d_loss" in mine and "d_penalty" in mine
        for key, value in expected.items():
            assert math.isclose(mine[key], value, rel_tol=1e-4, abs_tol=1e-5), key


def test_stage_3_is_refused_with_the_reason(launched):
    done, folder = launched("zero3")
    assert done.returncode != 0
    (line,) = complaints(done.stderr)
    assert "zero_stage: stage 3 splits the weights" in line
    assert "second derivatives" in line
    assert "take 1 or 2" in line
    assert not folder.exists()


@pytest.mark.parametrize("name", LONELY)
def test_a_launch_that_fell_apart_leaves_nothing_behind(launched, name):
    done, folder = launched(name)
    (line,) = complaints(done.stderr)
    assert "2 processes were meant" in line
    for remedy in REMEDIES:
        assert remedy in line
    if name == "two tasks":
        assert done.returncode == 2
        assert done.stderr.splitlines() == [line]
        assert "SLURM_STEP_NUM_TASKS=2" in line
    else:  # of accelerate's own words the last is how the command ended
        assert done.returncode != 0
        assert "accelerate launch" in line
        assert done.stderr.splitlines()[-1].endswith("returned non-zero exit status 2.")
    assert done.stdout == ""
    assert not folder.exists()


def test_two_jobs_do_not_train_one_run(given, tmp_path):
    """As when each process of a job takes itself for all of it, and nobody said there were more."""
    folder, endless = tmp_path / "run", tmp_path / "endless.yaml"
    endless.write_text(yaml.safe_dump(yaml.safe_load(given.read_text()) | {"steps": 10**7}))
    first = subprocess.Popen(
        words(PYTHON, endless, folder), stdout=subprocess.PIPE, text=True, env=around(), cwd=ROOT
    )
    try:
        deadline = time.monotonic() + LONG
        while not (folder / "checkpoints" / "step_00000000").exists():
            assert first.poll() is None, "the first job ended"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = launch(PYTHON, {}, endless, folder)
        assert first.poll() is None
    finally:
        first.terminate()
        out, _ = first.communicate(timeout=LONG)
    assert second.returncode == 2
    (line,) = second.stderr.splitlines()
    assert line.startswith(f"biggan-sn: error: {folder}: another job is training there")
    assert "launch/local.sh" in line
    assert "launch/node.sh" in line
    assert second.stdout == ""
    assert first.returncode == 0, "undisturbed"
    assert out.splitlines()[-1].startswith(f"{folder}: stopped at step ")
