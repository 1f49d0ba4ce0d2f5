"""Mean and covariance in one pass, of any number of features in the memory for one matrix."""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Of the features of some images, in float64.

    Args:
        images: how many.
        mean: [D].
        scatter: sum of the outer products of the deviations from the mean, [D, D].
    """

    images: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """[D, D], without bias; there have to be two images."""
        return self.scatter / (self.images - 1)


def no_moments(dim: int, device: torch.device) -> Moments:
    """Those of no image."""
    zeros = torch.zeros(dim, dim, dtype=torch.float64, device=device)
    return Moments(0, zeros[0].clone(), zeros)


def merge(moments: Moments, features: Tensor) -> Moments:
    """Those of more images: the pairwise update of Chan, Golub and LeVeque (1983), eq. 2.1, which
    loses no digits where sums of squares lose all.

    Args:
        moments: of those before, as they stay.
        features: of more images, [N, D].
    """
    features = features.to(torch.float64)
    mean = features.mean(0)
    deviations = features - mean
    step = mean - moments.mean
    images = moments.images + len(features)
    share = len(features) / images
    scatter = torch.addmm(moments.scatter, deviations.T, deviations)
    scatter.addr_(step, step, alpha=moments.images * share)
    return Moments(images, moments.mean + step * share, scatter)
