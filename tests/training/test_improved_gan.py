"""The techniques of Salimans et al. 2016 in whole runs: stopped, taken back, on two processes."""

from dataclasses import replace

import pytest
import torch

from biggan_sn.checkpoint import CheckpointError, Checkpoints, load_tensors
from biggan_sn.config import (
    CheckpointConfig,
    CollapseConfig,
    FeatureMatchingConfig,
    PlayerConfig,
    RegularizersConfig,
    SpeedConfig,
)
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.nn import compiling
from biggan_sn.training.build import build
from biggan_sn.training.rollback import roll_back
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World
from tests.training.crew import Crew
from tests.training.test_ranks import play
from tests.training.test_resume import assert_same_run, newest, run

TERMS = {"historical_averaging": 0.1}


@pytest.fixture
def improved(small_config):
    """All of them at once."""
    model = replace(
        small_config.model,
        minibatch_layer="discrimination",
        norm="virtual_batch",
        reference_images=3,
    )
    return replace(
        small_config,
        model=model,
        feature_matching=FeatureMatchingConfig(("blocks.1", "blocks.3"), 0.1),
        regularizers=RegularizersConfig(TERMS, TERMS),
        checkpoint=CheckpointConfig(every=2, keep=5),
    )


def test_a_stopped_run_goes_on_bit_for_bit(improved, tmp_path):
    run(improved, tmp_path / "straight")
    for steps in (2, 4, 6):
        run(improved, tmp_path / "stopped", steps=steps)
    assert_same_run(tmp_path / "stopped", tmp_path / "straight")
    found, wanted = (load_tensors(newest(tmp_path / f), "history") for f in ("stopped", "straight"))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    assert (int(found["G/count"]), int(found["D/count"])) == (7, 13)
    weights = load_tensors(newest(tmp_path / "straight"), "generator")
    assert not torch.equal(found["G/conv.bias"], weights["conv.bias"])


def checkpoint(folder, step):
    return Checkpoints(folder / "checkpoints").path_of(step)


def test_a_rollback_takes_the_history_back(improved, tmp_path):
    run(improved, tmp_path)
    there = load_tensors(checkpoint(tmp_path, 2), "history")
    roll_back(tmp_path, 2, "a test")
    trainer = Trainer(improved, tmp_path, World())
    for network, constraint in (("G", trainer.play.g_constraint), ("D", trainer.play.d_constraint)):
        state = constraint.history.state()
        assert len(state) > 10
        for name, value in state.items():
            assert torch.equal(value, there[f"{network}/{name}"]), name


def test_a_rollback_may_switch_averaging_on(small_config, tmp_path):
    """Its history then begins with the weights of the checkpoint, where there is none."""
    change = {"regularizers": {"generator": TERMS, "discriminator": {}}}
    config = replace(
        small_config,
        checkpoint=CheckpointConfig(every=2, keep=5),
        collapse=CollapseConfig(every=0, change=change),
    )
    run(config, tmp_path, steps=4)
    assert not (checkpoint(tmp_path, 2) / "history.safetensors").exists()
    roll_back(tmp_path, 2, "a test")
    trainer = Trainer(config, tmp_path, World())
    state = trainer.play.g_constraint.history.state()
    for name, parameter in trainer.play.g.network.named_parameters():
        assert torch.equal(state[name], parameter), name
    assert trainer.play.d_constraint.history.state() == {}
    trainer.run()
    assert int(load_tensors(newest(tmp_path), "history")["G/count"]) == 5
    run(config, tmp_path)


