"""Compiled passes and penalties: the gradients of those that are not."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from biggan_sn.data.chance import Chance
from biggan_sn.data.loader import Batch
from biggan_sn.losses.penalties import PENALTIES, Surroundings, build_penalty
from biggan_sn.nn import compiling
from biggan_sn.nn.compiling import compile_passes, compile_term
from biggan_sn.nn.lipschitz import constrain_output
from tests.unit.nn.networks import WEIGHT_ROWS, gaussian, held

LABELS = torch.tensor([0, 1, 1, 0])


@pytest.fixture(autouse=True)
def _forgotten():
    yield
    torch._dynamo.reset()


class Critic(nn.Module):
    """Images [N, 3, 5, 5] and labels -> logits [N], by way of a convolution of three channels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(100, 2)
        )

    def forward(self, images, labels):
        return self.layers(images).gather(1, labels[:, None]).squeeze(1)


def critic(row, normalized):
    network = Critic().double().to(memory_format=torch.channels_last)
    held(network.layers, row)
    constrain_output(network, ["gradient_normalization"] if normalized else [])
    return network


def gradients(network, penalty, forward):
    """A loss with a penalty on `forward`, for each of two passes with other weights between, and
    all its gradients."""
    found = []
    for number in range(2):
        x = gaussian(4, 3, 5, 5, seed=number).requires_grad_()
        loss = network(x, LABELS).square().sum()
        real, fake = Batch(x, LABELS), Batch(gaussian(4, 3, 5, 5, seed=9), 1 - LABELS)
        chance = Chance(0, "training/penalty", range(4 * number, 4 * number + 4))
        around = Surroundings(chance, lambda mean: mean)
        loss = loss + penalty(lambda *place: forward(network, *place), real, fake, around)
        wanted = [p for p in network.parameters() if p.requires_grad]
        found += [loss.detach(), *torch.autograd.grad(loss, [*wanted, x])]
        with torch.no_grad():
            network.layers[0].parametrizations.weight.original.mul_(1.5)
    return found


def judge(network, images, labels):
    return network(images, labels)


def assert_compiled_is_plain(network, forward=judge, penalties=("r1",)):
    twin = deepcopy(network)
    compile_passes(network)
    weights = dict.fromkeys(penalties, 3.0)
    found = gradients(network, build_penalty(weights, compile_term), forward)
    expected = gradients(twin, build_penalty(weights), forward)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 1e-10 * other.abs().max()


@pytest.mark.parametrize("normalized", [False, True], ids=["R1", "R1 and GN"])
@pytest.mark.parametrize("row", WEIGHT_ROWS)
def test_gradients_under_every_row(monkeypatch, row, normalized):
    """Without the last stage of the compiler, which is slow and the same for all."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    assert_compiled_is_plain(critic(row, normalized))


@pytest.mark.parametrize("names", [[name] for name in PENALTIES] + [list(PENALTIES)], ids=str)
def test_gradients_of_every_penalty(monkeypatch, names):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    assert_compiled_is_plain(critic("spectral_norm", normalized=False), penalties=names)


def test_gradients_by_way_of_the_whole_compiler():
    """Gradient normalization of D, and R1 of D without it: the third derivative takes long."""
    assert_compiled_is_plain(critic("spectral_norm", normalized=True), Critic.forward)


def test_copies_are_plain(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", refuse)
    network = critic("spectral_norm", normalized=False)
    compile_passes(network)
    x = gaussian(4, 3, 5, 5)
    deepcopy(network)(x, LABELS)
    with pytest.raises(Exception, match="asked to compile"):
        network(x, LABELS)


def refuse(graph, inputs):
    raise AssertionError("asked to compile")


def test_every_size_of_batch_is_compiled_and_none_is_left_out(monkeypatch):
    kinds = []

    def count(graph, inputs):
        kinds.append(1)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", count)
    network = critic("spectral_norm", normalized=False)
    compile_passes(network)
    for _ in range(2):
        for size in range(1, 13):
            network(gaussian(size, 3, 5, 5), LABELS.repeat(3)[:size])
    assert len(kinds) == 12
