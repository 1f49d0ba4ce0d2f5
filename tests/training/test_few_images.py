"""What helps with few images, in whole runs: stopped, taken back, on two processes."""

import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from biggan_sn.checkpoint import CheckpointError, Checkpoints, load_tensors
from biggan_sn.config import (
    AugmentConfig,
    CheckpointConfig,
    CollapseConfig,
    ConsistencyConfig,
    LeCamConfig,
    MonitorConfig,
    PlayerConfig,
    TopKConfig,
)
from biggan_sn.data.augment import AUGMENTATIONS
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.training.build import build
from biggan_sn.training.rollback import roll_back
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World
from tests.forging import forge
from tests.training.crew import Crew
from tests.training.test_ranks import play
from tests.training.test_resume import assert_same_run, newest, run

# ADA moves p, by 0.1, every three updates of D, of which there are two in a step.
ADA = AugmentConfig(("bgc", "cutout"), 0.5, 0.6, 120, 3)
CONSISTENCY = ConsistencyConfig(10.0, 10.0, 5.0, 0.5, 0.07, ("flip", "translation"))


@pytest.fixture
def few(small_config):
    """All of it at once."""
    return replace(
        small_config,
        augment=ADA,
        consistency=CONSISTENCY,
        lecam=LeCamConfig(0.3, 0.9, 1),
        top_k=TopKConfig(0.5, 0.8, 1),
        monitor=MonitorConfig(every=1),
        checkpoint=CheckpointConfig(every=1, keep=9),
    )


def checkpoint(folder, step):
    return Checkpoints(folder / "checkpoints").path_of(step)


def followed(folder, step):
    return load_tensors(checkpoint(folder, step), "logits")


def test_a_stopped_run_goes_on_bit_for_bit(few, tmp_path):
    """In the midst of the updates after which p moves, too."""
    run(few, tmp_path / "straight", steps=3)
    for steps in (1, 3):
        run(few, tmp_path / "stopped", steps=steps)
    assert_same_run(tmp_path / "stopped", tmp_path / "straight")
    for step in range(1, 4):
        found, wanted = (followed(tmp_path / f, step) for f in ("stopped", "straight"))
        assert set(found) == {
            *("augment/p", "augment/signs", "augment/turns"),
            *("lecam/means", "lecam/count"),
        }
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert (found["augment/turns"], found["lecam/count"]) == (2 * step % 3, 2 * step)
    ps = [float(followed(tmp_path / "straight", step)["augment/p"]) for step in range(4)]
    assert ps[0] == ps[1] == 0.5
    assert {round(abs(b - a), 9) for a, b in pairwise(ps[1:])} == {0.1}


def test_a_rollback_takes_p_and_the_means_back(few, tmp_path):
    run(few, tmp_path, steps=2)
    there = followed(tmp_path, 1)
    assert not torch.equal(there["lecam/means"], followed(tmp_path, 2)["lecam/means"])
    roll_back(tmp_path, 1, "a test")
    trainer = Trainer(few, tmp_path, World())
    found = {
        **{f"augment/{n}": t for n, t in trainer.play.door.state().items()},
        **{f"lecam/{n}": t for n, t in trainer.play.lecam.state().items()},
    }
    assert found.keys() == there.keys()
    assert all(torch.equal(found[name], there[name]) for name in there)


def test_a_rollback_may_switch_all_of_it_on(small_config, tmp_path):
    """p and the means then begin: the checkpoint has none, as those of older versions."""
    change = {
        "augment.transforms": ["bgc"],
        "augment.p": 0.25,
        "augment.target": 0.6,
        "augment.images": 1000,
        "consistency.real": 10.0,
        "lecam.weight": 0.3,
        "lecam.start": 0,
        "top_k.share": 0.5,
    }
    config = replace(
        small_config,
        checkpoint=CheckpointConfig(every=2, keep=5),
        collapse=CollapseConfig(every=0, change=change),
    )
    folder = tmp_path / "run"
    run(config, folder, steps=2)
    assert not (checkpoint(folder, 2) / "logits.safetensors").exists()
    shutil.copytree(folder, tmp_path / "off", symlinks=True)
    run(config, tmp_path / "off", steps=3)  # without them it goes on as ever
    roll_back(folder, 2, "a test")
    trainer = Trainer(replace(config, steps=4), folder, World())
    assert float(trainer.play.door.p) == 0.25
    assert int(trainer.play.lecam.state()["count"]) == 0
    trainer.run()
    assert int(followed(folder, 4)["lecam/count"]) == 4
    assert float(followed(folder, 4)["augment/p"]) != 0.25


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("augment/p", torch.zeros(2), "not the state of adaptive augmentation"),
        ("lecam/means", torch.zeros(3), "not the means of LeCam"),
    ],
)
def test_a_state_of_something_else_is_named(few, tmp_path, name, value, told):
    from safetensors.torch import save_file

    run(few, tmp_path, steps=1)
    path = newest(tmp_path) / "logits.safetensors"
    save_file(load_tensors(newest(tmp_path), "logits") | {name: value}, path)
    forge(newest(tmp_path))
    with pytest.raises(CheckpointError, match=rf"logits\.safetensors: {told}"):
        Trainer(few, tmp_path, World())


