"""Penalties on the gradient of D with respect to its input."""

from collections.abc import Callable, Mapping

from torch import Tensor

from biggan_sn.nn.precision import Critic, inner_gradient
from biggan_sn.tables import lookup

Penalty = Callable[[Critic, Tensor, Tensor], Tensor | float]  # (critic, real, fake) -> scalar


def r1(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """Half the mean squared norm of D's gradient at real images; its weight is gamma.
    Mescheder et al. 2018, eq. 9."""
    _, gradient = inner_gradient(critic, real.detach())
    return gradient.square().flatten(1).sum(1).mean() / 2


def build_penalty(weights: Mapping[str, float]) -> Penalty:
    """The weighted sum of the penalties named; 0 where no weight is above 0.

    Raises:
        ValueError: a name that is no row of PENALTIES.
    """
    terms = [(lookup(PENALTIES, name, "penalty"), w) for name, w in weights.items()]

    def total(critic: Critic, real: Tensor, fake: Tensor) -> Tensor | float:
        return sum((w * term(critic, real, fake) for term, w in terms if w > 0), start=0.0)

    return total


PENALTIES: dict[str, Penalty] = {"r1": r1}
