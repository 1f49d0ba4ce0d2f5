"""The joined forms against the two operations in turn: values and gradients, float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from biggan_sn.nn.resample import conv_then_halve, double, double_then_conv, halve

PAIRS = {
    "double": (double_then_conv, lambda x, conv: conv(double(x))),
    "halve": (conv_then_halve, lambda x, conv: halve(conv(x))),
}


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (10, 14), (16, 8)])
@pytest.mark.parametrize("name", PAIRS)
def test_equals_the_two_operations(name, size):
    joined, reference = PAIRS[name]
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    outs = [function(x, conv) for function in (joined, reference)]
    torch.testing.assert_close(*outs, rtol=0, atol=1e-14)
    weights = torch.randn_like(outs[0])
    found, wanted = (
        torch.autograd.grad((out * weights).sum(), (x, conv.weight, conv.bias)) for out in outs
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_doubling_repeats_and_halving_averages():
    x = torch.arange(4.0).view(1, 1, 2, 2)
    assert double(x)[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert torch.equal(halve(double(x)), x)
    assert halve(x).item() == 1.5


def test_a_shortcut_commutes_with_resampling():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 1).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(double(conv(x)), conv(double(x)))
    torch.testing.assert_close(conv(halve(x)), F.avg_pool2d(conv(x), 2))
