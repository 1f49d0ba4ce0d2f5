"""Published and counted sizes of the residual family, to the last digit, on the meta device; those
of all configs against the widths in the papers' tables."""

from pathlib import Path

import pytest
import torch

from biggan_sn.cli import parsers
from biggan_sn.cli.common import config_of
from biggan_sn.config import Config, DataConfig, ModelConfig
from biggan_sn.models.zoo import ARCHITECTURES, build_discriminator, build_generator
from tests.reference import counting

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("layers/*.yaml")])


def count(resolution, num_classes=1000, **model):
    return count_of(
        Config(
            data=DataConfig(resolution=resolution, num_classes=num_classes),
            model=ModelConfig(**model),
        )
    )


def count_of(config):
    with torch.device("meta"):
        networks = build_generator(config), build_discriminator(config)
    return tuple(sum(p.numel() for p in network.parameters()) for network in networks)


@pytest.mark.parametrize(
    ("resolution", "z_dim", "generator_attention", "counts"),
    [
        (128, 120, 64, (70_433_988, 87_982_370)),
        (256, 140, 128, (82_097_604, 99_225_890)),
        (512, 160, 64, (82_468_068, 99_401_282)),
    ],
)
def test_biggan(resolution, z_dim, generator_attention, counts):
    assert counts == count(
        resolution,
        channels=96,
        z_dim=z_dim,
        generator_attention=(generator_attention,),
        discriminator_attention=(64,),
    )


def test_biggan_of_the_reference_for_cifar():
    found = count(32, 10, channels=64, z_dim=128, shared_dim=0, hierarchical_z=False)
    assert found == (4_304_387, 4_207_361)


def test_sagan():
    attention = {"generator_attention": (64,), "discriminator_attention": (64,)}
    assert sum(count(128, name="sagan", channels=64, z_dim=128, **attention)) == 81_465_670


def test_sngan():
    assert count(128, name="sngan", channels=64, z_dim=128) == (41_996_931, 30_005_013)


@pytest.mark.parametrize(
    ("resolution", "counts"),
    [
        (128, (50_244_484, 34_590_210)),
        (256, (55_736_708, 38_247_426)),
        (512, (56_019_780, 38_301_122)),
    ],
)
def test_biggan_deep(resolution, counts):
    attention = {"generator_attention": (64,), "discriminator_attention": (64,)}
    assert counts == count(resolution, name="biggan_deep", channels=128, z_dim=128, **attention)


@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_at_every_resolution(name, resolution):
    model = ModelConfig(
        name=name,
        channels=32,
        discriminator_channels=16,
        z_dim=840,  # in any number of chunks
        generator_attention=(resolution // 2,),
        discriminator_attention=(resolution // 2,),
    )
    config = Config(data=DataConfig(resolution=resolution, num_classes=7), model=model)
    assert count_of(config) == (counting.generator(config), counting.discriminator(config))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_has_the_parameters_of_its_tables(path):
    """Of the weights alone; a constraint that stores vectors adds none."""
    parser = parsers()[1]["train"]
    base = ["--config", str(FOLDER / "digits32_biggan.yaml")]
    layers = base if path.parent.name == "layers" else []
    given = [*layers, "--config", str(path), "--run_dir", "x"]
    config = config_of(parser, parser.parse_args(given))
    assert count_of(config) == (counting.generator(config), counting.discriminator(config))
