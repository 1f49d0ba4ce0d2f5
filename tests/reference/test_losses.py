"""Regularizers against the formulas of their papers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biggan_sn.config import LipschitzConfig, Sigma0Config
from biggan_sn.losses.penalties import PENALTIES, build_penalty
from biggan_sn.losses.regularizers import REGULARIZERS, build_regularizer, off_diagonal, rows_of
from biggan_sn.nn.history import History
from biggan_sn.nn.lipschitz import constrain
from biggan_sn.nn.spectrum import Spectrum


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 999))
def test_off_diagonal_equals_the_big_matrix(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, dtype=torch.float64, generator=generator).requires_grad_()
    identity = torch.eye(rows, dtype=torch.float64)
    big = ((weight @ weight.mT) * (1 - identity)).square().sum()
    found = off_diagonal(weight)
    torch.testing.assert_close(found, big, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(value, weight)[0] for value in (found, big)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
    closed = 4 * ((weight @ weight.mT) * (1 - identity)) @ weight
    torch.testing.assert_close(gradients[0], closed, rtol=1e-9, atol=1e-9)


def test_off_diagonal_of_nearly_orthogonal_filters_is_known_in_single_precision():
    """What remains of two sums a thousand times as large."""
    torch.manual_seed(0)
    weight = torch.linalg.qr(torch.randn(900, 400))[0].mT + 1e-3 * torch.randn(400, 900)
    exact = off_diagonal(weight.double())
    torch.testing.assert_close(off_diagonal(weight).double(), exact, rtol=1e-3, atol=0)


def on(network, name, **target):
    """The regularizer called `name` on a network, of which nothing is known yet."""
    spectrum, history = Spectrum(network, 3), History(network)
    return REGULARIZERS[name].term(network, spectrum, Sigma0Config(**target), history)


def test_off_diagonal_of_two_equal_filters():
    assert off_diagonal(torch.ones(2, 1)) == 2


def test_orthogonal_takes_raw_weights_and_leaves_embeddings_alone():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 5), nn.Conv2d(5, 2, 3)).double()
    plain = on(network, "orthogonal")
    expected = sum(off_diagonal(network[i].weight.flatten(1)) for i in (1, 2))
    torch.testing.assert_close(plain, expected)
    constrain(network, ["spectral_norm"], LipschitzConfig(), embeddings=False)
    torch.testing.assert_close(on(network, "orthogonal"), plain)
    on(network, "orthogonal").backward()
    assert network[0].weight.grad is None


def test_weighted_sums():
    network = nn.Linear(3, 3)
    about = Spectrum(network, 2), Sigma0Config(), History(network)
    total = build_regularizer({"orthogonal": 0.5}, *about)(network)
    torch.testing.assert_close(total, 0.5 * on(network, "orthogonal"))


@pytest.mark.parametrize(("build", "table"), [(build_penalty, PENALTIES), (rows_of, REGULARIZERS)])
def test_unknown_terms_are_named(build, table):
    with pytest.raises(ValueError, match="unknown"):
        build({"nothing_of_the_kind": 1.0})
    build(dict.fromkeys(table, 1.0))
