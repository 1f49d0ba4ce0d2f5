"""Sections that watch over a run and keep it: monitor, collapse, checkpoints."""

from dataclasses import dataclass, field
from typing import Any

from biggan_sn.config.checks import require, require_not_negative, require_positive

ACTIONS = ("off", "warn", "stop", "rollback")


@dataclass(frozen=True)
class MonitorConfig:
    """The spectra as they are logged.

    Args:
        every: steps between two measurements; 0 switches them off.
    """

    every: int = 100

    def __post_init__(self) -> None:
        require_not_negative("monitor", self, "every")


@dataclass(frozen=True)
class CollapseConfig:
    """The signs of a collapse, and what is done about them: off, warn, stop or rollback.

    A run whose losses are not finite stops or goes back in any case.

    Args:
        every: steps between two looks; 0 asks no more than that all be finite.
        explosion: what to do when the weights of a layer explode.
        memorization: what to do when D knows the training images by heart.
        quality: what to do when a loss is not finite, the pictures of a class become one
            (diversity), D sees no image any more (blindness) or the FID turns up (fid_rise).
        rollbacks: so many times the run goes back, by hand or by itself: to its newest checkpoint
            from before the first sign, each time with other random numbers and new images. Then it
            stops.
        scale: settings multiplied at each rollback, as {generator.lr: 0.5}.
        change: settings replaced from the first rollback on, as {penalties.r1: 1}.
        images: held-out images, and as many of G and of training, in one look, over all processes;
            an even number on each.
        cusum: an explosion is a CUSUM above this: of the increments of log sigma_0, log sigma_0 /
            sigma_1 or log Frobenius norm between two looks, in robust standard deviations.
        growth: and within some ten looks the layer has grown so many times more than usual.
        heldout_gap: D knows images by heart when this far from what it thinks of training images
            (0) to what it thinks of G's (1) lies what it thinks of held-out ones.
        d_loss: or when its loss, counted from the lowest there can be, is this part of what it was
            to a D that cannot tell; of no use where losses know no end (wgan, some of fgan_*).
        diversity: G lost its variety when two of its pictures of a class differ, among D's
            features, by this part of what two training images do.
        fid_rise: the FID turned up when three evaluations found it so many times the best.
    """

    every: int = 10
    explosion: str = "rollback"
    memorization: str = "warn"
    quality: str = "rollback"
    rollbacks: int = 3
    scale: dict[str, float] = field(default_factory=dict)
    change: dict[str, Any] = field(default_factory=dict)
    images: int = 32
    cusum: float = 30.0
    growth: float = 1.5
    heldout_gap: float = 0.5
    d_loss: float = 0.05
    diversity: float = 0.25
    fid_rise: float = 2.0

    def __post_init__(self) -> None:
        for name in ("explosion", "memorization", "quality"):
            action = getattr(self, name)
            require(action in ACTIONS, f"collapse.{name} must be one of {ACTIONS}, got {action!r}")
        require_not_negative("collapse", self, "every", "rollbacks", "d_loss", "diversity")
        require_positive("collapse", self, "images", "cusum", "heldout_gap")
        for name in ("growth", "fid_rise"):
            value = getattr(self, name)
            require(value > 1, f"collapse.{name} must be above 1, got {value}")
        for name, factor in self.scale.items():
            require(factor > 0, f"collapse.scale.{name} must be positive, got {factor}")


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept on disk.

    Args:
        every: steps between two checkpoints.
        keep: how many of the newest are kept.
        keep_spaced: of how many ages beyond them, each twice the one before, there is always one:
            to go back to when a collapse began long before it showed. Two are kept for each.
        keep_best: how many of the best by evaluation are kept beside them.
    """

    every: int = 1000
    keep: int = 2
    keep_spaced: int = 3
    keep_best: int = 1

    def __post_init__(self) -> None:
        require_positive("checkpoint", self, "every", "keep")
        require_not_negative("checkpoint", self, "keep_spaced", "keep_best")
