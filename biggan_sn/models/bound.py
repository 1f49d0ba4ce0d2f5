"""How steep D can be: a bound of its Lipschitz constant from the norms of its layers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan_sn.models.blocks import DiscriminatorBlock
from biggan_sn.models.discriminator import Discriminator
from biggan_sn.nn.conv_norm import conv_map, conv_norm

HALVING = 0.5  # the norm of the 2x2 mean


class LipschitzBound(NamedTuple):
    """Norms of D's layers as it uses them, and what follows from them.

    Args:
        layers: norm of each convolution as a map between images, and of the head, by name.
        total: |D(x, y) - D(x', y)| <= total * |x - x'| for images [3, H, W] and any class, if the
            norms are no lower than the true ones. Attention, which has no Lipschitz constant (Kim
            et al. 2021), a minibatch layer, and what a constraint puts around D are left out of it.
    """

    layers: dict[str, float]
    total: float


@torch.no_grad()
def estimate_bound(network: Discriminator) -> LipschitzBound:
    """The bound of D as it is now, from norms that are up to 0.2% too low. Changes nothing."""
    with reading(network):
        norms = {
            name: conv_norm(conv_map(module, side))
            for name, side in network.sides().items()
            if isinstance(module := network.get_submodule(name), nn.Conv2d)
        }
        return compose_bound(network, norms)


@torch.no_grad()
def compose_bound(network: Discriminator, norms: Mapping[str, float]) -> LipschitzBound:
    """The bound of D that follows from the norms of its convolutions by name.

    ReLU has the constant 1, paths that are added add their constants, all pixels are summed at the
    end, and a class adds its row to the linear map.
    """
    total, side = 1.0, network.resolution
    for i, block in enumerate(network.blocks):
        assert isinstance(block, DiscriminatorBlock)
        straight = norms[f"blocks.{i}.conv1"] * norms[f"blocks.{i}.conv2"]
        total *= straight + norms.get(f"blocks.{i}.shortcut", 1.0)  # else the identity
        if block.halves:
            total, side = total * HALVING, side // 2
    linear = network.linear.weight[:, : network.embed.embedding_dim]  # what sees the image alone
    rows: Tensor = linear + network.embed.weight
    head = side * float(rows.norm(dim=1).max())  # |sum of side^2 numbers| <= side * their length
    return LipschitzBound({**norms, "head": head}, total * head)


@contextmanager
def reading(network: nn.Module) -> Iterator[None]:
    """Where weights are read outside of training: in training mode, torch's own spectral norm
    iterates when they are."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
