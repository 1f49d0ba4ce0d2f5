"""Penalties against finite differences of D in float64, and where they take its gradient."""

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from torch import nn

from biggan_sn.data.chance import Chance
from biggan_sn.data.loader import Batch
from biggan_sn.losses.penalties import PENALTIES, Surroundings, build_penalty
from biggan_sn.nn.layers import SelfAttention
from biggan_sn.positions import uniform, words

SHAPE = (1, 4, 4)
PIXELS = 16
# What is paid for a slope, by formulas of the papers.
COSTS = {
    "r1": lambda slope: slope**2 / 2,
    "r2": lambda slope: slope**2 / 2,
    "wgan_gp": lambda slope: (slope - 1) ** 2,
    "dragan": lambda slope: (slope - 1) ** 2,
    "zero_centred_gp": lambda slope: slope**2,
}


def between(real, fake, positions):
    share = uniform(7, "training/penalty/between", positions, 1)[:, :, None, None]
    return (1 - share) * real.images.numpy() + share * fake.images.numpy(), real.labels


def near_real(real, fake, positions):
    drawn = words(7, "training/penalty/near_real", positions, PIXELS // 4)
    # Four numbers of 16 bits with a sign, the lowest bits first.
    steps = np.stack([(drawn >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4)], 2)
    steps = (steps.astype(np.int64) + 2**15) % 2**16
    images = real.images.numpy()
    noise = ndtri((steps + 0.5) / 2**16).reshape(images.shape)
    return images + images.std() / 2 * noise, real.labels


PLACES = {
    "r1": lambda real, fake, positions: (real.images.numpy(), real.labels),
    "r2": lambda real, fake, positions: (fake.images.numpy(), fake.labels),
    "wgan_gp": between,
    "dragan": near_real,
    "zero_centred_gp": between,
}


class Critic(nn.Module):
    """A smooth D of images [N, 1, 4, 4] that heeds their labels."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3), nn.Tanh()
        )
        self.classes = nn.Embedding(4, 3)

    def forward(self, images, labels):
        return (self.layers(images) * self.classes(labels)).sum(1)


@pytest.fixture
def critic():
    torch.manual_seed(0)
    return Critic().double()


@pytest.fixture
def batches():
    torch.manual_seed(1)
    real, fake = torch.randn(2, 4, *SHAPE, dtype=torch.float64) + 0.3
    return Batch(real, torch.tensor([0, 1, 2, 3])), Batch(fake, torch.tensor([2, 3, 0, 0]))


def around(positions=range(8, 12), purpose="training", shared=lambda x: x):
    return Surroundings(Chance(7, f"{purpose}/penalty", positions), shared)


def slopes(critic, images, labels, eps=1e-5):
    """The length of D's gradient at each image, by finite differences."""
    images = torch.from_numpy(images)
    squares = torch.zeros(len(images), dtype=torch.float64)
    with torch.no_grad():
        for pixel in range(PIXELS):
            nudge = torch.zeros(PIXELS, dtype=torch.float64)
            nudge[pixel] = eps
            nudge = nudge.view(SHAPE)
            difference = critic(images + nudge, labels) - critic(images - nudge, labels)
            squares += (difference / (2 * eps)).square()
    return squares.sqrt().numpy()


def test_every_penalty_has_a_formula_here():
    assert COSTS.keys() == PLACES.keys() == PENALTIES.keys()


@pytest.mark.parametrize("name", PENALTIES)
def test_value_and_gradient_in_the_weights_by_finite_differences(critic, batches, name):
    penalty = build_penalty({name: 3.0})

    def formula():
        images, labels = PLACES[name](*batches, range(8, 12))
        return 3.0 * np.mean(COSTS[name](slopes(critic, images, labels)))

    found = penalty(critic, *batches, around())
    assert found.item() == pytest.approx(formula(), rel=1e-7)
    weights = critic.layers[0].weight, critic.classes.weight
    gradients = torch.autograd.grad(found, weights)
    for weight, gradient, place in zip(weights, gradients, ((2, 0, 1, 2), (3, 1)), strict=True):
        sides = []
        with torch.no_grad():
            for sign in (1, -1):
                weight[place] += sign * 1e-4
                sides.append(formula())
                weight[place] -= sign * 1e-4
        assert gradient[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-4, rel=1e-4)


@pytest.mark.parametrize("name", PENALTIES)
def test_random_numbers_belong_to_positions(critic, batches, name):
    """Microbatches change nothing, but for the deviation of a pass, which is given here."""

    def shared(x):
        return torch.full_like(x, 0.5)

    place = PENALTIES[name].place
    whole = place(*batches, around(shared=shared))
    for start in (0, 2):
        half = [Batch(b.images[start : start + 2], b.labels[start : start + 2]) for b in batches]
        part = place(*half, around(range(8 + start, 10 + start), shared=shared))
        assert torch.equal(part.images, whole.images[start : start + 2])
        assert torch.equal(part.labels, whole.labels[start : start + 2])
    others = [
        place(*batches, around(range(9, 13), shared=shared)),
        place(*batches, around(purpose="training, attempt 1", shared=shared)),
    ]
    drawn = not any(whole.images is batch.images for batch in batches)
    assert all(torch.equal(other.images, whole.images) != drawn for other in others)


def test_points_between_lie_on_the_line_anywhere():
    ends = [Batch(torch.full((2000, 1, 1, 1), x), torch.zeros(2000)) for x in (-1.0, 3.0)]
    found = PENALTIES["wgan_gp"].place(*ends, around(range(2000))).images
    assert ((found >= -1) & (found <= 3)).all()
    assert abs(found.mean() - 1) < 0.1
    assert abs(found.var() - 16 / 12) < 0.1


def test_noise_of_dragan_is_normal_with_half_the_deviation():
    torch.manual_seed(0)
    images = 0.3 + 0.8 * torch.randn(500, 1, 4, 4)
    real = Batch(images, torch.zeros(500))
    noise = PENALTIES["dragan"].place(real, real, around(range(500))).images - images
    assert abs(noise.std() - 0.4) < 0.02
    assert abs(noise.mean()) < 0.02
    assert abs((noise.abs() < 0.4).float().mean() - 0.6827) < 0.02


@pytest.mark.parametrize("name", PENALTIES)
def test_a_critic_without_slope_gives_finite_gradients(batches, name):
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = build_penalty({name: 1.0})(
        lambda images, labels: (scale * images).flatten(1).sum(1), *batches, around()
    )
    assert value.item() == pytest.approx(float(COSTS[name](0.0)), abs=1e-5)
    value.backward()
    assert torch.isfinite(scale.grad)


@pytest.mark.parametrize("name", PENALTIES)
def test_they_work_where_gradients_are_off_and_leave_none_on_images(critic, batches, name):
    for batch in batches:
        batch.images.requires_grad_()
    build_penalty({name: 1.0})(critic, *batches, around()).backward()
    assert all(batch.images.grad is None for batch in batches)
    with torch.no_grad():
        assert build_penalty({name: 1.0})(critic, *batches, around()) > 0


@pytest.mark.parametrize("name", PENALTIES)
def test_through_self_attention(name):
    """The fused attention kernels cannot be differentiated twice."""
    layer = SelfAttention(8)
    nn.init.ones_(layer.gamma)
    batch = Batch(torch.randn(2, 8, 4, 4), torch.zeros(2))
    penalty = build_penalty({name: 1.0})
    penalty(lambda x, y: layer(x).flatten(1).sum(1), batch, batch, around(range(2))).backward()
    assert all((p.grad != 0).any() for p in (layer.theta.weight, layer.g.weight, layer.gamma))


def test_weighted_sums(critic, batches):
    each = {name: build_penalty({name: 1.0})(critic, *batches, around()) for name in PENALTIES}
    weights = {name: 0.5 + number for number, name in enumerate(PENALTIES)}
    total = build_penalty({**weights, "r2": 0.0})(critic, *batches, around())
    expected = sum(weights[name] * value for name, value in each.items() if name != "r2")
    torch.testing.assert_close(total, expected)
    assert build_penalty({})(critic, *batches, around()) == 0
    assert build_penalty({"r1": 0.0})(critic, *batches, around()) == 0
