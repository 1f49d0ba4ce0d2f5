"""Consistency: D shall say the same of an image and of one near it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from biggan_sn.config import ConsistencyConfig
from biggan_sn.data.augment import augment, augmentations
from biggan_sn.data.chance import Chance
from biggan_sn.data.loader import Batch

REAL, FAKE = 0, 1  # whose logits are compared


@dataclass(frozen=True)
class Twin(Batch):
    """Images near those of another batch, one by one.

    Args:
        of: REAL or FAKE: which they are near to.
        weight: of the squared difference of their logits.
    """

    of: int
    weight: float


class Consistency:
    """CR (Zhang et al. 2020, eq. 4), bCR and zCR (Zhao et al. 2021, algorithms 1 and 2): squared
    differences between D's logits of images and of their twins, which D judges in the same pass,
    and the distance at which G holds its images from those of latent vectors nearby. What D judges
    is augmented before, if anything is; the gradient goes to D through both logits.

    Args:
        config: weights, and what makes a twin.
        seed, purpose: of the random numbers.

    Raises:
        ValueError: there is no such transform.
    """

    def __init__(self, config: ConsistencyConfig, seed: int, purpose: str) -> None:
        self._config = config
        self._rows = augmentations(config.transforms)
        self._seed = seed
        self._purpose = purpose

    def twins(
        self, real: Batch, fake: Batch, draw: Callable[[float], Batch], positions: range
    ) -> list[Twin]:
        """Those that D has to judge beside both batches. `draw` makes `fake` again, but of latent
        vectors that lie so far from its own, a standard deviation."""
        found = []
        for of, kind, batch, weight in (
            (REAL, "real", real, self._config.real),
            (FAKE, "fake", fake, self._config.fake),
        ):
            if weight:
                chance = Chance(self._seed, f"{self._purpose}/consistency/{kind}", positions)
                images = augment(batch.images, self._rows, chance)
                found.append(Twin(images, batch.labels, of, weight))
        if self._config.latent_d:
            near = draw(self._config.latent_noise)
            found.append(Twin(near.images, near.labels, FAKE, self._config.latent_d))
        return found

    def d_loss(
        self, real: Tensor, fake: Tensor, others: Sequence[Tensor], twins: Sequence[Twin]
    ) -> Tensor | float:
        """The terms of D at their weights, 0 where there are none: from its logits [N] of real and
        fake images, and those of the `others`, which are the twins."""
        terms = [
            twin.weight * (logits - (real, fake)[twin.of]).square().mean()
            for logits, twin in zip(others, twins, strict=True)
        ]
        return sum(terms, start=0.0)

    def g_loss(self, fake: Batch, draw: Callable[[float], Batch]) -> Tensor | float:
        """The term of G: minus the squared distance of its images from those nearby, the mean over
        all numbers of an image; `draw` as in `twins`. 0 where it is not asked for."""
        if not self._config.latent_g:
            return 0.0
        near = draw(self._config.latent_noise)
        return -self._config.latent_g * (fake.images - near.images).square().mean()
