"""The section that trades time, memory and waiting for the compiler, and changes no number."""

from dataclasses import dataclass

from biggan_sn.config.checks import require

NETWORKS = ("generator", "discriminator")


@dataclass(frozen=True)
class SpeedConfig:
    """How the same numbers come about with less memory.

    Args:
        recompute: networks, a list of generator and discriminator, whose residual blocks do not
            keep their activations for the backward pass but compute them again (activation
            checkpointing, Chen et al. 2016): less memory, more time, the same numbers.
        compile: torch.compile for passes through both networks and for R1 and gradient
            normalization, to rounding: minutes at the start, less time for a step. Samples,
            scores and looks for signs of collapse go without.
    """

    recompute: tuple[str, ...] = ()
    compile: bool = False

    def __post_init__(self) -> None:
        for name in self.recompute:
            require(
                name in NETWORKS,
                f"speed.recompute must name generator or discriminator, got {name!r}",
            )
