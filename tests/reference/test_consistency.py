"""CR, bCR and zCR against formulas of their own: the terms alone, and in updates of both players in
float64, where D and G pass over all images one kind after the other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from biggan_sn.config import AugmentConfig, ConsistencyConfig, LipschitzConfig, PlayerConfig
from biggan_sn.data.augment import AUGMENTATIONS, augment
from biggan_sn.data.chance import Chance
from biggan_sn.data.loader import Batch, Loader, open_dataset
from biggan_sn.losses.consistency import Consistency
from biggan_sn.training.build import build
from biggan_sn.training.step import Means
from biggan_sn.training.world import World

NOISE = 0.3
WEIGHTS = {"real": 2.0, "fake": 3.0, "latent_d": 5.0, "latent_g": 0.5}
TRANSFORMS = ("flip", "translation")
SOME = [{name: WEIGHTS[name]} for name in ("real", "fake", "latent_d")] + [WEIGHTS]


def changed(images, kind, positions, purpose="training"):
    rows = {name: AUGMENTATIONS[name] for name in TRANSFORMS}
    return augment(images, rows, Chance(0, f"{purpose}/consistency/{kind}", positions))


def batch(number, count=4):
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    return Batch(images, torch.arange(count) + number)


@pytest.mark.parametrize("weights", SOME, ids=str)
def test_twins_and_what_they_cost(weights):
    config = ConsistencyConfig(**weights, latent_noise=NOISE, transforms=TRANSFORMS)
    consistency, positions = Consistency(config, 0, "p"), range(8, 12)
    real, fake, near = batch(0), batch(1), batch(2)
    twins = consistency.twins(real, fake, lambda noise: [near][noise != NOISE], positions)
    expected = {
        "real": (changed(real.images, "real", positions, "p"), real.labels),
        "fake": (changed(fake.images, "fake", positions, "p"), fake.labels),
        "latent_d": (near.images, near.labels),
    }
    asked = [name for name in expected if name in weights]
    assert len(twins) == len(asked)
    for twin, name in zip(twins, asked, strict=True):
        assert torch.equal(twin.images, expected[name][0])
        assert torch.equal(twin.labels, expected[name][1])
    logits = torch.randn(2 + len(twins), 4, dtype=torch.float64).requires_grad_()
    found = consistency.d_loss(logits[0], logits[1], list(logits[2:]), twins)
    n = logits.detach().numpy()
    by_hand = sum(
        weights[name] * np.mean((n[2 + i] - n[0 if name == "real" else 1]) ** 2)
        for i, name in enumerate(asked)
    )
    assert found.item() == pytest.approx(by_hand, rel=1e-12)
    found.backward()
    for i, name in enumerate(asked):  # through the twins and through what they are twins of
        slope = 2 * weights[name] * (n[2 + i] - n[0 if name == "real" else 1]) / 4
        np.testing.assert_allclose(logits.grad[2 + i], slope)
    assert torch.allclose(logits.grad.sum(0), torch.zeros(4, dtype=torch.float64))


def test_g_s_term_is_minus_the_mean_square():
    consistency = Consistency(ConsistencyConfig(latent_g=0.5, latent_noise=NOISE), 0, "p")
    fake, near = batch(1), batch(2)
    fake.images.requires_grad_(), near.images.requires_grad_()
    found = consistency.g_loss(fake, lambda noise: [near][noise != NOISE])
    apart = (fake.images - near.images).detach().numpy()
    assert found.item() == pytest.approx(-0.5 * np.mean(apart**2), rel=1e-12)
    found.backward()
    np.testing.assert_allclose(fake.images.grad, -apart / apart.size)
    np.testing.assert_allclose(near.images.grad, apart / apart.size)


def test_off_nothing_is_drawn():
    consistency = Consistency(ConsistencyConfig(), 0, "p")
    assert consistency.twins(batch(0), batch(1), None, range(4)) == []
    assert consistency.d_loss(torch.zeros(4), torch.zeros(4), [], []) == 0
    assert consistency.g_loss(batch(1), None) == 0


# ---------------------------------------------------------------------------------- in the game


@pytest.fixture
def ready(small_config):
    """A step in float64 without other terms, and the real images of its first update."""

    def make(augmented=(), **weights):
        torch.set_default_dtype(torch.float64)
        side = PlayerConfig(lr=1e-3)
        config = replace(
            small_config,
            penalties={},
            lipschitz=LipschitzConfig((), ()),  # u and v move after each update
            generator=side,
            discriminator=side,
            augment=AugmentConfig(augmented),
            consistency=ConsistencyConfig(**weights, latent_noise=NOISE, transforms=TRANSFORMS),
        )
        step = build(config, World())
        loader = Loader(open_dataset(config.data), config.data, config.seed, torch.device("cpu"))
        real = next(loader.batches(0, config.batch_size, 0, 1, 4))
        loader.close()
        return step, real

    yield make
    torch.set_default_dtype(torch.float32)


def heard(player):
    """The gradient of the loss that a player descends, instead of its descent."""
    found = {}

    def descend(loss, term=0.0):
        found["loss"] = loss.detach()
        found["gradient"] = torch.autograd.grad(loss, player.trainable, allow_unused=True)

    player.descend = descend
    player.engine.step = lambda scale: True
    return found


def assert_gradients(found, expected):
    for mine, wanted in zip(found, expected, strict=True):
        assert (mine is None) == (wanted is None)
        if mine is not None:
            torch.testing.assert_close(mine, wanted, rtol=1e-8, atol=1e-10)


def latents(step, positions):
    """Two latent vectors of a position, at that distance, and its class."""
    here, there = step.latents.z(positions), step.latents.z(positions, noise=NOISE)
    assert 0.5 * NOISE < (there - here).std() < 1.5 * NOISE
    return here, there, step.latents.y(positions)


@pytest.mark.parametrize("augmented", [(), ("color", "cutout")], ids=["", "augmented"])
@pytest.mark.parametrize("weights", SOME, ids=str)
def test_d_descends_along_its_objective_and_the_terms(ready, weights, augmented):
    step, real = ready(augmented, **weights)
    positions = step.positions(3, 1, range(4))
    here, there, y = latents(step, positions)
    with torch.no_grad():
        drawn = [Batch(step.g.network(z, y), y) for z in (here, there)]
        x = step.door(real, "real", positions)
        # Seen through the same augmentation: what differs is the latent vector alone.
        fake, near = (step.door(batch, "fake", positions).images for batch in drawn)
        beside = [changed(x.images, "real", positions), changed(fake, "fake", positions), near]
    d = step.d.network
    found = heard(step.d)
    step.update_discriminator(3, 1, iter([real]), Means())
    for parameter in step.d.trainable:
        parameter.requires_grad_(True)
    of_x, of_fake = d(x.images, x.labels), d(fake, y)
    loss = torch.relu(1 - of_x).mean() + torch.relu(1 + of_fake).mean()
    for name, images, labels, other in zip(
        ("real", "fake", "latent_d"),
        beside,
        (x.labels, y, y),
        (of_x, of_fake, of_fake),
        strict=True,
    ):
        term = ((d(images, labels) - other) ** 2).mean()
        assert term > 1e-12
        loss = loss + weights.get(name, 0) * term
    torch.testing.assert_close(found["loss"], loss.detach())
    expected = torch.autograd.grad(loss, step.d.trainable, allow_unused=True)
    assert_gradients(found["gradient"], expected)


def test_g_descends_along_its_objective_and_away_from_its_neighbours(ready):
    step, _ = ready(("color",), latent_g=0.5)
    positions = step.positions(3, step.d_steps, range(4))
    here, there, y = latents(step, positions)
    found = heard(step.g)
    seen = Means()
    step.update_generator(3, seen)
    for parameter in step.g.trainable:
        parameter.requires_grad_(True)
    images, near = step.g.network(here, y), step.g.network(there, y)
    term = -0.5 * (images - near).square().mean()
    shown = step.door(Batch(images, y), "fake", positions)
    loss = -step.d.network(shown.images, y).mean() + term
    torch.testing.assert_close(found["loss"], loss.detach())
    torch.testing.assert_close(seen.result()["g_consistency"], term.detach())
    expected = torch.autograd.grad(loss, step.g.trainable, allow_unused=True)
    assert_gradients(found["gradient"], expected)


def test_one_pass_of_d_over_all_of_them(ready):
    step, real = ready(**WEIGHTS)
    judge, sizes = step.judge, []
    step.judge = lambda d, *batches: sizes.append(len(batches)) or judge(d, *batches)
    step.update_discriminator(0, 0, iter([real]), Means())
    assert sizes == [5]
