"""What a step costs, against published and independently worked out counts. Seconds never gate
anything: they differ from machine to machine."""

from dataclasses import replace

import pytest

from biggan_sn.bench.counts import count
from biggan_sn.config import (
    Config,
    DataConfig,
    LipschitzConfig,
    ModelConfig,
    PlayerConfig,
    RegularizersConfig,
)

IMAGES = 256
GIGA = 1e9 * IMAGES
MEGA = 1e6


def biggan(resolution=128, z_dim=120, **changes):
    """BigGAN, ch 96, one update of D, half precision, with the paper's regularizer."""
    model = ModelConfig(
        channels=96, z_dim=z_dim, generator_attention=(64,), discriminator_attention=(64,)
    )
    data = DataConfig(resolution=resolution, num_classes=1000)
    settings = {"d_steps": 1, "batch_size": IMAGES, "precision": "bf16"} | changes
    regularizers = RegularizersConfig(generator={"orthogonal": 1e-4})
    return Config(data=data, model=model, regularizers=regularizers, **settings)


@pytest.fixture(scope="module")
def step():
    return count(biggan())


def test_parameters(step):
    assert (step.params_G, step.params_D) == (70_433_988, 87_982_370)


def test_usual_form(step):
    """42.24 for the samples that D sees, 2 x 64.93 for D, 170.58 for G: counted by hand for the
    reference code."""
    assert step.model_flops_per_iter / GIGA == pytest.approx(342.69, rel=1e-3)


def test_executed_operations(step):
    assert step.hw_flops_per_iter / GIGA < 230


def test_saved_activations(step):
    assert step.saved_bytes_per_image["G"] / MEGA < 54
    assert step.saved_bytes_per_image["D"] / MEGA < 13.5


def test_launches(step):
    assert step.launches_per_iter <= 2000


def test_memory(step):
    """Weights, two moments each, the average, and what the update of G saves, live together; beside
    that gradients and what a layer works with."""
    held = 4 * (3 * (step.params_G + step.params_D) + step.params_G)
    least = held + IMAGES * step.saved_bytes_per_image["G"]
    assert least < step.peak_bytes < 1.25 * least


def test_an_update_of_the_generator(step):
    """Both forward, G backward, and D backward to its images but not to its weights."""
    found = count(biggan(), "g")
    assert found.model_flops_per_iter / GIGA == pytest.approx(170.58, rel=1e-3)
    assert found.launches_per_iter < 0.8 * step.launches_per_iter


def test_a_sample():
    assert count(biggan(), "sample").model_flops_per_iter / GIGA == pytest.approx(42.24, rel=1e-3)


def test_256_pixels():
    found = count(biggan(256, z_dim=140))
    assert found.model_flops_per_iter / GIGA == pytest.approx(1183.3, rel=2e-3)
    assert found.hw_flops_per_iter / GIGA < 760


def test_passes_count_by_what_they_see():
    """Microbatches and processes: the same work cut otherwise is the same work."""
    small = Config(data=DataConfig(resolution=32), model=ModelConfig(channels=8), d_steps=1)
    small = replace(small, batch_size=IMAGES)
    whole = count(small)
    player = PlayerConfig(microbatch=IMAGES // 4)
    cut = count(replace(small, generator=player, discriminator=player))
    assert cut.model_flops_per_iter == whole.model_flops_per_iter
    assert cut.launches_per_iter > 2 * whole.launches_per_iter
    assert cut.saved_bytes_per_image == whole.saved_bytes_per_image
    assert cut.peak_bytes < 0.5 * whole.peak_bytes
    assert 2 * count(small, ranks=2).model_flops_per_iter == whole.model_flops_per_iter


@pytest.mark.parametrize(
    "changes",
    [
        {"lipschitz": LipschitzConfig(discriminator=("gradient_normalization",))},
        {"model": ModelConfig(channels=8, minibatch_layer="discrimination")},
    ],
)
def test_a_discriminator_that_does_more_is_counted_too(changes):
    small = Config(data=DataConfig(resolution=32), model=ModelConfig(channels=8), d_steps=1)
    more, plain = (count(replace(small, batch_size=4, **each)) for each in (changes, {}))
    assert more.hw_flops_per_iter > plain.hw_flops_per_iter
    assert more.peak_bytes > plain.peak_bytes
