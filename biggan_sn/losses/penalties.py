"""Penalties on the gradient of D with respect to its input: where it is taken, and what of its
length is paid for."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from biggan_sn.data.chance import Chance
from biggan_sn.data.loader import Batch
from biggan_sn.nn.precision import inner_gradient
from biggan_sn.tables import weighted_rows

Judge = Callable[[Tensor, Tensor], Tensor]  # D: images [N, C, H, W], labels [N] -> logits [N]
Place = tuple[Tensor, Tensor]  # images and their labels
Term = Callable[[Judge, Sequence[Place]], Tensor]


class Surroundings(NamedTuple):
    """What the choice of a place may depend on, beside the images.

    Args:
        chance: the images' random numbers.
        shared: a tensor -> its mean over the processes that share a pass.
    """

    chance: Chance
    shared: Callable[[Tensor], Tensor]


PenaltyOnD = Callable[[Judge, Batch, Batch, Surroundings], Tensor | float]  # real and fake batch


class Penalty(NamedTuple):
    """A row.

    Args:
        place: (real, fake, surroundings) -> the images at which D's gradient is taken.
        cost: the squared length [N] of the gradient there -> what is paid for each.
    """

    place: Callable[[Batch, Batch, Surroundings], Batch]
    cost: Callable[[Tensor], Tensor]


def between(real: Batch, fake: Batch, around: Surroundings) -> Batch:
    """A random point of the line from each real image to a fake one; its label is the real one's.
    Gulrajani et al. 2017, algorithm 1."""
    images = real.images
    share = around.chance.uniform("between", 1, images.device).to(images.dtype)[:, :, None, None]
    return Batch(torch.lerp(images, fake.images, share), real.labels)


def near_real(real: Batch, fake: Batch, around: Surroundings) -> Batch:
    """Real images and normal noise, of half the standard deviation that all numbers of the real
    images of a pass have. Kodali et al. 2017, algorithm 1, where it is a constant."""
    images = real.images
    mean = around.shared(images.mean())
    deviation = around.shared((images - mean).square().mean()).sqrt()
    noise = around.chance.normal("near_real", images)
    return Batch(torch.addcmul(images, noise, deviation / 2), real.labels)


def _from_one(square: Tensor) -> Tensor:
    """(length - 1)^2. The small number: the root's derivative at 0 is infinite."""
    return ((square + 1e-12).sqrt() - 1).square()


def build_penalty(
    weights: Mapping[str, float], compiled: Callable[[Term], Term] = lambda term: term
) -> PenaltyOnD:
    """The weighted sum of the penalties named; 0 where no weight is above 0.

    Args:
        weights: by name.
        compiled: is given all that holds derivatives of D, as one term.

    Raises:
        ValueError: a name that is no row of PENALTIES.
    """
    rows = weighted_rows(PENALTIES, weights, "penalty")

    def paid(judge: Judge, places: Sequence[Place]) -> Tensor:
        terms = [
            weight * row.cost(_squared_slopes(judge, place)).mean()
            for (row, weight), place in zip(rows, places, strict=True)
        ]
        return torch.stack(terms).sum()

    term = compiled(paid)

    @torch.no_grad()
    def places(real: Batch, fake: Batch, around: Surroundings) -> list[Place]:
        found = [row.place(real, fake, around) for row, _ in rows]
        return [(batch.images.detach(), batch.labels) for batch in found]

    def penalty(judge: Judge, real: Batch, fake: Batch, around: Surroundings) -> Tensor | float:
        return term(judge, places(real, fake, around)) if rows else 0.0

    return penalty


def _squared_slopes(judge: Judge, place: Place) -> Tensor:
    """The squared length [N] of D's gradient at each image."""
    images, labels = place
    _, gradient = inner_gradient(lambda x: judge(x, labels), images)
    return gradient.square().flatten(1).sum(1)


PENALTIES: dict[str, Penalty] = {
    # Mescheder et al. 2018, eq. 9 and 10; the weight is gamma
    "r1": Penalty(lambda real, fake, around: real, lambda square: square / 2),
    "r2": Penalty(lambda real, fake, around: fake, lambda square: square / 2),
    # Gulrajani et al. 2017, eq. 3; the weight is lambda
    "wgan_gp": Penalty(between, _from_one),
    # Kodali et al. 2017, section 2.3
    "dragan": Penalty(near_real, _from_one),
    # Thanh-Tung et al. 2019, eq. 7: 0-GP, between real and fake images
    "zero_centred_gp": Penalty(between, lambda square: square),
}
