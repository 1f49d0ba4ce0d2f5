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
        forms: file that says in which form each convolution beside a resampling is computed, as
            `bench --mode layers --table` measured it on the machine; empty goes by rules of thumb.
        compile: torch.compile for passes through both networks and for R1 and gradient
            normalization, to rounding: minutes at the start, less time for a step. Samples,
            scores and looks for signs of collapse go without.
        cuda_graphs: with compile on a GPU: each compiled pass is recorded once and played from
            then on (CUDA graphs), which saves the time of launching kernels. Worth it where
            batches are small; takes memory.
    """

    recompute: tuple[str, ...] = ()
    forms: str = ""
    compile: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        for name in self.recompute:
            require(
                name in NETWORKS,
                f"speed.recompute must name generator or discriminator, got {name!r}",
            )
        require(
            self.compile or not self.cuda_graphs,
            "speed.cuda_graphs records compiled passes: set speed.compile to true as well",
        )
