"""The scorer of digits: tells good samples from every kind of bad ones, and says the same twice."""

import math

import pytest
import torch

from biggan_sn.data.digits import load_digits
from biggan_sn.data.loader import normalize
from biggan_sn.evaluation.digits import (
    real_scores,
    score,
    trained_network,
)


@pytest.fixture(scope="module")
def train():
    digits = load_digits()[0]
    images = normalize(torch.from_numpy(digits.images).permute(0, 3, 1, 2))
    return images, torch.from_numpy(digits.labels)


def test_network_knows_held_out_digits():
    assert real_scores()["accuracy"] > 0.95


def test_real_digits_score_as_real_ones(train):
    scores = score(*train)
    assert scores["accuracy"] > 0.98
    assert scores["classes"] == 10
    assert scores["fid_ratio"] == pytest.approx(1)
    assert scores["variety"] == pytest.approx(1, abs=0.1)


def test_each_failure_shows(train):
    images, labels = train
    firsts = torch.stack([images[labels == label][0] for label in range(10)])
    repeated = firsts.repeat_interleave(40, 0), torch.arange(10).repeat_interleave(40)
    assert score(*repeated)["variety"] < 0.01, "one picture of each class for ever"
    assert score(*repeated)["fid_ratio"] > 5
    assert score(images, (labels + 1) % 10)["accuracy"] < 0.05, "the wrong classes"
    few = images[labels < 3], labels[labels < 3]
    assert score(*few)["classes"] == 3
    assert score(*few)["fid_ratio"] > 5
    noise = torch.rand_like(images) * 2 - 1
    assert score(noise, labels)["fid_ratio"] > 10
    assert score(noise, labels)["accuracy"] < 0.3


def test_a_generator_that_diverged_scores_nan(train):
    images, labels = train[0][:40].clone(), train[1][:40]
    images[3, 0, 0, 0] = torch.nan
    assert math.isnan(score(images, labels)["fid"])


def test_recipe_is_deterministic(train):
    first = trained_network()(train[0][:50])[1]
    trained_network.cache_clear()
    assert torch.equal(trained_network()(train[0][:50])[1], first)
