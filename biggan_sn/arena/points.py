"""Mixtures of Gaussians in the plane, whose modes can be counted.

The two that the field compares by (Srivastava et al. 2017, section 5.1; Lin et al. 2018, section
4.1), with their deviations and their words: a sample is of high quality within three deviations of
the nearest mode, and a mode is covered if a sample of high quality is nearest to it.
"""

import math
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan_sn.data.loader import Batch, send
from biggan_sn.models.points import PLANE
from biggan_sn.positions import integers, uniform

NEAR = 3  # deviations


class Mixture(NamedTuple):
    """Gaussians of equal weight.

    Args:
        centres: [M, 2].
        deviation: of each, along each axis.
    """

    centres: NDArray[np.float64]
    deviation: float

    def draw(self, seed: int, purpose: str, positions: range) -> NDArray[np.float64]:
        """Points [N, 2], functions of (seed, purpose, position)."""
        modes = integers(seed, f"{purpose}/mode", positions, 1, len(self.centres))[:, 0]
        u = torch.from_numpy(uniform(seed, f"{purpose}/place", positions, PLANE))
        return self.centres[modes] + self.deviation * torch.special.ndtri(u).numpy()

    def batches(self, seed: int, size: int, device: torch.device) -> Iterator[Batch]:
        """Batches of points [size, 2, 1, 1], all of class 0, without end."""
        labels = torch.zeros(size, dtype=torch.long, device=device)
        for first in count(step=size):
            points = torch.from_numpy(self.draw(seed, "points", range(first, first + size)))
            points = points.to(torch.get_default_dtype())[:, :, None, None]
            yield Batch(send(points, device), labels)

    def score(self, points: NDArray[np.float64]) -> dict[str, float]:
        """Of points [N, 2]. modes: how many are covered; quality: the share of points of high
        quality; kl: Kullback-Leibler divergence of the modes nearest to those from all alike, in
        nats; nan where there are none."""
        away = np.linalg.norm(points[:, None] - self.centres[None], axis=2)
        good = away.min(1) <= NEAR * self.deviation
        counts = np.bincount(away.argmin(1)[good], minlength=len(self.centres))
        shares = counts[counts > 0] / max(counts.sum(), 1)
        divergence = float((shares * np.log(shares * len(self.centres))).sum())
        return {
            "modes": float((counts > 0).sum()),
            "quality": float(good.mean()),
            "kl": divergence if good.any() else math.nan,
        }


def as_points(images: Tensor) -> NDArray[np.float64]:
    """What G made, [N, 2, 1, 1], as points [N, 2]."""
    found: NDArray[np.float64] = images.flatten(1).double().cpu().numpy()
    return found


def ring(modes: int, deviation: float) -> Mixture:
    """Modes on the unit circle."""
    angles = 2 * math.pi * np.arange(modes) / modes
    return Mixture(np.stack([np.cos(angles), np.sin(angles)], 1), deviation)


def grid(side: int, spacing: float, deviation: float) -> Mixture:
    """Modes on a square grid around 0."""
    axis = spacing * (np.arange(side) - (side - 1) / 2)
    return Mixture(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, PLANE), deviation)


POINTS: dict[str, Mixture] = {
    "ring8": ring(8, 0.01),
    "grid25": grid(5, 2.0, 0.05),
}
