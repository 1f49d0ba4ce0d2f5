"""A run that is taken back goes another way from there, and what it gave up is kept."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml

from biggan_sn.checkpoint import Checkpoints, load_state, load_tensors
from biggan_sn.cli import main
from biggan_sn.config import CheckpointConfig, CollapseConfig
from biggan_sn.config_io import to_dict
from biggan_sn.nn.matrices import raw_weight
from biggan_sn.training import records as kept
from biggan_sn.training.rollback import CollapseError, roll_back
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World
from tests.forging import forge


@pytest.fixture
def config(small_config):
    return replace(small_config, checkpoint=CheckpointConfig(every=2, keep=5))


@pytest.fixture
def run(config, tmp_path):
    """A finished run of 6 steps with checkpoints at 0, 2, 4 and 6."""
    folder = tmp_path / "run"
    Trainer(config, folder, World()).run()
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    return folder


def steps_of(folder):
    return [int(path.name[5:]) for path in Checkpoints(folder / "checkpoints").all()]


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rollbacks(folder):
    return [(record["from"], record["to"]) for record in kept.rollbacks(folder)]


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
    assert steps_of(run) == [0, 2]
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
    (record,) = kept.rollbacks(run)
    reason = "sigma_0 exploded"
    assert record == {
        "event": "rollback", "from": 6, "to": 2, "attempt": 1, "reason": reason, "by_hand": True
    }  # fmt: skip
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
    assert steps_of(run) == [0, 2]
    assert done.attempt == 1
    state = load_state(run / "checkpoints" / "step_00000002")
    assert state["position"] == 6 * config.d_steps * config.batch_size


def test_by_hand(run, capsys):
    assert main(["rollback", str(run), "--to", "4", "--reason", "FID turned up"]) == 0
    assert "back from step 6 to 4, attempt 1" in capsys.readouterr().out
    assert main(["train", "--run_dir", str(run)]) == 0
    assert "goes on from step_00000004, attempt 1" in capsys.readouterr().out
    assert main(["rollback", str(run), "--to", "3"]) == 2
    assert f"{run}: no checkpoint of step 3; there are 0, 2, 4, 6" in capsys.readouterr().err
    with World().holding(run):
        assert main(["rollback", str(run), "--to", "4"]) == 2
    assert "another job is training there" in capsys.readouterr().err
    assert main(["rollback", str(run / "nowhere"), "--to", "4"]) == 2
    assert not (run / "nowhere").exists()


def test_inspect_shows_checkpoints_alarms_rollbacks_and_the_worst_layers(run, capsys):
    signs = {"explosion": 0.1, "fid_rise": 0.72}
    forge(run / "checkpoints" / "step_00000002", signs=signs)
    roll_back(run, 4, "FID turned up")
    with (run / "spectra.jsonl").open("a") as file:
        record = records(run / "spectra.jsonl")[-1]
        record |= {"step": 8}
        record["G"]["conv"] = [9.0, 1.0, 0.5]
        file.write(json.dumps(record) + '\n{"step": 9, "G"')  # a kill cut the last line short
    alarm = {"event": "alarm", "attempt": 1, "step": 8, "channel": "explosion", "since": 7}
    kept.append(run / kept.COLLAPSE, {**alarm, "reason": "G conv: sigma_0 grew from 1 to 3"})
    capsys.readouterr()
    assert main(["inspect", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" |") for line in lines if line.startswith(("| 2", "| 4", "| 6"))]
    assert [(row[0], row[1], row[4].strip()) for row in rows] == [
        ("| 2", " 0", ""),
        ("| 4", " 1", "latest"),
    ]
    assert rows[0][3] == " fid_rise at 72%"
    assert ("- step 8, explosion: G conv: sigma_0 grew from 1 to 3; calm until step 7") in lines
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


def poisoned(trainer, when):
    """The trainer, whose D gets a weight of nan in the step that begins where `when` says so."""
    play = type(trainer.play).__call__

    def broken(self, step, reals):
        if when(trainer.attempt, step):
            with torch.no_grad():
                trainer.networks["D"].linear.bias.fill_(torch.nan)
        return play(self, step, reals)

    return broken


def train_with(config, folder, when, monkeypatch):
    trainer = Trainer(config, folder, World())
    with monkeypatch.context() as patched:
        patched.setattr(type(trainer.play), "__call__", poisoned(trainer, when))
        trainer.run()
    return trainer


@pytest.fixture
def going_back(config):
    return replace(config, collapse=CollapseConfig(every=2, rollbacks=2))


def test_a_run_that_diverges_goes_back_by_itself_and_ends(going_back, tmp_path, monkeypatch):
    trainer = train_with(going_back, tmp_path, lambda *at: at == (0, 4), monkeypatch)
    assert (trainer.step, trainer.attempt) == (6, 1)
    images = going_back.d_steps * going_back.batch_size
    assert trainer.position == (5 + 2) * images, "step 5 diverged; steps 5 and 6 saw new images"
    (record,) = kept.rollbacks(tmp_path)
    assert (record["from"], record["to"]) == (5, 4)
    assert record["reason"] == "step 5: d_loss is nan"
    assert steps_of(tmp_path) == [0, 2, 4, 6]
    assert [r["step"] for r in records(tmp_path / "scalars.jsonl")] == [1, 2, 3, 4, 5, 6]
    for part in weights(tmp_path):
        assert all(value.isfinite().all() for value in part.values())
    assert "goes on from step_00000004, attempt 1" in (tmp_path / "log.txt").read_text()


def test_what_diverges_again_goes_back_further_and_then_stops(going_back, tmp_path, monkeypatch):
    with pytest.raises(CollapseError):
        train_with(going_back, tmp_path, lambda attempt, step: step == 4, monkeypatch)
    assert rollbacks(tmp_path) == [(5, 4), (5, 2)]
    assert steps_of(tmp_path) == [0, 2, 4], "saved again on the way"


@pytest.mark.parametrize(
    "collapse",
    [CollapseConfig(rollbacks=0), CollapseConfig(quality="stop"), CollapseConfig(quality="warn"),
     CollapseConfig(quality="off", every=0)],
    ids=["no rollbacks", "stop", "warn", "off"],
)  # fmt: skip
def test_it_stops_where_it_is_not_told_to_go_back(config, tmp_path, monkeypatch, collapse):
    config = replace(config, collapse=collapse)
    with pytest.raises(CollapseError, match=r"step 5: d_loss is nan.* rollback \S+ --to 4"):
        train_with(config, tmp_path, lambda *at: at == (0, 4), monkeypatch)
    assert rollbacks(tmp_path) == []
    assert steps_of(tmp_path) == [0, 2, 4]


def test_weights_that_are_not_finite_are_not_saved(going_back, tmp_path, monkeypatch):
    """An update breaks them after its losses were computed."""
    config = replace(going_back, logs=replace(going_back.logs, every=100))
    trainer = Trainer(config, tmp_path, World())
    play = type(trainer.play).__call__

    def broken(self, step, reals):
        scalars = play(self, step, reals)
        if (trainer.attempt, step) == (0, 3):
            with torch.no_grad():
                raw_weight(trainer.networks["G"].linear)[0, 0] = torch.inf
        return scalars

    monkeypatch.setattr(type(trainer.play), "__call__", broken)
    trainer.run()
    (record,) = kept.rollbacks(tmp_path)
    assert (record["from"], record["to"]) == (4, 2)
    assert record["reason"] == "step 4: the weight of G linear is not finite"
    assert load_tensors(tmp_path / "checkpoints" / "step_00000004", "generator")


def test_what_went_back_by_itself_is_what_a_fresh_process_would_be(
    going_back, tmp_path, monkeypatch
):
    """Nothing of the lost attempt stays in memory."""
    went = train_with(going_back, tmp_path / "a", lambda *at: at == (0, 4), monkeypatch)
    short = replace(going_back, collapse=CollapseConfig(every=2, rollbacks=0))
    with pytest.raises(CollapseError):
        train_with(short, tmp_path / "b", lambda *at: at == (0, 4), monkeypatch)
    position = 5 * going_back.d_steps * going_back.batch_size
    roll_back(tmp_path / "b", 4, "by hand", (5, position))
    fresh = Trainer(going_back, tmp_path / "b", World())
    fresh.run()
    assert went.position == fresh.position
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def _rank(rank, config, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    trainer = Trainer(config, folder / "run", World(rank, 2))
    # On one rank only: the others learn of it from the gradients they share.
    broken = poisoned(trainer, lambda *at: at == (0, 4) and rank == 1)
    type(trainer.play).__call__ = broken
    trainer.run()
    found = {"step": trainer.step, "attempt": trainer.attempt, "position": trainer.position}
    torch.save((found, trainer.networks["G"].state_dict()), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_all_processes_go_back_together(going_back, tmp_path):
    side = replace(going_back.generator, microbatch=0)
    config = replace(going_back, generator=side, discriminator=side)
    mp.spawn(_rank, (config, tmp_path), nprocs=2)
    (found, one), (also, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert found == also
    assert (found["step"], found["attempt"]) == (6, 1)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(rollbacks(tmp_path / "run")) == 1