def test_a_damaged_history_is_named(improved, tmp_path):
    run(improved, tmp_path, steps=2)
    (newest(tmp_path) / "history.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"history\.safetensors: not as it was written"):
        Trainer(improved, tmp_path, World())


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    two = Crew(2, tmp_path_factory.mktemp("crew"))
    yield two
    two.close()


def play_on(rank, ranks, config):
    return play(config, World(rank, ranks))


@pytest.mark.parametrize(
    ("layer", "norm"), [("discrimination", "batch"), ("stddev", "virtual_batch")]
)
def test_two_processes_train_what_one_does(improved, crew, layer, norm):
    """Ten steps in float64 with all of it, a penalty, and two passes to an update. Of biases before
    a norm only rounding has a gradient; a small eps of Adam would make that as large as any other,
    and averaging would keep it going."""
    model = replace(improved.model, minibatch_layer=layer, norm=norm)
    config = replace(improved, model=model, batch_size=8)

    def with_passes_of(images):
        side = PlayerConfig(lr=1e-3, eps=1e-2, microbatch=images)
        return replace(config, generator=side, discriminator=side)

    found = crew(play_on, with_passes_of(2))
    one = play(with_passes_of(4), World())
    assert one.keys() == found[0].keys()
    for name in one:
        assert torch.equal(found[0][name], found[1][name]), name
        mine, expected, atol = found[0][name], one[name], 1e-8
        if name.endswith((".0.u", ".0.v")):  # (-u, -v) is as good; see test_ranks
            mine, expected, atol = mine.abs(), expected.abs(), 1e-6
        torch.testing.assert_close(mine, expected, rtol=0, atol=atol, msg=name)


def remember(rank, ranks, engine, config):
    """A few steps; the history of both players, and the mean of their weights kept by hand."""
    step = build(config, World(rank, ranks, engine=engine))
    loader = Loader(open_dataset(config.data), config.data, config.seed, torch.device("cpu"))
    reals = loader.batches(0, config.batch_size, rank, ranks, step.d.microbatch)
    sides = {"g": (step.g, step.g_constraint), "d": (step.d, step.d_constraint)}

    def weights():
        return {
            f"{side}.{name}": parameter.detach().double().clone()
            for side, (player, _) in sides.items()
            for name, parameter in player.network.named_parameters()
        }

    seen = [weights()]
    for number in range(3):
        step(number, reals)
        seen.append(weights())
    loader.close()
    kept = {
        f"{side}.{name}": mean.clone()
        for side, (_, constraint) in sides.items()
        for name, mean in constraint.history.state().items()
        if name != "count"
    }
    step.close()
    by_hand = {name: torch.stack([now[name] for now in seen]).mean(0) for name in kept}
    return {"kept": kept, "by_hand": by_hand, "first": seen[0]}


@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_every_process_remembers_the_same_under_any_engine(improved, crew, engine):
    side = PlayerConfig(lr=1e-3, microbatch=2)
    config = replace(improved, generator=side, discriminator=side, batch_size=8, d_steps=1)
    found = crew(remember, engine, config)
    for name, mean in found[0]["kept"].items():
        assert torch.equal(mean, found[1]["kept"][name]), name
        torch.testing.assert_close(mean.double(), found[0]["by_hand"][name], rtol=0, atol=1e-6)
    moved = [
        name for name, mean in found[0]["kept"].items()
        if (mean - found[0]["first"][name]).abs().max() > 1e-4
    ]  # fmt: skip
    assert len(moved) > len(found[0]["kept"]) / 2


def test_compiled_passes_train_the_same(improved, monkeypatch):
    """Feature matching looks into D without a compiler; all else goes through it."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    torch.set_default_dtype(torch.float64)
    config = replace(improved, d_steps=1)
    found = []
    for speed in (SpeedConfig(), SpeedConfig(compile=True)):
        step = build(replace(config, speed=speed), World())
        loader = Loader(open_dataset(config.data), config.data, 0, torch.device("cpu"))
        losses = step(0, loader.batches(0, config.batch_size, 0, 1, step.d.microbatch))
        loader.close()
        found.append(losses | step.g.network.state_dict() | step.d.network.state_dict())
    torch.set_default_dtype(torch.float32)
    torch._dynamo.reset()
    for name in found[0]:
        one, other = (tensors[name] for tensors in found)
        if name.endswith((".0.u", ".0.v")):
            one, other = one.abs(), other.abs()
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8, msg=name)
