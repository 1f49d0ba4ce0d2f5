"""How many calls the device gets: a GPU waits for their launches when they are small."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from biggan_sn.config import Sigma0Config
from biggan_sn.losses.regularizers import REGULARIZERS
from biggan_sn.nn.spectrum import Spectrum
from tests.unit.nn.networks import held, shake

MEMORY_ONLY = {"empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view", "lift_fresh"}
PRODUCTS = {"mm", "mv", "addmm"}
SHARED = 120  # calls of one search for all matrices together, in each round


class Launches(TorchDispatchMode):
    """Counts operations that are more than another look at the same memory."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and name not in MEMORY_ONLY:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def launches(work):
    with Launches() as found:
        work()
    return found.counts


def network_of(layers):
    """Tall and wide weights of many shapes."""
    torch.manual_seed(0)
    kinds = [nn.Linear(9, 40), nn.Conv2d(3, 7, 3), nn.Linear(150, 11), nn.Conv2d(13, 5, 1)]
    return nn.Sequential(*(kinds[i % 4] if i < 4 else nn.Linear(5 + i, 23) for i in range(layers)))


def of_refresh(layers, depth):
    spectrum = Spectrum(network_of(layers), 3, depth)
    return launches(spectrum.refresh)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_search_takes_two_products_a_matrix_and_round_and_shares_the_rest(depth):
    few, many = of_refresh(4, depth), of_refresh(24, depth)
    for counts, layers in ((few, 4), (many, 24)):
        assert sum(counts[name] for name in PRODUCTS) == 2 * depth * layers
    assert many.total() - few.total() == 2 * depth * 20
    assert few.total() <= 2 * depth * 4 + SHARED * depth


def of_norms(layers):
    network = network_of(layers)
    constraint = held(network, "spectral_norm")
    shake(network, 0)
    constraint.spectrum.refresh()
    return launches(lambda: constraint.norms.follow(1))


def test_all_norms_take_their_vectors_together():
    assert of_norms(24) == of_norms(4)
    assert of_norms(4).total() <= 12


def of_orthogonal(layers):
    network = network_of(layers)
    held(network, "spectral_norm")
    term = REGULARIZERS["orthogonal"].term

    def work():
        term(network, None, Sigma0Config(), None).backward()

    return launches(work)


def test_the_orthogonal_regularizer_takes_two_products_and_a_sum_of_squares_a_layer():
    few, many = of_orthogonal(4), of_orthogonal(24)
    assert few["mm"] == 2 * 4 and many["mm"] == 2 * 24
    assert many.total() <= 4 * 24 + 20
