"""Maps of the plane, put together and carried out at once: Karras et al. 2020 (ADA), appendix B.

A transform of the plane says where a pixel of the new image comes from in the old one, as a matrix
of coordinates (x, y, 1) that are 0 in the middle of the image and -1 and 1 at its edges. It gets
uniform numbers in (0, 1) for each image, u [N, numbers], and the images; maps are [N, 3, 3], fp64.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MOST = 0.125  # of the side: the largest shift by whole pixels, the deviation of any other
SCALE = 0.2  # deviation of log2 of a factor


def mirror(u: Tensor, images: Tensor) -> Tensor:
    """Left and right exchanged, in half of the cases."""
    return _diagonal(1 - 2 * (u[:, 0] < 0.5).double(), torch.ones_like(u[:, 0]))


def quarter_turns(u: Tensor, images: Tensor) -> Tensor:
    """0 to 3 of them, equally often."""
    return _turned((4 * u[:, 0]).floor() * (math.pi / 2))


def whole_shift(u: Tensor, images: Tensor) -> Tensor:
    """By whole pixels, along both axes, up to MOST of the side."""
    side = images.shape[-1]
    return _shifted(((2 * u - 1) * MOST * side).round() / side)


def scale(u: Tensor, images: Tensor) -> Tensor:
    """Larger or smaller."""
    factor = torch.exp2(SCALE * normal(u[:, 0]))
    return _diagonal(1 / factor, 1 / factor)


def stretch(u: Tensor, images: Tensor) -> Tensor:
    """Wider and lower, or the reverse."""
    factor = torch.exp2(SCALE * normal(u[:, 0]))
    return _diagonal(1 / factor, factor)


def turn(u: Tensor, images: Tensor) -> Tensor:
    """By any angle."""
    return _turned((2 * u[:, 0] - 1) * math.pi)


def shift(u: Tensor, images: Tensor) -> Tensor:
    """By any distance along both axes."""
    return _shifted(MOST * normal(u))


def half_as_likely(p: Tensor | float) -> Tensor | float:
    """The probability of each of two transforms of which one or more shall happen with `p`."""
    return 1 - (1 - p) ** 0.5


def normal(u: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones in (0, 1)."""
    return torch.special.ndtri(u)


def resample(images: Tensor, maps: Tensor) -> Tensor:
    """Images [N, 3, H, H] whose pixels come from where `maps` [N, 3, 3] say: bilinear, and mirrored
    at the edges. Differentiable once."""
    places = F.affine_grid(maps[:, :2].to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="reflection", align_corners=False)


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack((x, y, torch.ones_like(x)), 1))


def _turned(angle: Tensor) -> Tensor:
    """Counter-clockwise as one looks at the image, whose second axis points down."""
    maps = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    maps[:, 0, 0] = maps[:, 1, 1] = angle.cos()
    maps[:, 1, 0] = angle.sin()
    maps[:, 0, 1] = -angle.sin()
    return maps


def _shifted(shares: Tensor) -> Tensor:
    """To the right and down, by shares [N, 2] of the side, which is 2 long."""
    maps = torch.eye(3, dtype=shares.dtype, device=shares.device).repeat(len(shares), 1, 1)
    maps[:, :2, 2] = -2 * shares
    return maps
