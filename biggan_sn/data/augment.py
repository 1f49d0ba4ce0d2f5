"""Random transforms of images on their way to D, differentiable, so that G learns through them."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from biggan_sn.data import colours, diffaugment, geometry
from biggan_sn.data.chance import Chance
from biggan_sn.tables import lookup

Probability = Tensor | float


class Transform(NamedTuple):
    """A transform that is done, or is not, to each image by itself.

    Args:
        act: (u, images [N, 3, H, H]) -> what it makes of them, or the map by which it does, where
            u [N, numbers] are uniform in (0, 1).
        numbers: how many it needs for an image.
        likely: how probable it is, where the config says p.
    """

    act: Callable[[Tensor, Tensor], Tensor]
    numbers: int = 1
    likely: Callable[[Probability], Probability] = lambda p: p


class Augmentation(NamedTuple):
    """A row. Its transforms come in this order.

    Args:
        plane: as maps of the plane, of which all are carried out by resampling once.
        colours: as maps of colours, of which all are carried out at once.
        pixels: those that give images.
    """

    plane: Sequence[Transform] = ()
    colours: Sequence[Transform] = ()
    pixels: Sequence[Transform] = ()


Rows = Mapping[str, Augmentation]


def augmentations(names: Sequence[str]) -> Rows:
    """The rows called `names`, in this order.

    Raises:
        ValueError: there is no such row.
    """
    return {name: lookup(AUGMENTATIONS, name, "augmentation") for name in names}


def augment(images: Tensor, rows: Rows, chance: Chance, p: Probability = 1.0) -> Tensor:
    """Images [N, 3, H, H] in [-1, 1] as the rows change them; colours may leave that interval.

    Every transform is done to an image with probability `p`, and one to which none was done is what
    it was to the last bit. Differentiable once, where a row resamples.
    """
    for name, row in rows.items():
        width = sum(1 + t.numbers for part in row for t in part)
        dealt = _Dealt(chance.uniform(name, width, images.device), images, p)
        if row.plane:
            maps, touched = dealt.joined(row.plane, 3, lambda before, then: before @ then)
            images = torch.where(touched, geometry.resample(images, maps), images)
        if row.colours:
            maps, touched = dealt.joined(row.colours, 4, lambda before, then: then @ before)
            images = torch.where(touched, colours.recolour(images, maps), images)
        for transform in row.pixels:
            on, u = dealt.next(transform)
            images = torch.where(on[:, None, None], transform.act(u, images), images)
    return images


class _Dealt:
    """Uniform numbers u [N, width], handed out from the first column to the last."""

    def __init__(self, u: Tensor, images: Tensor, p: Probability) -> None:
        self._u = u
        self._images = images
        self._p = p
        self._next = 0

    def next(self, transform: Transform) -> tuple[Tensor, Tensor]:
        """Which images it is done to, [N, 1], and its numbers [N, numbers]."""
        on = self._take(1) < transform.likely(self._p)
        return on, self._take(transform.numbers)

    def joined(
        self, transforms: Sequence[Transform], size: int, join: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The maps [N, size, size] of all transforms as one for each image, and where that is not
        for nothing: [N, 1, 1, 1]."""
        same = torch.eye(size, dtype=self._u.dtype, device=self._u.device)
        whole, touched = same.expand(len(self._u), size, size), []
        for transform in transforms:
            on, u = self.next(transform)
            whole = join(whole, torch.where(on[:, :, None], transform.act(u, self._images), same))
            touched.append(on)
        return whole, torch.cat(touched, 1).any(1)[:, None, None, None]

    def _take(self, width: int) -> Tensor:
        self._next += width
        return self._u[:, self._next - width : self._next]


# Karras et al. 2020, appendix B, table 3, but for the filters by which they resample: here it is
# bilinear, so that pixels between pixels are a little softer, of real images and of G's alike.
_BLIT = (
    Transform(geometry.mirror),
    Transform(geometry.quarter_turns),
    Transform(geometry.whole_shift, 2),
)
_GENERAL = (
    Transform(geometry.scale),
    Transform(geometry.turn, likely=geometry.half_as_likely),
    Transform(geometry.stretch),
    Transform(geometry.turn, likely=geometry.half_as_likely),
    Transform(geometry.shift, 2),
)
_COLOURS = (
    Transform(colours.brightness),
    Transform(colours.contrast),
    Transform(colours.luma_flip),
    Transform(colours.hue),
    Transform(colours.saturation),
)

AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": Augmentation(pixels=(Transform(diffaugment.flip),)),
    # Zhao et al. 2020 (DiffAugment), section 3.2 and the code of its authors
    "color": Augmentation(
        pixels=(
            Transform(diffaugment.brightness),
            Transform(diffaugment.saturation),
            Transform(diffaugment.contrast),
        )
    ),
    "translation": Augmentation(pixels=(Transform(diffaugment.translation, 2),)),
    "cutout": Augmentation(pixels=(Transform(diffaugment.cutout, 2),)),
    # Karras et al. 2020 (ADA), figure 4: pixel blitting, with it general geometry, with both colour
    "blit": Augmentation(plane=_BLIT),
    "bg": Augmentation(plane=(*_BLIT, *_GENERAL)),
    "bgc": Augmentation(plane=(*_BLIT, *_GENERAL), colours=_COLOURS),
}
