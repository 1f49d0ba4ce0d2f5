"""A run that is stopped, killed or moved goes on as if nothing had happened, to the last bit."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from biggan_sn.checkpoint import Checkpoints, load_tensors
from biggan_sn.config import CheckpointConfig, CollapseConfig, LogsConfig, LrDecayConfig
from biggan_sn.config_io import to_dict
from biggan_sn.data.stores import Folder
from biggan_sn.losses.penalties import PENALTIES
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World

GROUPS = ("generator", "discriminator", "ema", "generator_optimizer",
          "discriminator_optimizer", "spectra")  # fmt: skip


def run(config, folder, steps=None):
    config = replace(config, steps=steps or config.steps)
    trainer = Trainer(config, folder, World())
    trainer.run()
    return trainer


def newest(folder):
    return Checkpoints(folder / "checkpoints").newest()


def assert_same_run(one, other):
    for group in GROUPS:
        found, wanted = (load_tensors(newest(folder), group) for folder in (one, other))
        assert found.keys() == wanted.keys()
        for name in found:
            assert torch.equal(found[name], wanted[name]), (group, name)
    assert records(one, "scalars.jsonl") == records(other, "scalars.jsonl")
    assert records(one, "spectra.jsonl") == records(other, "spectra.jsonl")


def records(folder, name):
    lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "speed"} for line in lines]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Where the run that nothing disturbed is kept, once it has been made."""
    return tmp_path_factory.mktemp("straight")


@pytest.fixture
def undisturbed(straight, small_config):
    if newest(straight) is None:
        run(small_config, straight)
    return straight


def test_stopped_run_goes_on_bit_for_bit(undisturbed, small_config, tmp_path):
    run(small_config, tmp_path, steps=2)
    run(small_config, tmp_path, steps=4)
    run(small_config, tmp_path)
    assert_same_run(tmp_path, undisturbed)


def test_random_penalties_and_real_images_for_g_go_on_bit_for_bit(small_config, tmp_path):
    config = replace(
        small_config,
        objective="relativistic_average_nonsaturating",
        penalties=dict.fromkeys(PENALTIES, 0.1),
        penalty_every=3,  # of two updates in a step
        lr_decay=LrDecayConfig(start=1, end=5),
        steps=4,
    )
    run(config, tmp_path / "one")
    run(config, tmp_path / "two", steps=2)
    run(config, tmp_path / "two")
    assert_same_run(tmp_path / "two", tmp_path / "one")


def test_steps_after_the_checkpoint_are_played_again_and_logged_once(
    undisturbed, small_config, tmp_path
):
    run(replace(small_config, checkpoint=CheckpointConfig(every=4)), tmp_path, steps=5)
    last = newest(tmp_path)  # the run ended at 5; take that away, as if it had been killed
    last.rename(tmp_path / "gone")
    assert newest(tmp_path).name == "step_00000004"
    run(small_config, tmp_path)
    assert_same_run(tmp_path, undisturbed)
    assert [line["step"] for line in records(tmp_path, "scalars.jsonl")] == [1, 2, 3, 4, 5, 6]
    journal = (tmp_path / "log.txt").read_text()
    assert journal.count("step       5/") == 1


def test_events_are_there_once(small_config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(small_config, logs=LogsConfig(every=1, images=2, rows=1))
    run(config, tmp_path, steps=5)
    newest(tmp_path).rename(tmp_path / "gone")
    run(config, tmp_path)
    sizes = {"scalars": 0, "images": 0, "tensors": 0}
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance=sizes).Reload()
    assert [event.step for event in events.Scalars("train/d_loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("sigma0/G/linear")] == [2, 4, 6]
    assert len(events.Images("spectra/G_log10_sigma0")) == 3


def test_finished_run_stays_finished(small_config, tmp_path):
    run(small_config, tmp_path, steps=2)
    before = (tmp_path / "scalars.jsonl").read_bytes()
    trainer = run(small_config, tmp_path, steps=2)
    assert trainer.step == 2
    assert (tmp_path / "scalars.jsonl").read_bytes() == before


def test_other_data_are_refused(small_config, tmp_path, shards):
    import shutil

    from biggan_sn.data.shards import build_index, save_index

    run(small_config, tmp_path / "run", steps=2)
    shutil.copytree(shards, tmp_path / "data")
    (tmp_path / "data" / "000001.tar").unlink()
    save_index(build_index(tmp_path / "data", ("cat", "dog", "owl")))
    moved = replace(small_config.data, path=str(tmp_path / "data"))
    with pytest.raises(ValueError, match="other shards"):
        run(replace(small_config, data=moved), tmp_path / "run")


def command(config, folder, *more):
    (folder / "given.yaml").write_text(yaml.safe_dump(to_dict(config)))
    return subprocess.Popen(
        [sys.executable, "-m", "biggan_sn", "train", "--config", str(folder / "given.yaml"),
         "--run_dir", str(folder / "run"), *more],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )  # fmt: skip


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_kill_9_and_ctrl_c_lose_nothing(undisturbed, small_config, tmp_path):
    """The real command, killed outright at its second checkpoint, then interrupted, then let be."""
    endless = replace(small_config, steps=100_000)
    root = tmp_path / "run"
    process = command(endless, tmp_path)
    wait_for((root / "checkpoints" / "step_00000004").exists, process)
    process.kill()
    process.wait()
    killed_at = int(newest(root).name[5:])

    process = command(endless, tmp_path)
    wait_for(lambda: int(newest(root).name[5:]) > killed_at, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    stopped_at = int(newest(root).name[5:])
    assert stopped_at > killed_at

    lines = [line["step"] for line in records(root, "scalars.jsonl")]
    assert lines == list(range(1, stopped_at + 1))
    until_six = [line for line in records(root, "scalars.jsonl") if line["step"] <= 6]
    assert until_six == records(undisturbed, "scalars.jsonl")[: len(until_six)]


@pytest.mark.parametrize(
    "how",
    [
        {"chunk": 4},
        {"balanced": True},
        {"classes": ("owl", "cat"), "num_classes": 2, "images": 14, "heldout": ""},
    ],
    ids=["chunks", "balanced", "a part"],
)
def test_any_order_of_images_goes_on_bit_for_bit(small_config, tmp_path, how):
    config = replace(small_config, data=replace(small_config.data, **how))
    run(config, tmp_path / "one")
    run(config, tmp_path / "two", steps=2)
    run(config, tmp_path / "two")
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_a_slow_disk_is_seen_in_the_log(small_config, tmp_path, monkeypatch):
    read = Folder.read

    def slow(self, shard, start, size):
        time.sleep(0.15)
        return read(self, shard, start, size)

    monkeypatch.setattr(Folder, "read", slow)
    data = replace(small_config.data, threads=1, prefetch=1)
    run(replace(small_config, data=data, collapse=CollapseConfig(every=0)), tmp_path, steps=3)
    lines = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    # Two images of the first pass take 0.3 s to read, and nothing was read before. Later steps may
    # be longer than what they wait for, where a machine is busy.
    assert lines[0]["speed"]["data_wait"] >= 300
    assert len(lines) == 3 and all(line["speed"]["data_wait"] > 0 for line in lines)
    assert re.search(r"data \d{3,} ms", (tmp_path / "log.txt").read_text())
