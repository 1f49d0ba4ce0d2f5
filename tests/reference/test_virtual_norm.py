"""Virtual batch normalisation against its definition in numpy, and that images do not meet in G."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import biggan_sn
from biggan_sn.config import PlayerConfig
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.evaluation.sampling import Sampling, draw_classes, images_of
from biggan_sn.models.latent import Latents
from biggan_sn.models.loading import load_generator
from biggan_sn.models.zoo import build_generator
from biggan_sn.nn.recomputing import recompute
from biggan_sn.nn.virtual import VirtualBatchNorm2d
from biggan_sn.training.build import build, check
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World


def pixels(count, seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, channels, 2, 3, dtype=torch.float64, generator=generator)
    return x * torch.arange(1, channels + 1)[:, None, None] + 2.0


def by_definition(x, reference, eps=1e-5):
    """Salimans et al. 2016, section 3.5: every image in one batch with the whole reference batch,
    and the reference batch by itself."""
    x, out = x.numpy(), np.empty(x.shape)
    for number in range(len(x)):
        alone = [x[number : number + 1]] if number >= reference else []
        batch = np.concatenate([x[:reference], *alone])
        mean, variance = batch.mean((0, 2, 3)), batch.var((0, 2, 3))
        scale = 1 / np.sqrt(variance + eps)
        out[number] = (x[number] - mean[:, None, None]) * scale[:, None, None]
    return out


@settings(max_examples=30, deadline=None)
@given(reference=st.integers(1, 6), others=st.integers(0, 5), seed=st.integers(0, 99))
def test_it_is_its_definition(reference, others, seed):
    x = pixels(reference + others, seed)
    norm = VirtualBatchNorm2d(3, reference, affine=False).double()
    np.testing.assert_allclose(norm(x).numpy(), by_definition(x, reference), rtol=1e-9, atol=1e-10)


def test_gain_and_bias():
    x, norm = pixels(5), VirtualBatchNorm2d(3, 2).double()
    plain = VirtualBatchNorm2d(3, 2, affine=False).double()(x)
    torch.testing.assert_close(norm(x), plain)
    gain, bias = torch.randn(2, 5, 3, dtype=torch.float64)
    expected = plain * gain[:, :, None, None] + bias[:, :, None, None]
    torch.testing.assert_close(norm(x, gain, bias), expected)
    with torch.no_grad():
        norm.weight.copy_(gain[0])
        norm.bias.copy_(bias[0])
    expected = plain * gain[0, :, None, None] + bias[0, :, None, None]
    torch.testing.assert_close(norm(x), expected)


def test_gradients_by_central_differences():
    """At the image, and at the reference images, from which the statistics come."""
    torch.manual_seed(0)
    norm, weights = VirtualBatchNorm2d(3, 3, affine=False).double(), torch.randn(5, 3, 2, 3)
    x = pixels(5).requires_grad_()

    def value(x):
        return (weights * norm(x)).sum()

    (slope,) = torch.autograd.grad(value(x), x)
    for place in [(0, 0, 0, 0), (2, 1, 1, 2), (3, 2, 0, 1), (4, 0, 1, 0)]:
        nudge = torch.zeros_like(x)
        nudge[place] = 1e-6
        with torch.no_grad():
            difference = (value(x + nudge) - value(x - nudge)) / 2e-6
        assert slope[place].item() == pytest.approx(difference.item(), rel=1e-6)
    met = torch.autograd.grad(norm(x)[4].sum() + norm(x)[4].square().sum(), x)[0]
    met = met.abs().sum((1, 2, 3))
    assert (met[:3] > 0).all() and met[3] == 0, "the reference batch, and no other image"


def test_statistics_of_half_precision_are_fp32():
    x = (pixels(6) + 1000).bfloat16()
    found = VirtualBatchNorm2d(3, 4, affine=False)(x)
    assert found.dtype == torch.bfloat16
    expected = torch.from_numpy(by_definition(x.double(), 4))
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.02)


def virtual(config, reference=3, **changes):
    model = replace(config.model, norm="virtual_batch", reference_images=reference, **changes)
    return replace(config, model=model)


@pytest.mark.parametrize("name", ["biggan", "sagan", "sngan"])
@pytest.mark.parametrize("training", [True, False])
def test_an_image_of_g_does_not_depend_on_the_others(small_config, name, training):
    config = virtual(small_config, name=name, shared_dim=None, hierarchical_z=None, z_dim=8)
    g = build_generator(config).double().train(training)
    z = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 1, 2, 0, 1])
    before = {key: value.clone() for key, value in g.state_dict().items()}
    with torch.no_grad():
        together = g(z, y)
        alone = torch.cat([g(z[i : i + 1], y[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)
        shuffled = g(z.flip(0), y.flip(0))
        torch.testing.assert_close(shuffled.flip(0), together, rtol=1e-10, atol=1e-12)
        batch = build_generator(replace(config, model=replace(config.model, norm="batch")))
        batch.double().train()
        assert (batch(z, y)[:2] - batch(z[:2], y[:2])).abs().max() > 1e-4, "as batch norm does"
    for key, value in g.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_reference_batch_is_a_function_of_the_seed(small_config):
    config = virtual(small_config)
    g = build_generator(config)
    latents = Latents(config.seed, 8, 3, "reference batch")
    assert torch.equal(g.reference_z, latents.z(range(3)))
    assert torch.equal(g.reference_y, latents.y(range(3)))
    other = build_generator(replace(config, seed=1))
    assert not torch.equal(other.reference_z, g.reference_z)
    check(config, 1)
    plain = build_generator(small_config).state_dict()
    assert not any(key.startswith("reference") for key in plain)


def test_statistics_are_those_of_the_weights_as_they_are(small_config):
    g = build_generator(virtual(small_config)).double()
    z, y = torch.ones(1, 8, dtype=torch.float64), torch.tensor([1])
    seen = []
    norm = g.blocks[0].norm1.norm
    norm.register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        g(z, y)
        g.linear.weight[:, 0] *= 3.0
        g(z, y)
    assert len(seen[0][0]) == 4, "three of the reference and one"
    for given_, output in seen:
        mean, variance = given_[:3].mean((0, 2, 3)), given_[:3].var((0, 2, 3), correction=0)
        gain = 1 + g.blocks[0].norm1.gain(
            torch.cat((g.shared(g.reference_y), g.reference_z.chunk(g.chunks, 1)[1]), 1)
        )
        bias = g.blocks[0].norm1.bias(
            torch.cat((g.shared(g.reference_y), g.reference_z.chunk(g.chunks, 1)[1]), 1)
        )
        expected = (given_[:3] - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
        expected = expected * gain[:, :, None, None] + bias[:, :, None, None]
        torch.testing.assert_close(output[:3], expected)


def test_microbatches_of_g_change_nothing(small_config):
    """As they do not, where no image sees another: gradients of two passes are those of one."""
    gradients = []
    torch.set_default_dtype(torch.float64)
    for microbatch in (1, 4):
        side = PlayerConfig(lr=1e-3, microbatch=microbatch)
        step = build(virtual(replace(small_config, generator=side)), World())
        with step.g.turn():
            for share in step.g.microbatches():
                fake = step.sample(step.g.model, 0, 2, share)
                step.g.descend(step.judge(step.d.network, fake)[0].mean())
        gradients.append({n: p.grad for n, p in step.g.network.named_parameters()})
    torch.set_default_dtype(torch.float32)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-8, atol=1e-12, msg=name)


def test_recomputed_blocks_give_the_same(small_config):
    g = build_generator(virtual(small_config))
    z, y = torch.randn(2, 8), torch.tensor([0, 2])
    one = torch.autograd.grad(g(z, y).square().sum(), list(g.parameters()), allow_unused=True)
    recompute(g.blocks)
    other = torch.autograd.grad(g(z, y).square().sum(), list(g.parameters()), allow_unused=True)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


def test_samples_of_a_checkpoint_are_the_same_one_at_a_time(small_config, tmp_path):
    config = virtual(replace(small_config, steps=3))
    trainer = Trainer(config, tmp_path, World())
    trainer.run()
    generator, _ = load_generator(trainer.checkpoints.newest())
    public = biggan_sn.load_generator(tmp_path)
    z, y = torch.randn(6, 8), torch.tensor([0, 1, 2, 2, 1, 0])
    together = images_of(generator, z, y)
    assert torch.equal(images_of(public, z, y), together)
    alone = torch.cat([images_of(generator, z[i : i + 1], y[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)
    assert torch.equal(images_of(trainer.play.ema.generator(), z, y), together)
    assert torch.equal(generator.reference_z, trainer.play.g.network.reference_z)
    standing = Sampling(standing_statistics=2)
    images, _ = draw_classes(generator, [0, 1], 2, standing)
    alone, _ = draw_classes(generator, [1], 2, standing)
    assert (images[2:].int() - alone.int()).abs().max() <= 1


def test_a_step_trains_g_with_it(small_config):
    config = virtual(small_config)
    step = build(config, World())
    loader = Loader(open_dataset(config.data), config.data, 0, torch.device("cpu"))
    before = {n: p.detach().clone() for n, p in step.g.network.named_parameters()}
    reals = loader.batches(0, config.batch_size, 0, 1, step.d.microbatch)
    for number in range(2):
        step(number, reals)
    loader.close()
    now = dict(step.g.network.named_parameters())
    assert [n for n in before if torch.equal(before[n], now[n])] == []
