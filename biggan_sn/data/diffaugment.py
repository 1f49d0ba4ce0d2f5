"""The transforms of DiffAugment (Zhao et al. 2020), and the mirror: of images [N, 3, H, H], by
uniform numbers in (0, 1) for each of them, u [N, numbers]."""

import torch
from torch import Tensor

from biggan_sn.data.loader import shift


def flip(u: Tensor, images: Tensor) -> Tensor:
    """Left and right exchanged, in half of the cases."""
    return torch.where((u < 0.5)[:, :, None, None], images.flip(3), images)


def brightness(u: Tensor, images: Tensor) -> Tensor:
    """All numbers larger or smaller by up to a half."""
    return images + _each(u - 0.5, images)


def saturation(u: Tensor, images: Tensor) -> Tensor:
    """The difference of each pixel from its grey, 0 to 2 times as large."""
    grey = images.mean(1, keepdim=True)
    return grey + (images - grey) * _each(2 * u, images)


def contrast(u: Tensor, images: Tensor) -> Tensor:
    """The difference from the mean of the whole image, 0.5 to 1.5 times as large."""
    grey = images.mean((1, 2, 3), keepdim=True)
    return grey + (images - grey) * _each(u + 0.5, images)


def translation(u: Tensor, images: Tensor) -> Tensor:
    """Moved along both axes by whole pixels, up to an eighth of the side; what comes in is 0."""
    side = images.shape[-1]
    most = int(side / 8 + 0.5)
    offsets = (u * (2 * most + 1)).floor().long() - most  # down, right
    return torch.where(_within(offsets, side, side), shift(images, offsets), 0.0)


def cutout(u: Tensor, images: Tensor) -> Tensor:
    """A square of half the side is 0; its middle may lie anywhere, and its part outside is lost."""
    side = images.shape[-1]
    size = int(side / 2 + 0.5)
    corners = (u * (side + 1 - size % 2)).floor().long() - size // 2
    return torch.where(_within(corners, size, side), 0.0, images)


def _within(corners: Tensor, size: int, side: int) -> Tensor:
    """Whether a pixel lies in the square of its image: [N, 1, side, side] from corners [N, 2]."""
    places = torch.arange(side, device=corners.device)[None, None]
    inside = (places >= corners[:, :, None]) & (places < corners[:, :, None] + size)
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def _each(numbers: Tensor, images: Tensor) -> Tensor:
    """One number [N, 1] for each image, beside all of its own."""
    return numbers.to(images.dtype)[:, :, None, None]
