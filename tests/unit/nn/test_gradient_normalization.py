"""Gradient normalization: its formula, its bound, and where neither value nor slope is."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from biggan_sn.nn.lipschitz import (
    constrain_output,
    gradient_normalization,
)
from tests.unit.nn.networks import (
    gaussian,
)


def piecewise_linear(seed=0, size=1.0):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1)
    ).double()
    network[5].weight.data.mul_(size)
    return network, lambda x: network(x).squeeze(1)


def smooth(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 1)).double()
    return network, lambda x: network(x).squeeze(1)


class Labelled(nn.Module):
    """A critic as D is one: images and labels -> logits."""

    def __init__(self):
        super().__init__()
        self.layers, _ = smooth()

    def forward(self, images, labels):
        return self.layers(images).squeeze(1) * (1 + labels)


def points(count=6, seed=3):
    return gaussian(count, 3, 2, 2, seed=seed)


def slope_by_differences(critic, x, eps=1e-6):
    """[N, C, H, W] of central differences."""
    slopes = torch.zeros_like(x).flatten(1)
    for index in range(slopes.shape[1]):
        nudge = torch.zeros_like(slopes)
        nudge[:, index] = eps
        nudge = nudge.view_as(x)
        slopes[:, index] = ((critic(x + nudge) - critic(x - nudge)) / (2 * eps)).detach()
    return slopes.view_as(x)


@pytest.mark.parametrize("make", [smooth, piecewise_linear])
def test_gradient_normalization_is_its_formula(make):
    """Wu et al. 2021, eq. 8."""
    _, critic = make()
    x = points()
    logits = critic(x).detach()
    lengths = slope_by_differences(critic, x).flatten(1).norm(dim=1)
    found = gradient_normalization(critic)(x)
    torch.testing.assert_close(found, logits / (lengths + logits.abs()), rtol=1e-7, atol=0)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_normalized_logits_lie_between_minus_one_and_one(size):
    _, critic = piecewise_linear(size=size)
    found = gradient_normalization(critic)(torch.cat([points(), 1e4 * points(seed=4)]))
    assert (found.abs() <= 1).all()
    assert found.abs().max() > 0.5, "far out, |D| is all there is"
    assert torch.equal(found.sign(), critic(torch.cat([points(), 1e4 * points(seed=4)])).sign())


def test_gradients_of_normalized_logits_are_those_of_differences():
    """In the images, as G needs them, and in the weights, as D does: through the slope too."""
    network, critic = smooth()
    normalized = gradient_normalization(critic)
    x = points().requires_grad_()
    (in_images,) = torch.autograd.grad(normalized(x).sum(), x)
    expected = slope_by_differences(normalized, points())
    torch.testing.assert_close(in_images, expected, rtol=1e-6, atol=1e-8)
    weight = network[0].weight
    (in_weight,) = torch.autograd.grad(normalized(points()).sum(), weight)
    with torch.no_grad():
        for place in ((0, 0, 0, 0), (3, 2, 1, 1)):
            old, sides = weight[place].item(), []
            for sign in (1, -1):
                weight[place] = old + sign * 1e-6
                sides.append(normalized(points()).sum().item())
            weight[place] = old
            difference = (sides[0] - sides[1]) / 2e-6
            assert in_weight[place].item() == pytest.approx(difference, rel=1e-5)


def pieces(network, line):
    """Number of the linear piece of each point of a line."""
    signs = []
    hidden = line
    for layer in network:
        hidden = layer(hidden)
        if isinstance(layer, nn.ReLU):
            signs.append(hidden > 0)
    moved = (torch.cat(signs, 1)[1:] != torch.cat(signs, 1)[:-1]).any(1)
    return torch.cat([torch.zeros(1, dtype=torch.long), moved.long().cumsum(0)])


def test_a_piecewise_linear_critic_becomes_1_lipschitz_on_each_piece():
    """Along lines, between any two points of the line that lie on one piece."""
    network, critic = piecewise_linear(size=10.0)
    steepest, crossed = 0.0, 0
    for number in range(20):
        start, end = 4 * points(2, seed=number)
        places = torch.linspace(0, 1, 200, dtype=torch.float64)
        line = start + places.view(-1, 1, 1, 1) * (end - start)
        logits = gradient_normalization(critic)(line).detach()
        numbers = pieces(network, line)
        rise = (logits[:, None] - logits).abs()
        run = ((places[:, None] - places) * (end - start).norm()).abs()
        alike = (numbers[:, None] == numbers) & (run > 0)
        steepest = max(steepest, float((rise / run)[alike].max()))
        crossed += int(numbers[-1])
    assert 0.3 < steepest <= 1 + 1e-9
    assert crossed > 20


def test_normalized_logits_jump_where_the_slope_of_the_critic_does():
    """1-Lipschitz on each piece is not 1-Lipschitz everywhere."""

    def critic(x):
        x = x.flatten(1).sum(1)
        return 1 + torch.where(x > 0, 3 * x, x)

    x = torch.tensor([-1e-9, 1e-9], dtype=torch.float64).view(2, 1, 1, 1)
    expected = torch.tensor([1 / 2, 1 / 4], dtype=torch.float64)
    torch.testing.assert_close(gradient_normalization(critic)(x).detach(), expected)


@pytest.mark.parametrize("kind", ["dead", "zero"])
def test_where_the_critic_has_neither_value_nor_slope_all_is_finite(kind):
    network, critic = piecewise_linear()
    with torch.no_grad():
        network[5].bias.zero_()
        if kind == "dead":
            network[3].weight.zero_()
            network[3].bias.fill_(-1.0)  # no unit is on
        else:
            network[5].weight.zero_()
    x = points().requires_grad_()
    found = gradient_normalization(critic)(x)
    assert (found == 0).all()
    gradients = torch.autograd.grad(found.sum(), [x, *network.parameters()])
    assert all(torch.isfinite(g).all() for g in gradients)


def test_each_image_is_normalized_by_itself():
    _, critic = smooth()
    normalized = gradient_normalization(critic)
    together = normalized(points())
    one_by_one = torch.cat([normalized(x) for x in points().split(1)])
    torch.testing.assert_close(together, one_by_one, rtol=1e-12, atol=0)


def test_gradient_normalization_works_where_gradients_are_off():
    _, critic = smooth()
    normalized = gradient_normalization(critic)
    with torch.no_grad():
        found = normalized(points())
    assert not found.requires_grad
    assert torch.equal(found, normalized(points()))


def test_gradient_normalization_leaves_images_that_need_no_gradient_as_they_are():
    _, critic = smooth()
    x = points()
    gradient_normalization(critic)(x).sum().backward()
    assert not x.requires_grad
    assert x.grad is None


def test_the_gradient_reaches_g_through_a_frozen_critic():
    network, critic = smooth()
    network.requires_grad_(False)
    code = points().requires_grad_()
    gradient_normalization(critic)(2 * code).sum().backward()
    expected = 2 * slope_by_differences(gradient_normalization(critic), 2 * points())
    torch.testing.assert_close(code.grad, expected, rtol=1e-6, atol=1e-8)


def test_bound_wraps_a_critic_where_asked_only():
    network, x, y = Labelled(), points(), torch.tensor([0, 1, 0, 1, 1, 0])
    plain = network(x, y)
    constrain_output(network, ["spectral_norm"])
    assert torch.equal(network(x, y), plain)
    constrain_output(network, ["gradient_normalization"])
    expected = gradient_normalization(lambda x: Labelled.forward(network, x, y))(x)
    assert torch.equal(network(x, y), expected)
    assert not torch.equal(expected, plain)
    copy = deepcopy(network)
    with torch.no_grad():
        network.layers[0].weight.zero_()
    assert torch.equal(copy(x, y), expected)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_bound_refuses_a_critic_in_which_images_meet(norm):
    network = nn.Sequential(nn.Conv2d(3, 4, 2), norm(4))
    with pytest.raises(ValueError, match=r"must not have batch norms .*; it has 1"):
        constrain_output(network, ["gradient_normalization"])
    constrain_output(network, ["spectral_norm"])
