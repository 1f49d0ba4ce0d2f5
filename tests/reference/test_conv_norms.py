"""The norms of convolutions, and D's Lipschitz bound, against dense matrices and closed forms."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from biggan_sn.config import Config, DataConfig, LipschitzConfig, ModelConfig, Sigma0Config
from biggan_sn.models.bound import estimate_bound
from biggan_sn.models.discriminator import Discriminator
from biggan_sn.models.plan import Stage
from biggan_sn.models.zoo import build_discriminator
from biggan_sn.nn.constraint import Constraint
from biggan_sn.nn.conv_norm import ConvMap, circular_norm, conv_map, conv_norm
from biggan_sn.nn.lipschitz import constrain
from biggan_sn.nn.matrices import raw_weight
from biggan_sn.nn.spectrum import Spectrum

BOX = torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64)
GEOMETRIES = [  # kernel, stride, padding, side
    (1, 1, 0, 4), (1, 2, 0, 5), (3, 1, 0, 5), (3, 1, 1, 6), (3, 2, 1, 5), (3, 2, 1, 6),
    (3, 2, 0, 6), (4, 1, 1, 5), (4, 2, 1, 6), (4, 2, 1, 7), (4, 2, 0, 7), (5, 1, 1, 6),
    (5, 2, 0, 7), (5, 2, 1, 7),
]  # fmt: skip
geometry = pytest.mark.parametrize(("kernel", "stride", "padding", "side"), GEOMETRIES)


def gaussian(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def example(kernel, stride, padding, side, channels=(3, 2)):
    return ConvMap(gaussian(*channels, kernel, kernel), side, stride, padding)


def dense(convolution):
    """The matrix itself."""
    return convolution @ torch.eye(convolution.shape[1], dtype=torch.float64)


def norm_of(matrix):
    return float(torch.linalg.matrix_norm(matrix, 2))


def reshaped_norm(kernel):
    return norm_of(kernel.flatten(1))


@geometry
def test_a_map_is_the_convolution(kernel, stride, padding, side):
    convolution = example(kernel, stride, padding, side)
    images = gaussian(4, 2, side, side, seed=1)
    expected = F.conv2d(images, convolution.kernel, None, stride, padding)
    assert convolution.side_out == expected.shape[-1]
    assert torch.equal(convolution @ images.flatten(1).mT, expected.flatten(1).mT)
    assert convolution.shape == (expected[0].numel(), images[0].numel())


@geometry
def test_mt_is_the_transpose(kernel, stride, padding, side):
    convolution = example(kernel, stride, padding, side)
    transpose = convolution.mT
    assert transpose.shape == convolution.shape[::-1]
    assert transpose.mT == convolution
    torch.testing.assert_close(dense(transpose), dense(convolution).mT, rtol=0, atol=1e-14)
    x, y = gaussian(transpose.shape[0], 1, seed=1), gaussian(transpose.shape[1], 1, seed=2)
    torch.testing.assert_close(y.mT @ (convolution @ x), (transpose @ y).mT @ x)


@geometry
@pytest.mark.parametrize("channels", [(3, 2), (2, 3)])
def test_norm_is_that_of_the_dense_matrix(kernel, stride, padding, side, channels):
    convolution = example(kernel, stride, padding, side, channels)
    true, found = norm_of(dense(convolution)), conv_norm(convolution)
    assert found == pytest.approx(true, rel=3e-3)
    assert found <= true * (1 + 1e-12), "Ritz values are lower bounds"
    assert conv_norm(convolution.mT) == pytest.approx(true, rel=3e-3)


def test_more_iterations_find_the_norm_to_the_last_digits():
    convolution = example(3, 1, 1, 6)
    assert conv_norm(convolution, 80) == pytest.approx(norm_of(dense(convolution)), rel=1e-12)


def test_the_norm_of_a_broken_kernel_is_nan_and_of_zero_is_zero():
    kernel = gaussian(2, 3, 3, 3)
    assert conv_norm(ConvMap(torch.zeros_like(kernel), 5, 1, 1)) == 0
    kernel[0, 0, 0, 0] = math.nan
    assert math.isnan(conv_norm(ConvMap(kernel, 5, 1, 1)))


@pytest.mark.parametrize(("side", "norm"), [(4, 0.7615669), (8, 0.9212066), (16, 0.9774263)])
def test_norm_of_the_box_between_zeros(side, norm):
    """The box is the product of two tridiagonal matrices of ones / 3, whose norm is known."""
    closed = ((1 + 2 * math.cos(math.pi / (side + 1))) / 3) ** 2
    assert closed == pytest.approx(norm, abs=1e-7)
    assert conv_norm(ConvMap(BOX, side, 1, 1)) == pytest.approx(closed, rel=1e-9)


def test_norm_of_the_box_on_a_circle_is_its_sum_and_three_times_that_of_its_matrix():
    assert circular_norm(BOX, 8) == pytest.approx(1, rel=1e-6)
    assert reshaped_norm(BOX) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("kernel", "side"), [(1, 4), (2, 5), (3, 3), (3, 4), (3, 6), (4, 7)])
@pytest.mark.parametrize("channels", [(3, 2), (2, 3)])
def test_circular_norm_is_that_of_the_dense_circulant_map(kernel, side, channels):
    weight = gaussian(*channels, kernel, kernel)
    images = torch.eye(channels[1] * side**2, dtype=torch.float64).unflatten(
        1, (channels[1], side, side)
    )
    wrapped = F.pad(images, (0, kernel - 1, 0, kernel - 1), "circular")
    true = norm_of(F.conv2d(wrapped, weight).flatten(1))
    assert true <= circular_norm(weight, side) <= true * 2 ** (1 / 2**11) * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(0, 4),
    st.integers(1, 3), st.integers(1, 3), st.integers(0, 999),
)  # fmt: skip
def test_a_larger_circle_bounds_the_norm_between_zeros(
    kernel, stride, padding, more, outputs, inputs, seed
):
    side, padding = kernel + more, min(padding, kernel - 1)
    weight = gaussian(outputs, inputs, kernel, kernel, seed=seed)
    convolution = ConvMap(weight, side, stride, padding)
    assert norm_of(dense(convolution)) <= circular_norm(weight, side + kernel - 1)


def _semi_orthogonal(generator):
    matrix = torch.randn(576, 64, generator=generator)
    return torch.linalg.qr(matrix)[0].mT.reshape(64, 64, 3, 3)


@pytest.mark.parametrize(
    ("draw", "ratio", "tolerance"),
    [
        (_semi_orthogonal, 1.85, 0.07),
        (lambda generator: torch.randn(64, 64, 3, 3, generator=generator), 1.50, 0.05),
    ],
)
def test_how_far_the_norm_of_the_matrix_is_from_that_of_the_map(draw, ratio, tolerance):
    kernel = draw(torch.Generator().manual_seed(0))
    found = conv_norm(ConvMap(kernel, 16, 1, 1)) / reshaped_norm(kernel)
    assert abs(found - ratio) < tolerance


def test_the_map_of_a_layer_has_its_stride_its_padding_and_its_constrained_weight():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 4, stride=2, padding=1, dtype=torch.float64)
    constrain(nn.Sequential(layer), ["weight_norm"], LipschitzConfig(), embeddings=False)
    images = gaussian(4, 2, 7, 7)
    expected = layer(images) - layer.bias[:, None, None]
    found = conv_map(layer, 7) @ images.flatten(1).mT
    torch.testing.assert_close(found, expected.detach().flatten(1).mT)


@pytest.mark.parametrize(
    "other",
    [
        *({"groups": 2}, {"dilation": 2}, {"padding_mode": "circular"}, {"padding": "same"}),
        *({"kernel_size": (3, 1)}, {"stride": (1, 2)}, {"padding": (1, 0)}),
    ],
    ids=str,
)
def test_other_convolutions_are_refused(other):
    with pytest.raises(ValueError, match="not worked out"):
        conv_map(nn.Conv2d(2, 2, **{"kernel_size": 3, "padding": 1, **other}), 8)


def small_discriminator(seed=0, wide=True):
    """Blocks of all kinds on 8x8 pixels: halving, of one width, of another width."""
    widths = ((3, 2), (2, 2), (2, 3))
    stages = [Stage(*width, i == 0, 4, attention=False) for i, width in enumerate(widths)]
    network = Discriminator(stages, 4, wide).double()
    torch.manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    return network


def by_hand(network):
    """The composition rule with norms of dense matrices."""
    total, side = 1.0, network.resolution

    def norm(layer, side):
        return norm_of(dense(ConvMap(layer.weight.detach(), side, 1, layer.padding[0])))

    for block in network.blocks:
        straight = norm(block.conv1, side) * norm(block.conv2, side)
        shortcut = 1 if isinstance(block.shortcut, nn.Identity) else norm(block.shortcut, side)
        total *= (straight + shortcut) / (2 if block.halves else 1)
        side //= 2 if block.halves else 1
    rows = (network.linear.weight + network.embed.weight).detach()
    return total * max(row.norm().item() for row in rows) * side


@pytest.mark.parametrize("wide", [True, False])
def test_bound_equals_the_composition_of_dense_norms(wide):
    network = small_discriminator(wide=wide)
    assert estimate_bound(network).total == pytest.approx(by_hand(network), rel=5e-3)


def built(name="biggan", channels=2):
    torch.manual_seed(1)
    data = DataConfig(resolution=32, num_classes=3)
    config = Config(data=data, model=ModelConfig(name=name, channels=channels))
    return build_discriminator(config).double()


@pytest.mark.parametrize("make", [small_discriminator, built, partial(built, "biggan_deep", 4)])
def test_no_pair_of_images_and_no_gradient_exceeds_the_bound(make):
    network = make()
    total = estimate_bound(network).total
    side = network.resolution
    x = gaussian(32, 3, side, side).requires_grad_()
    y = torch.arange(32) % network.embed.num_embeddings
    logits = network(x, y)
    (slopes,) = torch.autograd.grad(logits.sum(), x)
    assert (slopes.flatten(1).norm(dim=1) <= total).all()
    for size in (1e-3, 1.0, 100.0):
        # The gradient is the steepest way up, so a step along it is the hardest test.
        for way in (slopes, gaussian(*x.shape, seed=1)):
            moved = x.detach() + size * way / way.flatten(1).norm(dim=1)[:, None, None, None]
            rise = (network(moved, y) - logits).abs()
            assert (rise <= size * total).all()


def test_the_bound_is_attained():
    """Kernels of one positive pixel make D linear on positive images, and both paths of a block
    add up: then the bound is the gradient's norm."""
    stages = [Stage(3, 1, True, 4, False), Stage(1, 1, False, 4, False)]
    network = Discriminator(stages, 2, wide=True).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
            if parameter.dim() == 4:
                centre = parameter.shape[-1] // 2
                parameter[:, :, centre, centre] = parameter.shape[1] ** -0.5
        network.embed.weight.copy_(torch.tensor([[0.5], [2.0]]))
        network.linear.weight.fill_(1.0)
    x = gaussian(1, 3, 8, 8).abs().requires_grad_()
    (slope,) = torch.autograd.grad(network(x, torch.tensor([1])).sum(), x)
    # 3 (rows) * 4 (root of the pixels) * (1 + 1) / 2 (halving) * (1 + 1)
    assert estimate_bound(network).total == pytest.approx(24, rel=1e-6)
    assert slope.norm().item() == pytest.approx(24, rel=1e-9)


