"""What tests of several rooms share: small shards, a small run, one thread."""

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from biggan_sn.config import (
    CheckpointConfig,
    CollapseConfig,
    Config,
    DataConfig,
    EMAConfig,
    LogsConfig,
    ModelConfig,
    MonitorConfig,
    PlayerConfig,
    RegularizersConfig,
)
from data_tools.make_shards import write_shards

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory):
    """References of real images that another run of the tests kept would hide mistakes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIGGAN_SN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_finish():
    gc.freeze()  # what has been imported is no garbage, and need not be looked through for any


def pytest_unconfigure():
    gc.unfreeze()  # or libraries complain at the end that it is still there


def pytest_collection_modifyitems(items):
    # Long files first, so that no worker ends long after the others. run.sh keeps files whole.
    rooms = ("slurm", "training", "reference")
    items.sort(key=lambda item: [not item.path.is_relative_to(TESTS / room) for room in rooms])
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """A folder of two shards: 30 random images of 3 classes, 32 pixels, PNG."""
    import io

    from PIL import Image

    random = np.random.default_rng(0)

    def samples() -> Iterator[tuple[bytes, str, int]]:
        for number in range(30):
            out = io.BytesIO()
            noise = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(out, "PNG")
            yield out.getvalue(), "png", number % 3

    folder = tmp_path_factory.mktemp("shards") / "noise"
    write_shards(samples(), 30, folder, 20, ("cat", "dog", "owl"))
    return folder


@pytest.fixture(scope="session")
def small_config(shards):
    """A run of seconds that has everything switched on."""
    return Config(
        data=DataConfig(
            path=str(shards), heldout=str(shards), resolution=32, num_classes=3, flip=True, shift=1
        ),
        model=ModelConfig(
            channels=2,
            z_dim=8,
            shared_dim=4,
            generator_attention=(16,),
            discriminator_attention=(16,),
        ),
        penalties={"r1": 0.1},
        regularizers=RegularizersConfig(generator={"orthogonal": 1e-4}),
        generator=PlayerConfig(lr=1e-3, microbatch=4),
        discriminator=PlayerConfig(lr=1e-3, microbatch=2),
        ema=EMAConfig(decay=0.5, start=2),
        monitor=MonitorConfig(every=2),
        collapse=CollapseConfig(every=2, images=4),
        checkpoint=CheckpointConfig(every=2),
        logs=LogsConfig(every=1, images=0),
        steps=6,
        d_steps=2,
        batch_size=4,
    )
