"""What of a training step is timed and counted."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan_sn.config import Config
from biggan_sn.data.loader import Batch
from biggan_sn.nn.constraint import Constraint
from biggan_sn.training.player import Player
from biggan_sn.training.step import GANStep, Means

Played = Callable[[int, Iterator[Batch]], object]  # (number of the step, real images)
Term = Callable[[nn.Module], Tensor | float]


class Play(NamedTuple):
    """A row.

    Args:
        ready: a step -> what is to be repeated.
        images: how many images that is good for, over all processes: real ones that D sees, in a
            whole step or an update of D, or those that G makes.
        divided: whether it has phases that are worth telling apart.
        whole: whether it is all of a step, of which the control of spectra takes its share.
    """

    ready: Callable[[GANStep], Played]
    images: Callable[[Config], int]
    divided: bool = False
    whole: bool = False


def _samples(step: GANStep) -> Played:
    generator = step.ema.generator()

    def draw(number: int, reals: Iterator[Batch]) -> object:
        with torch.no_grad():
            return step.sample(generator, number, 0, range(step.d.microbatch))

    return draw


def _g(step: GANStep) -> Played:
    def update(number: int, reals: Iterator[Batch]) -> None:
        if step.compares:
            step.shown.forget()
            for _ in step.d.microbatches():
                step.shown.keep(next(reals))
        step.update_generator(number, Means())

    return update


def _weights(step: GANStep) -> Played:
    """What a step does with weights, whatever the number of images: terms on them, Adam, spectra
    and clamps, the average."""

    def update(player: Player, term: Term, constraint: Constraint) -> None:
        with player.turn():
            for _ in player.microbatches():
                loss = player.once(_no_gradient)
                if isinstance(loss, Tensor):  # in the last round
                    player.descend(loss, player.once(term))
        constraint.after_step()

    def move(number: int, reals: Iterator[Batch]) -> object:
        for _ in range(step.d_steps):
            update(step.d, step.d_regularizer, step.d_constraint)
        update(step.g, step.g_regularizer, step.g_constraint)
        return step.ema.update(step.g.network, number)

    return move


def _no_gradient(network: nn.Module) -> Tensor:
    """A loss whose gradient in all weights is there, and 0."""
    return 0 * torch.stack([p.flatten()[0] for p in network.parameters() if p.requires_grad]).sum()


PLAYS: dict[str, Play] = {
    "step": Play(lambda step: step, lambda config: config.d_steps * config.batch_size, True, True),
    "d": Play(
        lambda step: lambda number, reals: step.update_discriminator(number, 0, reals, Means()),
        lambda config: config.batch_size,
    ),
    "g": Play(_g, lambda config: config.batch_size),
    "weights": Play(_weights, lambda config: config.d_steps * config.batch_size, True),
    "sample": Play(_samples, lambda config: config.batch_size),
}
