"""Training and a disk that is slow, or fails: nothing waits, nothing races and no error is lost."""

import errno
import os
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
import yaml

from biggan_sn.checkpoint import Checkpoints, load_state, load_tensors
from biggan_sn.cli import main
from biggan_sn.config import CheckpointConfig, CollapseConfig
from biggan_sn.config_io import to_dict
from biggan_sn.training import records as kept
from biggan_sn.training import rollback, trainer
from biggan_sn.training.rollback import CollapseError
from biggan_sn.training.step import GANStep
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World

LONG = 60  # seconds after which a test gives up
MOMENT = 0.3  # seconds a slow disk takes


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def config(small_config):
    return replace(
        small_config,
        checkpoint=CheckpointConfig(every=2, keep=9, keep_spaced=0),
        collapse=CollapseConfig(every=2, images=4, rollbacks=2),
        d_steps=1,
    )


@pytest.fixture
def given(config, tmp_path):
    path = tmp_path / "given.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    return path


def train(given, folder, *more):
    return main(["train", "--config", str(given), "--run_dir", str(folder), *more])


def steps_of(folder):
    return [int(path.name[5:]) for path in Checkpoints(folder / "checkpoints").all()]


def assert_all_load(folder):
    for path in Checkpoints(folder / "checkpoints").all():
        groups = [file.stem for file in path.glob("*.safetensors")]
        assert len(groups) == len(load_state(path)["files"]) >= 7
        found = {group: load_tensors(path, group) for group in groups}
        for network in ("generator", "discriminator", "ema"):
            assert all(tensor.isfinite().all() for tensor in found[network].values())


def before_writing(monkeypatch, act):
    """`act(step)` comes before every checkpoint that is written, in the thread that writes it."""
    save = Checkpoints.save

    def acting(self, step, *rest):
        act(step)
        return save(self, step, *rest)

    monkeypatch.setattr(Checkpoints, "save", acting)


def after_playing(monkeypatch, act):
    """`act(step)` comes after every step that is played, before anything is done about it."""
    play = GANStep.__call__

    def acting(self, step, reals):
        scalars = play(self, step, reals)
        act(step + 1)
        return scalars

    monkeypatch.setattr(GANStep, "__call__", acting)


def contents(folder, step):
    path = Checkpoints(folder / "checkpoints").path_of(step)
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("late", [1, 2], ids=["one step", "until the next"])
def test_a_slow_disk_changes_no_checkpoint(config, tmp_path, monkeypatch, late):
    """Each is written when the training is steps further, and is that of a run on a fast disk."""
    Trainer(config, tmp_path / "fast", World()).run()
    played = {step: threading.Event() for step in range(1, 9)}
    last = config.steps

    def wait(step):
        # At 0, and at the end, training waits for the disk.
        if 0 < step < last:
            assert played[step + late].wait(LONG)

    with monkeypatch.context() as patch:
        before_writing(patch, wait)
        after_playing(patch, lambda step: played[step].set())
        Trainer(config, tmp_path / "slow", World()).run()
    assert steps_of(tmp_path / "slow") == steps_of(tmp_path / "fast") == [0, 2, 4, 6]
    for step in (0, 2, 4, 6):
        assert contents(tmp_path / "slow", step) == contents(tmp_path / "fast", step)
    one, two = (contents(tmp_path / "fast", step)["generator.safetensors"] for step in (2, 4))
    assert one != two, "it does train"


def obstruct_unfinished(root):
    obstacle = root / ".step_00000004.unfinished"
    obstacle.write_text("")
    return obstacle


def obstruct_latest(root):
    (root / "latest").unlink()
    (root / "latest").mkdir()
    return root / "latest"


def obstruct_folder(root):
    root.chmod(0o500)
    return root


without_rights = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


@pytest.mark.parametrize(
    "obstruct",
    [obstruct_unfinished, obstruct_latest, pytest.param(obstruct_folder, marks=without_rights)],
)
def test_a_disk_that_refuses_ends_the_run_in_one_line(config, given, tmp_path, capsys, obstruct):
    """And when it no longer does, the run goes on as if it never had."""
    run, root = tmp_path / "run", tmp_path / "run" / "checkpoints"
    assert train(given, run, "--steps", "2") == 0
    obstacle = obstruct(root)
    capsys.readouterr()
    assert train(given, run, "--steps", "100") == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("biggan-sn: error: ")
    assert str(obstacle) in line
    assert "finished" not in out
    assert "stopped at" not in out
    assert kept.read(run / kept.SCALARS)[-1]["step"] <= 6, "the next checkpoint at the latest"
    root.chmod(0o755)
    assert {0, 2} <= set(steps_of(run)) <= {0, 2, 4}
    assert_all_load(run)
    if obstacle.is_file():
        obstacle.unlink()
    elif obstacle != root:
        obstacle.rmdir()
    assert train(given, run, "--steps", "6") == 0
    Trainer(config, tmp_path / "undisturbed", World()).run()
    found, wanted = (contents(folder, 6) for folder in (run, tmp_path / "undisturbed"))
    assert found == wanted


def failing_at(step, error):
    """A disk that is full at one checkpoint."""

    def fail(now):
        if now == step:
            raise error

    return fail


def full():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "step/generator.safetensors")


