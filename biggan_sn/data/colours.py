"""Maps of colours, put together and carried out at once: Karras et al. 2020 (ADA), appendix B.

A transform of colours is a matrix of (red, green, blue, 1). It gets uniform numbers in (0, 1) for
each image, u [N, numbers], and the images; maps are [N, 4, 4], fp64.
"""

import math

import torch
from torch import Tensor

from biggan_sn.data.geometry import normal

BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0  # deviations; of log2 of a factor the last two


def brightness(u: Tensor, images: Tensor) -> Tensor:
    """All colours lighter or darker by as much."""
    maps = _same(u, 4)
    maps[:, :3, 3] = BRIGHTNESS * normal(u)
    return maps


def contrast(u: Tensor, images: Tensor) -> Tensor:
    """All colours further from grey, or nearer to it."""
    maps = _same(u, 4)
    maps[:, :3, :3] *= torch.exp2(CONTRAST * normal(u))[:, :, None]
    return maps


def luma_flip(u: Tensor, images: Tensor) -> Tensor:
    """Light and dark exchanged and hues kept, in half of the cases: the Householder reflection."""
    flipped = (u < 0.5).to(u.dtype)[:, :, None]
    return _of_colours(_same(u, 3) - 2 * flipped * _grey(u))


def hue(u: Tensor, images: Tensor) -> Tensor:
    """Turned about the axis of grey, by any angle (the formula of Rodrigues)."""
    angle = ((2 * u - 1) * math.pi)[:, :, None]
    grey, same = _grey(u), _same(u, 3)
    next_colour = same.roll(1, 1)
    cross = (next_colour - next_colour.mT) / math.sqrt(3)  # the product with the axis
    return _of_colours(grey + (same - grey) * angle.cos() + cross * angle.sin())


def saturation(u: Tensor, images: Tensor) -> Tensor:
    """Colours further from the axis of grey, or nearer to it."""
    grey = _grey(u)
    factor = torch.exp2(SATURATION * normal(u))[:, :, None]
    return _of_colours(grey + (_same(u, 3) - grey) * factor)


def recolour(images: Tensor, maps: Tensor) -> Tensor:
    """Images [N, 3, H, W] with the colours that `maps` [N, 4, 4] give."""
    maps = maps.to(images.dtype)
    colours = torch.baddbmm(maps[:, :3, 3:], maps[:, :3, :3], images.flatten(2))
    return colours.view(images.shape)


def _grey(u: Tensor) -> Tensor:
    """The projection onto the axis of grey."""
    return torch.full((3, 3), 1 / 3, dtype=u.dtype, device=u.device)


def _same(u: Tensor, size: int) -> Tensor:
    return torch.eye(size, dtype=u.dtype, device=u.device).repeat(len(u), 1, 1)


def _of_colours(maps: Tensor) -> Tensor:
    """[N, 3, 3] as maps [N, 4, 4]."""
    whole = _same(maps[:, 0], 4)
    whole[:, :3, :3] = maps
    return whole
