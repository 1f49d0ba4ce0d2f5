"""Adversarial objectives: what D and G minimise, as functions of D's logits [N], fp32."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from biggan_sn.losses.divergences import DIVERGENCES, Divergence
from biggan_sn.tables import lookup

Cost = Callable[[Tensor], Tensor]  # of each logit, that it should be large
Shared = Callable[[Tensor], Tensor]  # a tensor -> its mean over the processes that share a pass


class Objective(NamedTuple):
    """A row.

    Args:
        d_loss: (real logits, fake logits) -> scalar.
        g_loss: (fake logits) -> scalar; of a relative row (fake logits, real logits) -> scalar.
        relative: G's loss asks for the logits of real images, as many as there are fake ones.
        lipschitz: it has a value only for a D that is held in bounds.
        least: the infimum of d_loss; where it is finite, a D that comes near has won.
        undecided: the best logit of D where real and fake images are equally many; None: only
            differences of logits count.
        smoothed: label of real images -> the row with that label instead of 1; None: no labels.
        saturating: the row with the other loss of G; None: there is no other.
        shared: the row whose means of logits are those of all processes; None: it has no use of
            any but the last one.
    """

    d_loss: Callable[[Tensor, Tensor], Tensor]
    g_loss: Callable[..., Tensor]
    relative: bool = False
    lipschitz: bool = False
    least: float = -math.inf
    undecided: float | None = None
    smoothed: Callable[[float], "Objective"] | None = None
    saturating: "Objective | None" = None
    shared: Callable[[Shared], "Objective"] | None = None


def build_objective(
    name: str, real_label: float = 1.0, saturating: bool = False, shared: Shared | None = None
) -> Objective:
    """The row called `name` as the config wants it.

    Args:
        name: row of OBJECTIVES.
        real_label: what D shall say of real images: one-sided label smoothing where it is not 1
            (Salimans et al. 2016, section 3.4).
        saturating: G minimises what D maximises (f-GAN).
        shared: takes means over the processes that share a pass; None: there are no others.

    Raises:
        ValueError: no row has this name, or the row has no labels or no other loss of G.
    """
    row = lookup(OBJECTIVES, name, "objective")
    if real_label != 1:
        if row.smoothed is None:
            raise _lacking(name, f"real_label {real_label}", "labels", "smoothed")
        row = row.smoothed(real_label)
    if saturating:
        if row.saturating is None:
            raise _lacking(name, "fgan_saturating", "other loss of G", "saturating")
        row = row.saturating
    return row.shared(shared) if shared and row.shared else row


def _lacking(name: str, setting: str, lack: str, field: str) -> ValueError:
    able = ", ".join(other for other, row in OBJECTIVES.items() if getattr(row, field))
    return ValueError(f"{setting}: the objective {name} has no {lack}; these have: {able}")


def cross_entropy(g_loss: Callable[[Tensor], Tensor], label: float = 1.0) -> Objective:
    """Goodfellow et al. 2014, eq. 1, as what D minimises, where real images are labelled `label`
    and others 0; `g_loss` takes logits of fake ones."""

    def d_loss(real: Tensor, fake: Tensor) -> Tensor:
        # label * softplus(-real) + (1 - label) * softplus(real), in one
        return (softplus(-real) + (1 - label) * real).mean() + softplus(fake).mean()

    entropy = -sum(p * math.log(p) for p in (label, 1 - label) if p > 0)
    return Objective(
        d_loss,
        g_loss,
        least=entropy,
        undecided=math.log(label / (2 - label)),  # where sigmoid is label / 2
        smoothed=partial(cross_entropy, g_loss),
    )


def least_squares(label: float = 1.0) -> Objective:
    """Mao et al. 2017, eq. 9, where D's target is `label` for real images and 0 for others, and
    G's target is 1."""
    return Objective(
        lambda real, fake: ((real - label).square().mean() + fake.square().mean()) / 2,
        lambda fake: (fake - 1).square().mean() / 2,
        least=0.0,
        undecided=label / 2,
        smoothed=least_squares,
    )


def f_gan(divergence: Divergence) -> Objective:
    """Nowozin et al. 2016: D lowers minus the bound on the divergence (eq. 6). G raises
    T(fake) (section 3.2), or, saturating, minimises the bound."""

    def d_loss(real: Tensor, fake: Tensor) -> Tensor:
        return divergence.of_fake(fake).mean() - divergence.activation(real).mean()

    row = Objective(
        d_loss,
        lambda fake: -divergence.activation(fake).mean(),
        least=-divergence.greatest,
        undecided=divergence.undecided,
    )
    return row._replace(
        saturating=row._replace(g_loss=lambda fake: -divergence.of_fake(fake).mean())
    )


def relativistic_paired(cost: Cost) -> Objective:
    """D wants each real logit above that of one fake image, G the reverse: RpGAN of
    Jolicoeur-Martineau 2018, section 3.2, which is also R3GAN's (Huang et al. 2024, eq. 2). Image i
    of one side is paired with image i of the other."""
    return Objective(
        lambda real, fake: cost(real - fake).mean(),
        lambda fake, real: cost(fake - real).mean(),
        relative=True,
        least=0.0,
    )


def relativistic_average(cost: Cost, shared: Shared | None = None) -> Objective:
    """D wants real logits above the mean fake one, and fake ones below the mean real one; G the
    reverse: RaGAN of Jolicoeur-Martineau 2018, section 3.3. The means are those of a pass: over
    all processes, by `shared`."""

    def above(upper: Tensor, lower: Tensor) -> Tensor:
        means = torch.stack([upper.mean(), lower.mean()])
        upper_mean, lower_mean = shared(means) if shared else means
        return cost(upper - lower_mean).mean() + cost(upper_mean - lower).mean()

    return Objective(
        above, above, relative=True, least=0.0, shared=partial(relativistic_average, cost)
    )


# Those of Jolicoeur-Martineau 2018, which treat real and fake logits as mirror images. Neither form
# of wgan is another: there the differences cancel.
_RELATIVISTIC: dict[str, Cost] = {
    "nonsaturating": lambda difference: softplus(-difference),
    "hinge": lambda difference: relu(1 - difference),
    "lsgan": lambda difference: (difference - 1).square() / 2,
}

OBJECTIVES: dict[str, Objective] = {
    # Lim and Ye 2017; the objective of SNGAN, SAGAN and BigGAN
    "hinge": Objective(
        lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(),
        lambda fake: -fake.mean(),
        least=0.0,
        undecided=0.0,
    ),
    # Goodfellow et al. 2014, eq. 1: G minimises log(1 - sigmoid(fake))
    "minimax": cross_entropy(lambda fake: -softplus(fake).mean()),
    # Goodfellow et al. 2014, section 3: G maximises log sigmoid(fake) instead
    "nonsaturating": cross_entropy(lambda fake: softplus(-fake).mean()),
    "lsgan": least_squares(),
    # Arjovsky et al. 2017, eq. 2; D must be Lipschitz by other means
    "wgan": Objective(
        lambda real, fake: fake.mean() - real.mean(),
        lambda fake: -fake.mean(),
        lipschitz=True,
    ),
    **{f"fgan_{name}": f_gan(divergence) for name, divergence in DIVERGENCES.items()},
    **{f"relativistic_paired_{name}": relativistic_paired(c) for name, c in _RELATIVISTIC.items()},
    **{
        f"relativistic_average_{name}": relativistic_average(c) for name, c in _RELATIVISTIC.items()
    },
}