# --------------------------------------------------------------------------------- on two processes


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    two = Crew(2, tmp_path_factory.mktemp("crew"))
    yield two
    two.close()


VARIANTS = {
    "all of it": {},
    "transforms": {
        "augment": AugmentConfig(tuple(AUGMENTATIONS), 0.7),
        "consistency": ConsistencyConfig(),
        "lecam": LeCamConfig(),
        "top_k": TopKConfig(),
    },
    "relativistic": {
        "augment": AugmentConfig(("color", "translation", "cutout")),
        "objective": "relativistic_average_nonsaturating",
    },
}


def play_variants(rank, ranks, config, passes):
    return {
        name: play(divided(replace(config, **change), passes), World(rank, ranks), 2)
        for name, change in VARIANTS.items()
    }


def divided(config, images):
    side = PlayerConfig(lr=1e-3, eps=1e-2, microbatch=images)
    return replace(config, generator=side, discriminator=side, batch_size=8)


def test_two_processes_train_what_one_does(few, crew):
    """In float64, with a penalty and two passes to an update."""
    found = crew(play_variants, few, 2)
    one = play_variants(0, 1, few, 4)
    wrong = {}
    for name, expected in one.items():
        for key, value in expected.items():
            mine, other = (part[name][key] for part in found)
            assert torch.equal(mine, other), f"{name}: {key}"
            if not key.endswith((".0.u", ".0.v")):  # (-u, -v) is as good; see test_ranks
                wrong[name] = max(wrong.get(name, 0.0), (mine - value).abs().max().item())
    assert {name: much for name, much in wrong.items() if not much < 1e-8} == {}


def follow(rank, ranks, engine, config):
    """A few steps of all of it: what is logged, and what follows D's logits."""
    step = build(config, World(rank, ranks, engine=engine))
    loader = Loader(open_dataset(config.data), config.data, config.seed, torch.device("cpu"))
    reals = loader.batches(0, config.batch_size, rank, ranks, step.d.microbatch)
    logged = [{n: float(x) for n, x in step(number, reals).items()} for number in range(2)]
    loader.close()
    kept = {name: t.clone() for name, t in (step.door.state() | step.lecam.state()).items()}
    step.close()
    return {"logged": logged, "kept": kept}


def test_p_and_the_means_are_those_of_one_process_under_any_engine(few, crew):
    config = divided(few, 2)
    one = follow(0, 1, "ddp", divided(few, 4))
    for engine in ("ddp", "zero2"):
        found = crew(follow, engine, config)
        for part in found:
            for name in ("p", "signs", "turns", "count"):
                assert torch.equal(part["kept"][name], one["kept"][name]), (engine, name)
            torch.testing.assert_close(
                part["kept"]["means"], one["kept"]["means"], rtol=1e-3, atol=1e-4
            )
            assert [step["augment_p"] for step in part["logged"]] == [
                step["augment_p"] for step in one["logged"]
            ]
        assert torch.equal(found[0]["kept"]["means"], found[1]["kept"]["means"])
        for mine, theirs, alone in zip(*(p["logged"] for p in found), one["logged"], strict=True):
            if mine is not found[0]["logged"][0]:  # in the first step all images count
                assert mine["g_loss"] == theirs["g_loss"]  # the mean over all processes
            for name in ("d_loss", "g_loss", "d_consistency", "d_lecam", "g_consistency"):
                assert (name in mine) == (name in alone)
                if name in mine:
                    both = (mine[name] + theirs[name]) / 2
                    assert both == pytest.approx(alone[name], rel=1e-2, abs=1e-4), name
