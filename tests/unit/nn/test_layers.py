"""Self-attention against its formula, and the initialisers."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from biggan_sn.nn.layers import ATTENTION, INITIALIZERS, SelfAttention, initialize


def by_formula(layer, x):
    """SAGAN, eq. 2 and 3, pixel by pixel, with keys and values pooled as in BigGAN."""
    n, c, h, w = x.shape
    query = layer.theta(x).view(n, c // 8, h * w)
    key = F.max_pool2d(layer.phi(x), 2).view(n, c // 8, -1)
    value = F.max_pool2d(layer.g(x), 2).view(n, c // 2, -1)
    weights = torch.softmax(torch.einsum("ncq,nck->nqk", query, key), -1)
    attended = torch.einsum("nqk,nck->ncq", weights, value).view(n, c // 2, h, w)
    return layer.gamma * layer.o(attended) + x


@pytest.mark.parametrize("form", ATTENTION)
def test_attention_equals_its_formula(form):
    torch.manual_seed(0)
    layer = SelfAttention(16).double()
    layer.form = form
    x = torch.randn(2, 16, 6, 8, dtype=torch.float64)
    assert torch.equal(layer(x), x), "gamma starts at 0"
    nn.init.constant_(layer.gamma, 0.7)
    torch.testing.assert_close(layer(x), by_formula(layer, x))


@pytest.mark.parametrize("form", ATTENTION)
def test_attention_gradient_equals_that_of_the_formula(form):
    torch.manual_seed(0)
    layer = SelfAttention(8).double()
    layer.form = form
    nn.init.constant_(layer.gamma, 0.7)
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    found, wanted = (
        torch.autograd.grad(out.square().sum(), list(layer.parameters()))
        for out in (layer(x), by_formula(layer, x))
    )
    torch.testing.assert_close(found, wanted)


def test_attention_keeps_half_precision():
    """An image of twice the bytes would go on through the network."""
    layer = SelfAttention(16)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 16, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("channels", [192, 96, 128])  # at 64 pixels: G and D of 128 px, a small D
def test_attention_never_stores_the_map_of_all_pairs(device, channels):
    """In bf16 and as it stands in the networks, a fused kernel takes it, forward and backward."""
    layer = SelfAttention(channels).to(device)
    x = torch.randn(2, channels, 64, 64, device=device).to(memory_format=torch.channels_last)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        with torch.autocast(device, torch.bfloat16):
            out = layer(x.requires_grad_())
        out.float().sum().backward()
    called = {event.key for event in profiled.key_averages() if "dot_product" in event.key}
    assert not any("math" in name for name in called), called
    kernels = r"_scaled_dot_product_(fused|flash|efficient|cudnn)_attention"
    assert any(re.search(kernels + r"(_for_cpu)?$", name) for name in called), called
    assert any(re.search(kernels + r".*_backward$", name) for name in called), called


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializers_draw_all_weights_and_zero_all_biases(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(5, 4), nn.Embedding(7, 6))
    before = [module.weight.clone() for module in network]
    initialize(network, name)
    for module, old in zip(network, before, strict=True):
        assert not torch.equal(module.weight, old)
        assert module.weight.std() > 0
    assert not network[0].bias.any()
    assert not network[1].bias.any()


def test_orthogonal_weights_have_equal_singular_values():
    network = nn.Conv2d(6, 4, 3)
    initialize(network, "orthogonal")
    sigmas = torch.linalg.svdvals(network.weight.flatten(1))
    torch.testing.assert_close(sigmas, torch.ones(4))


def test_normal_has_the_standard_deviation_of_the_reference():
    network = nn.Linear(300, 300)
    initialize(network, "normal")
    assert network.weight.std().item() == pytest.approx(0.02, rel=0.05)
