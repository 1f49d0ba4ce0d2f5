"""All forms of a resampling convolution against the two operations in turn, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from biggan_sn.config import LipschitzConfig
from biggan_sn.nn.constraint import settle
from biggan_sn.nn.forms import formed_layers, operations_in_turn
from biggan_sn.nn.layers import SelfAttention
from biggan_sn.nn.lipschitz import constrain
from biggan_sn.nn.resample import (
    FORMS,
    RULES,
    ResamplingConv2d,
    double,
    halve,
)

ALL = [(*kind, form) for kind, forms in FORMS.items() for form in forms]
OPERATIONS = {
    "double": lambda x, w, b: F.conv2d(double(x), w, b, padding=w.shape[-1] // 2),
    "halve": lambda x, w, b: halve(F.conv2d(x, w, b, padding=w.shape[-1] // 2)),
}


def layer_of(resampling, size, form, channels=(3, 5)):
    layer = ResamplingConv2d(resampling, *channels, size).double()
    layer.form = form
    return layer


def images(resampling, height, width, batch=2):
    factor = 1 if resampling == "double" else 2
    return torch.randn(batch, 3, factor * height, factor * width, dtype=torch.float64)


def assert_alike(found, wanted, tolerance=1e-12):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("resampling", "size", "form"), ALL)
@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    channels_last=st.booleans(),
    bias=st.booleans(),
)
def test_equals_the_two_operations(resampling, size, form, height, width, channels_last, bias):
    """Odd sizes, one pixel, borders; values and gradients to the input, the weight and the bias."""
    torch.manual_seed(height * 8 + width)
    layer = layer_of(resampling, size, form)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    layer.to(memory_format=layout)
    if not bias:
        layer.bias = None
    inputs = [images(resampling, height, width).to(memory_format=layout), *layer.parameters()]
    inputs[0].requires_grad_()
    outs = [layer(inputs[0]), OPERATIONS[resampling](inputs[0], layer.weight, layer.bias)]
    assert outs[0].shape == outs[1].shape
    assert_alike(outs[:1], outs[1:])
    weights = torch.randn_like(outs[0])
    assert_alike(*(torch.autograd.grad(out, inputs, weights) for out in outs))


@pytest.mark.parametrize(("resampling", "size", "form"), ALL)
def test_second_derivatives_are_those_of_the_two_operations(resampling, size, form):
    """As R1 needs them: of the squared gradient at the image, in the weight."""
    torch.manual_seed(0)
    layer = layer_of(resampling, size, form)
    x = images(resampling, 3, 4).requires_grad_()
    found = []
    for compute in (layer, lambda x: OPERATIONS[resampling](x, layer.weight, layer.bias)):
        (slope,) = torch.autograd.grad(compute(x).pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), [x, *layer.parameters()]))
    scale = max(float(g.abs().max()) for g in found[1])
    assert_alike(*([g / scale for g in grads] for grads in found))


@pytest.mark.parametrize(("resampling", "size", "form"), ALL)
def test_spectral_norm_stays_that_of_the_kernel(resampling, size, form):
    """Under a constraint the values, and the gradient to the raw weight, are those of the two
    operations with the constrained 3x3 kernel; the state has no other kernel."""
    torch.manual_seed(0)
    layer = layer_of(resampling, size, form)
    network = nn.Sequential(layer)
    constrain(network, ["spectral_norm"], LipschitzConfig(), embeddings=False)
    settle(network)
    assert network.state_dict()["0.parametrizations.weight.original"].shape == (5, 3, size, size)
    x = images(resampling, 4, 3)
    raw = network.get_parameter("0.parametrizations.weight.original")
    outs = [layer(x), OPERATIONS[resampling](x, layer.weight, layer.bias)]
    assert_alike(outs[:1], outs[1:])
    weights = torch.randn_like(outs[0])
    assert_alike(*(torch.autograd.grad(out, [raw], weights) for out in outs))


@pytest.mark.parametrize(("resampling", "size", "form"), ALL)
def test_under_autocast_products_are_in_half_precision_and_sums_of_weights_are_not(
    resampling, size, form
):
    """What a convolution is given is the exact kernel, rounded once."""
    torch.manual_seed(0)
    layer = layer_of(resampling, size, form).float()
    x = images(resampling, 6, 6).float()
    exact = OPERATIONS[resampling](x, layer.weight, layer.bias).detach()
    kernels = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function in (F.conv2d, F.conv_transpose2d):
                kernels.append(args[1])
            return function(*args, **(kwargs or {}))

    with torch.autocast("cpu", torch.bfloat16), Watch():
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert [kernel.dtype for kernel in kernels] == [torch.float32]
    assert float((out.detach() - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("device", RULES)
@pytest.mark.parametrize("kind", FORMS)
def test_the_rules_know_every_form_of_every_kind(device, kind):
    rules = RULES[device][kind]
    assert {form for _, form in rules} <= FORMS[kind].keys()
    assert [least for least, _ in rules] == sorted({least for least, _ in rules}, reverse=True)
    assert rules[-1][0] == 0


def test_small_batches_take_the_two_operations_and_large_ones_a_cheaper_form():
    layer = ResamplingConv2d("double", 3, 5, 3)
    assert layer.usual_form(torch.empty(1, 3, 4, 4)) == "plain"
    assert layer.usual_form(torch.empty(64, 3, 16, 16)) == "transposed"
    assert layer.usual_form(torch.empty(1, 3, 4, 4, device="meta")) == "plain"
    layer = ResamplingConv2d("halve", 3, 5, 3)
    assert layer.usual_form(torch.empty(15, 3, 8, 16)) == "plain"  # 480 pixels in the end
    assert layer.usual_form(torch.empty(16, 3, 8, 16)) == "strided"


def test_in_turn_for_a_while():
    network = nn.Sequential(ResamplingConv2d("double", 3, 8, 3), nn.ReLU(), SelfAttention(8))
    network[0].form = "interleaved"
    assert list(formed_layers(network)) == ["0", "2"]
    with operations_in_turn(network):
        assert [network[0].form, network[2].form] == ["plain", "plain"]
    assert [network[0].form, network[2].form] == ["interleaved", ""]


def test_doubling_repeats_and_halving_averages():
    x = torch.arange(4.0).view(1, 1, 2, 2)
    assert double(x)[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert torch.equal(halve(double(x)), x)
    assert halve(x).item() == 1.5
