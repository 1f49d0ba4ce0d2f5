"""The section that asks G for the features of real images."""

from dataclasses import dataclass

from biggan_sn.config.checks import require, require_positive


@dataclass(frozen=True)
class FeatureMatchingConfig:
    """A term of G's loss: D's layers shall make of G's images what they make of real ones.

    In the mean (Salimans et al. 2016, eq. 1).

    Args:
        layers: of D, a list of names as in its state_dict, as [blocks.3]; empty switches it off.
        weight: of the term.
        alone: G has this term in place of the adversarial loss, not beside it.
    """

    layers: tuple[str, ...] = ()
    weight: float = 1.0
    alone: bool = False

    def __post_init__(self) -> None:
        require_positive("feature_matching", self, "weight")
        require(
            bool(self.layers) or not self.alone,
            "feature_matching.alone leaves G without a loss: name layers of D in "
            "feature_matching.layers, as [blocks.3]",
        )
