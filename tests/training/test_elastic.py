"""A run is the same on any number of processes, and may change it on the way.

In float64, so that rounding stays far below what any mistake would do.
"""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch

from biggan_sn.checkpoint import Checkpoints, load_tensors
from biggan_sn.config import CheckpointConfig, LipschitzConfig, PlayerConfig, Sigma0Config
from biggan_sn.data.loader import Loader
from biggan_sn.training import trainer
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World
from tests.training.crew import Crew

# A batch norm over four images has half of a pass of one process, that of each of two, or those of
# two of four.
MICROBATCH = {1: 8, 2: 4, 4: 2}
STEPS, BEFORE = 6, 3
CLOSE = 1e-9
TRAINED = ("generator", "discriminator", "ema", "generator_optimizer", "discriminator_optimizer",
           "spectra")  # fmt: skip
GROUPS = (*TRAINED, "collapse")
COUNTED = ("running_mean", "running_var", "num_batches_tracked")  # they move once per pass


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Has so many processes carry a run on; what each was shown."""
    crews = {ranks: Crew(ranks, tmp_path_factory.mktemp("crew")) for ranks in (2, 4)}

    def launched(ranks, config, folder, microbatch=None):
        side = PlayerConfig(lr=1e-3, microbatch=microbatch or MICROBATCH[ranks])
        config = replace(config, generator=side, discriminator=side)
        if ranks == 1:
            return [train(0, 1, config, folder)]
        return crews[ranks](train, config, folder)

    yield launched
    for crew in crews.values():
        crew.close()


@pytest.fixture(scope="module")
def straight_runs():
    """The runs that nothing disturbed: their folders and the images of each step, by ranks."""
    return {}


@pytest.fixture
def config(small_config):
    """Everything on. Epochs end within a step. Only one value of a weight is clamped, for of equal
    ones nobody can tell the vectors."""
    return replace(
        small_config,
        model=replace(small_config.model, initialization="xavier", norm_batch=4),
        lipschitz=LipschitzConfig(("spectral_norm", "sigma0_clamp"), ("spectral_norm",)),
        sigma0=Sigma0Config(sigma_reg=1.68),
        collapse=replace(small_config.collapse, images=8),
        checkpoint=CheckpointConfig(every=BEFORE),
        batch_size=16,
        d_steps=1,
        steps=STEPS,
    )


@pytest.fixture
def straight(launch, straight_runs, config, tmp_path_factory):
    def look_up(ranks):
        if ranks not in straight_runs:
            folder = tmp_path_factory.mktemp("straight") / "run"
            seen = launch(ranks, config, folder)
            straight_runs[ranks] = folder, by_step(seen, config)
        return straight_runs[ranks]

    return look_up


def train(rank, ranks, config, folder):
    """The fingerprints of all images that D was handed on this process, one after the other."""
    shown = []

    class Watched(Loader):
        def batches(self, *arguments):
            for batch in super().batches(*arguments):
                for image, label in zip(batch.images, batch.labels, strict=True):
                    bits = image.contiguous().numpy().tobytes() + bytes([int(label)])
                    shown.append(hashlib.sha256(bits).hexdigest())
                yield batch

    trainer.Loader = Watched
    torch.set_default_dtype(torch.float64)
    try:
        Trainer(config, folder, World(rank, ranks)).run()
    finally:
        torch.set_default_dtype(torch.float32)
        trainer.Loader = Loader
    return shown


def by_step(seen, config):
    """What all processes were shown at each step, in any order: [[fingerprint]]."""
    here = config.d_steps * config.batch_size // len(seen)
    assert all(len(shown) == len(seen[0]) for shown in seen)
    assert len(seen[0]) % here == 0
    steps = range(0, len(seen[0]), here)
    return [sorted(x for shown in seen for x in shown[first : first + here]) for first in steps]


def newest(folder):
    return Checkpoints(folder / "checkpoints").newest()


def assert_same_run(folder, other, passes=True):
    """To rounding; of runs that took other numbers of passes all but what counts them."""
    path, other_path = newest(folder), newest(other)
    assert path.name == other_path.name == f"step_{STEPS:08d}"
    for group in GROUPS if passes else TRAINED:
        found, wanted = load_tensors(path, group), load_tensors(other_path, group)
        assert found.keys() == wanted.keys()
        for name in found:
            if group == "spectra" and not name.endswith("/sigmas"):
                continue  # (-u, -v) is as good as (u, v), and a basis as another
            if not passes and name.endswith(COUNTED):
                continue
            mine, expected = found[name], wanted[name]
            if name.endswith((".0.u", ".0.v")):
                mine, expected = mine.abs(), expected.abs()
            torch.testing.assert_close(mine, expected, rtol=0, atol=CLOSE, equal_nan=True)
    probed = ("d_on_",) if passes else ()
    for one, another in zip(losses(folder, *probed), losses(other, *probed), strict=True):
        assert one == pytest.approx(another, rel=CLOSE, abs=CLOSE)


def losses(folder, *probed):
    """What training sees of them, and of what looks at G with its running statistics `probed`."""
    lines = [json.loads(line) for line in (folder / "scalars.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    kinds = ("d_loss", "d_real", "d_fake", "d_penalty", "g_", *probed)
    return [{k: v for k, v in line.items() if k.startswith(kinds)} for line in lines]


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_processes_makes_one_run(straight, ranks):
    folder, seen = straight(ranks)
    wanted, should_see = straight(1)
    assert_same_run(folder, wanted)
    assert seen == should_see


def test_any_microbatch_makes_one_run(launch, config, straight, tmp_path):
    """Two processes of two images, that share a batch norm."""
    seen = launch(2, config, tmp_path, microbatch=2)
    wanted, should_see = straight(1)
    assert_same_run(tmp_path, wanted, passes=False)
    assert by_step(seen, config) == should_see


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2), (2, 4)])
def test_a_run_goes_on_with_other_processes(launch, config, straight, tmp_path, first, second):
    """The job dies after the checkpoint in the middle; another one takes over."""
    folder = tmp_path / "run"
    shutil.copytree(straight(first)[0], folder, symlinks=True)
    shutil.rmtree(newest(folder))
    assert newest(folder).name == f"step_{BEFORE:08d}"
    seen = by_step(launch(second, config, folder), config)
    undisturbed, should_see = straight(1)
    assert seen == should_see[BEFORE:]
    assert_same_run(folder, undisturbed)


def test_the_steps_show_many_images(config, straight):
    """What is compared above is not always the same few."""
    seen = [x for step in straight(1)[1] for x in step]
    assert len(seen) == STEPS * config.d_steps * config.batch_size
    assert len(set(seen)) > 60  # of 30 images, flipped and shifted
    assert {len(step) for step in straight(1)[1]} == {config.batch_size * config.d_steps}