@pytest.mark.parametrize(
    "layer", ["blocks.0.conv1", "blocks.0.conv2", "blocks.0.shortcut", "blocks.1.conv1"]
)
def test_a_layer_twice_as_large_doubles_its_path_alone(layer):
    network = small_discriminator()
    before = estimate_bound(network)
    with torch.no_grad():
        network.get_submodule(layer).weight.mul_(2)
    after = estimate_bound(network)
    changed = {name for name in before.layers if after.layers[name] != before.layers[name]}
    assert changed == {layer}
    assert after.layers[layer] == pytest.approx(2 * before.layers[layer])
    block = layer.rpartition(".")[0]
    straight = before.layers[f"{block}.conv1"] * before.layers[f"{block}.conv2"]
    shortcut = before.layers.get(f"{block}.shortcut", 1.0)
    grown = 2 * shortcut + straight if layer.endswith("shortcut") else shortcut + 2 * straight
    assert after.total == pytest.approx(before.total * grown / (straight + shortcut))


def test_the_head_counts_the_class_that_is_steepest():
    network = small_discriminator()
    before = estimate_bound(network)
    with torch.no_grad():
        network.linear.weight.zero_()
        network.embed.weight.zero_()
        network.embed.weight[2] = torch.tensor([3.0, 4.0, 0.0])
    after = estimate_bound(network)
    assert after.layers["head"] == pytest.approx(5 * 4)  # 16 pixels are summed
    assert after.total / before.total == pytest.approx(20 / before.layers["head"])


def test_the_bound_is_of_the_layers_as_they_are_used():
    network, twin = small_discriminator(), small_discriminator()
    for d in (network, twin):
        constrain(d, ["spectral_norm"], LipschitzConfig(), True, d.sides())
    with torch.no_grad():
        raw_weight(twin.blocks[0].conv2).mul_(2)
    for d in (network, twin):
        spectrum = Spectrum(d, 3)
        Constraint(d, ["spectral_norm"], LipschitzConfig(), Sigma0Config(), spectrum, True)
    before = estimate_bound(network)
    assert estimate_bound(twin).total == pytest.approx(before.total, rel=1e-6)
    assert before.layers["blocks.0.shortcut"] == pytest.approx(1, rel=3e-3)


@pytest.mark.gpu
def test_norm_on_cuda_is_that_on_the_cpu_to_fp32():
    """cuDNN takes TF32 for convolutions unless told otherwise, which is 1e-3 off."""
    kernel = gaussian(32, 16, 3, 3).float()
    here = conv_norm(ConvMap(kernel.double(), 16, 1, 1))
    there = conv_norm(ConvMap(kernel.cuda(), 16, 1, 1))
    assert there == pytest.approx(here, rel=2e-5)
