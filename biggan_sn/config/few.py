"""Sections for training on few images: what D is shown, what it is held to there, and which of G's
images count."""

from dataclasses import dataclass

from biggan_sn.config.checks import require, require_not_negative, require_positive


def _once(name: str, transforms: tuple[str, ...]) -> None:
    """Raises ValueError where one is there twice: both would have the same random numbers."""
    twice = [t for i, t in enumerate(transforms) if t in transforms[:i]]
    require(not twice, f"{name} must name each once, got {twice[:1]} twice")


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to every image before D sees it, real or G's.

    So that it cannot learn the few real ones by heart. G learns through it.

    Args:
        transforms: a list of rows of AUGMENTATIONS, done in this order; empty does nothing. Those
            of DiffAugment (Zhao et al. 2020): color, translation, cutout; those of ADA (Karras et
            al. 2020), each with the ones before it: blit (mirror, quarter turns, whole pixels), bg
            (any size, angle and place), bgc (brightness, contrast, hue and saturation); and flip,
            the mirror alone.
        p: with what probability each of their parts is done to an image. With a target, where it
            begins.
        target: ADA: p rises while the mean sign of D's logits of real images is above this, and
            falls below; 0.6 in the paper. 0 leaves p as it is. Not for objectives of which only
            differences of logits count (wgan, relativistic_*).
        images: real images that D sees while p moves by 1, with a target.
        every: updates of D between two moves of p, with a target.
    """

    transforms: tuple[str, ...] = ()
    p: float = 1.0
    target: float = 0.0
    images: int = 500_000
    every: int = 4

    def __post_init__(self) -> None:
        _once("augment.transforms", self.transforms)
        require(0 <= self.p <= 1, f"augment.p must lie in [0, 1], got {self.p}")
        require(0 <= self.target < 1, f"augment.target must lie in [0, 1), got {self.target}")
        require_positive("augment", self, "images", "every")
        require(
            self.p > 0 or self.target > 0,
            "augment.p must be above 0 where augment.target is 0: nothing would ever be done",
        )
        require(
            self.target == 0 or bool(self.transforms),
            "augment.target must have augment.transforms, as [bgc], whose probability it moves",
        )


@dataclass(frozen=True)
class ConsistencyConfig:
    """Terms by which D shall say the same of an image and of its neighbour.

    Weights of 0 ask for nothing; each other one costs D an image more in a pass.

    Args:
        real: weight for real images and what `transforms` make of them: CR (Zhang et al. 2020), 10
            there.
        fake: the same for G's; with both it is bCR (Zhao et al. 2021), 10 and 10 there.
        latent_d: weight for G's images of a latent vector and of one near it: zCR (Zhao et al.
            2021), 5 there.
        latent_g: weight by which G holds these two images apart, 0.5 there.
        latent_noise: standard deviation of the noise from one latent vector to the other.
        transforms: a list of rows of AUGMENTATIONS, each done to every image.
    """

    real: float = 0.0
    fake: float = 0.0
    latent_d: float = 0.0
    latent_g: float = 0.0
    latent_noise: float = 0.07
    transforms: tuple[str, ...] = ("flip", "translation")

    def __post_init__(self) -> None:
        _once("consistency.transforms", self.transforms)
        require_not_negative("consistency", self, "real", "fake", "latent_d", "latent_g")
        require_positive("consistency", self, "latent_noise")
        require(
            bool(self.transforms) or not (self.real or self.fake),
            "consistency.transforms must name one at least: an image is its own neighbour else",
        )


@dataclass(frozen=True)
class LeCamConfig:
    """A term that holds D's logits near the moving mean of those of the other side.

    Those of real images near that of G's, and the reverse (Tseng et al. 2021).

    Args:
        weight: of the term; 0 switches it off, 0.3 in the paper.
        decay: weight of the past in the means, from one update of D to the next.
        start: step from which on there is the term.
    """

    weight: float = 0.0
    decay: float = 0.99
    start: int = 1000

    def __post_init__(self) -> None:
        require_not_negative("lecam", self, "weight", "start")
        require(0 <= self.decay < 1, f"lecam.decay must lie in [0, 1), got {self.decay}")


@dataclass(frozen=True)
class TopKConfig:
    """G learns from those of its images that D takes for real the most.

    Of the images of a pass, over all processes (Sinha et al. 2020).

    Args:
        share: the smallest part of them; 1 takes all, always. 0.5 in the paper.
        gamma: the part is multiplied by this until it is so small.
        every: steps between two times; an epoch in the paper.
    """

    share: float = 1.0
    gamma: float = 0.99
    every: int = 1000

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, f"top_k.share must lie in (0, 1], got {self.share}")
        require(0 < self.gamma < 1, f"top_k.gamma must lie in (0, 1), got {self.gamma}")
        require_positive("top_k", self, "every")

    def at(self, step: int) -> float:
        """The part of the images that counts at a step."""
        return max(self.share, self.gamma ** (step // self.every))
