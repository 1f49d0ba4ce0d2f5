"""The architectures, and how to build them."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from biggan_sn.config import Config
from biggan_sn.models.blocks import NARROWING
from biggan_sn.models.discriminator import Discriminator
from biggan_sn.models.generator import Generator
from biggan_sn.models.latent import Latents
from biggan_sn.models.plan import (
    deep_discriminator_stages,
    deep_generator_stages,
    discriminator_stages,
    generator_stages,
)
from biggan_sn.models.points import PointDiscriminator, PointGenerator
from biggan_sn.nn.layers import initialize
from biggan_sn.nn.lipschitz import constrain, constrain_output
from biggan_sn.nn.minibatch import MINIBATCH_LAYERS
from biggan_sn.nn.norm import NORMS
from biggan_sn.tables import lookup


class Architecture(NamedTuple):
    """One member of the residual family.

    Args:
        shared_dim: width of the class embedding that all norms of G share; 0: each has its own.
        hierarchical_z: every block of G gets its part of z.
        wide: D's blocks widen in their first convolution, not in their second.
        deep: blocks are bottlenecks, two at each resolution, and G gives all of z to each.
    """

    shared_dim: int
    hierarchical_z: bool
    wide: bool
    deep: bool = False


def architecture(config: Config) -> Architecture:
    """The row of the table, with what the config says otherwise.

    Raises:
        ValueError: no such architecture.
    """
    row = lookup(ARCHITECTURES, config.model.name, "architecture")
    if config.model.shared_dim is not None:
        row = row._replace(shared_dim=config.model.shared_dim)
    if config.model.hierarchical_z is not None:
        row = row._replace(hierarchical_z=config.model.hierarchical_z)
    return row


def build_generator(config: Config) -> Generator:
    """G with fresh weights from torch's global generator.

    Raises:
        ValueError: the model section asks for something that cannot be.
    """
    model, row = config.model, architecture(config)
    _check_width(row, model.channels)
    stages_of = deep_generator_stages if row.deep else generator_stages
    stages = stages_of(
        config.data.resolution, model.channels, model.generator_attention, model.generator_widths
    )
    norm = lookup(NORMS, model.norm, "norm")

    def make_norm(channels: int, affine: bool) -> nn.Module:
        return norm.make(channels, affine, model.reference_images)

    network = Generator(
        stages,
        config.data.num_classes,
        model.z_dim,
        row.shared_dim,
        row.hierarchical_z,
        row.deep,
        make_norm,
        _reference(config) if norm.refers else None,
    )
    initialize(network, model.initialization)
    return network


def _reference(config: Config) -> tuple[Tensor, Tensor]:
    """z [R, z_dim] and classes [R] of the reference batch: alike wherever this run is built."""
    model = config.model
    latents = Latents(config.seed, model.z_dim, config.data.num_classes, "reference batch")
    images = range(model.reference_images)
    return latents.z(images), latents.y(images)


def build_discriminator(config: Config) -> Discriminator:
    """D with fresh weights from torch's global generator.

    Raises:
        ValueError: the model section asks for something that cannot be.
    """
    model, row = config.model, architecture(config)
    channels = model.width_of_discriminator
    _check_width(row, channels)
    stages_of = deep_discriminator_stages if row.deep else discriminator_stages
    stages = stages_of(config.data.resolution, channels, model.discriminator_attention)
    make_minibatch = lookup(MINIBATCH_LAYERS, model.minibatch_layer, "minibatch layer")
    network = Discriminator(stages, config.data.num_classes, row.wide, row.deep, make_minibatch)
    initialize(network, model.initialization)
    return network


def _check_width(row: Architecture, channels: int) -> None:
    if row.deep and channels < NARROWING:
        raise ValueError(
            f"model.channels must be {NARROWING} or more where blocks are bottlenecks of a quarter "
            f"of the width, got {channels}"
        )


Network = Generator | Discriminator | PointGenerator | PointDiscriminator


def put_constraints(network: Network, config: Config, side: str) -> None:
    """Puts on a fresh network of `side` (generator or discriminator) what the config says.

    Raises:
        ValueError: the config asks for something that cannot be.
    """
    names = getattr(config.lipschitz, side)
    constrain(network, names, config.lipschitz, CONSTRAINS_EMBEDDINGS[side], network.sides())
    constrain_output(network, names)


BUILDERS: dict[str, Callable[[Config], Generator | Discriminator]] = {
    "generator": build_generator,
    "discriminator": build_discriminator,
}
# D's class embedding is constrained, those of G are not (Brock et al. 2019, appendix B).
CONSTRAINS_EMBEDDINGS = {"generator": False, "discriminator": True}

# SNGAN: Miyato and Koyama 2018, with D as the reference PyTorch code counts it: its first block
# has inside the width of its input, 3 channels, where the authors' own has that of its output.
# SAGAN: Zhang et al. 2019. BigGAN: Brock et al. 2019.
ARCHITECTURES: dict[str, Architecture] = {
    "sngan": Architecture(shared_dim=0, hierarchical_z=False, wide=False),
    "sagan": Architecture(shared_dim=0, hierarchical_z=False, wide=True),
    "biggan": Architecture(shared_dim=128, hierarchical_z=True, wide=True),
    "biggan_deep": Architecture(shared_dim=128, hierarchical_z=False, wide=True, deep=True),
}
