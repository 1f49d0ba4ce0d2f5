"""Checkpoints are there whole or not at all, whatever happens while they are written."""

import itertools
import json
import os
import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from biggan_sn.checkpoint import (
    STATE_NAME,
    CheckpointError,
    Checkpoints,
    find,
    load_network,
    load_state,
    load_tensors,
)
from tests.forging import forge


def tensors(step):
    return {"net": {"weight": torch.full((3, 2), float(step)), "step": torch.tensor(step)}}


def save(checkpoints, step, score=None):
    return checkpoints.save(step, tensors(step), {"position": 10 * step}, score)


def steps(checkpoints):
    return [int(path.name[5:]) for path in checkpoints.all()]


def test_what_is_saved_is_loaded(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    path = save(checkpoints, 7, score=1.5)
    state = load_state(path)
    assert (state["step"], state["position"], state["score"]) == (7, 70, 1.5)
    loaded = load_tensors(path, "net")
    assert torch.equal(loaded["weight"], torch.full((3, 2), 7.0))
    assert loaded["step"] == 7
    assert (tmp_path / "latest").resolve() == path


def test_tensors_of_any_layout_and_shared_memory(tmp_path):
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    group = {"a": weight, "b": weight, "c": weight[:, 0]}
    path = Checkpoints(tmp_path).save(1, {"net": group}, {})
    for name, value in load_tensors(path, "net").items():
        assert torch.equal(value, group[name])


def test_newest_and_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, keep_best=1)
    for step, score in ((1, 5.0), (2, 3.0), (3, 4.0), (4, None), (5, 6.0), (6, None)):
        save(checkpoints, step, score)
    assert steps(checkpoints) == [2, 5, 6]
    assert checkpoints.best().name == "step_00000002"
    assert (tmp_path / "best").resolve() == checkpoints.best()
    assert checkpoints.newest().name == "step_00000006"
    save(checkpoints, 7, 2.0)
    assert steps(checkpoints) == [6, 7]
    assert (tmp_path / "best").resolve() == (tmp_path / "latest").resolve()


class Killed(BaseException):
    """Ends the program at a system call, as kill -9 would: nothing handles it."""


CALLS = [(os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "symlink_to"),
         (Path, "mkdir"), (shutil, "rmtree")]  # fmt: skip


FEWEST_CALLS = 8  # a save makes at least so many


def dying(original, calls, fatal, moment):
    """`original`, but the process ends before or after call number `fatal` of all."""

    def call(*args, **kwargs):
        number = next(calls)
        if number >= fatal and moment == "before":
            raise Killed
        result = original(*args, **kwargs)
        if number >= fatal:
            raise Killed
        return result

    return call


@pytest.mark.parametrize("fatal", range(20))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_system_call_leaves_a_run_that_loads(tmp_path, monkeypatch, fatal, moment):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best=1)
    save(checkpoints, 1, score=2.0)
    with monkeypatch.context() as patch:
        calls = itertools.count()
        for owner, name in CALLS:
            patch.setattr(owner, name, dying(getattr(owner, name), calls, fatal, moment))
        with pytest.raises(Killed) if fatal < FEWEST_CALLS else suppress(Killed):
            save(checkpoints, 2, score=1.0)
    newest = checkpoints.newest()
    step = int(newest.name[5:])
    assert step in (1, 2)
    assert load_state(newest)["step"] == step
    assert torch.equal(load_tensors(newest, "net")["weight"], torch.full((3, 2), float(step)))
    for link in ("latest", "best"):  # never broken
        assert load_tensors(tmp_path / link, "net").keys() == {"weight", "step"}
    for after in (2, 3):
        save(checkpoints, after, score=1.0 / after)
    assert steps(checkpoints) == [3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "latest", "step_00000003"]


def test_find_takes_a_run_its_checkpoints_or_one_of_them(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    path = save(checkpoints, 3)
    for meant in (tmp_path, tmp_path / "checkpoints", path, tmp_path / "checkpoints" / "latest"):
        assert find(meant) == path
    with pytest.raises(CheckpointError, match="nowhere"):
        find(tmp_path / "nowhere")


def test_nothing_is_ever_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    path = save(Checkpoints(tmp_path), 1)
    (path / "net.safetensors").write_bytes(pickle.dumps(Bomb()))
    forge(path)
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        load_tensors(path, "net")
    assert not (tmp_path / "exploded").exists()


def test_damage_names_the_file(tmp_path):
    path = save(Checkpoints(tmp_path), 1)
    file = path / "net.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        load_tensors(path, "net")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        load_tensors(path, "net")
    file.write_bytes(whole)
    with pytest.raises(CheckpointError, match="not of this network"):
        load_network(torch.nn.Linear(2, 3), path, "net")
    (path / STATE_NAME).write_text(json.dumps({"version": 99}))
    with pytest.raises(CheckpointError, match="version 99"):
        load_state(path)
    (path / STATE_NAME).write_text("{")
    with pytest.raises(CheckpointError, match=STATE_NAME):
        load_state(path)
