"""D's door: what happens to every image, real or G's, before D sees it."""

from torch import Tensor

from biggan_sn.config import AugmentConfig
from biggan_sn.data.augment import Chance, augment, augmentations
from biggan_sn.data.loader import Batch
from biggan_sn.models.latent import Latents


class Door:
    """Augments images by numbers that belong to their positions; leaves them as they are where the
    config names no transform.

    All that looks at D's input looks behind the door: penalties and gradient normalization take the
    gradient of D at the augmented image, and relativistic objectives and feature matching compare
    augmented images. So nothing derives an augmentation twice.

    Args:
        config: which transforms, and how probable each is.
        latents: whose seed and purpose the random numbers have, other ones after each rollback.

    Raises:
        ValueError: there is no such transform.
    """

    def __init__(self, config: AugmentConfig, latents: Latents) -> None:
        self._rows = augmentations(config.transforms)
        self._latents = latents
        self.p: Tensor | float = config.p

    def __call__(self, batch: Batch, kind: str, positions: range) -> Batch:
        """The batch as D sees it. Real and fake images of one position have numbers of their own,
        by their `kind`."""
        if not self._rows:
            return batch
        purpose = f"{self._latents.purpose}/augment/{kind}"
        chance = Chance(self._latents.seed, purpose, positions)
        return Batch(augment(batch.images, self._rows, chance, self.p), batch.labels)
