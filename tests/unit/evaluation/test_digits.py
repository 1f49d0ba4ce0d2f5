"""The network that knows the digits: it does, and it is the same twice."""

import torch

from biggan_sn.data.digits import load_digits
from biggan_sn.data.loader import normalize
from biggan_sn.evaluation.digits import trained_network


def as_images(digits):
    return normalize(torch.from_numpy(digits.images).permute(0, 3, 1, 2))


def test_network_knows_held_out_digits():
    held_out = load_digits()[1]
    seen = trained_network()(as_images(held_out))[1].argmax(1)
    assert (seen == torch.from_numpy(held_out.labels)).double().mean() > 0.95


def test_recipe_is_deterministic():
    images = as_images(load_digits()[0])[:50]
    first = trained_network()(images)[1]
    trained_network.cache_clear()
    assert torch.equal(trained_network()(images)[1], first)
