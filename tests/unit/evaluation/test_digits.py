"""The network that knows the digits: it does, and it is the same twice."""

import numpy as np
import torch

from biggan_sn.data.digits import load_digits, stack_digits
from biggan_sn.data.loader import normalize
from biggan_sn.evaluation.digits import trained_network
from biggan_sn.evaluation.extractors import open_extractor


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


def test_stacked_digits_are_three_digits():
    """In an order that their number does not change, and as random as they should be."""
    digits = load_digits()[0]
    stacked = stack_digits(digits, 2000)
    assert stacked.images.shape == (2000, 32, 32, 3)
    assert np.array_equal(stack_digits(digits, 7).images, stacked.images[:7])
    grey = {image[:, :, 0].tobytes(): label for image, label in zip(*digits, strict=True)}
    for image, label in zip(stacked.images[:50], stacked.labels[:50], strict=True):
        found = [grey[np.ascontiguousarray(image[:, :, c]).tobytes()] for c in range(3)]
        assert label == int("".join(map(str, found)))
    places = np.stack([stacked.labels // 100, stacked.labels // 10 % 10, stacked.labels % 10])
    counts = np.stack([np.bincount(p, minlength=10) for p in places])
    assert (abs(counts - 200) < 5 * 200**0.5).all()
    assert abs(np.corrcoef(places)[np.triu_indices(3, 1)]).max() < 0.1


def test_the_extractor_of_stacked_digits_sees_each_colour_as_a_digit():
    cpu = torch.device("cpu")
    digits = load_digits()[0]
    stacked = stack_digits(digits, 40)
    images = torch.from_numpy(stacked.images).permute(0, 3, 1, 2)
    extractor = open_extractor("stacked_digits", None, cpu)
    features, logits = extractor.extract(images)
    assert (features.shape, logits.shape) == ((40, extractor.dim), (40, extractor.logits))
    assert (logits.argmax(1).numpy() == stacked.labels).mean() > 0.95
    each = [trained_network()(normalize(images[:, [c] * 3])) for c in range(3)]
    torch.testing.assert_close(features, torch.cat([f for f, _ in each], 1))
    parts = [logit.softmax(1) for _, logit in each]
    joint = torch.einsum("na,nb,nc->nabc", *parts).flatten(1)
    torch.testing.assert_close(logits.softmax(1), joint)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(40))
