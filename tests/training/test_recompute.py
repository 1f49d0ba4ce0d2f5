"""Training that computes activations again: to the last bit the training that keeps them."""

from dataclasses import replace

import pytest
import torch

from biggan_sn.config import LipschitzConfig, PlayerConfig, SpeedConfig
from biggan_sn.config.speed import NETWORKS
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.training.build import build
from biggan_sn.training.world import World
from tests.training.crew import Crew

STEPS = 3


def play(rank, ranks, config):
    """A few steps: losses, how often the first block of each player computes, all tensors."""
    step = build(config, World(rank, ranks))
    loader = Loader(open_dataset(config.data), config.data, config.seed, torch.device("cpu"))
    reals = loader.batches(0, config.batch_size, rank, ranks, step.d.microbatch)
    found = {}
    for side in ("g", "d"):
        count = torch.zeros((), dtype=torch.int64)
        layer = getattr(step, side).network.blocks[0].conv1
        layer.register_forward_hook(lambda *_, count=count: count.add_(1) and None)
        found[f"{side} computed"] = count
    for number in range(STEPS):
        found |= {f"{number} {name}": value for name, value in step(number, reals).items()}
    loader.close()
    for side, network in (("g", step.g.network), ("d", step.d.network), ("ema", step.ema.network)):
        found |= {f"{side} {name}": tensor for name, tensor in network.state_dict().items()}
    found |= {f"g {name}": tensor for name, tensor in step.g.state().items()}
    found |= {f"d {name}": tensor for name, tensor in step.d.state().items()}
    return {name: tensor.clone() for name, tensor in found.items()}


def recomputing(config):
    return replace(config, speed=SpeedConfig(recompute=NETWORKS))


def assert_same_bits(found, wanted):
    """And that it did compute again."""
    assert found.keys() == wanted.keys()
    for name in found:
        if name.endswith("computed"):
            assert found[name] > wanted[name], name
        else:
            assert torch.equal(found[name], wanted[name]), name
    assert any(name.endswith("running_var") for name in found)
    assert any(name.endswith("num_batches_tracked") for name in found)
    assert any(name.endswith("exp_avg_sq") for name in found)


CHANGES = {
    "R1": {},
    "GN": {"lipschitz": LipschitzConfig(discriminator=("spectral_norm", "gradient_normalization"))},
    "torch's SN": {"lipschitz": LipschitzConfig(*2 * (("torch_spectral_norm",),))},
    "bf16": {"precision": "bf16"},
    "one pass": {"generator": PlayerConfig(lr=1e-3), "discriminator": PlayerConfig(lr=1e-3)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_trains_to_the_same_bits(small_config, change):
    """With R1, microbatches, regularizer, attention, and statistics over parts of a pass of G."""
    model = replace(small_config.model, norm_batch=2)
    config = replace(small_config, model=model, **CHANGES[change])
    assert_same_bits(play(0, 1, recomputing(config)), play(0, 1, config))


@pytest.mark.parametrize("network", NETWORKS)
def test_each_network_by_itself(small_config, network):
    config = replace(small_config, speed=SpeedConfig(recompute=(network,)))
    found, wanted = play(0, 1, config), play(0, 1, small_config)
    assert (found["g computed"] > wanted["g computed"]) == (network == "generator")
    assert (found["d computed"] > wanted["d computed"]) == (network == "discriminator")


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    two = Crew(2, tmp_path_factory.mktemp("crew"))
    yield two
    two.close()


@pytest.mark.parametrize("change", ["R1", "GN"])
def test_two_processes_train_to_the_same_bits(small_config, crew, change):
    """Batch norm over both of them, in two microbatches each."""
    side = PlayerConfig(lr=1e-3, microbatch=2)
    config = replace(
        small_config, generator=side, discriminator=side, batch_size=8, **CHANGES[change]
    )
    for found, wanted in zip(crew(play, recomputing(config)), crew(play, config), strict=True):
        assert_same_bits(found, wanted)
