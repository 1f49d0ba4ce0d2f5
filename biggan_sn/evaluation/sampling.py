"""Samples from a generator: classes, seeds, truncation, standing statistics."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from biggan_sn.data.loader import to_pixels
from biggan_sn.evaluation.pictures import grid
from biggan_sn.models.generator import Generator
from biggan_sn.models.latent import TRUNCATIONS, Latents
from biggan_sn.nn.norm import standing_statistics
from biggan_sn.progress import Advance
from biggan_sn.tables import lookup

PER_CLASS = 1_000_000  # positions of each class, so that a class draws alike whichever others do
BATCH = 64
WRITTEN = (".png", ".npz", "")


@dataclass(frozen=True)
class Sampling:
    """How to draw.

    Args:
        seed: start of all randomness.
        truncation: its value; None draws from the plain normal.
        mode: kind of truncation; a row of TRUNCATIONS.
        standing_statistics: forward passes that renew the batch norms' statistics for this
            truncation; 0 keeps those of training.
    """

    seed: int = 0
    truncation: float | None = None
    mode: str = "resample"
    standing_statistics: int = 0

    def __post_init__(self) -> None:
        lookup(TRUNCATIONS, self.mode, "truncation mode")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if self.truncation is not None and self.truncation <= 0:
            raise ValueError(f"truncation must be positive, got {self.truncation}")
        if self.truncation is None and self.mode != "resample":
            raise ValueError(f"mode {self.mode!r} needs a truncation value")
        if self.standing_statistics < 0:
            raise ValueError(
                f"standing_statistics must be 0 or more, got {self.standing_statistics}"
            )

    @property
    def renewing(self) -> int:
        """Images that `renew_statistics` draws."""
        return self.standing_statistics * BATCH


def find_device(name: str) -> torch.device:
    """The device called `name`; `auto` is a CUDA device if there is one.

    Raises:
        ValueError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch says it in many ways
        raise ValueError(f"no device {name!r} on this machine") from error


def check_classes(classes: Sequence[int], num_classes: int) -> None:
    """Raises ValueError if one of `classes` is none of `num_classes`."""
    for number in classes:
        if not 0 <= number < num_classes:
            raise ValueError(f"class {number} is out of range, there are {num_classes} classes")


def draw(
    generator: nn.Module, labels: Tensor, numbers: Tensor, sampling: Sampling
) -> Iterator[Tensor]:
    """Images uint8 [n, 3, H, W], batch by batch: of each of labels [N], the one with this number
    among those of its class, numbers [N]. The generator keeps its statistics; see
    `renew_statistics`."""
    z = latents_of(generator, labels, numbers, sampling)
    for batch_z, batch_y in zip(z.split(BATCH), labels.split(BATCH), strict=True):
        yield to_pixels(images_of(generator, batch_z, batch_y)).cpu()


def latents_of(generator: nn.Module, labels: Tensor, numbers: Tensor, sampling: Sampling) -> Tensor:
    """z [N, z_dim] of the images with these classes [N] and numbers [N] among those of a class."""
    latents = _latents(generator, sampling)
    positions = (labels * PER_CLASS + numbers).tolist()
    runs = [range(p, p + 1) for p in positions]
    return torch.cat([latents.z(run, sampling.truncation, sampling.mode) for run in runs])


def draw_classes(
    generator: nn.Module,
    classes: Sequence[int],
    per_class: int,
    sampling: Sampling,
    advance: Advance = lambda count: None,
) -> tuple[Tensor, Tensor]:
    """`per_class` images of every class: uint8 [N, 3, H, W] and labels [N], class after class.
    `advance` is called with the number of images drawn since the last call."""
    labels = torch.tensor(classes).repeat_interleave(per_class)
    numbers = torch.arange(per_class).repeat(len(classes))
    images = []
    for batch in draw(generator, labels, numbers, sampling):
        images.append(batch)
        advance(len(batch))
    return torch.cat(images), labels


def renew_statistics(
    generator: nn.Module, sampling: Sampling, advance: Advance = lambda count: None
) -> None:
    """Standing statistics for this truncation, over passes with uniform classes; in place.
    `advance` is called with the number of images drawn since the last call."""
    latents = _latents(generator, sampling, purpose="standing statistics")
    if not sampling.standing_statistics:
        return
    with standing_statistics(generator):
        for number in range(sampling.standing_statistics):
            positions = range(number * BATCH, (number + 1) * BATCH)
            z = latents.z(positions, sampling.truncation, sampling.mode)
            images_of(generator, z, latents.y(positions))
            advance(BATCH)


def _latents(generator: nn.Module, sampling: Sampling, purpose: str = "samples") -> Latents:
    assert isinstance(generator, Generator)
    return Latents(sampling.seed, generator.z_dim, generator.num_classes, purpose)


@torch.no_grad()
def images_of(generator: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    """Images [N, 3, H, W] in (-1, 1), on the generator's device."""
    device = next(generator.parameters()).device
    images: Tensor = generator(z.to(device), y.to(device))
    return images


def write(images: Tensor, labels: Tensor, out: Path, columns: int) -> Path:
    """Writes images uint8 [N, 3, H, W] of classes [N] to `out`: one grid of so many columns if it
    is a .png, arrays `images` uint8 [N, H, W, 3] and `labels` if it is a .npz, and else an empty
    folder of PNGs named by class and number. Returns `out`.

    Raises:
        ValueError: a picture of another kind, or a folder with something in it.
    """
    kind = out.suffix.lower()
    if kind not in WRITTEN and kind in Image.registered_extensions():
        raise ValueError(f"{out}: only a .png, a .npz or a folder can be written")
    out.parent.mkdir(parents=True, exist_ok=True)
    if kind == ".png":
        Image.fromarray(grid(images, columns)).save(out)
        return out
    pixels = images.permute(0, 2, 3, 1).numpy()
    if kind == ".npz":
        np.savez_compressed(out, images=pixels, labels=labels.numpy())
        return out
    out.mkdir(exist_ok=True)
    if any(out.iterdir()):
        raise ValueError(f"{out}: not empty; the samples would mix with what is there")
    numbers: Counter[int] = Counter()
    for image, label in zip(pixels, labels.tolist(), strict=True):
        Image.fromarray(image).save(out / f"class{label:04d}_{numbers[label]:06d}.png")
        numbers[label] += 1
    return out