@pytest.mark.parametrize(
    ("fatal", "played", "left"),
    [(0, 0, []), (2, 4, [0]), (4, 6, [0, 2]), (6, 6, [0, 2, 4])],
    ids=["first", "second", "third", "last"],
)
def test_no_error_of_the_disk_is_lost(given, tmp_path, monkeypatch, capsys, fatal, played, left):
    """It ends the run as soon as it is known, at the next checkpoint at the latest."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        before_writing(patch, failing_at(fatal, full()))
        assert train(given, run) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("biggan-sn: error: ")
    assert "No space left on device: 'step/generator.safetensors'" in line
    assert "finished" not in out
    assert steps_of(run) == left
    assert_all_load(run)
    seen = [record["step"] for record in kept.read(run / kept.SCALARS)]
    assert fatal <= len(seen) <= played
    assert seen == list(range(1, len(seen) + 1))
    assert train(given, run) == 0, "once there is room"
    assert steps_of(run) == [0, 2, 4, 6]
    assert_all_load(run)


def stop_at(step, number):
    def stop(now):
        if now == step:
            os.kill(os.getpid(), number)

    return stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [3, 4], ids=["between checkpoints", "at one"])
def test_a_stop_waits_for_the_last_checkpoint(given, tmp_path, monkeypatch, capsys, number, at):
    """However slow the disk: whoever sees the command end may cut the power."""
    run = tmp_path / "run"
    before_writing(monkeypatch, lambda step: time.sleep(MOMENT))
    after_playing(monkeypatch, stop_at(at, number))
    assert train(given, run) == 0
    assert steps_of(run)[-1] == at
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == (
        f"{run}: stopped at step {at}; go on with: biggan-sn train --run_dir {run}"
    )
    assert err == ""
    assert_all_load(run)
    assert not [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
    assert not [t for t in threading.enumerate() if t.name.startswith("checkpoint")]


def test_a_stop_that_could_not_be_saved_says_so(given, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    before_writing(monkeypatch, failing_at(3, full()))
    after_playing(monkeypatch, stop_at(3, signal.SIGTERM))
    assert train(given, run) == 2
    out, err = capsys.readouterr()
    assert "No space left" in err
    assert "stopped at" not in out
    assert steps_of(run) == [0, 2]


def diverging(monkeypatch, at, trainers):
    """The D of the first attempt gets a weight of nan in the step after `at`."""
    play = GANStep.__call__

    def broken(self, step, reals):
        if (trainers[0].attempt, step) == (0, at):
            with torch.no_grad():
                trainers[0].networks["D"].linear.bias.fill_(torch.nan)
        return play(self, step, reals)

    monkeypatch.setattr(GANStep, "__call__", broken)


def test_a_checkpoint_that_failed_before_a_collapse_is_not_passed_over(
    config, tmp_path, monkeypatch
):
    """Else the run would go back further than it says, and nobody knew that the disk is full."""
    trainers = [Trainer(config, tmp_path, World())]
    diverging(monkeypatch, 4, trainers)
    before_writing(monkeypatch, failing_at(4, full()))
    with pytest.raises(OSError, match="No space left"):
        trainers[0].run()
    assert steps_of(tmp_path)[-1] == 2
    assert trainers[0].attempt == 0


def watched(monkeypatch, name, writing):
    """What moves checkpoints is not called while one is written."""
    original = getattr(rollback, name)
    calls = []

    def alone(*args, **kwargs):
        assert not writing, f"{name} while {writing} are written"
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(trainer, name, alone)
    return calls


@pytest.mark.parametrize("rollbacks", [1, 0], ids=["goes back", "stops"])
def test_nothing_goes_back_while_a_checkpoint_is_written(config, tmp_path, monkeypatch, rollbacks):
    """The run diverges right after step 4, whose checkpoint is the one to go back to and is still
    being written: it is neither missed nor moved away half."""
    config = replace(config, collapse=replace(config.collapse, rollbacks=rollbacks))
    writing = []
    save = Checkpoints.save

    def slow(self, step, *rest):
        writing.append(step)
        time.sleep(MOMENT if step == 4 else 0)
        path = save(self, step, *rest)
        writing.remove(step)
        return path

    monkeypatch.setattr(Checkpoints, "save", slow)
    asked = watched(monkeypatch, "way_back", writing)
    gone = watched(monkeypatch, "roll_back", writing)
    trainers = [Trainer(config, tmp_path, World())]
    diverging(monkeypatch, 4, trainers)
    if rollbacks:
        assert trainers[0].run()
        (record,) = kept.rollbacks(tmp_path)
        assert (record["from"], record["to"]) == (5, 4)
        assert steps_of(tmp_path) == [0, 2, 4, 6]
    else:
        with pytest.raises(CollapseError, match="--to 4"):
            trainers[0].run()
        assert steps_of(tmp_path) == [0, 2, 4]
    assert (len(asked), len(gone)) == (1, rollbacks)
    assert_all_load(tmp_path)


def test_the_thread_that_writes_ends_with_the_attempt(config, tmp_path, monkeypatch):
    """One at a time, however often the run goes back."""
    threads = []
    before_writing(monkeypatch, lambda step: threads.append(threading.current_thread()))
    trainers = [Trainer(config, tmp_path, World())]
    diverging(monkeypatch, 4, trainers)
    trainers[0].run()
    assert len(set(threads)) == 2
    assert not any(thread.is_alive() for thread in threads)
