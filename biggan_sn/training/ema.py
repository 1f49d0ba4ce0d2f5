"""The moving average of G's weights, which is what one samples from."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from biggan_sn.nn.constraint import settle
from biggan_sn.nn.layers import lay_out
from biggan_sn.nn.lipschitz import unconstrain


class EMA:
    """Average of the raw weights and of the batch norms' running statistics of a network.

    u, v and sigma are never averaged, for a mean of singular vectors is none: they are copied,
    and found anew for the averaged weights in the copies that `settled` gives out.
    """

    def __init__(self, network: nn.Module, decay: float, start: int) -> None:
        self.decay = decay
        self.start = start
        self.network = _copy(network)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Moves the average towards `network`, as it is after update number `step`."""
        decay = self.decay if step >= self.start else 0.0
        (mine, others), (new, new_others) = _split(self.network), _split(network)
        torch._foreach_lerp_(mine, new, 1.0 - decay)
        for dtype in {buffer.dtype for buffer in others}:  # only those of one type go together
            pairs = zip(others, new_others, strict=True)
            same = [pair for pair in pairs if pair[0].dtype == dtype]
            torch._foreach_copy_([old for old, _ in same], [new for _, new in same])

    def settled(self) -> nn.Module:
        """A copy of the average whose sigmas are those of the averaged weights."""
        network = _copy(self.network)
        settle(network)
        return network

    def generator(self) -> nn.Module:
        """A copy of the average with plain weights, in eval mode, to sample from: laid out as
        `load_generator` lays it out, for the same bits."""
        network = self.settled().eval()  # torch's own spectral norm iterates when read in training
        unconstrain(network)
        return lay_out(network)


def _copy(network: nn.Module) -> nn.Module:
    """A copy that is not trained. Tensors are cloned: those that only have a shape, with which one
    counts, know no other way to be copied."""
    clones: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().clone(), requires_grad=False) for p in network.parameters()
    }
    clones |= {id(buffer): buffer.clone() for buffer in network.buffers()}
    return deepcopy(network, clones)


def _split(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What is averaged (weights, running statistics) and what is copied (everything else)."""
    averaged: list[Tensor] = list(network.parameters())
    copied: list[Tensor] = []
    for name, buffer in network.named_buffers():
        (averaged if name.endswith(("running_mean", "running_var")) else copied).append(buffer)
    return averaged, copied
