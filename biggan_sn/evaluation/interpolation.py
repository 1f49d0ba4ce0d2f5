"""From one sample to another, and from one class to another, in small steps."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan_sn.data.loader import to_pixels
from biggan_sn.evaluation.pictures import Block, Pixels, sheet
from biggan_sn.evaluation.sampling import BATCH, Sampling, draw_classes, images_of, latents_of
from biggan_sn.models.generator import Generator
from biggan_sn.progress import Advance
from biggan_sn.tables import lookup

PARALLEL = 1e-6  # sine of the angle below which two directions count as one, or as opposite


class End(NamedTuple):
    """One end of a row.

    Args:
        label: the class it shows.
        of: the class whose sample has its latent vector.
        number: of that sample, among those of its class.
    """

    label: int
    of: int
    number: int

    @property
    def is_sample(self) -> bool:
        """Whether `biggan-sn sample` draws it."""
        return self.label == self.of


Ends = tuple[End, End]


class ClassMixture(nn.Module):
    """An embedding of classes that takes a mixture of them: weights [N, num_classes] -> [N, dim].

    The rows of the table are added by their weights, so that a weight of 1 is the row itself, to
    the last bit.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight

    def forward(self, weights: Tensor) -> Tensor:
        return weights @ self.weight


def mixing(generator: Generator) -> Generator:
    """A copy of the generator whose y are weights of the classes [N, num_classes]; all else is the
    same, the names of its tensors too. Works for one shared embedding as for a table in each
    norm: the weights take the place of the labels wherever those went."""
    copy = deepcopy(generator)
    for parent in list(copy.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Embedding):  # a generator embeds nothing but classes
                setattr(parent, name, ClassMixture(child))
    if copy.reference_y is not None and copy.reference_z is not None:
        weights = F.one_hot(copy.reference_y, copy.num_classes)
        copy.reference_y = weights.to(copy.reference_z.dtype)
    return copy


