"""Layers and initialisers that know nothing of GANs."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan_sn.tables import lookup

N = TypeVar("N", bound=nn.Module)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class SelfAttention(nn.Module):
    """Self-attention over pixels: out = gamma * o(attend(x)) + x with gamma = 0 at the start.

    Zhang et al. 2019 (SAGAN), eq. 2 and 3, in the form of BigGAN: queries and keys of C/8
    channels, values of C/2, keys and values max-pooled 2x2, no 1/sqrt(d) in the softmax, no bias.
    Shapes: [N, C, H, W] -> [N, C, H, W] with even H and W.

    Attributes:
        form: the row of ATTENTION that computes it; empty: fused.

    Raises:
        ValueError: fewer than 8 channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 8:
            raise ValueError(
                f"self-attention needs 8 channels or more where it stands, got {channels}; "
                "raise model.channels"
            )
        self.theta = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.phi = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.g = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.o = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))  # no scalar: DeepSpeed cannot send one
        self.form = ""

    @property
    def forms(self) -> dict[str, Attend]:
        """All that compute it."""
        return ATTENTION

    def forward(self, x: Tensor) -> Tensor:
        query = self.theta(x).flatten(2).mT  # [N, HW, C/8]
        key = F.max_pool2d(self.phi(x), 2).flatten(2).mT  # [N, HW/4, C/8]
        value = F.max_pool2d(self.g(x), 2).flatten(2).mT  # [N, HW/4, C/2]
        attended = ATTENTION[self.form or "fused"](query, key, value)
        gamma = self.gamma.squeeze()  # a scalar leaves half precision what it is
        return gamma * self.o(attended.mT.unflatten(2, x.shape[2:])) + x


def _plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(query @ key.mT, -1) @ value


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The map of all pairs is never stored. The fused kernels want queries, keys and values of one
    width; zeros change no product."""
    missing = value.shape[-1] - query.shape[-1]
    query, key = F.pad(query, (0, missing)), F.pad(key, (0, missing))
    attended = F.scaled_dot_product_attention(
        query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1), scale=1.0
    )
    return attended.squeeze(1)


# queries [N, L, D], keys [N, M, D], values [N, M, C] -> [N, L, C]
ATTENTION: dict[str, Attend] = {"plain": _plain, "fused": _fused}


def lay_out(network: N) -> N:
    """Gives plain convolutions their weights channels last, in place: what tensor cores want, and
    faster on CPUs too. Kernels of one pixel are in both layouts at once; in the strides of their
    gradients, DDP need not copy."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            small = module.kernel_size == (1, 1)
            layout = torch.contiguous_format if small else torch.channels_last
            module.weight.data = module.weight.data.clone(memory_format=layout)
    return network


def initialize(network: nn.Module, name: str) -> None:
    """Draws every weight of the convolutions, linear maps and embeddings afresh; biases become 0.

    Raises:
        ValueError: `name` is no row of INITIALIZERS.
    """
    draw = lookup(INITIALIZERS, name, "initialization")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            assert isinstance(module.weight, Tensor)
            draw(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


INITIALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "orthogonal": nn.init.orthogonal_,
    "normal": lambda weight: nn.init.normal_(weight, 0.0, 0.02),
    "xavier": nn.init.xavier_uniform_,
}
