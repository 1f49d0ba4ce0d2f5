"""Objectives against the formulas of their papers, written with numpy, and what they estimate."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn

from biggan_sn.config import LipschitzConfig
from biggan_sn.losses.objectives import OBJECTIVES, build_objective
from biggan_sn.nn.lipschitz import constrain


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def cross_entropy(r, f, label=1.0):
    on_real = label * np.log(sigmoid(r)) + (1 - label) * np.log(sigmoid(-r))
    return -np.mean(on_real) - np.mean(np.log(1 - sigmoid(f)))


def least_squares(r, f, label=1.0):
    return (np.mean((r - label) ** 2) + np.mean(f**2)) / 2


# Nowozin et al. 2016, table 2: T(v), then f*(t).
TABLE_2 = {
    "kl": (lambda v: v, lambda t: np.exp(t - 1)),
    "reverse_kl": (lambda v: -np.exp(-v), lambda t: -1 - np.log(-t)),
    "pearson": (lambda v: v, lambda t: t**2 / 4 + t),
    "squared_hellinger": (lambda v: 1 - np.exp(-v), lambda t: t / (1 - t)),
    "jensen_shannon": (
        lambda v: np.log(2) - np.log(1 + np.exp(-v)),
        lambda t: -np.log(2 - np.exp(t)),
    ),
    "total_variation": (lambda v: np.tanh(v) / 2, lambda t: t),
    "gan": (lambda v: -np.log(1 + np.exp(-v)), lambda t: -np.log(1 - np.exp(t))),
}
# Jolicoeur-Martineau 2018: what D pays for the logit of a real image, which is to be large.
COSTS = {
    "nonsaturating": lambda v: -np.log(sigmoid(v)),
    "hinge": lambda v: np.maximum(0, 1 - v),
    "lsgan": lambda v: (v - 1) ** 2 / 2,
}


def f_gan(divergence, r, f):
    activation, conjugate = TABLE_2[divergence]
    return -(np.mean(activation(r)) - np.mean(conjugate(activation(f))))


def average(cost, upper, lower):
    return np.mean(cost(upper - np.mean(lower))) + np.mean(cost(np.mean(upper) - lower))


# (what D minimises, of real and fake logits; what G minimises, of fake and real ones)
FORMULAS = {
    "hinge": (
        lambda r, f: np.mean(np.maximum(0, 1 - r)) + np.mean(np.maximum(0, 1 + f)),
        lambda f, r: -np.mean(f),
    ),
    "minimax": (cross_entropy, lambda f, r: np.mean(np.log(1 - sigmoid(f)))),
    "nonsaturating": (cross_entropy, lambda f, r: -np.mean(np.log(sigmoid(f)))),
    "lsgan": (least_squares, lambda f, r: np.mean((f - 1) ** 2) / 2),
    "wgan": (lambda r, f: np.mean(f) - np.mean(r), lambda f, r: -np.mean(f)),
    **{
        f"fgan_{name}": (partial(f_gan, name), lambda f, r, t=row[0]: -np.mean(t(f)))
        for name, row in TABLE_2.items()
    },
    **{
        f"relativistic_paired_{name}": (
            lambda r, f, c=cost: np.mean(c(r - f)),
            lambda f, r, c=cost: np.mean(c(f - r)),
        )
        for name, cost in COSTS.items()
    },
    **{
        f"relativistic_average_{name}": (partial(average, cost), partial(average, cost))
        for name, cost in COSTS.items()
    },
}
LABEL = 0.8
SMOOTHED = {
    "minimax": partial(cross_entropy, label=LABEL),
    "nonsaturating": partial(cross_entropy, label=LABEL),
    "lsgan": partial(least_squares, label=LABEL),
}


def saturating(name, f):
    activation, conjugate = TABLE_2[name.removeprefix("fgan_")]
    return -np.mean(conjugate(activation(f)))


def test_every_objective_and_variant_has_a_formula_here():
    assert FORMULAS.keys() == OBJECTIVES.keys()
    assert SMOOTHED.keys() == {name for name, row in OBJECTIVES.items() if row.smoothed}
    assert {f"fgan_{name}" for name in TABLE_2} == {
        name for name, row in OBJECTIVES.items() if row.saturating
    }


def variants():
    """(name, row, what its D minimises, what its G minimises) with every setting there is."""
    for name, row in OBJECTIVES.items():
        d_loss, g_loss = FORMULAS[name]
        yield pytest.param(row, d_loss, g_loss, id=name)
        if row.smoothed:
            smoothed = build_objective(name, LABEL)
            yield pytest.param(smoothed, SMOOTHED[name], g_loss, id=f"{name}, smoothed")
        if row.saturating:
            other = build_objective(name, saturating=True)
            formula = partial(lambda name, f, r: saturating(name, f), name)
            yield pytest.param(other, d_loss, formula, id=f"{name}, saturating")


VARIANTS = list(variants())


def losses(row, real, fake):
    return row.d_loss(real, fake), row.g_loss(*((fake, real) if row.relative else (fake,)))


pairs = st.lists(st.tuples(st.floats(-6, 6), st.floats(-6, 6)), min_size=1, max_size=5)


def slope(formula, at, index, eps=1e-5):
    sides = []
    for sign in (1, -1):
        moved = at.copy()
        moved[index] += sign * eps
        sides.append(formula(moved))
    return (sides[0] - sides[1]) / (2 * eps)


@pytest.mark.parametrize(("row", "d_loss", "g_loss"), VARIANTS)
@settings(max_examples=15, deadline=None)
@given(pairs)
def test_values_and_gradients_are_those_of_the_formula(row, d_loss, g_loss, logits):
    # Steps of a derivative that is not there: their borders are not to be met.
    r, f = np.round(np.array(logits).T, 2)
    r, f = r + 0.0013, f + 0.0047
    real, fake = (torch.tensor(x, requires_grad=True) for x in (r, f))
    found = losses(row, real, fake)
    expected = d_loss(r, f), g_loss(f, r)
    for one, other in zip(found, expected, strict=True):
        assert one.item() == pytest.approx(other, rel=1e-9, abs=1e-9)
    gradients = torch.autograd.grad(found[0], (real, fake))
    (of_g,) = torch.autograd.grad(found[1], fake)
    for index in range(len(r)):
        pulls = [
            (gradients[0][index], slope(lambda x: d_loss(x, f), r, index)),
            (gradients[1][index], slope(lambda x: d_loss(r, x), f, index)),
            (of_g[index], slope(lambda x: g_loss(x, r), f, index)),
        ]
        for one, other in pulls:
            assert one.item() == pytest.approx(other, rel=1e-5, abs=1e-6)


def far_out(row, logits):
    """Both losses, and their gradients, for real and fake logits."""
    real, fake = (x.requires_grad_() for x in logits.clone())
    both = losses(row, real, fake)
    of_d = torch.autograd.grad(both[0], (real, fake))
    return [*both, *of_d, *torch.autograd.grad(both[1], fake)]


@pytest.mark.parametrize(("row", "d_loss", "g_loss"), VARIANTS)
def test_single_precision_holds_far_out(row, d_loss, g_loss):
    """Logits of 50 and more, of either sign: what double precision finds, whatever its size."""
    for r, f in ((50, 50), (50, -50), (-50, 50), (-50, -50), (30, -50), (-20, -40), (80, -80)):
        found, exact = (
            far_out(row, torch.tensor([[r], [f]], dtype=kind))
            for kind in (torch.float32, torch.float64)
        )
        for one, other in zip(found, exact, strict=True):
            assert torch.isfinite(one).all(), (r, f)
            torch.testing.assert_close(one.double(), other, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_pull_the_right_way(name):
    row = OBJECTIVES[name]
    real, fake = (torch.zeros(3, requires_grad=True) for _ in range(2))
    row.d_loss(real, fake).backward()
    assert (real.grad < 0).all(), "D raises the logits of real images"
    assert (fake.grad >= 0).all()
    (of_g,) = torch.autograd.grad(losses(row, real, fake)[1], fake)
    assert (of_g < 0).all(), "G raises the logits of its own"


@pytest.mark.parametrize(("row", "d_loss", "g_loss"), VARIANTS)
def test_the_least_loss_of_d_is_what_the_row_says(row, d_loss, g_loss):
    """On a grid that holds the optimum, but for a little."""
    v = torch.cat(
        [torch.linspace(-40, 40, 161), torch.tensor([LABEL, math.log(LABEL / (1 - LABEL))])]
    )
    found = min(row.d_loss(r[None], f[None]).item() for r in v.double() for f in v[::4].double())
    if math.isfinite(row.least):
        assert row.least == pytest.approx(found, abs=1e-6)
    else:
        assert found < -30


@pytest.mark.parametrize("name", OBJECTIVES)
def test_settings_that_mean_nothing_are_refused(name):
    row = OBJECTIVES[name]
    for able, setting, words in (
        (row.smoothed, {"real_label": 0.9}, rf"^real_label 0\.9: the objective {name} has no"),
        (row.saturating, {"saturating": True}, f"^fgan_saturating: the objective {name} has no"),
    ):
        if not able:
            with pytest.raises(ValueError, match=words):
                build_objective(name, **setting)


@pytest.mark.parametrize("name", [name for name, row in OBJECTIVES.items() if row.shared])
def test_halves_with_shared_means_are_the_whole(name):
    torch.manual_seed(0)
    real, fake = 3 * torch.randn(2, 8, dtype=torch.float64)
    whole = losses(OBJECTIVES[name], real, fake)

    def half(part, first, second):
        def shared(means):
            return torch.stack([first.mean(), second.mean()])

        return OBJECTIVES[name].shared(shared)

    for place, (upper, lower) in enumerate(((real, fake), (fake, real))):
        halves = [
            losses(half(part, upper, lower), real[part::2], fake[part::2])[place]
            for part in range(2)
        ]
        torch.testing.assert_close(sum(halves) / 2, whole[place])
        alone = sum(losses(OBJECTIVES[name], real[p::2], fake[p::2])[place] for p in range(2)) / 2
        assert (alone - whole[place]).abs() > 1e-4, "the means matter"


# Games on a few points, of which P and Q hold so many parts in ten: what optimal players reach.
P, Q = np.array([4, 3, 2, 1, 0]), np.array([1, 1, 3, 3, 2])


def samples(logits, parts):
    """The logits at points [K] as samples of a distribution with so many parts at each see them."""
    return logits.repeat_interleave(torch.tensor(parts))


def best_critic(row, points):
    """Logits [K] that minimise D's loss, and the loss."""
    logits = torch.zeros(points, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = row.d_loss(samples(logits, P), samples(logits, Q))
        value.backward()
        return value

    optimizer.step(loss)
    return logits.detach(), loss().item()


@pytest.mark.parametrize("label", [1.0, 0.9])
@pytest.mark.parametrize("name", ["minimax", "nonsaturating"])
def test_the_best_discriminator_knows_the_densities(name, label):
    """D* = label p / (p + q): Goodfellow et al. 2014, proposition 1, Salimans et al. 2016, 3.4. The
    value of the game is then 2 JSD - log 4: theorem 1."""
    logits, loss = best_critic(build_objective(name, label), len(P))
    np.testing.assert_allclose(torch.sigmoid(logits), label * P / (P + Q), atol=1e-4)
    if label == 1:
        p, q, middle = P / 10, Q / 10, (P + Q) / 20
        kl = [np.sum(x[x > 0] * np.log(x[x > 0] / middle[x > 0])) for x in (p, q)]
        assert -loss == pytest.approx(sum(kl) - math.log(4), abs=1e-5)


def test_the_best_least_squares_discriminator_knows_the_densities():
    """D* = p / (p + q): Mao et al. 2017, eq. 5."""
    logits, _ = best_critic(OBJECTIVES["lsgan"], len(P))
    np.testing.assert_allclose(logits, P / (P + Q), atol=1e-6)


def earth_movers_distance(places, p, q):
    """By the linear programme that moves p to q: Arjovsky et al. 2017, eq. 1."""
    distances = np.abs(places[:, None, :] - places[None, :, :]).astype(float)
    distances = np.sqrt((distances**2).sum(-1))
    n = len(places)
    rows = np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))
    plan = linprog(distances.ravel(), A_eq=np.vstack(rows), b_eq=np.concatenate([p, q]))
    return plan.fun, distances


