"""Top-k training of G against a sort in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from biggan_sn.config import FeatureMatchingConfig, TopKConfig
from biggan_sn.losses.objectives import OBJECTIVES
from biggan_sn.losses.top_k import TopK
from biggan_sn.training.build import check

FAKE, REAL = torch.randn(2, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_share_falls_to_its_floor():
    config = TopKConfig(0.5, 0.99, 10)
    found = [config.at(step) for step in (0, 9, 10, 25, 600, 690, 10**6)]
    np.testing.assert_allclose(found, [1, 1, 0.99, 0.99**2, 0.99**60, 0.5, 0.5])
    assert {TopKConfig().at(step) for step in (0, 10**6)} == {1.0}


@pytest.mark.parametrize(("gamma", "count"), [(0.29, 29), (0.995, 99), (0.5, 50), (0.001, 1)])
def test_the_best_judged_against_a_sort(gamma, count):
    top_k = TopK(TopKConfig(0.001, gamma, 1), ranks=1)
    order = np.argsort(-FAKE.numpy(), kind="stable")[:count]
    fake, real = top_k(1, FAKE, REAL)
    np.testing.assert_array_equal(np.sort(fake.numpy()), np.sort(FAKE.numpy())[-count:])
    np.testing.assert_array_equal(fake.numpy(), FAKE.numpy()[order])
    np.testing.assert_array_equal(real.numpy(), REAL.numpy()[order])  # beside the same fake ones
    (alone,) = top_k(1, FAKE)
    assert torch.equal(alone, fake)


def test_nothing_is_touched_where_all_count():
    for config in (TopKConfig(), TopKConfig(0.5, 0.9, 10)):
        assert TopK(config, 1)(9, FAKE, REAL) == (FAKE, REAL)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_the_chosen_have_a_gradient_and_it_is_that_of_their_mean(name):
    row = OBJECTIVES[name]
    fake = FAKE.clone().requires_grad_()
    logits = TopK(TopKConfig(0.3, 0.3, 1), 1)(1, fake, *([REAL] if row.relative else []))
    row.g_loss(*logits).backward()
    best = set(np.argsort(-FAKE.numpy())[:30])
    mine = FAKE[sorted(best)].requires_grad_()
    row.g_loss(mine, *([REAL[sorted(best)]] if row.relative else [])).backward()
    expected = torch.zeros(100, dtype=torch.float64)
    expected[sorted(best)] = mine.grad
    torch.testing.assert_close(fake.grad, expected)
    assert expected.abs().sum() > 0


def test_a_g_without_logits_is_refused(small_config):
    matching = FeatureMatchingConfig(("blocks.1",), alone=True)
    config = replace(small_config, feature_matching=matching)
    check(config, 1)
    with pytest.raises(ValueError, match=r"^top_k\.share: feature_matching\.alone"):
        check(replace(config, top_k=TopKConfig(0.5)), 1)
