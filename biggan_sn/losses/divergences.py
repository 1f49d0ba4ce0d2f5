"""f-divergences D_f(P, Q) = E_Q f(p / q), and what f-GAN needs to estimate each from logits
(Nowozin et al. 2016, tables 1 and 2)."""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import softplus
from torch.special import xlogy

Map = Callable[[Tensor], Tensor]  # of each element


class Divergence(NamedTuple):
    """A row. For every D, E_P T(D(x)) - E_Q f*(T(D(x))) is at most D_f(P, Q), and just that where
    T(D(x)) = f'(p / q): equation 4 there.

    Args:
        f: convex on u >= 0, with f(1) = 0 (but for the `gan` row, where it is -log 4).
        activation: T, written g_f there: a logit -> a number that f* takes.
        conjugate: f*(t), the supremum over u of t u - f(u).
        of_fake: f*(T(v)) from the logit v, where the two in turn would lose digits or overflow.
        greatest: of D_f over all P and Q.
        undecided: the logit where p = q: T(undecided) = f'(1).
    """

    f: Map
    activation: Map
    conjugate: Map
    of_fake: Map
    greatest: float = math.inf
    undecided: float = 0.0


DIVERGENCES: dict[str, Divergence] = {
    "kl": Divergence(
        f=lambda u: xlogy(u, u),
        activation=lambda v: v,
        conjugate=lambda t: (t - 1).exp(),
        of_fake=lambda v: (v - 1).exp(),
        undecided=1.0,
    ),
    "reverse_kl": Divergence(
        f=lambda u: -u.log(),
        activation=lambda v: -(-v).exp(),
        conjugate=lambda t: -1 - (-t).log(),
        of_fake=lambda v: v - 1,
    ),
    "pearson": Divergence(
        f=lambda u: (u - 1).square(),
        activation=lambda v: v,
        conjugate=lambda t: t.square() / 4 + t,  # below -2 more than it need be, -1
        of_fake=lambda v: v.square() / 4 + v,
    ),
    "squared_hellinger": Divergence(
        f=lambda u: (u.sqrt() - 1).square(),
        activation=lambda v: 1 - (-v).exp(),
        conjugate=lambda t: t / (1 - t),
        of_fake=lambda v: v.exp() - 1,  # torch takes the derivative of expm1 from its result
        greatest=2.0,
    ),
    # Twice the mean of KL(P, M) and KL(Q, M), where M is (P + Q) / 2.
    "jensen_shannon": Divergence(
        f=lambda u: xlogy(u, u) - xlogy(u + 1, (u + 1) / 2),
        activation=lambda v: math.log(2) - softplus(-v),
        conjugate=lambda t: -(2 - t.exp()).log(),
        of_fake=lambda v: softplus(v) - math.log(2),
        greatest=2 * math.log(2),
    ),
    "total_variation": Divergence(
        f=lambda u: (u - 1).abs() / 2,
        activation=lambda v: v.tanh() / 2,
        conjugate=lambda t: t,  # for |t| <= 1/2, where T is
        of_fake=lambda v: v.tanh() / 2,
        greatest=1.0,
    ),
    # The game of Goodfellow et al. 2014: jensen_shannon less log 4.
    "gan": Divergence(
        f=lambda u: xlogy(u, u) - xlogy(u + 1, u + 1),
        activation=lambda v: -softplus(-v),
        conjugate=lambda t: -(-t.exp()).log1p(),
        of_fake=softplus,
        greatest=0.0,
    ),
}
