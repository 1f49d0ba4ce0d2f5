"""Half precision, and what stays out of it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from biggan_sn.tables import lookup

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


def inner_gradient(logits: Tensor, images: Tensor) -> Tensor:
    """The gradient [N, C, H, W] of each of D's logits [N] at its image, with a graph of its own."""
    amplified = AMPLIFIED * logits.sum()
    (gradient,) = torch.autograd.grad(amplified, images, create_graph=True)
    return gradient / AMPLIFIED
