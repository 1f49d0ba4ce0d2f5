"""Sections for training on few images: what D is shown, and what it is held to there."""

from dataclasses import dataclass

from biggan_sn.config.checks import require


def require_once(name: str, transforms: tuple[str, ...]) -> None:
    """Raises ValueError where one is there twice: both would have the same random numbers."""
    twice = [t for i, t in enumerate(transforms) if t in transforms[:i]]
    require(not twice, f"{name} must name each once, got {twice[:1]} twice")


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to every image before D sees it, real or G's, so that it cannot learn the few
    real ones by heart. G learns through it.

    Args:
        transforms: a list of rows of AUGMENTATIONS, done in this order; empty does nothing. Those
            of DiffAugment (Zhao et al. 2020): color, translation, cutout; those of ADA (Karras et
            al. 2020), each with the ones before it: blit (mirror, quarter turns, whole pixels), bg
            (any size, angle and place), bgc (brightness, contrast, hue and saturation); and flip,
            the mirror alone.
        p: with what probability each of their parts is done to an image.
    """

    transforms: tuple[str, ...] = ()
    p: float = 1.0

    def __post_init__(self) -> None:
        require_once("augment.transforms", self.transforms)
        require(0 < self.p <= 1, f"augment.p must lie in (0, 1], got {self.p}")
