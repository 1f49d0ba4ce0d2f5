"""Objectives, penalties and regularizers against the formulas of their papers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biggan_sn.config import LipschitzConfig, Sigma0Config
from biggan_sn.losses.objectives import OBJECTIVES
from biggan_sn.losses.penalties import PENALTIES, build_penalty, r1
from biggan_sn.losses.regularizers import REGULARIZERS, build_regularizer, off_diagonal, rows_of
from biggan_sn.nn.history import History
from biggan_sn.nn.layers import SelfAttention
from biggan_sn.nn.lipschitz import constrain
from biggan_sn.nn.spectrum import Spectrum

# What D and G minimise for one real logit r and one fake logit f, in plain Python.
FORMULAS = {
    "hinge": (lambda r, f: max(0, 1 - r) + max(0, 1 + f), lambda f: -f),
    "minimax": (
        lambda r, f: math.log(1 + math.exp(-r)) + math.log(1 + math.exp(f)),
        lambda f: -math.log(1 + math.exp(f)),
    ),
    "nonsaturating": (
        lambda r, f: math.log(1 + math.exp(-r)) + math.log(1 + math.exp(f)),
        lambda f: math.log(1 + math.exp(-f)),
    ),
    "lsgan": (lambda r, f: (r - 1) ** 2 / 2 + f**2 / 2, lambda f: (f - 1) ** 2 / 2),
    "wgan": (lambda r, f: f - r, lambda f: -f),
}


def test_every_objective_has_a_formula_here():
    assert FORMULAS.keys() == OBJECTIVES.keys()


logits = st.lists(st.floats(-8, 8), min_size=1, max_size=6)


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=40, deadline=None)
@given(real=logits, fake=logits)
def test_objectives_are_the_mean_of_their_formula(name, real, fake):
    d_loss, g_loss = FORMULAS[name]
    r, f = (torch.tensor(values, dtype=torch.float64) for values in (real, fake))
    expected = sum(d_loss(x, y) for x in real for y in fake) / (len(real) * len(fake))
    assert OBJECTIVES[name].d_loss(r, f).item() == pytest.approx(expected, abs=1e-9)
    expected = sum(g_loss(y) for y in fake) / len(fake)
    assert OBJECTIVES[name].g_loss(f).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_pull_the_right_way(name):
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    OBJECTIVES[name].d_loss(real, fake).backward()
    assert (real.grad < 0).all(), "D raises the logits of real images"
    assert (fake.grad >= 0).all()
    fake.grad = None
    OBJECTIVES[name].g_loss(fake).backward()
    assert (fake.grad < 0).all(), "G raises the logits of its own"


def quadratic(x):
    """A critic whose gradient is known: x_i^2 summed, so 2x."""
    return x.square().flatten(1).sum(1)


def test_r1_of_a_known_critic():
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    expected = (2 * x).square().flatten(1).sum(1).mean() / 2
    torch.testing.assert_close(r1(quadratic, x, x), expected)


def test_r1_by_finite_differences_and_its_gradient_in_the_weights():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)).double()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)

    def critic(images):
        return network(images).squeeze(1)

    eps, squares = 1e-5, torch.zeros(2, dtype=torch.float64)
    for index in range(16):
        nudge = torch.zeros(16, dtype=torch.float64)
        nudge[index] = eps
        nudge = nudge.view(1, 1, 4, 4)
        squares += ((critic(x + nudge) - critic(x - nudge)) / (2 * eps)).detach().square()
    penalty = r1(critic, x, x)
    torch.testing.assert_close(penalty, squares.mean() / 2, rtol=1e-7, atol=0)

    weight = network[0].weight
    (found,) = torch.autograd.grad(penalty, weight)
    with torch.no_grad():
        for place in ((0, 0, 0, 0), (2, 0, 1, 2)):
            old = weight[place].item()
            sides = []
            for sign in (1, -1):
                weight[place] = old + sign * 1e-5
                sides.append(r1(critic, x, x).item())
            weight[place] = old
            assert found[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5)


def test_r1_works_where_gradients_are_off():
    x = torch.ones(1, 1, 1, 1)
    with torch.no_grad():
        assert r1(quadratic, x, x) == 2


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


def test_r1_through_self_attention():
    """The fused attention kernels cannot be differentiated twice."""
    layer = SelfAttention(8)
    nn.init.ones_(layer.gamma)
    x = torch.randn(2, 8, 4, 4)
    penalty = r1(lambda images: layer(images).flatten(1).sum(1), x, x)
    penalty.backward()
    assert all((p.grad != 0).any() for p in (layer.theta.weight, layer.g.weight, layer.gamma))


def test_weighted_sums():
    x = torch.randn(2, 1, 2, 2)
    total = build_penalty({"r1": 3.0})(quadratic, x, x)
    torch.testing.assert_close(total, 3 * r1(quadratic, x, x))
    assert build_penalty({})(quadratic, x, x) == 0
    assert build_penalty({"r1": 0.0})(quadratic, x, x) == 0
    network = nn.Linear(3, 3)
    about = Spectrum(network, 2), Sigma0Config(), History(network)
    total = build_regularizer({"orthogonal": 0.5}, *about)(network)
    torch.testing.assert_close(total, 0.5 * on(network, "orthogonal"))


@pytest.mark.parametrize(("build", "table"), [(build_penalty, PENALTIES), (rows_of, REGULARIZERS)])
def test_unknown_terms_are_named(build, table):
    with pytest.raises(ValueError, match="unknown"):
        build({"nothing_of_the_kind": 1.0})
    build(dict.fromkeys(table, 1.0))
