"""What a GPU makes of kernels of our own: the numbers of the CPU."""

import pytest
import torch

from biggan_sn.nn.normalizing import Running, normalize
from biggan_sn.nn.replicas import Sharing
from biggan_sn.nn.resample import FORMS, ResamplingConv2d

pytestmark = pytest.mark.gpu

FORM = [(*kind, form) for kind, forms in FORMS.items() for form in forms]
LAYOUTS = {"rows": torch.contiguous_format, "channels_last": torch.channels_last}


def assert_close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("resampling", "size", "form"), FORM)
def test_every_form_of_a_resampling_convolution(resampling, size, form, layout):
    torch.manual_seed(0)
    layer, x = ResamplingConv2d(resampling, 8, 16, size).double(), torch.randn(2, 8, 12, 16)
    layer.form = form
    found = []
    for device in ("cpu", "cuda"):
        here = x.double().to(device).contiguous(memory_format=layout).requires_grad_()
        out = layer.to(device)(here)
        inputs = [here, *layer.parameters()]
        (slope,) = torch.autograd.grad(out.pow(3).sum(), here, create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), inputs)
        found.append([out.detach(), slope.detach(), *second])
    assert_close(found[1], found[0])


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("create_graph", [False, True])
def test_normalization_with_gain_and_bias(layout, parts, create_graph):
    torch.manual_seed(0)
    given = torch.randn(6, 8, 4, 5) + 30, 1 + torch.randn(6, 8), torch.randn(6, 8)
    found = []
    for device in ("cpu", "cuda"):
        x, gain, bias = (t.double().to(device) for t in given)
        inputs = [x.contiguous(memory_format=layout), gain, bias]
        inputs = [t.detach().requires_grad_() for t in inputs]
        running = Running(*(torch.zeros(8, device=device).double() for _ in range(2)), 0.1)
        out = normalize(*inputs, running, 1e-4, Sharing(parts, None))
        slopes = torch.autograd.grad(out.pow(3).sum(), inputs, create_graph=create_graph)
        tensors = [out, *slopes, running.mean, running.variance]
        found.append([t.detach() for t in tensors])
    assert_close(found[1], found[0])
