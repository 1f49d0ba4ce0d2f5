"""Convolutions divided by their norm as maps between images."""

import math

import pytest
import torch
from torch import nn

from biggan_sn.config import LipschitzConfig
from biggan_sn.nn.conv_norm import ConvMap, conv_map, conv_norm
from biggan_sn.nn.matrices import as_matrix, raw_weight
from tests.unit.nn.networks import (
    CONFIG,
    assert_same,
    everything,
    gaussian,
    held,
    images,
    mixed_network,
    norm_on,
    shake,
)


def settled(gain=2.0):
    """Many iterations, and a seed with a gap behind the first singular value of its map."""
    network = mixed_network(seed=4)
    config = LipschitzConfig(conv_gain=gain, power_iterations=100)
    held(network, "conv_spectral_norm", config=config).after_step()
    return network


def dense_norm(kernel, like):
    """The norm of a convolution through the full decomposition, differentiable in the kernel."""
    convolution = like._replace(kernel=kernel)
    identity = torch.eye(convolution.shape[1], dtype=kernel.dtype)
    return torch.linalg.svdvals(convolution @ identity)[0]


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_conv_spectral_norm_gives_a_convolution_its_gain(gain):
    layer = settled(gain)[0]
    assert conv_norm(conv_map(layer, 5)) == pytest.approx(gain, rel=3e-3)
    true = dense_norm(layer.weight.detach(), conv_map(layer, 5))
    assert true.item() == pytest.approx(gain, rel=1e-9)


def test_conv_spectral_norm_is_settled_from_the_start():
    layer = mixed_network(seed=4)
    held(layer, "conv_spectral_norm")
    assert conv_norm(conv_map(layer[0], 5)) == pytest.approx(CONFIG.conv_gain, rel=1e-2)


def test_conv_spectral_norm_sees_a_value_that_overtakes_another():
    """Two channels that meet in a little noise alone: the norm of the second grows from 1 to 5,
    past that of the first, 3. Power iteration would be 66% off at the end."""
    layer = nn.Conv2d(2, 2, 3, padding=1, bias=False, dtype=torch.float64)
    kernels = [gaussian(1, 1, 3, 3, seed=seed) for seed in (0, 1)]
    kernels = [kernel / conv_norm(ConvMap(kernel, 5, 1, 1)) for kernel in kernels]
    nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0], layer.weight.data[1, 1] = 3 * kernels[0][0, 0], kernels[1][0, 0]
    network = nn.Sequential(layer)
    constraint = held(network, "conv_spectral_norm")
    for step, size in enumerate(torch.linspace(1, 5, 20)):
        raw_weight(layer).data[1, 1] = size * kernels[1][0, 0]
        shake(network, step, size=1e-3)
        constraint.after_step()
        norm = dense_norm(layer.weight.detach(), conv_map(layer, 5)).item()
        assert norm == pytest.approx(CONFIG.conv_gain, rel=0.1)
    assert norm == pytest.approx(CONFIG.conv_gain, rel=1e-3)


def test_conv_spectral_norm_keeps_up_with_training():
    network = mixed_network()
    constraint = held(network, "conv_spectral_norm")
    for update in range(30):
        shake(network, update, size=0.003)
        constraint.after_step()
    assert conv_norm(conv_map(network[0], 5)) == pytest.approx(CONFIG.conv_gain, rel=1e-2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_of_conv_spectral_norm_is_that_of_division_by_the_true_norm(layout):
    network = settled().to(memory_format=layout)
    layer, cotangent = network[0], gaussian(4, 2, 3, 3, seed=1)
    weight = raw_weight(layer)
    (found,) = torch.autograd.grad((layer.weight * cotangent).sum(), weight)
    assert found.stride() == weight.stride()
    kernel = weight.detach().clone().requires_grad_()
    normalized = CONFIG.conv_gain * kernel / dense_norm(kernel, conv_map(layer, 5))
    (expected,) = torch.autograd.grad((normalized * cotangent).sum(), kernel)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_strides_and_even_kernels_have_their_own_norm():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 4, stride=2, padding=1, dtype=torch.float64)
    constraint = held(nn.Sequential(layer), "conv_spectral_norm")
    for _ in range(60):
        constraint.after_step()
    identity = torch.eye(50, dtype=torch.float64).view(50, 2, 5, 5)
    matrix = nn.functional.conv2d(identity, layer.weight.detach(), None, 2, 1).flatten(1)
    assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(CONFIG.conv_gain)


def test_maps_of_single_pixels_get_the_plain_norm():
    network = mixed_network()
    held(network, "conv_spectral_norm")
    for name in ("2", "4"):
        matrix = as_matrix(network.get_submodule(name).weight.detach())
        assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, abs=1e-6)


def test_conv_spectral_norm_of_a_zero_kernel_stays_finite_and_recovers():
    network = mixed_network()
    nn.init.zeros_(network[0].weight)
    constraint = held(network, "conv_spectral_norm")
    for _ in range(3):
        network(images()).sum().backward()
        constraint.after_step()
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    assert_recovers(network, constraint)


def test_conv_spectral_norm_of_a_broken_kernel_says_so_and_recovers():
    network = mixed_network()
    constraint = held(network, "conv_spectral_norm")
    raw_weight(network[0]).data[1, 0, 2, 2] = math.nan
    constraint.after_step()
    assert torch.isnan(norm_on(network, "0").sigma)
    assert_recovers(network, constraint)


def assert_recovers(network, constraint):
    raw_weight(network[0]).data.copy_(gaussian(4, 2, 3, 3))
    for _ in range(20):
        constraint.after_step()
    assert conv_norm(conv_map(network[0], 5)) == pytest.approx(CONFIG.conv_gain, rel=1e-2)


def test_conv_spectral_norm_is_computed_in_full_precision_under_autocast():
    found = []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, autocast):
            network = mixed_network().float()
            constraint = held(network, "conv_spectral_norm")
            for _ in range(3):
                constraint.after_step()
        found.append(everything(network))
    assert_same(*found)
