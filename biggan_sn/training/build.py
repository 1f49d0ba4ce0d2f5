"""From a config to a step of the game that is ready to play."""

from functools import partial

import torch
from torch import nn

from biggan_sn.config import Config
from biggan_sn.evaluation.scorers import SCORERS, fitting_scorer
from biggan_sn.losses.objectives import OBJECTIVES
from biggan_sn.losses.penalties import build_penalty
from biggan_sn.losses.regularizers import build_regularizer
from biggan_sn.models.latent import Latents
from biggan_sn.models.zoo import build_discriminator, build_generator
from biggan_sn.nn.lipschitz import LIPSCHITZ, constrain
from biggan_sn.positions import integers
from biggan_sn.tables import lookup
from biggan_sn.training.ema import EMA
from biggan_sn.training.player import Player
from biggan_sn.training.step import GANStep
from biggan_sn.training.world import World


def check(config: Config, ranks: int) -> None:
    """Everything about a config that can be wrong without data or a device.

    Raises:
        ValueError: names the field and what would be right.
    """
    for side in ("generator", "discriminator"):
        config.microbatch(side, ranks)
        for name in getattr(config.lipschitz, side):
            lookup(LIPSCHITZ, name, "lipschitz constraint")
    lookup(OBJECTIVES, config.objective, "objective")
    build_penalty(config.penalties)
    build_regularizer(config.regularizers)
    lookup(SCORERS, config.evaluation.scorer, "scorer")
    if config.evaluation.every:
        fitting_scorer(config.evaluation.scorer, config.data.num_classes, config.data.resolution)
    with torch.device("meta"):
        build_generator(config)
        build_discriminator(config)


def build(config: Config, world: World) -> GANStep:
    """The two players with fresh weights, alike on all processes, and all that moves them.

    Raises:
        ValueError: the config asks for something that cannot be.
    """
    torch.manual_seed(int(integers(config.seed, "weights", range(1), 1, 2**62)[0, 0]))
    g_network = _place(build_generator(config), world)
    d_network = _place(build_discriminator(config), world)
    rows = config.lipschitz
    g_constraint = constrain(g_network, rows.generator, rows, embeddings=False)
    d_constraint = constrain(d_network, rows.discriminator, rows, embeddings=True)
    ema = EMA(g_network, config.ema.decay, config.ema.start)
    players = {
        side: Player(
            network,
            getattr(config, side),
            config.batch_size,
            config.microbatch(side, world.ranks),
            world.rank,
            world.ranks,
        )
        for side, network in (("generator", g_network), ("discriminator", d_network))
    }
    return GANStep(
        g=players["generator"],
        d=players["discriminator"],
        g_constraint=g_constraint,
        d_constraint=d_constraint,
        ema=ema,
        objective=lookup(OBJECTIVES, config.objective, "objective"),
        penalty=build_penalty(config.penalties),
        penalty_every=config.penalty_every,
        regularizer=build_regularizer(config.regularizers),
        latents=Latents(config.seed, config.model.z_dim, config.data.num_classes, "training"),
        d_steps=config.d_steps,
        batch_size=config.batch_size,
        autocast=partial(
            torch.autocast, world.device.type, torch.bfloat16, config.precision == "bf16"
        ),
        device=world.device,
    )


def _place(network: nn.Module, world: World) -> nn.Module:
    """On the device, channels last: what tensor cores want, and faster on CPUs too."""
    network = network.to(world.device).to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            # Both layouts at once; in the strides of their gradients, DDP need not copy.
            weight = module.weight.data
            module.weight.data = weight.clone(memory_format=torch.contiguous_format)
    return network
