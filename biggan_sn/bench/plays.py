"""What of a training step is timed and counted."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from biggan_sn.config import Config
from biggan_sn.data.loader import Batch
from biggan_sn.training.step import GANStep, Means

Played = Callable[[int, Iterator[Batch]], object]  # (number of the step, real images)


class Play(NamedTuple):
    """A row.

    Args:
        ready: a step -> what is to be repeated.
        images: how many images that is good for, over all processes: real ones that D sees, in a
            whole step or an update of D, or those that G makes.
    """

    ready: Callable[[GANStep], Played]
    images: Callable[[Config], int]


def _samples(step: GANStep) -> Played:
    generator = step.ema.generator()

    def draw(number: int, reals: Iterator[Batch]) -> object:
        with torch.no_grad():
            return step.sample(generator, number, 0, range(step.d.microbatch))

    return draw


PLAYS: dict[str, Play] = {
    "step": Play(lambda step: step, lambda config: config.d_steps * config.batch_size),
    "d": Play(
        lambda step: lambda number, reals: step.update_discriminator(number, 0, reals, Means()),
        lambda config: config.batch_size,
    ),
    "g": Play(
        lambda step: lambda number, reals: step.update_generator(number, Means()),
        lambda config: config.batch_size,
    ),
    "sample": Play(_samples, lambda config: config.batch_size),
}
