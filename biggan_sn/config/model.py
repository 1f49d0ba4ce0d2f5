"""The section of the two networks."""

from dataclasses import dataclass

from biggan_sn.config.checks import require, require_not_negative, require_positive


@dataclass(frozen=True)
class ModelConfig:
    """The two networks.

    Args:
        name: architecture: sngan, sagan, biggan or biggan_deep (rows of ARCHITECTURES).
        channels: base width `ch` of both networks.
        discriminator_channels: that of D, where it is another; 0: the same.
        generator_widths: of G in multiples of its base width, before its first block (of a pair, in
            biggan_deep) and after each; empty: those of the paper.
        generator_attention: resolutions after which G attends to itself.
        discriminator_attention: resolutions after which D attends to itself.
        z_dim: length of the latent vector.
        shared_dim: length of the class embedding shared by all conditional norms of G; 0 gives
            every norm a table of its own; null takes what the architecture's paper has.
        hierarchical_z: feed a part of z to every block of G; null as above.
        initialization: how weights start: orthogonal, normal or xavier (INITIALIZERS).
        norm_batch: images that share the statistics of a batch norm in training, wherever they
            lie: those of several processes, or a part of one's batch. 0 takes all images of a pass
            over all processes, so that it changes with their number times the microbatch. Running
            statistics still move once in a pass. The same for minibatch_layer.
        minibatch_layer: by what D compares the images of a pass, real ones and G's each among
            themselves, before it judges: none, discrimination (Salimans et al. 2016) or stddev
            (Karras et al. 2018), rows of MINIBATCH_LAYERS.
        norm: of G's layers: batch, or virtual_batch (Salimans et al. 2016), which makes an image
            whatever others are made with it, at the price of the reference images in every pass
            (rows of NORMS).
        reference_images: of virtual_batch; drawn from the seed, and kept in checkpoints.
    """

    name: str = "biggan"
    channels: int = 96
    discriminator_channels: int = 0
    generator_widths: tuple[int, ...] = ()
    generator_attention: tuple[int, ...] = ()
    discriminator_attention: tuple[int, ...] = ()
    z_dim: int = 120
    shared_dim: int | None = None
    hierarchical_z: bool | None = None
    initialization: str = "orthogonal"
    norm_batch: int = 0
    minibatch_layer: str = "none"
    norm: str = "batch"
    reference_images: int = 64

    def __post_init__(self) -> None:
        require_positive("model", self, "channels", "z_dim", "reference_images")
        require_not_negative("model", self, "discriminator_channels", "norm_batch")
        require(
            all(width > 0 for width in self.generator_widths),
            f"model.generator_widths must be positive, got {self.generator_widths}",
        )
        if self.shared_dim is not None:
            require_not_negative("model", self, "shared_dim")

    @property
    def width_of_discriminator(self) -> int:
        """The base width of D."""
        return self.discriminator_channels or self.channels
