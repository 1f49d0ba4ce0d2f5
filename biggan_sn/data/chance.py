"""Random numbers of images, which follow from their positions."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from biggan_sn.data.loader import send
from biggan_sn.positions import uniform, words


@dataclass(frozen=True)
class Chance:
    """Where the random numbers of some images come from.

    Args:
        seed: start of all randomness.
        purpose: keeps random numbers of different meaning apart.
        positions: of the images, from which their numbers follow.
    """

    seed: int
    purpose: str
    positions: range

    def uniform(self, what: str, width: int, device: torch.device) -> Tensor:
        """So many numbers in (0, 1) for each image: [N, width], fp64, in which none is rounded to
        the end of the interval."""
        drawn = uniform(self.seed, f"{self.purpose}/{what}", self.positions, width)
        return send(torch.from_numpy(drawn), device)

    def normal(self, what: str, like: Tensor) -> Tensor:
        """A standard normal number for each number of the images [N, C, H, W]: one of 65536, of
        equal probability, of which a random word makes four. They are so many that the host draws
        bits, and the device does the rest."""
        width = like[0].numel()
        drawn = words(self.seed, f"{self.purpose}/{what}", self.positions, -(-width // 4))
        steps = np.ascontiguousarray(drawn, "<u8").view("<i2")[:, :width].reshape(like.shape)
        middles = send(torch.from_numpy(steps), like.device).to(like.dtype) + 0.5
        return torch.special.ndtri(middles / 2**16 + 0.5)
