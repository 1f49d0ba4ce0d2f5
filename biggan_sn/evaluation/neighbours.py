"""Are samples copies? The real images nearest to each, by pixels and by features.

As a yardstick the same is asked of real images: how far the nearest other one is. All is found in
one pass over the real images, of which none is kept but those that are nearest so far.
"""

import csv
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan_sn.evaluation.extractors import Extractor
from biggan_sn.evaluation.images import Images
from biggan_sn.evaluation.pictures import Block, Pixels, sheet
from biggan_sn.progress import noticed_stops, show_progress

BATCH = 64  # images that are extracted at a time
COPY = 1 / 255  # distance by pixels below which a sample is a copy: half a level of 256
# By what images are compared, and in what unit; how, `distances` says.
MEASURES = {"pixels": "RMS of images in [-1, 1]", "features": "Euclidean"}
COLUMNS = ("class", "name", "sample", "by", "rank", "distance", "real", "real_class", "real_name")


class Described(NamedTuple):
    """What is compared of N images: levels 0..255 of pixels [N, 3 H W], features [N, dim]; both
    float64, where the extractor works."""

    pixels: Tensor
    features: Tensor


class Found(NamedTuple):
    """The real images nearest to each of N, the nearest first, and of those equally near the one
    with the smaller number.

    Args:
        distances: [measures, N, nearest], float64.
        numbers: [measures, N, nearest], among the real images.
    """

    distances: Tensor
    numbers: Tensor


class Neighbours(NamedTuple):
    """What was found: of the samples, and of as many real images, each but itself."""

    samples: Found
    real: Found


def find_neighbours(
    samples: Tensor, real: Images, extractor: Extractor, nearest: int, batch: int = BATCH
) -> Neighbours:
    """The real images nearest to each of samples uint8 [N, 3, H, W], and the yardstick: those
    nearest to N of the real images, which are spread evenly over all.

    Raises:
        ValueError: images of another size, fewer than two or than `nearest`; one of them cannot be
            read; the extractor is not for them, or makes no numbers of them.
    """
    check_real(real, samples.shape[-1], nearest)
    yardstick = _spread(len(samples), len(real.labels))
    queries = torch.cat((samples, *read_images(real, yardstick)))
    own = torch.cat((torch.full((len(samples),), -1), torch.tensor(yardstick)))
    found = _search(describe(queries, extractor, batch), own, real, extractor, nearest, batch)
    count = len(samples)
    return Neighbours(
        Found(found.distances[:, :count], found.numbers[:, :count]),
        Found(found.distances[:, count:], found.numbers[:, count:]),
    )


def _search(
    queries: Described,
    own: Tensor,
    real: Images,
    extractor: Extractor,
    nearest: int,
    batch: int,
) -> Found:
    """The real images nearest to each of N queries, but for the one that it is: own [N]."""
    total = len(real.labels)
    found = _nothing(len(own))
    ranges = [range(start, min(start + batch, total)) for start in range(0, total, batch)]
    with (
        noticed_stops() as stops,
        show_progress(total) as advance,
        closing(real.batches(ranges)) as stream,
    ):
        for numbers, images in zip(ranges, stream, strict=True):
            apart = distances(queries, describe(images, extractor, batch)).cpu()
            here = torch.tensor(numbers)
            apart = apart.masked_fill(own[:, None] == here, torch.inf)
            found = nearest_of(found, apart, here, nearest)
            advance(len(numbers))
            if stops:
                raise KeyboardInterrupt
    return found


def check_real(real: Images, resolution: int, nearest: int) -> None:
    """Raises ValueError unless samples of this resolution can be compared with these images, and
    so many of them be nearest."""
    height, width = real.size
    if (height, width) != (resolution, resolution):
        raise ValueError(
            f"the real images have {width}x{height} pixels, but the generator draws "
            f"{resolution}x{resolution}"
        )
    total = len(real.labels)
    if total < max(2, nearest):
        raise ValueError(
            f"{nearest} nearest of {total} real images cannot be found: there must be as many, "
            "and two at least"
        )


