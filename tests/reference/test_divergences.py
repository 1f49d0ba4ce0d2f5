"""f-divergences: conjugates against suprema, and bounds against divergences that are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from biggan_sn.losses.divergences import DIVERGENCES
from biggan_sn.losses.objectives import OBJECTIVES

ROWS = list(DIVERGENCES)
# Table 1 of Nowozin et al. 2016.
GENERATORS = {
    "kl": lambda u: u * np.log(u),
    "reverse_kl": lambda u: -np.log(u),
    "pearson": lambda u: (u - 1) ** 2,
    "squared_hellinger": lambda u: (np.sqrt(u) - 1) ** 2,
    "jensen_shannon": lambda u: u * np.log(u) - (u + 1) * np.log((1 + u) / 2),
    "total_variation": lambda u: abs(u - 1) / 2,
    "gan": lambda u: u * np.log(u) - (u + 1) * np.log(u + 1),
}


def double(x):
    return torch.as_tensor(x, dtype=torch.float64)


@pytest.mark.parametrize("name", ROWS)
def test_f_is_that_of_the_table(name):
    u = np.geomspace(1e-6, 1e6, 200)
    np.testing.assert_allclose(DIVERGENCES[name].f(double(u)), GENERATORS[name](u), rtol=1e-7)


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=40, deadline=None)
@given(v=st.floats(-6, 6))
def test_the_conjugate_is_the_supremum(name, v):
    """f*(t) = sup over u > 0 of t u - f(u), for every t that the activation gives."""
    row, f = DIVERGENCES[name], GENERATORS[name]
    t = row.activation(double(v)).item()
    found = minimize_scalar(
        lambda s: f(np.exp(s)) - t * np.exp(s),
        bounds=(-25, 25),
        method="bounded",
        options={"xatol": 1e-10},
    )
    ends = [t * u - f(u) for u in (1e-12, 1.0)]
    supremum = max(-found.fun, *ends)
    conjugate = row.conjugate(double(t)).item()
    # At u = 0 the paper's formula may be more; what it gives for a bound is one all the same.
    assert conjugate == pytest.approx(supremum, rel=1e-6, abs=1e-6) or (
        supremum == ends[0] and conjugate > supremum
    )
    assert row.of_fake(double(v)).item() == pytest.approx(conjugate, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_what_fakes_pay_is_the_conjugate_of_the_activation(name):
    row, v = DIVERGENCES[name], torch.linspace(-15, 15, 301, dtype=torch.float64)
    torch.testing.assert_close(
        row.of_fake(v), row.conjugate(row.activation(v)), rtol=1e-7, atol=1e-9
    )


def best_logits(name, ratio):
    """Where the activation is f'(p / q): Nowozin et al. 2016, eq. 5; by halving intervals."""
    u = double(ratio).requires_grad_()
    (target,) = torch.autograd.grad(DIVERGENCES[name].f(u).sum(), u)
    low, high = torch.full_like(target, -200.0), torch.full_like(target, 400.0)
    for _ in range(80):
        middle = (low + high) / 2
        above = DIVERGENCES[name].activation(middle) > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


# P = N(0, 1), Q = N(0.4, 1.1^2)
SHIFT, WIDTH = 0.4, 1.1


def p(x):
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def q(x):
    return p((x - SHIFT) / WIDTH) / WIDTH


def integral(name):
    return quad(lambda x: q(x) * GENERATORS[name](p(x) / q(x)), -12, 12, limit=400, points=[0])[0]


TWICE = 2 * WIDTH**2 - 1
COEFFICIENT = math.sqrt(2 * WIDTH / (1 + WIDTH**2)) * math.exp(-(SHIFT**2) / 4 / (1 + WIDTH**2))
KNOWN = {
    "kl": math.log(WIDTH) + (1 + SHIFT**2) / (2 * WIDTH**2) - 0.5,
    "reverse_kl": -math.log(WIDTH) + (WIDTH**2 + SHIFT**2) / 2 - 0.5,
    "pearson": WIDTH**2 / math.sqrt(TWICE) * math.exp(SHIFT**2 / TWICE) - 1,
    "squared_hellinger": 2 - 2 * COEFFICIENT,
}


@pytest.mark.parametrize("name", ROWS)
def test_the_best_critic_reaches_the_divergence_of_two_gaussians(name):
    """In closed form where there is one, else by integration. P and Q as many samples, at equal
    steps of probability."""
    expected = KNOWN.get(name) or integral(name)
    assert integral(name) == pytest.approx(expected, abs=1e-8)
    steps = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    real = torch.special.ndtri(steps)
    fake = SHIFT + WIDTH * real
    logits = [best_logits(name, p(x.numpy()) / q(x.numpy())) for x in (real, fake)]
    bound = -OBJECTIVES[f"fgan_{name}"].d_loss(*logits)
    assert bound.item() == pytest.approx(expected, abs=1e-3)
    wrong = [1.2 * v + 0.1 for v in logits]  # as tanh of a critic that is certain
    assert -OBJECTIVES[f"fgan_{name}"].d_loss(*wrong) <= bound + 1e-9


parts = st.lists(st.integers(1, 9), min_size=4, max_size=4)


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=40, deadline=None)
@given(parts, parts, st.lists(st.floats(-8, 8), min_size=4, max_size=4))
def test_no_critic_exceeds_the_divergence(name, p_parts, q_parts, logits):
    """P and Q on four points, exactly."""
    probabilities = np.array(p_parts) / sum(p_parts), np.array(q_parts) / sum(q_parts)
    ratio = probabilities[0] / probabilities[1]
    divergence = np.sum(probabilities[1] * GENERATORS[name](ratio))
    assert divergence <= DIVERGENCES[name].greatest + 1e-12

    def bound(values):
        shown = [values.repeat_interleave(torch.tensor(n)) for n in (p_parts, q_parts)]
        return -OBJECTIVES[f"fgan_{name}"].d_loss(*shown).item()

    assert bound(double(logits)) <= divergence + 1e-9
    best = best_logits(name, ratio)
    if name != "total_variation" or (ratio != 1).all():  # at 1 its f has no derivative
        assert bound(best) == pytest.approx(divergence, abs=1e-9)
