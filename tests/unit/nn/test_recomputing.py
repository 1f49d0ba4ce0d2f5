"""Blocks that compute again what they do not keep: the same numbers, and less memory."""

import copy

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from biggan_sn.nn import compiling
from biggan_sn.nn.compiling import compile_passes
from biggan_sn.nn.norm import BatchNorm2d
from biggan_sn.nn.recomputing import recompute
from biggan_sn.nn.replicas import Sharing
from tests.unit.nn.networks import assert_same, everything, gaussian


class Block(nn.Sequential):
    """Everything that changes in a forward pass: statistics, and torch's power iteration."""

    def __init__(self, parts, constrain):
        norm = BatchNorm2d(4)
        norm.sharing = {6: Sharing(parts, None)}
        super().__init__(
            constrain(nn.Conv2d(3, 4, 3)), norm, nn.Tanh(), nn.Conv2d(4, 3, 3), nn.Tanh()
        )


def blocks(parts=1, constrain=spectral_norm):
    torch.manual_seed(0)
    return nn.Sequential(Block(parts, constrain), Block(parts, constrain)).double()


def images():
    return gaussian(6, 3, 12, 12, seed=1)


def play(network):
    """Outputs, and derivatives of the first and second order where three passes came between."""
    x = images().requires_grad_()
    parameters = list(network.parameters())
    out = network(x)
    for number in range(3):
        network(x + number).sum().backward()
    (slope,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    network(images())
    loss = slope.square().sum() + out.pow(3).sum()
    second = torch.autograd.grad(loss, [x, *parameters], retain_graph=True)
    again = torch.autograd.grad(loss, [x, *parameters])
    first = [parameter.grad for parameter in parameters]
    return [out.detach(), slope.detach(), *second, *again, *first]


@pytest.mark.parametrize("parts", [1, 2], ids=["torch's own norm", "shared norm"])
def test_derivatives_and_buffers_are_those_of_blocks_that_keep_all(parts):
    plain, again = blocks(parts), blocks(parts)
    recompute(again)
    for found, wanted in zip(play(again), play(plain), strict=True):
        assert torch.equal(found, wanted)
    assert_same(everything(again), everything(plain))
    assert again[0][1].num_batches_tracked == 5


def kept_by(network):
    """A pass, and the bytes of what layers made that are still there after it."""
    made = []

    def note(module, given, out):
        made.append((StorageWeakRef(out.untyped_storage()), out.nbytes))

    for block in network:
        for layer in block:
            layer.register_forward_hook(note)
    out = network(images())
    return out, sum(size for memory, size in made if not memory.expired())


def test_only_the_inputs_of_blocks_are_kept():
    plain, again = blocks(), blocks()
    recompute(again)
    (out, much), (same, little) = kept_by(plain), kept_by(again)
    assert torch.equal(out, same)
    assert little == again[0](images()).nbytes + out.nbytes  # the second one's input, and the end
    assert much > 4 * little


def passes(network, play):
    """How often the first block computes."""
    seen = []
    hook = network[0][2].register_forward_hook(lambda *_: seen.append(1))
    play()
    hook.remove()
    return len(seen)


def test_it_computes_again_where_gradients_need_it_and_nowhere_else():
    network = blocks()
    recompute(network)
    assert passes(network, lambda: network(images()).sum().backward()) == 2
    assert passes(network, lambda: network(images())) == 1
    with torch.no_grad():
        assert passes(network, lambda: network(images())) == 1
    network.requires_grad_(False)
    x = images().requires_grad_()
    assert passes(network, lambda: network(x).sum().backward()) == 2


def test_a_copy_computes_with_its_own_weights():
    network = blocks()
    recompute(network)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    plain = blocks()
    assert passes(twin, lambda: twin(images()).sum().backward()) == 2
    assert torch.equal(twin(images()), (plain(images()), plain(images()))[1])
    assert all(parameter.grad is None for parameter in network.parameters())
    assert list(twin.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("parts", [1, 2], ids=["torch's own norm", "shared norm"])
def test_compiled_blocks_change_their_buffers_once(monkeypatch, parts):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    plain, again = blocks(parts, weight_norm), blocks(parts, weight_norm)
    recompute(again)
    compile_passes(again)
    for number in range(3):
        x = (images() + number).requires_grad_()
        found, wanted = (
            torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()])
            for net in (again, plain)
        )
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    for name, buffer in everything(plain).items():
        torch.testing.assert_close(again.state_dict()[name], buffer, rtol=1e-10, atol=1e-12)
    torch._dynamo.reset()
