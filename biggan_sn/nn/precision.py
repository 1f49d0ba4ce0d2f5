"""Half precision, and what stays out of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from biggan_sn.tables import lookup

Critic = Callable[[Tensor], Tensor]  # D with its labels bound: images [N, C, H, W] -> logits [N]

# Inner gradients (of D at an image) pass through half precision once more than a loss does. This
# much larger they stay above its smallest numbers; a power of two changes no digit of others.
AMPLIFIED = 2.0**8


class Precision(NamedTuple):
    """A row.

    Args:
        reduced: the type of products inside the networks; None is that of the weights.
        scaled: whether gradients need a loss scale, for want of range.
    """

    reduced: torch.dtype | None
    scaled: bool


PRECISIONS: dict[str, Precision] = {
    "fp32": Precision(None, scaled=False),
    "bf16": Precision(torch.bfloat16, scaled=False),
    "fp16": Precision(torch.float16, scaled=True),
}


AUTO = "auto"


def chosen(name: str, device: torch.device) -> str:
    """`name`, a row of PRECISIONS, or what "auto" is on this device: bf16 on a GPU that computes
    with it, else fp32."""
    if name != AUTO:
        return name
    halves = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if halves else "fp32"


def autocast(device: str, name: str) -> AbstractContextManager[Any]:
    """The region in which networks compute with the precision called `name`."""
    reduced = lookup(PRECISIONS, name, "precision").reduced
    return torch.autocast(device, reduced, enabled=reduced is not None)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """The region in which products have the precision of what is multiplied, within another."""
    if not torch.amp.is_autocast_available(device.type):  # as for the meta device
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision becomes fp32: for statistics, spectra, images, logits, losses."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def inner_gradient(critic: Critic, images: Tensor) -> tuple[Tensor, Tensor]:
    """The logits [N] of D at `images`, and the gradient [N, C, H, W] of each at its image; both can
    be derived again.

    Within torch.compile by way of torch.func: a graph that is compiled has no second derivative,
    so that both orders have to be in one, and there autograd cannot ask for the first.
    """
    # The fused attention kernels have no second derivative; the plain one has.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        if torch.compiler.is_compiling():
            logits, pull_back, *_ = torch.func.vjp(critic, images)
            (gradient,) = pull_back(torch.full_like(logits, AMPLIFIED))
        else:
            if not images.requires_grad:
                # A view: what follows modules by hooks, as a counter does, cannot follow a leaf.
                images = images.detach().requires_grad_(True).view_as(images)
            logits = critic(images)
            amplified = AMPLIFIED * logits.sum()
            (gradient,) = torch.autograd.grad(amplified, images, create_graph=True)
    return logits, gradient / AMPLIFIED
