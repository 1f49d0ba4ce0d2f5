"""A run that is taken back goes another way from there, and what it gave up is kept."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml

from biggan_sn.checkpoint import Checkpoints, load_state, load_tensors
from biggan_sn.cli import main
from biggan_sn.config import CheckpointConfig
from biggan_sn.config_io import to_dict
from biggan_sn.training.rollback import roll_back
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World


@pytest.fixture
def config(small_config):
    return replace(small_config, checkpoint=CheckpointConfig(every=2, keep=5))


@pytest.fixture
def run(config, tmp_path):
    """A finished run of 6 steps with checkpoints at 2, 4 and 6."""
    folder = tmp_path / "run"
    Trainer(config, folder, World()).run()
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    return folder


def steps_of(folder):
    return [int(path.name[5:]) for path in Checkpoints(folder / "checkpoints").all()]


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(folder):
    newest = Checkpoints(folder / "checkpoints").newest()
    return load_tensors(newest, "generator"), load_tensors(newest, "discriminator")


def same(one, other):
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


def test_the_run_goes_on_from_there_another_way_and_with_new_images(run, config):
    first = weights(run)
    images = config.d_steps * config.batch_size
    done = roll_back(run, 2, "a test")
    assert (done.step, done.given_up, done.attempt) == (2, 6, 1)
    assert steps_of(run) == [2]
    trainer = Trainer(config, run, World())
    assert (trainer.step, trainer.position, trainer.attempt) == (2, 6 * images, 1)
    assert trainer.run()
    assert load_state(Checkpoints(run / "checkpoints").newest())["position"] == (6 + 4) * images
    assert not same(first, weights(run))
    assert [record["step"] for record in records(run / "scalars.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_new_random_numbers_alone_change_the_way(run, config):
    """Also without new images: a deterministic run would collapse again, bit for bit."""
    latents = [Trainer(config, run, World()).play.latents]
    roll_back(run, 4, "a test")
    latents.append(Trainer(config, run, World()).play.latents)
    roll_back(run, 4, "again")
    latents.append(Trainer(config, run, World()).play.latents)
    draws = [stream.z(range(3)) for stream in latents]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


def test_the_new_way_is_as_determined_as_the_old(run, config, tmp_path):
    shutil.copytree(run, tmp_path / "twin", symlinks=True)
    for folder, stops in ((run, (6,)), (tmp_path / "twin", (3, 5, 6))):
        roll_back(folder, 2, "a test")
        for steps in stops:
            Trainer(replace(config, steps=steps), folder, World()).run()
    assert same(weights(run), weights(tmp_path / "twin"))


def test_nothing_is_lost(run):
    before = {name: (run / name).read_bytes() for name in ("scalars.jsonl", "spectra.jsonl")}
    done = roll_back(run, 2, "sigma_0 exploded")
    assert sorted(path.name for path in done.kept.glob("step_*")) == [
        "step_00000004",
        "step_00000006",
    ]
    assert load_state(done.kept / "step_00000006")["step"] == 6
    for name, contents in before.items():
        assert (done.kept / name).read_bytes() == contents
    (record,) = records(run / "rollbacks.jsonl")
    assert record == {"from": 6, "to": 2, "attempt": 1, "reason": "sigma_0 exploded"}
    assert (run / "checkpoints" / "latest").resolve().name == "step_00000002"


@pytest.mark.parametrize("stop_after", range(2))
def test_a_rollback_that_was_cut_short_can_be_done_again(run, config, monkeypatch, stop_after):
    """Killed between any two of its moves, it leaves a run that loads."""
    moves = []
    rename = type(run).rename

    def sometimes(self, target):
        if len(moves) == stop_after:
            raise KeyboardInterrupt
        moves.append(target)
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(type(run), "rename", sometimes)
        with pytest.raises(KeyboardInterrupt):
            roll_back(run, 2, "a test")
    Trainer(config, run, World())
    done = roll_back(run, 2, "a test")
    assert steps_of(run) == [2]
    assert done.attempt == 1
    state = load_state(run / "checkpoints" / "step_00000002")
    assert state["position"] == 6 * config.d_steps * config.batch_size


def test_by_hand(run, capsys):
    assert main(["rollback", str(run), "--to", "4", "--reason", "FID turned up"]) == 0
    assert "back from step 6 to 4, attempt 1" in capsys.readouterr().out
    assert main(["train", "--run_dir", str(run)]) == 0
    assert "goes on from step_00000004, attempt 1" in capsys.readouterr().out
    assert main(["rollback", str(run), "--to", "3"]) == 2
    assert f"{run}: no checkpoint of step 3; there are 2, 4, 6" in capsys.readouterr().err
    with World().holding(run):
        assert main(["rollback", str(run), "--to", "4"]) == 2
    assert "another job is training there" in capsys.readouterr().err
    assert main(["rollback", str(run / "nowhere"), "--to", "4"]) == 2
    assert not (run / "nowhere").exists()


def test_inspect_shows_checkpoints_alarms_rollbacks_and_the_worst_layers(run, capsys):
    roll_back(run, 4, "FID turned up")
    with (run / "spectra.jsonl").open("a") as file:
        record = records(run / "spectra.jsonl")[-1]
        record |= {"step": 8, "alarms": ["G conv: sigma_0 grew from 1 to 3"]}
        record["G"]["conv"] = [9.0, 1.0, 0.5]
        file.write(json.dumps(record) + '\n{"step": 9, "G"')  # a kill cut the last line short
    capsys.readouterr()
    assert main(["inspect", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(("| 2", "| 4", "| 6"))] == [
        "| 2 | 0 |  |  |",
        "| 4 | 1 |  | latest |",
    ]
    assert "- step 8: G conv: sigma_0 grew from 1 to 3" in lines
    assert "- from step 6 to 4, attempt 1: FID turned up" in lines
    table = lines.index("## Largest sigma_0 / sigma_1 at step 8")
    assert lines[table + 4] == "| G | conv | 9 | 9 | 1 |"


def test_inspect_changes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert main(["inspect", str(run)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_a_run_without_checkpoints_can_be_inspected(run, capsys):
    shutil.rmtree(run / "checkpoints")
    (run / "spectra.jsonl").unlink()
    assert main(["inspect", str(run)]) == 0
    assert "## Alarms: none" in capsys.readouterr().out
