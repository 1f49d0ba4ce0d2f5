"""How well the spectra are known while weights move, against full decompositions at every step."""

from dataclasses import replace

import pytest
import torch

from biggan_sn.config import LipschitzConfig, PlayerConfig, SpectrumConfig
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.nn.matrices import as_matrix, chain_of, matrix_layers, raw_weight
from biggan_sn.training.build import build
from biggan_sn.training.world import World

STEPS, SETTLED = 60, 30


def worst_errors(config):
    """Of sigma_0 by which a weight is divided, the worst relative error over layers, by step."""
    step = build(config, World())
    loader = Loader(open_dataset(config.data), config.data, config.seed, torch.device("cpu"))
    reals = loader.batches(0, config.batch_size, 0, 1, step.d.microbatch)
    worst = []
    for number in range(STEPS):
        step(number, reals)
        worst.append(max(_error(layer) for layer in _normalized(step)))
    loader.close()
    return torch.tensor(worst)


def _normalized(step):
    for player in (step.g, step.d):
        yield from (m for m in matrix_layers(player.network).values() if _is_normalized(m))


def _is_normalized(layer):
    return hasattr(layer, "parametrizations")


def _error(layer):
    true = torch.linalg.matrix_norm(as_matrix(raw_weight(layer).detach()).double(), 2)
    return abs(chain_of(layer)[0].sigma.double() / true - 1).item()


def fast(config, row, depth):
    """A GAN of some width whose weights move much faster than in any sensible training."""
    side = PlayerConfig(lr=4e-3)
    rows = LipschitzConfig((row,), (row,))
    model = replace(config.model, channels=6, discriminator_attention=(), generator_attention=())
    spectrum = SpectrumConfig(depth=depth)
    return replace(
        config, generator=side, discriminator=side, model=model, lipschitz=rows,
        spectrum=spectrum, d_steps=1,
    )  # fmt: skip


@pytest.mark.parametrize(("depth", "most"), [(1, 0.05), (2, 5e-3), (3, 1e-3)])
def test_sigma_is_known_while_weights_move(small_config, depth, most):
    errors = worst_errors(fast(small_config, "spectral_norm", depth))
    assert errors[SETTLED:].max() < most


def test_one_power_iteration_falls_behind_what_reads_the_weights_as_often(small_config):
    iterated = worst_errors(fast(small_config, "power_iteration_norm", 1))
    searched = worst_errors(fast(small_config, "spectral_norm", 1))
    assert iterated.max() > 2 * searched.max()
