"""The section of a run that begins with what another has learnt."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FinetuneConfig:
    """Another run to begin with, and layers that stay as they are.

    Args:
        source: folder of the other run, of `train` or `import`, or of one of its checkpoints. It is
            read once, before the first step: what fits of G, D and the average of G is taken over,
            rows of classes by their names, and optimizers begin anew. Empty: nothing is.
        frozen_generator: layers of G whose weights stay as they are, a list of names or of parts,
            as [linear, blocks.0] or [blocks.0.conv1].
        frozen_discriminator: the same of D: the first blocks see the image (FreezeD, Mo et al.
            2020).
    """

    source: str = ""
    frozen_generator: tuple[str, ...] = ()
    frozen_discriminator: tuple[str, ...] = ()

    def frozen(self, side: str) -> tuple[str, ...]:
        """The layers of `side` (generator or discriminator) that stay."""
        layers: tuple[str, ...] = getattr(self, f"frozen_{side}")
        return layers
