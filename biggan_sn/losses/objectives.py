"""Adversarial objectives: what D and G minimise, as functions of D's logits [N], fp32."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import relu, softplus


class Objective(NamedTuple):
    """A row: d_loss(real logits, fake logits) and g_loss(fake logits), each a scalar."""

    d_loss: Callable[[Tensor, Tensor], Tensor]
    g_loss: Callable[[Tensor], Tensor]


OBJECTIVES: dict[str, Objective] = {
    # Lim and Ye 2017; the objective of SNGAN, SAGAN and BigGAN
    "hinge": Objective(
        lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(),
        lambda fake: -fake.mean(),
    ),
    # Goodfellow et al. 2014, eq. 1: G minimises log(1 - sigmoid(fake))
    "minimax": Objective(
        lambda real, fake: softplus(-real).mean() + softplus(fake).mean(),
        lambda fake: -softplus(fake).mean(),
    ),
    # Goodfellow et al. 2014, section 3: G maximises log sigmoid(fake) instead
    "nonsaturating": Objective(
        lambda real, fake: softplus(-real).mean() + softplus(fake).mean(),
        lambda fake: softplus(-fake).mean(),
    ),
    # Mao et al. 2017, eq. 9
    "lsgan": Objective(
        lambda real, fake: ((real - 1).square().mean() + fake.square().mean()) / 2,
        lambda fake: (fake - 1).square().mean() / 2,
    ),
    # Arjovsky et al. 2017, eq. 2; D must be Lipschitz by other means
    "wgan": Objective(
        lambda real, fake: fake.mean() - real.mean(),
        lambda fake: -fake.mean(),
    ),
}
