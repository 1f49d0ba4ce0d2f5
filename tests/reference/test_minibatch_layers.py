"""The layers by which D compares images, against their formulas in numpy."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biggan_sn.data.loader import Batch, Loader, open_dataset
from biggan_sn.losses.penalties import build_penalty
from biggan_sn.models.bound import estimate_bound
from biggan_sn.models.zoo import build_discriminator
from biggan_sn.nn.lipschitz import constrain_output
from biggan_sn.nn.minibatch import (
    GROUP,
    KERNEL_DIM,
    KERNELS,
    MINIBATCH_LAYERS,
    MinibatchDiscrimination,
    MinibatchStddev,
)
from biggan_sn.nn.norm import share_statistics
from biggan_sn.training.build import build
from biggan_sn.training.world import World

COMPARING = [name for name in MINIBATCH_LAYERS if name != "none"]


def discrimination(layer, h):
    """Salimans et al. 2016, section 3.2, image by image: [N, A] -> [N, B]."""
    tensor = layer.kernels.weight.detach().numpy().T.reshape(h.shape[1], KERNELS, KERNEL_DIM)
    rows = [np.einsum("a,abc->bc", f, tensor) for f in h]
    return np.array(
        [sum(np.exp(-np.abs(one - other).sum(1)) for other in rows) for one in rows]
    )  # fmt: skip


def stddev(layer, h):
    """Karras et al. 2018, section 3, group by group: [N, C] -> [N, 1]."""
    found = np.zeros((len(h), 1))
    for first in range(0, len(h), GROUP):
        group = h[first : first + GROUP]
        found[first : first + GROUP] = np.sqrt(group.var(0) + 1e-8).mean()
    return found


FORMULAS = {"discrimination": discrimination, "stddev": stddev}


def layer_of(name, features=6):
    torch.manual_seed(3)
    return MINIBATCH_LAYERS[name](features).double()


def features(count, seed=0, size=0.3):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(count, 6, dtype=torch.float64, generator=generator)


def test_every_layer_has_a_formula_here():
    assert sorted(FORMULAS) == sorted(COMPARING)


@pytest.mark.parametrize("name", COMPARING)
@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_layers_are_their_formulas_on_each_kind_alone(name, sizes, seed):
    layer, h = layer_of(name), features(sum(sizes), seed)
    found = layer(h, sizes).detach().numpy()
    ends = np.cumsum([0, *sizes])
    expected = [FORMULAS[name](layer, h[first:end].numpy()) for first, end in pairwise(ends)]
    assert found.shape == (sum(sizes), 6 + layer.width)
    np.testing.assert_array_equal(found[:, :6], h.numpy())
    np.testing.assert_allclose(found[:, 6:], np.concatenate(expected), rtol=1e-12, atol=1e-15)
    if len(sizes) == 1:
        assert torch.equal(layer(h), layer(h, sizes)), "one kind is the default"


@pytest.mark.parametrize("name", COMPARING)
def test_gradients_by_central_differences(name):
    """In the features of every image, through the statistics of all others of its kind."""
    layer, h = layer_of(name), features(6).requires_grad_()
    torch.manual_seed(5)
    weights = torch.randn(6, 6 + layer.width, dtype=torch.float64)

    def value(h):
        return (weights * layer(h, [4, 2])).sum()

    (slope,) = torch.autograd.grad(value(h), h)
    for place in [(0, 0), (3, 5), (4, 2), (5, 1)]:
        nudge = torch.zeros_like(h)
        nudge[place] = 1e-6
        with torch.no_grad():
            difference = (value(h + nudge) - value(h - nudge)) / 2e-6
        assert slope[place].item() == pytest.approx(difference.item(), rel=1e-6)
    others = torch.autograd.grad(layer(h, [4, 2])[0, 6:].sum(), h)[0].abs().sum(1)
    assert (others[1:4] > 0).all() and (others[4:] == 0).all(), "its kind, and no other"


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 9), seed=st.integers(0, 99))
def test_discrimination_knows_no_order_and_grows_with_its_batch(count, seed):
    layer, h = layer_of("discrimination"), features(count, seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    found = layer(h)[:, 6:]
    torch.testing.assert_close(layer(h[order])[:, 6:], found[order], rtol=1e-12, atol=0)
    assert (found >= 1 - 1e-12).all() and (found <= count + 1e-12).all()
    torch.testing.assert_close(layer(torch.cat([h, h]))[:count, 6:], 2 * found)
    same = h[:1].expand(count, -1)
    torch.testing.assert_close(
        layer(same)[:, 6:], torch.full((count, KERNELS), float(count)).double()
    )


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 13), seed=st.integers(0, 99))
def test_stddev_knows_its_group_and_no_other(count, seed):
    layer, h = layer_of("stddev"), features(count, seed)
    found = layer(h)[:, 6]
    moved = h.clone()
    moved[-1] += 1.0
    groups = torch.arange(count) // GROUP
    same = groups != groups[-1]
    assert torch.equal(layer(moved)[same, 6], found[same])
    order = torch.randperm(min(count, GROUP), generator=torch.Generator().manual_seed(seed))
    first = layer(torch.cat([h[: len(order)][order], h[len(order) :]]))[:, 6]
    torch.testing.assert_close(first, found)
    flat = layer(h[:1].expand(count, -1))[:, 6]
    torch.testing.assert_close(flat, torch.full_like(flat, 1e-4), msg="copies do not deviate")


@pytest.mark.parametrize("name", COMPARING)
def test_statistics_are_fp32_under_autocast(name):
    layer, h = MINIBATCH_LAYERS[name](6), features(4).float() + 100.0
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(h)
    assert found.dtype == torch.float32
    assert torch.equal(found, layer(h))
    assert layer(h.bfloat16()).dtype == torch.float32


def with_layer(config, name):
    return replace(config, model=replace(config.model, minibatch_layer=name))


@pytest.mark.parametrize("name", COMPARING)
def test_real_images_and_gs_do_not_meet_in_d(small_config, name):
    """The joined pass of a step gives the logits of two passes; one joined kind would not."""
    config = with_layer(small_config, name)
    step = build(config, World())
    loader = Loader(open_dataset(config.data), config.data, 0, torch.device("cpu"))
    real = next(loader.batches(0, 4, 0, 1, 2))
    loader.close()
    fake = step.sample(step.g.network, 0, 0, range(2))
    with torch.no_grad():
        apart = [step.judge(step.d.network, batch)[0] for batch in (real, fake)]
        together = step.judge(step.d.network, real, fake)
        images, labels = (torch.cat(pair) for pair in zip(
            (real.images, real.labels), (fake.images, fake.labels), strict=True))  # fmt: skip
        mixed = step.d.network(images, labels)
    for found, expected in zip(together, apart, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (torch.cat(together) - mixed).abs().max() > 1e-4


@pytest.mark.parametrize("name", COMPARING)
def test_d_with_a_layer_is_projection_beside_the_statistics(small_config, name):
    d = build_discriminator(with_layer(small_config, name)).double()
    torch.manual_seed(0)
    x, y = torch.rand(5, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    h = d.features(x).detach().numpy()
    joined = np.concatenate([h, FORMULAS[name](d.minibatch, h)], 1)
    expected = joined @ d.linear.weight[0].detach().numpy() + d.linear.bias.item()
    expected += (d.embed.weight[y].detach().numpy() * h).sum(1)
    np.testing.assert_allclose(d(x, y).detach().numpy(), expected, rtol=1e-9)
    one = d(x[:1], y[:1])
    assert one.shape == (1,) and torch.isfinite(one).all(), "an image alone is judged too"
    plain = build_discriminator(small_config)
    assert not any(key.startswith("minibatch") for key in plain.state_dict())
    assert estimate_bound(d.float()).total > 0


@pytest.mark.parametrize("name", COMPARING)
def test_r1_takes_the_gradient_of_the_sum_of_logits(name):
    """As the papers that have both do: half the mean square, by central differences."""
    torch.manual_seed(0)
    layer, first, last = layer_of(name), nn.Linear(4, 6).double(), nn.Linear(6, 1).double()
    head = nn.Linear(6 + layer.width, 1).double()
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)

    def critic(images, labels=None):
        h = torch.tanh(first(images.flatten(1)))
        return (head(layer(h)) + last(h)).squeeze(1)

    squares = 0.0
    for place in np.ndindex(*x.shape):
        nudge = torch.zeros_like(x)
        nudge[place] = 1e-5
        with torch.no_grad():
            total = ((critic(x + nudge) - critic(x - nudge)).sum() / 2e-5).item()
        squares += total**2
    real = Batch(x, torch.zeros(3, dtype=torch.int64))
    penalty = build_penalty({"r1": 1.0})(critic, real, real, None)
    assert penalty.item() == pytest.approx(squares / 3 / 2, rel=1e-6)
    penalty.backward()
    assert first.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", COMPARING)
def test_gradient_normalization_is_refused(small_config, name):
    d = build_discriminator(with_layer(small_config, name))
    with pytest.raises(ValueError, match=r"minibatch layer, in which .* it has minibatch"):
        constrain_output(d, ["gradient_normalization"])
    constrain_output(build_discriminator(small_config), ["gradient_normalization"])


@pytest.mark.parametrize("kind", [MinibatchDiscrimination, MinibatchStddev])
def test_parts_of_a_batch_have_statistics_of_their_own(kind):
    """model.norm_batch below the microbatch; in eval mode all images meet."""
    layer, h = kind(6).double(), features(8)
    share_statistics(nn.Sequential(layer), [8], 4, 1)
    halves = torch.cat([layer.eval()(part) for part in h.split(4)])
    torch.testing.assert_close(layer.train()(h), halves)
    with pytest.raises(ValueError, match="a batch of 3 images, where every process must have 8"):
        layer(h[:3])
    layer.eval()(h[:3])


@pytest.mark.parametrize("name", COMPARING)
def test_a_step_with_it_trains_all_of_it(small_config, name):
    step = build(with_layer(small_config, name), World())
    config = small_config
    loader = Loader(open_dataset(config.data), config.data, 0, torch.device("cpu"))
    before = {n: p.detach().clone() for n, p in step.d.network.named_parameters()}
    reals = loader.batches(0, config.batch_size, 0, 1, step.d.microbatch)
    for number in range(2):
        scalars = step(number, reals)
    loader.close()
    assert all(torch.isfinite(value) for value in scalars.values())
    now = dict(step.d.network.named_parameters())
    assert [n for n in before if torch.equal(before[n], now[n])] == []
