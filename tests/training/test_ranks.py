"""Several processes on gloo: one model to the last bit, and that of one process to rounding."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from biggan_sn.config import LipschitzConfig, ModelConfig, PlayerConfig
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.losses.objectives import OBJECTIVES
from biggan_sn.losses.penalties import PENALTIES
from biggan_sn.training.build import build
from biggan_sn.training.world import World

STEPS = 10


def play(config, world, steps=STEPS):
    """A few steps in float64; every tensor of both players and of the average."""
    torch.set_default_dtype(torch.float64)
    step = build(config, world)
    index = open_dataset(config.data)
    loader = Loader(index, config.data, config.seed, world.device)
    reals = loader.batches(0, config.batch_size, world.rank, world.ranks, step.d.microbatch)
    for number in range(steps):
        step(number, reals)
    loader.close()
    torch.set_default_dtype(torch.float32)
    networks = {"g": step.g.network, "d": step.d.network, "ema": step.ema.network}
    return {
        f"{name}.{key}": value.clone()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }


def _meet(rank, ranks, folder):
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    return World(rank, ranks)


def _rank(rank, ranks, config, folder):
    world = _meet(rank, ranks, folder)
    assert world.agree(7, 8)
    assert not world.agree(7, rank)
    assert world.most(rank, -rank, rank == 0) == [ranks - 1, 0, 1]
    torch.save(play(config, world), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def with_microbatch(config, microbatch):
    side = PlayerConfig(lr=1e-3, microbatch=microbatch)
    return replace(config, generator=side, discriminator=side)


@pytest.fixture(scope="module")
def alone():
    """What one process makes of a config, worked out once for each."""
    return {}


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("rows", [(), ("gradient_normalization",)], ids=["", "GN"])
def test_ranks_hold_one_model_and_it_is_that_of_one_process(
    small_config, tmp_path, alone, ranks, rows
):
    """Ten steps with spectral norm, penalty, regularizer, attention, accumulation, the average and
    batch norm over all."""
    config = replace(
        small_config,
        batch_size=8,
        lipschitz=LipschitzConfig(("spectral_norm",), ("spectral_norm", *rows)),
    )
    mp.spawn(_rank, (ranks, with_microbatch(config, 4 // ranks), str(tmp_path)), nprocs=ranks)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(ranks)]
    if rows not in alone:
        alone[rows] = play(with_microbatch(config, 4), World())
    one = alone[rows]
    assert one.keys() == found[0].keys()
    for name in one:
        assert all(torch.equal(found[0][name], other[name]) for other in found), name
        mine, expected, atol = found[0][name], one[name], 1e-9
        if name.endswith((".0.u", ".0.v")):
            # (-u, -v) is as good as (u, v), and rounding moves them by its size over the gap to the
            # second singular value, but sigma by the square of that.
            mine, expected, atol = mine.abs(), expected.abs(), 1e-7
        torch.testing.assert_close(mine, expected, rtol=0, atol=atol)


# Images that D and G see in a pass, over all processes.
SEEN = {"as many": (4, 4), "fewer for G": (8, 4), "more for G": (4, 8)}


def rows(config):
    """A run for each objective, each penalty and each way to divide the images that a relativistic
    G meets, by name."""
    model = ModelConfig(channels=2, z_dim=8, shared_dim=4)
    plain = replace(config, model=model, penalties={}, batch_size=8, d_steps=1)
    # Logits up to 1: where losses grow as fast as exp, so does rounding.
    bounded = LipschitzConfig(discriminator=("spectral_norm", "gradient_normalization"))
    plain = replace(plain, lipschitz=bounded)
    for number, name in enumerate(OBJECTIVES):
        seen = SEEN["fewer for G"] if OBJECTIVES[name].relative else (4, 4)
        penalties = {list(PENALTIES)[number % len(PENALTIES)]: 0.3}
        yield f"{name} {penalties}", replace(plain, objective=name, penalties=penalties), seen
    for name, seen in SEEN.items():
        yield name, replace(plain, objective="relativistic_paired_nonsaturating"), seen


def divided(config, seen, ranks):
    """So many images in a pass over all processes, of D and of G."""
    d, g = (PlayerConfig(lr=1e-3, microbatch=images // ranks) for images in seen)
    return replace(config, generator=g, discriminator=d)


def _rank_of_rows(rank, ranks, config, folder):
    world = _meet(rank, ranks, folder)
    found = {name: play(divided(c, seen, ranks), world, 2) for name, c, seen in rows(config)}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_every_objective_and_penalty_is_that_of_one_process(small_config, tmp_path):
    """Means of logits, deviations and random numbers do not depend on who has which images."""
    mp.spawn(_rank_of_rows, (2, small_config, str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    wrong = {}
    for name, config, seen in rows(small_config):
        one = play(divided(config, seen, 1), World(), 2)
        for key, expected in one.items():
            mine, other = (part[name][key] for part in found)
            assert torch.equal(mine, other), f"{name}: {key}"
            if not key.endswith((".0.u", ".0.v")):
                wrong[name] = max(wrong.get(name, 0.0), (mine - expected).abs().max().item())
    assert {name: much for name, much in wrong.items() if not much < 1e-9} == {}