def test_the_best_wgan_critic_measures_the_earth_movers_distance():
    """D's loss is linear in its logits, so that the best among all 1-Lipschitz ones is that of a
    linear programme too: Arjovsky et al. 2017, eq. 2."""
    places = np.random.default_rng(0).normal(size=(5, 2))
    distance, distances = earth_movers_distance(places, P / 10, Q / 10)
    logits = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    OBJECTIVES["wgan"].d_loss(samples(logits, P), samples(logits, Q)).backward()
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    steps = np.array([np.eye(5)[i] - np.eye(5)[j] for i, j in pairs])
    most = np.array([distances[i, j] for i, j in pairs])
    best = linprog(logits.grad.numpy(), A_ub=steps, b_ub=most, bounds=(-10, 10))
    assert -best.fun == pytest.approx(distance, rel=1e-9)
    loss = OBJECTIVES["wgan"].d_loss(*(samples(torch.tensor(best.x), parts) for parts in (P, Q)))
    assert -loss.item() == pytest.approx(distance, rel=1e-9)


def test_a_trained_wgan_critic_under_spectral_norm_comes_near_and_never_exceeds():
    torch.manual_seed(0)
    places = np.stack([np.linspace(3, -3, 5), np.zeros(5)], 1)
    distance, _ = earth_movers_distance(places, P / 10, Q / 10)
    network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1)).double()
    constrain(network, ["torch_spectral_norm"], LipschitzConfig(power_iterations=5), False)
    x = torch.tensor(places)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(400):
        logits = network(x).squeeze(1)
        loss = OBJECTIVES["wgan"].d_loss(samples(logits, P), samples(logits, Q))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 0.97 * distance < -loss.item() < 1.001 * distance
