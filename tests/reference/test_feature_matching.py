"""Feature matching against the formula of Salimans et al. 2016, with features taken by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biggan_sn.config import FeatureMatchingConfig, LipschitzConfig, PlayerConfig
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.losses.feature_matching import FeatureMatching
from biggan_sn.nn.recomputing import recompute
from biggan_sn.training.build import build, check
from biggan_sn.training.step import Means
from biggan_sn.training.world import World


def small_critic():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(3, 1)
    ).double()


def term_of(critic, matching, real, fake):
    found = []
    for images in (real, fake):
        with matching.watching(critic) as (seeing, features):
            seeing(images)
        found.append(features)
    return matching.loss(found[1], [matching.means(found[0])])


@settings(max_examples=20, deadline=None)
@given(reals=st.integers(1, 5), fakes=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_term_is_its_formula_and_so_is_its_slope(reals, fakes, seed):
    """Eq. 1 in numpy for two layers; its gradient at the images by central differences."""
    critic = small_critic()
    matching = FeatureMatching(critic, FeatureMatchingConfig(("0", "2"), weight=0.7))
    torch.manual_seed(seed)
    real, fake = (torch.randn(n, 1, 3, 3, dtype=torch.float64) for n in (reals, fakes))

    def formula(fake):
        total = 0.0
        for depth in (1, 3):  # the outputs of layers 0 and 2
            with torch.no_grad():
                f, g = (critic[:depth](x).numpy() for x in (real, fake))
            total += np.square(f.mean(0) - g.mean(0)).sum()
        return 0.7 * total

    fake.requires_grad_()
    term = term_of(critic, matching, real, fake)
    assert term.item() == pytest.approx(formula(fake), rel=1e-12)
    (slope,) = torch.autograd.grad(term, fake)
    for place in ((0, 0, 0, 0), (fakes - 1, 0, 1, 1), (0, 0, 2, 1)):
        nudge = torch.zeros_like(fake)
        nudge[place] = 1e-6
        difference = (formula(fake.detach() + nudge) - formula(fake.detach() - nudge)) / 2e-6
        assert slope[place].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)


def test_the_order_of_images_does_not_matter_and_equal_sets_match():
    critic = small_critic()
    matching = FeatureMatching(critic, FeatureMatchingConfig(("2",)))
    torch.manual_seed(1)
    real, fake = torch.randn(2, 5, 1, 3, 3, dtype=torch.float64)
    term = term_of(critic, matching, real, fake)
    shuffled = term_of(critic, matching, real.flip(0), fake.roll(2, 0))
    torch.testing.assert_close(shuffled, term, rtol=1e-12, atol=0)
    assert term > 1e-3
    assert term_of(critic, matching, real, real.flip(0)) < 1e-20


def test_statistics_of_half_precision_are_fp32():
    matching = FeatureMatching(small_critic(), FeatureMatchingConfig(("0",)))
    means = matching.means({"0": torch.full((3, 2), 300.0, dtype=torch.float16)})["0"]
    assert means.dtype == torch.float32 and (means == 300).all()


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def ready(config):
    step = build(config, World())
    loader = Loader(open_dataset(config.data), config.data, config.seed, torch.device("cpu"))
    return step, loader.batches(0, config.batch_size, 0, 1, step.d.microbatch)


def fixed(config, **changes):
    """Of one pass per update, without terms that would hide the one in question."""
    side = PlayerConfig(lr=1e-3)
    return replace(config, generator=side, discriminator=side, **changes)


@pytest.mark.parametrize("rows", [("spectral_norm",), ("gradient_normalization",)], ids=str)
@pytest.mark.parametrize("alone", [True, False])
def test_what_moves_g_is_the_formula_on_the_images_of_ds_last_turn(
    small_config, rows, alone, double
):
    config = fixed(
        small_config,
        lipschitz=LipschitzConfig((), rows),
        feature_matching=FeatureMatchingConfig(("blocks.1",), 0.5, alone),
        regularizers=replace(small_config.regularizers, generator={}),
    )
    step, reals = ready(config)
    shown = []
    reals = (shown.append(batch) or batch for batch in reals)
    for turn in range(2):
        step.update_discriminator(0, turn, reals, Means())
    assert len(shown) == 2, "no image is read for G's turn"

    def by_hand(images):
        d = step.d.network
        return d.blocks[1](d.attention["0"](d.blocks[0](images)))

    for parameter in step.g.trainable:
        parameter.requires_grad_(True)
    fake = step.sample(step.g.network, 0, 2, range(4))
    distance = by_hand(shown[1].images).mean(0) - by_hand(fake.images).mean(0)
    expected = 0.5 * distance.square().sum()
    term = expected.item()
    if not alone:
        expected = expected + step.objective.g_loss(step.judge(step.d.network, fake)[0])
    gradients = torch.autograd.grad(expected, step.g.trainable)
    seen = Means()
    step.update_generator(0, seen)
    assert seen.result()["g_matching"].item() == pytest.approx(term, rel=1e-9)
    for parameter, gradient in zip(step.g.trainable, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-9)


def test_nothing_is_kept_or_shown_where_nothing_is_asked_for(small_config):
    step, reals = ready(fixed(small_config))
    assert "g_matching" not in step(0, reals)
    assert step.shown.kept == []
    with step.matching.watching(step.d.network) as (d, features):
        assert d is step.d.network and features == {}


def test_the_mean_of_real_features_does_not_hang_on_microbatches(small_config):
    found = []
    for microbatch in (1, 2, 4):
        side = PlayerConfig(lr=1e-3, microbatch=microbatch)
        config = replace(
            small_config,
            discriminator=side,
            d_steps=1,
            feature_matching=FeatureMatchingConfig(("blocks.2.conv1",)),
        )
        step, reals = ready(config)
        step.shown.kept = [next(reals) for _ in range(4 // microbatch)]
        means = [means["blocks.2.conv1"] for means in step.real_features()]
        assert len(means) == 4 // microbatch
        found.append(torch.stack(means).mean(0))
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[2])


def test_recomputed_and_compiled_layers_show_the_same(small_config):
    step, reals = ready(fixed(small_config))
    network, images = step.d.network, next(reals)
    config = FeatureMatchingConfig(("blocks.1", "blocks.1.conv1"))
    target = FeatureMatching(network, config).means(
        {"blocks.1": torch.zeros(1, 8, 8, 8), "blocks.1.conv1": torch.zeros(1, 8, 16, 16)}
    )

    def slope():
        matching = FeatureMatching(network, config)
        x = images.images.clone().requires_grad_()
        with matching.watching(network) as (d, features):
            d(x, images.labels)
        return torch.autograd.grad(matching.loss(features, [target]), x)[0]

    plain = slope()
    assert plain.abs().max() > 0
    network.compile(backend="eager")
    network(images.images, images.labels)
    torch.testing.assert_close(slope(), plain)
    recompute(network.blocks)
    torch.testing.assert_close(slope(), plain)


def test_a_wrong_name_is_answered_with_the_right_ones(small_config):
    config = replace(small_config, feature_matching=FeatureMatchingConfig(("blocks.9",)))
    with pytest.raises(
        ValueError, match=r"no layer 'blocks.9'; it has .*blocks.3.*linear$"
    ) as told:
        check(config, 1)
    step, _ = ready(small_config)
    stored = step.d.network.state_dict()
    names = str(told.value).split("it has ")[1].split(", ")
    assert all(any(key.startswith(f"{name}.") for key in stored) for name in names)
    for name in names:  # each of them works
        config = replace(small_config, feature_matching=FeatureMatchingConfig((name,)))
        check(config, 1)
    matching = FeatureMatching(step.d.network, FeatureMatchingConfig(tuple(names)))
    with matching.watching(step.d.network) as (d, features):
        d(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))
    assert sorted(features) == sorted(names)


def test_without_real_images_it_says_so(small_config):
    step, _ = ready(fixed(small_config, feature_matching=FeatureMatchingConfig(("linear",))))
    with pytest.raises(ValueError, match="real images of a turn of D"):
        step.update_generator(0, Means())


def test_alone_without_layers_is_refused():
    with pytest.raises(ValueError, match="leaves G without a loss"):
        FeatureMatchingConfig(alone=True)
