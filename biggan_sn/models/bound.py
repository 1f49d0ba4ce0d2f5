"""How steep D can be: a bound of its Lipschitz constant from the norms of its layers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan_sn.models.blocks import BottleneckDiscriminatorBlock, DiscriminatorBlock
from biggan_sn.models.discriminator import Discriminator
from biggan_sn.nn.conv_norm import conv_map, conv_norm


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

    What comes one after the other multiplies its constants, all pixels are summed at the end, and a
    class adds its row to the linear map.
    """
    total, side = norms.get("stem", 1.0), network.resolution
    for i, block in enumerate(network.blocks):
        assert isinstance(block, DiscriminatorBlock | BottleneckDiscriminatorBlock)
        start = f"blocks.{i}."
        within = {
            name.removeprefix(start): n for name, n in norms.items() if name.startswith(start)
        }
        total *= block.bound(within)
        side //= 2 if block.halves else 1
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