def great_circle(first: Tensor, last: Tensor, part: Tensor) -> Tensor:
    """Latent vectors on the way from `first` to `last` [N, D], at `part` [N] of it, 0 to 1.

    Spherical interpolation (White 2016): the direction turns evenly along the great circle, and
    the length goes evenly from the one to the other. On the straight line it would sink by
    up to 30% in the middle, where no sample of many dimensions lies. Where the two have one
    direction, or opposite ones between which no way is the shortest, the line is straight.
    """
    kept = first.dtype
    first, last, part = first.double(), last.double(), part.double()[:, None]
    lengths = [v.norm(dim=1, keepdim=True).clamp_min(1e-300) for v in (first, last)]
    start, end = first / lengths[0], last / lengths[1]
    angle = (start * end).sum(1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    straight = sine < PARALLEL
    sine = sine.masked_fill(straight, 1)
    weights = [
        torch.where(straight, share, (share * angle).sin() / sine) for share in (1 - part, part)
    ]
    length = torch.lerp(lengths[0], lengths[1], part)
    return ((weights[0] * start + weights[1] * end) * length).to(kept)


def plan_rows(between: str, classes: Sequence[int], rows: int) -> list[Ends]:
    """The ends of each row.

    Args:
        between: what changes along a row; a row of INTERPOLATIONS.
        classes: those of the rows, in turn.
        rows: how many.

    Raises:
        ValueError: no such row of the table, or a row whose ends are the same.
    """
    ends_of = lookup(INTERPOLATIONS, between, "interpolation")
    ends = [ends_of(classes, row) for row in range(rows)]
    if same := [first for first, last in ends if first == last]:
        raise ValueError(
            f"nothing lies between class {same[0].label} and itself: to go from class to class, "
            "name different ones"
        )
    return ends


def interpolate(
    generator: Generator,
    ends: Sequence[Ends],
    steps: int,
    classes: Sequence[int],
    sampling: Sampling,
    advance: Advance = lambda count: None,
) -> Tensor:
    """Images uint8 [rows, steps, 3, H, W], evenly from one end of each row to the other.

    Ends that are samples are those that `draw_classes` gives for these classes and as many of each
    as are needed here, to the last bit; what lies between is the mixing copy's.

    Args:
        generator: as `renew_statistics` leaves it.
        ends: of each row.
        steps: images in a row, both ends among them.
        classes: that `ends` were planned with.
        sampling: how.
        advance: called with the number of images drawn since the last call; `count_drawn` in all.
    """
    images = _between(generator, ends, steps, sampling, advance)
    samples = _samples(generator, classes, ends, sampling, advance)
    for row, pair in enumerate(ends):
        for place, end in zip((0, -1), pair, strict=True):
            if end.is_sample:
                images[row, place] = samples[end]
    return images


def count_drawn(ends: Sequence[Ends], steps: int, classes: Sequence[int]) -> int:
    """Images that `interpolate` draws, of which some are not used."""
    return len(ends) * steps + len(classes) * _of_each_class(ends)


def _of_each_class(ends: Sequence[Ends]) -> int:
    """Samples of a class among which all ends that are samples are."""
    return 1 + max(end.number for pair in ends for end in pair)


def _between(
    generator: Generator, ends: Sequence[Ends], steps: int, sampling: Sampling, advance: Advance
) -> Tensor:
    """Images [rows, steps, 3, H, W], all by the mixing copy."""
    part = torch.linspace(0, 1, steps, dtype=torch.float64).repeat(len(ends))
    sides = [torch.tensor(side).repeat_interleave(steps, 0) for side in zip(*ends, strict=True)]
    first, last = (latents_of(generator, side[:, 1], side[:, 2], sampling) for side in sides)
    here, there = (F.one_hot(side[:, 0], generator.num_classes).double() for side in sides)
    z = great_circle(first, last, part)
    y = torch.lerp(here, there, part[:, None]).to(z.dtype)
    mixed = mixing(generator)
    drawn = []
    for pair in zip(z.split(BATCH), y.split(BATCH), strict=True):
        drawn.append(images_of(mixed, *pair))
        advance(len(drawn[-1]))
    return to_pixels(torch.cat(drawn)).cpu().unflatten(0, (len(ends), steps))


def _samples(
    generator: Generator,
    classes: Sequence[int],
    ends: Sequence[Ends],
    sampling: Sampling,
    advance: Advance,
) -> dict[End, Tensor]:
    """The images of all ends that are samples. In batches of another size they might round
    otherwise, so they are drawn as `biggan-sn sample` draws them, though not all are used."""
    per_class = _of_each_class(ends)
    images, labels = draw_classes(generator, classes, per_class, sampling, advance)
    numbers = torch.arange(per_class).repeat(len(classes))
    named = zip(labels.tolist(), numbers.tolist(), images, strict=True)
    return {End(label, label, number): image for label, number, image in named}


def draw_rows(images: Tensor, ends: Sequence[Ends], names: Sequence[str]) -> Pixels:
    """Rows [rows, steps, 3, H, W] as one picture, with the class at the left, and that at the right
    where they differ, by `names` [num_classes]."""
    left, right = ([names[end.label] for end in side] for side in zip(*ends, strict=True))
    return sheet([Block(images)], left, right if right != left else ())


def _latents_of_a_class(classes: Sequence[int], row: int) -> Ends:
    turn, place = divmod(row, len(classes))
    label = classes[place]
    return End(label, label, 2 * turn), End(label, label, 2 * turn + 1)


def _classes_of_a_latent(classes: Sequence[int], row: int) -> Ends:
    turn, place = divmod(row, len(classes))
    label, following = classes[place], classes[(place + 1) % len(classes)]
    return End(label, label, turn), End(following, label, turn)


def _from_sample_to_sample(classes: Sequence[int], row: int) -> Ends:
    turn, place = divmod(row, len(classes))
    label, following = classes[place], classes[(place + 1) % len(classes)]
    return End(label, label, turn), End(following, following, turn)


# What changes along a row: (classes, number of the row) -> its ends. After the last class comes the
# first again. The last two are the interpolations of Brock et al. 2019, appendix A.
INTERPOLATIONS: dict[str, Callable[[Sequence[int], int], Ends]] = {
    "z": _latents_of_a_class,
    "class": _classes_of_a_latent,
    "both": _from_sample_to_sample,
}