def _spread(count: int, total: int) -> list[int]:
    """So many numbers below `total`, or all, spread evenly."""
    count = min(count, total)
    return [number * total // count for number in range(count)]


def read_images(images: Images, numbers: Iterable[int]) -> list[Tensor]:
    """The images of these numbers: uint8 [1, 3, H, W] each.

    Raises:
        ValueError: one of them cannot be read.
    """
    ranges = (range(number, number + 1) for number in numbers)
    with noticed_stops(), closing(images.batches(ranges)) as stream:
        return list(stream)


def describe(images: Tensor, extractor: Extractor, batch: int = BATCH) -> Described:
    """What is compared of images uint8 [N, 3, H, W].

    The extractor always sees as many at a time, the last of them repeated where there are fewer:
    what it makes of an image is then rounded alike everywhere.

    Raises:
        ValueError: the extractor is not for them, or makes no numbers of them.
    """
    features = []
    for part in images.split(batch):
        repeated = part[-1:].expand(batch - len(part), -1, -1, -1)
        features.append(extractor.extract(torch.cat((part, repeated)))[0][: len(part)])
    found = torch.cat(features).double()
    if not found.isfinite().all():
        raise ValueError(f"features are not finite: are these the weights of {extractor.name}?")
    return Described(images.flatten(1).to(found.device).double(), found)


def distances(some: Described, others: Described) -> Tensor:
    """[measures, N, M] between N images and M others. By pixels: the root of the mean squared
    difference, images being in [-1, 1]. By features: Euclidean.

    By pixels |a|^2 + |b|^2 - 2 a b is right to the last bit, for the levels are whole numbers and
    all sums of them far below 2^53. Features are subtracted: there it would cancel. The same
    pixels have the same features, whatever an extractor's place in a batch does to the last bit.
    """
    squares = [each.pixels.square().sum(1) for each in (some, others)]
    apart = squares[0][:, None] + squares[1] - 2 * some.pixels @ others.pixels.T
    pixels = (apart / some.pixels.shape[1]).sqrt() / 127.5
    features = torch.cdist(
        some.features, others.features, compute_mode="donot_use_mm_for_euclid_dist"
    )
    return torch.stack((pixels, features.masked_fill(apart == 0, 0)))


def nearest_of(found: Found, apart: Tensor, numbers: Tensor, nearest: int) -> Found:
    """The nearest of those found and of others, whose numbers [M] are all larger, at distances
    [measures, N, M]."""
    together = torch.cat((found.distances, apart), 2)
    named = torch.cat((found.numbers, numbers.expand(apart.shape)), 2)
    order = together.argsort(dim=2, stable=True)[
        ..., :nearest
    ]  # stable: of equals the smaller number
    return Found(together.gather(2, order), named.gather(2, order))


def _nothing(count: int) -> Found:
    shape = (len(MEASURES), count, 0)
    return Found(torch.empty(shape, dtype=torch.float64), torch.empty(shape, dtype=torch.int64))


class Summary(NamedTuple):
    """How near samples are to real images, by each of MEASURES, and real ones to one another.

    Args:
        samples: median distance of a sample to the nearest real image.
        real: median distance of a real image to the nearest other one.
        copies: samples whose distance by pixels is below COPY.
    """

    samples: NDArray[np.float64]
    real: NDArray[np.float64]
    copies: int

    @property
    def ratio(self) -> NDArray[np.float64]:
        """samples / real: well below 1, the samples were learnt by heart."""
        with np.errstate(divide="ignore", invalid="ignore"):  # real images may be there twice
            return self.samples / self.real

    def line(self, count: int) -> str:
        """All of it, of so many samples, to be read."""
        parts = [
            f"{by} ({unit}) {sample:.4g}, real to real {real:.4g}, ratio {ratio:.3g}"
            for by, unit, sample, real, ratio in zip(
                *(MEASURES, MEASURES.values(), self.samples, self.real, self.ratio), strict=True
            )
        ]
        return (
            f"median distance of {count} samples to the nearest real image: "
            f"by {'; by '.join(parts)}; {self.copies} copies"
        )


def summarize(found: Neighbours) -> Summary:
    """The medians of the distances to the nearest, and the copies."""
    samples, real = (each.distances[:, :, 0].numpy() for each in found)
    return Summary(np.median(samples, 1), np.median(real, 1), int((samples[0] < COPY).sum()))


def write_table(
    found: Found,
    labels: Sequence[int],
    numbers: Sequence[int],
    names: Sequence[str],
    real: Images,
    out: Path,
) -> None:
    """Writes every distance of samples, and which real image it is of, as CSV with COLUMNS.

    Args:
        found: of N samples.
        labels: the class of each, [N].
        numbers: of each among those of its class, [N].
        names: of the classes of samples.
        real: the real images, whose classes may be others.
        out: the file.
    """
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for sample, (label, number) in enumerate(zip(labels, numbers, strict=True)):
            for by, apart, chosen in zip(MEASURES, *found, strict=True):
                pairs = zip(apart[sample].tolist(), chosen[sample].tolist(), strict=True)
                for rank, (distance, image) in enumerate(pairs, 1):
                    ours = (label, names[label], number, by, rank, distance)
                    writer.writerow((*ours, image, *_class_of(real, image)))


def _class_of(images: Images, number: int) -> tuple[int | str, str]:
    """Number and name of the class of an image; nothing where none is known."""
    label = int(images.labels[number])
    return (label, images.classes[label]) if label >= 0 else ("", "")


def draw_neighbours(samples: Tensor, labels: Sequence[str], found: Found, real: Images) -> Pixels:
    """A row for each of samples uint8 [N, 3, H, W], named by `labels` [N]: the sample, the real
    images nearest to it by pixels and by features, and below each its distance.

    Raises:
        ValueError: a real image cannot be read.
    """
    numbers = sorted(set(found.numbers.flatten().tolist()))
    images = torch.cat(read_images(real, numbers))
    places = torch.searchsorted(torch.tensor(numbers), found.numbers.contiguous())
    blocks = [Block(samples[:, None], "sample")]
    for (by, unit), apart, place in zip(MEASURES.items(), found.distances, places, strict=True):
        captions = [[f"{distance:#.3g}" for distance in row] for row in apart.tolist()]
        blocks.append(Block(images[place], f"nearest by {by} ({unit})", captions))
    return sheet(blocks, labels)
