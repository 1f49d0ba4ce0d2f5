"""Small networks for the tests of constraints, and what they have in common."""

import torch
from torch import nn

from biggan_sn.config import LipschitzConfig, Sigma0Config
from biggan_sn.nn.constraint import Constraint
from biggan_sn.nn.lipschitz import (
    LIPSCHITZ,
    constrain,
)
from biggan_sn.nn.matrices import chain_of
from biggan_sn.nn.spectral import DEPTH
from biggan_sn.nn.spectrum import Spectrum

CONFIG = LipschitzConfig()
SIGMA0 = Sigma0Config()
SIDES = {"0": 5, "2": 5}
WEIGHT_ROWS = [name for name, row in LIPSCHITZ.items() if row.weight]
QUIET_ROWS = [name for name in WEIGHT_ROWS if name != "torch_spectral_norm"]


def gaussian(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def mixed_network(seed=0):
    """A 3x3, a 1x1 convolution and a linear map on 5x5 pixels: images [N, 2, 5, 5] -> [N, 3]."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Flatten(), nn.Linear(75, 3)
    ).double()


def held(network, *rows, config=CONFIG, depth=DEPTH):
    constrain(network, rows, config, embeddings=True, sides=SIDES)
    spectrum = Spectrum(network, 3, depth)
    return Constraint(network, rows, config, SIGMA0, spectrum, embeddings=True)


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    return nn.Sequential(layer)


def norm_on(network, name):
    """The parametrization of a layer."""
    return chain_of(network.get_submodule(name))[0]


def shake(network, seed, size=0.1):
    """What an optimizer step does to the weights."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn_like(parameter))


def images(count=4):
    return gaussian(count, 2, 5, 5, seed=5)


def everything(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same(before, after):
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name
