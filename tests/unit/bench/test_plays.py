"""What of a step is repeated when only its side of the weights is."""

from dataclasses import replace
from itertools import repeat

import pytest
import torch

from biggan_sn.bench.plays import PLAYS
from biggan_sn.config import FeatureMatchingConfig, RegularizersConfig
from biggan_sn.data.loader import Batch
from biggan_sn.training.build import build
from biggan_sn.training.world import World


def moved(config, terms):
    """Which parameters of G an update moves that sees no image; and how often D's and G's Adam
    took a step."""
    config = replace(config, d_steps=3, regularizers=RegularizersConfig(generator=terms))
    step = build(config, World())
    before = {name: p.clone() for name, p in step.g.network.named_parameters()}
    PLAYS["weights"].ready(step)(0, iter(()))
    steps = [
        {int(state["step"]) for state in player.optimizer.state.values()}
        for player in (step.d, step.g)
    ]
    after = step.g.network.named_parameters()
    return {name for name, p in after if not torch.equal(p, before[name])}, steps


def test_weights_go_where_their_terms_and_nothing_else_takes_them(small_config):
    assert moved(small_config, {}) == (set(), [{3}, {1}])
    found, steps = moved(small_config, {"orthogonal": 1e-2})
    assert steps == [{3}, {1}]
    assert found
    assert all("weight" in name for name in found)


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "relativistic_paired_nonsaturating"},
        {"feature_matching": FeatureMatchingConfig(("blocks.1",))},
    ],
    ids=["relativistic", "feature matching"],
)
def test_an_update_of_g_alone_has_the_real_images_that_it_asks_for(small_config, change):
    step = build(replace(small_config, **change), World())
    images = torch.rand(step.d.microbatch, 3, 32, 32)
    reals = repeat(Batch(images, torch.zeros(len(images), dtype=torch.int64)))
    play = PLAYS["g"].ready(step)
    for number in range(2):
        play(number, reals)
