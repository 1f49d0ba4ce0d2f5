"""How steep D can be: a bound of its Lipschitz constant from the true norms of its layers."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan_sn.models.blocks import DiscriminatorBlock
from biggan_sn.models.discriminator import Discriminator
from biggan_sn.nn.conv_norm import conv_map, conv_norm

HALVING = 0.5  # the norm of the 2x2 mean


class LipschitzBound(NamedTuple):
    """Norms of D's layers as it uses them, constraints included, and what follows from them.

    Args:
        layers: norm of each convolution as a map between images, and of the head, by name.
        total: their product along the network: |D(x, y) - D(x', y)| <= total * |x - x'| for images
            [3, H, W] and any class. Attention, which has no Lipschitz constant (Kim et al. 2021),
            is left out of it.
    """

    layers: dict[str, float]
    total: float


@torch.no_grad()
def lipschitz_bound(network: Discriminator) -> LipschitzBound:
    """The bound of D as it is now. Norms are Ritz values, up to 0.3% too low."""
    layers = {}
    for name, side in network.sides().items():
        module = network.get_submodule(name)
        if isinstance(module, nn.Conv2d):
            layers[name] = conv_norm(conv_map(module, side))
    # All pixels are summed, and a class adds its row to the linear map.
    pixels = network.resolution**2
    total = 1.0
    for i, block in enumerate(network.blocks):
        assert isinstance(block, DiscriminatorBlock)
        total *= _of_block(block, layers, f"blocks.{i}")
        pixels //= 4 if block.halves else 1
    rows: Tensor = network.linear.weight + network.embed.weight
    layers["head"] = float(rows.norm(dim=1).max()) * pixels**0.5
    return LipschitzBound(layers, total * layers["head"])


def _of_block(block: DiscriminatorBlock, norms: dict[str, float], name: str) -> float:
    """ReLU has the constant 1; paths that are added add their constants."""
    straight = norms[f"{name}.conv1"] * norms[f"{name}.conv2"]
    shortcut = norms.get(f"{name}.shortcut", 1.0)  # else the identity
    return (straight + shortcut) * (HALVING if block.halves else 1.0)
