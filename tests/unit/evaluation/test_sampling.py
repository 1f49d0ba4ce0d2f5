"""Samples from a checkpoint: what a class draws, what truncation and statistics do to it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from biggan_sn.checkpoint import find
from biggan_sn.data.loader import normalize
from biggan_sn.evaluation.diversity import diversity
from biggan_sn.evaluation.images import Drawn
from biggan_sn.evaluation.sampling import (
    Sampling,
    draw_classes,
    renew_statistics,
    write,
)
from biggan_sn.models.loading import load_generator
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def trainer(run, small_config):
    trainer = Trainer(replace(small_config, steps=3), run, World())
    if trainer.step < 3:
        trainer.run()
    return trainer


@pytest.fixture
def generator(trainer, run):
    return load_generator(find(run))[0]


def test_loaded_generator_is_the_average_of_the_run(trainer, generator):
    z, y = torch.randn(3, 8), torch.arange(3)
    with torch.no_grad():
        torch.testing.assert_close(generator(z, y), trainer.play.ema.generator()(z, y))
    assert not any("parametrizations" in name for name in generator.state_dict())
    assert not generator.training


def test_a_class_draws_alike_whichever_others_do(generator):
    images, labels = draw_classes(generator, [0, 1, 2], 4, Sampling(seed=5))
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    alone, _ = draw_classes(generator, [1], 4, Sampling(seed=5))
    assert (alone.int() - images[4:8].int()).abs().max() <= 1, "rounding in other batches"
    more, _ = draw_classes(generator, [1], 6, Sampling(seed=5))
    assert (more[:4].int() - alone.int()).abs().max() <= 1
    other, _ = draw_classes(generator, [1], 4, Sampling(seed=6))
    assert (other.int() - alone.int()).abs().max() > 20


def test_samples_to_be_scored_are_those_that_are_drawn(generator):
    """Of ten samples of three classes the classes have four, three and three, in turn."""
    sampling = Sampling(seed=5, truncation=0.7)
    drawn = Drawn(generator, 10, sampling, ("cat", "dog", "owl"))
    assert drawn.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    found = torch.cat(list(drawn.batches([range(7), range(7, 10)])))
    for label in range(3):
        expected, _ = draw_classes(generator, [label], 4, sampling)
        of_class = found[label::3]
        assert (of_class.int() - expected[: len(of_class)].int()).abs().max() <= 1


def test_little_truncation_is_little_diversity(generator):
    spread = []
    for value in (0.01, 0.5, 2.0):
        images, labels = draw_classes(generator, [0, 1, 2], 8, Sampling(truncation=value))
        spread.append(diversity(normalize(images), labels))
    assert spread[0] < 0.05 * spread[2]
    assert spread[0] < spread[1] < spread[2]


def test_diversity_is_the_mean_root_mean_square_difference():
    images = torch.zeros(4, 3, 2, 2)
    images[1], images[3] = 1.0, 0.5
    assert diversity(images, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.75)
    assert diversity(images, torch.tensor([0, 0, 1, 2])) == pytest.approx(1), "a class of one"
    assert math.isnan(diversity(images, torch.arange(4)))


def test_standing_statistics_belong_to_the_truncation(generator):
    """In train mode batch norms use the batch's own statistics; standing ones must come close,
    for the truncation they were made for."""
    norms = [m for m in generator.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    trained = [norm.running_var.clone() for norm in norms]
    narrow = Sampling(truncation=0.2, standing_statistics=20)
    counts = []
    renew_statistics(generator, narrow, counts.append)
    assert len(counts) == 20 and sum(counts) == narrow.renewing
    first = [norm.running_var.clone() for norm in norms]
    assert all(not torch.equal(a, b) for a, b in zip(trained, first, strict=True))
    renew_statistics(generator, narrow)
    for norm, before in zip(norms, first, strict=True):
        assert torch.equal(norm.running_var, before), "a function of the sampling alone"
    renew_statistics(generator, replace(narrow, truncation=2.0))
    assert not torch.allclose(norms[0].running_var, first[0], rtol=0.01)


@pytest.mark.parametrize(
    "wrong",
    [
        {"truncation": 0.0},
        {"mode": "resampel", "truncation": 1.0},
        {"mode": "clamp"},
        {"seed": -1},
        {"standing_statistics": -1},
    ],
)
def test_impossible_samplings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).partition("_")[0]):
        Sampling(**wrong)


def test_writing(tmp_path):
    images = torch.tensor([0, 85, 170, 255], dtype=torch.uint8)
    images = images.view(4, 1, 1, 1).expand(4, 3, 8, 8)
    labels = torch.tensor([2, 2, 7, 7])
    with Image.open(write(images, labels, tmp_path / "deep" / "grid.PNG", 2)) as picture:
        assert picture.size == (2 * 10 + 2, 2 * 10 + 2)
    with np.load(write(images, labels, tmp_path / "all.npz", 2)) as arrays:
        assert arrays["images"].shape == (4, 8, 8, 3)
        assert arrays["images"][:, 0, 0, 0].tolist() == [0, 85, 170, 255]
        assert arrays["labels"].tolist() == [2, 2, 7, 7]
    names = sorted(path.name for path in write(images, labels, tmp_path / "many", 2).iterdir())
    assert names == ["class0002_000000.png", "class0002_000001.png",
                     "class0007_000000.png", "class0007_000001.png"]  # fmt: skip
    with pytest.raises(ValueError, match="not empty"):
        write(images, labels, tmp_path / "many", 2)
    with pytest.raises(ValueError, match=r"x\.jpg"):
        write(images, labels, tmp_path / "x.jpg", 2)
