"""Latent vectors and classes as functions of (seed, position), and the kinds of truncation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from biggan_sn.positions import integers, uniform
from biggan_sn.tables import lookup

Truncation = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Latents:
    """The stream of (z, y) of one seed: standard normal z, uniform classes.

    Args:
        seed: start of the stream.
        z_dim: length of z.
        num_classes: number of classes.
        purpose: keeps streams of one seed apart.
    """

    seed: int
    z_dim: int
    num_classes: int
    purpose: str

    def z(
        self,
        positions: range,
        truncation: float | None = None,
        mode: str = "resample",
        noise: float = 0.0,
    ) -> Tensor:
        """z [N, z_dim] of these positions; `truncation` None is the plain normal. With `noise`, a
        standard deviation, it is another one near that, as random, and the same each time."""
        u = torch.from_numpy(uniform(self.seed, f"{self.purpose}/z", positions, self.z_dim))
        if truncation is None:
            z = torch.special.ndtri(u)
        else:
            z = lookup(TRUNCATIONS, mode, "truncation mode")(u, truncation)
        if noise:
            way = uniform(self.seed, f"{self.purpose}/z nearby", positions, self.z_dim)
            z = z + noise * torch.special.ndtri(torch.from_numpy(way))
        return z.to(torch.get_default_dtype())

    def y(self, positions: range) -> Tensor:
        """Classes [N] of these positions."""
        drawn = integers(self.seed, f"{self.purpose}/y", positions, 1, self.num_classes)
        return torch.from_numpy(np.ascontiguousarray(drawn[:, 0]))


def _normal_within(u: Tensor, bound: float) -> Tensor:
    """A normal variable given that it lies in [-bound, bound], from a uniform one."""
    low = torch.special.ndtr(torch.tensor(-bound, dtype=u.dtype))
    return torch.special.ndtri(low + (1 - 2 * low) * u).clamp(-bound, bound)


# Four different things that the field calls truncation; t is its value, u uniform in (0, 1).
TRUNCATIONS: dict[str, Truncation] = {
    "resample": _normal_within,  # redraw what exceeds t: the paper
    "scaled_resample": lambda u, t: t * _normal_within(u, 2.0),  # the TF-Hub modules
    "scale": lambda u, t: t * torch.special.ndtri(u),  # the reference PyTorch code
    "clamp": lambda u, t: torch.special.ndtri(u).clamp(-t, t),  # mmgeneration
}
