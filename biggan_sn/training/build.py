"""From a config to a step of the game that is ready to play."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from biggan_sn.config import Config
from biggan_sn.config_io import after_rollbacks
from biggan_sn.data.augment import augmentations
from biggan_sn.evaluation.extractors import EXTRACTORS
from biggan_sn.evaluation.metrics import METRICS
from biggan_sn.losses.consistency import Consistency
from biggan_sn.losses.feature_matching import FeatureMatching
from biggan_sn.losses.lecam import LeCam
from biggan_sn.losses.objectives import Objective, Shared, build_objective
from biggan_sn.losses.penalties import PenaltyOnD, build_penalty
from biggan_sn.losses.regularizers import build_regularizer
from biggan_sn.losses.regularizers import rows_of as regularizer_rows
from biggan_sn.losses.top_k import TopK
from biggan_sn.models.discriminator import Discriminator
from biggan_sn.models.latent import Latents
from biggan_sn.models.zoo import (
    BUILDERS,
    CONSTRAINS_EMBEDDINGS,
    Network,
    build_discriminator,
    build_generator,
    put_constraints,
)
from biggan_sn.nn.compiling import compile_passes, compile_term, let_go
from biggan_sn.nn.constraint import Constraint
from biggan_sn.nn.forms import choose_forms, read_table
from biggan_sn.nn.history import History
from biggan_sn.nn.layers import lay_out
from biggan_sn.nn.lipschitz import LIPSCHITZ, rows_of
from biggan_sn.nn.names import frozen_parameters
from biggan_sn.nn.norm import share_statistics
from biggan_sn.nn.precision import PRECISIONS, autocast, chosen
from biggan_sn.nn.recomputing import recompute, refuse_compiler
from biggan_sn.nn.replicas import mean_over_replicas, plan_sharing
from biggan_sn.nn.spectral import DEPTH
from biggan_sn.nn.spectrum import Spectrum
from biggan_sn.positions import integers
from biggan_sn.tables import lookup
from biggan_sn.training.door import Adaptive, Door
from biggan_sn.training.ema import EMA
from biggan_sn.training.player import Player
from biggan_sn.training.shown import Shown
from biggan_sn.training.step import GANStep
from biggan_sn.training.world import World

MakeNetworks = Callable[[Config], tuple[Network, Network]]


def fresh_networks(config: Config) -> tuple[Network, Network]:
    """G and D as the config has them, with weights from torch's global generator."""
    return build_generator(config), build_discriminator(config)


def check(config: Config, ranks: int, make: MakeNetworks = fresh_networks) -> None:
    """Everything about a config that can be wrong without data or a device, also once a rollback
    has changed it. `make` is that of `build`.

    Raises:
        ValueError: names the field and what would be right.
    """
    stored = _check(config, ranks, make)
    changed = after_rollbacks(config, 1)
    if changed != config and _check(changed, ranks, make) != stored:
        free = ", ".join(name for name, row in LIPSCHITZ.items() if not row.weight)
        raise ValueError(
            "collapse.change: with those rows in lipschitz, checkpoints from before would no "
            f"longer fit; only these may come and go: {free}"
        )


def _check(config: Config, ranks: int, make: MakeNetworks) -> list[tuple[str, torch.Size]]:
    """Checks one config; names and shapes of what its checkpoints would hold."""
    for side in BUILDERS:
        plan_sharing(config.microbatch(side, ranks), config.norm_batch(side, ranks), ranks)
        regularizer_rows(getattr(config.regularizers, side))
    for name in config.lipschitz.generator:
        if lookup(LIPSCHITZ, name, "lipschitz constraint").output:
            raise ValueError(f"lipschitz.generator: {name} acts on logits, and G has none")
    build_penalty(config.penalties)
    _check_objective(config)
    lookup(EXTRACTORS, config.evaluation.extractor, "extractor")
    for metric in config.evaluation.metrics:
        lookup(METRICS, metric, "metric")
    with torch.device("meta"):
        networks = make(config)
        for network, side in zip(networks, BUILDERS, strict=True):
            _choose_forms(network, config, side)
            put_constraints(network, config, side)
            _frozen(network, config, side)
    _check_transforms(config, networks[1])
    FeatureMatching(networks[1], config.feature_matching, ranks)
    _check_speed(config, dict(zip(BUILDERS, networks, strict=True)))
    return [(name, t.shape) for network in networks for name, t in network.state_dict().items()]


def _check_objective(config: Config) -> None:
    """Without anything that holds D, the loss of one whose objective is a distance between images
    falls for ever, and that distance is none.

    Raises:
        ValueError: that is so, or the objective has no such settings, or not what ADA or top-k ask
            for.
    """
    row = build_objective(config.objective, config.real_label, config.fgan_saturating)
    if config.augment.target and row.undecided is None:
        raise ValueError(
            f"augment.target: under the objective {config.objective} only differences of logits "
            "count, so that their signs do not say whether D knows real images by heart; give "
            "augment.p a value that stays"
        )
    if config.top_k.share < 1 and config.feature_matching.alone:
        raise ValueError(
            "top_k.share: feature_matching.alone leaves G no loss of single images; give up one"
        )
    terms = (*config.penalties.values(), *config.regularizers.discriminator.values())
    if row.lipschitz and not any(terms) and not config.lipschitz.discriminator:
        raise ValueError(
            f"objective {config.objective}: nothing keeps D Lipschitz, so that its loss has no "
            "end; put a row in lipschitz.discriminator (weight_clipping, spectral_norm) or in "
            "penalties (wgan_gp: 10)"
        )


def _check_transforms(config: Config, discriminator: nn.Module) -> None:
    """Raises ValueError unless there are those that are asked for, and images to do them to."""
    pairs = config.consistency.real or config.consistency.fake
    for section, used in (("augment", config.augment.transforms), ("consistency", pairs)):
        rows = augmentations(getattr(config, section).transforms)
        if used and not isinstance(discriminator, Discriminator):
            raise ValueError(
                f"{section}.transforms: {', '.join(rows)} are for images, and here D judges points"
            )


def _check_speed(config: Config, networks: Mapping[str, nn.Module]) -> None:
    """What goes alone and not together. torch.func, by which inner gradients are compiled, knows no
    checkpoints of activations.

    Raises:
        ValueError: it is asked for together.
    """
    if config.speed.compile:
        for side in config.speed.recompute:
            refuse_compiler(networks[side])
    derived_twice = any(config.penalties.values()) or any(
        row.output for row in rows_of(config.lipschitz.discriminator)
    )
    if config.speed.compile and "discriminator" in config.speed.recompute and derived_twice:
        raise ValueError(
            "speed: compile and recompute of the discriminator do not go together where a penalty "
            "or gradient_normalization takes its gradient; give up one of them"
        )


def build(
    config: Config, world: World, attempt: int = 0, make: MakeNetworks = fresh_networks
) -> GANStep:
    """The two players with fresh weights, alike on all processes, and all that moves them in an
    attempt. `make` gives G and D. Raises ValueError if the config asks for what cannot be."""
    generator, discriminator, average = _networks(config, world, make)
    # Before all that keeps the weights at hand: an engine may move them.
    g = _player(config, "generator", generator, world)
    d = _player(config, "discriminator", discriminator, world)
    g_constraint = _constraint(config, "generator", generator, world)
    d_constraint = _constraint(config, "discriminator", discriminator, world)
    average.update(generator, step=-1)  # with u, v and sigma as they are now
    shared = partial(mean_over_replicas, ranks=world.ranks)
    latents = training_latents(config, attempt)
    return GANStep(
        g=g,
        d=d,
        g_constraint=g_constraint,
        d_constraint=d_constraint,
        ema=average,
        objective=_objective(config, shared),
        penalty=_penalty(config),
        penalty_every=config.penalty_every,
        g_regularizer=_regularizer(config, "generator", g_constraint),
        d_regularizer=_regularizer(config, "discriminator", d_constraint),
        matching=FeatureMatching(discriminator, config.feature_matching, world.ranks),
        latents=latents,
        door=_door(config, latents, shared, world.device),
        consistency=Consistency(config.consistency, latents.seed, latents.purpose),
        lecam=LeCam(config.lecam, shared, world.device),
        top_k=TopK(config.top_k, world.ranks),
        shared=shared,
        shown=Shown(world, d.microbatch, g.microbatch),
        lr_decay=config.lr_decay,
        d_steps=config.d_steps,
        batch_size=config.batch_size,
        autocast=partial(autocast, world.device.type, chosen(config.precision, world.device)),
        device=world.device,
        let_go=let_go if config.speed.cuda_graphs else None,
    )


def _networks(config: Config, world: World, make: MakeNetworks) -> tuple[Network, Network, EMA]:
    """G and D as they are to be trained, and the average of G, which has statistics of its own."""
    generator, discriminator = _constrained(config, world, make)
    average = EMA(generator, config.ema.decay, config.ema.start)
    for network in (generator, discriminator):
        images = [config.microbatch(side, world.ranks) for side in BUILDERS]
        share_statistics(network, images, config.model.norm_batch, world.ranks)
    return generator, discriminator, average


def _constrained(config: Config, world: World, make: MakeNetworks) -> tuple[Network, Network]:
    """G and D with weights from the seed, on the device, in their bounds."""
    torch.manual_seed(int(integers(config.seed, "weights", range(1), 1, 2**62)[0, 0]))
    networks = make(config)
    for network, side in zip(networks, BUILDERS, strict=True):
        _place(network, world)
        _choose_forms(network, config, side)
        put_constraints(network, config, side)
        for parameter in _frozen(network, config, side):
            parameter.requires_grad_(False)  # before there is a player, which takes the others
    return networks


def _frozen(network: nn.Module, config: Config, side: str) -> set[nn.Parameter]:
    """The parameters that stay as they are. Raises ValueError where there are no such layers."""
    where = f"finetune.frozen_{side}"
    return frozen_parameters(network, config.finetune.frozen(side), where)


def _door(config: Config, latents: Latents, shared: Shared, device: torch.device) -> Door:
    """What augments images, as probably as it stays or as D wants it."""
    section = config.augment
    undecided = build_objective(config.objective, config.real_label).undecided
    if not section.target or undecided is None:
        return Door(section, latents)
    adaptive = Adaptive(section, undecided, config.batch_size, shared, device)
    return Door(section, latents, adaptive)


def _choose_forms(network: nn.Module, config: Config, side: str) -> None:
    if config.speed.forms:
        choose_forms(network, read_table(Path(config.speed.forms)).get(side, {}))


def training_latents(config: Config, attempt: int) -> Latents:
    """The latent vectors and classes of a run; others after each rollback."""
    purpose = f"training, attempt {attempt}" if attempt else "training"
    return Latents(config.seed, config.model.z_dim, config.data.num_classes, purpose)


def _player(config: Config, side: str, network: Network, world: World) -> Player:
    if side in config.speed.recompute:
        recompute(network.blocks)
    if config.speed.compile:
        compile_passes(network, config.speed.cuda_graphs)
    return Player(
        network,
        getattr(config, side),
        config.batch_size,
        config.microbatch(side, world.ranks),
        world,
        scaled=PRECISIONS[chosen(config.precision, world.device)].scaled,
    )


def _objective(config: Config, shared: Shared) -> Objective:
    return build_objective(config.objective, config.real_label, config.fgan_saturating, shared)


def _penalty(config: Config) -> PenaltyOnD:
    """The terms on D's gradient: with it compiled as one, where anything is."""
    speed = config.speed
    if not speed.compile:
        return build_penalty(config.penalties)
    return build_penalty(config.penalties, partial(compile_term, graphs=speed.cuda_graphs))


def _regularizer(
    config: Config, side: str, constraint: Constraint
) -> Callable[[nn.Module], Tensor | float]:
    """The terms on the weights that `constraint` follows."""
    terms = getattr(config.regularizers, side)
    return build_regularizer(terms, constraint.spectrum, config.sigma0, constraint.history)


def _constraint(config: Config, side: str, network: Network, world: World) -> Constraint:
    """What keeps a network in bounds, and follows its spectrum from here."""
    names = getattr(config.lipschitz, side)
    regularizers = regularizer_rows(getattr(config.regularizers, side))
    read_by_regularizers = any(row.needs_spectrum for row, _ in regularizers)
    depth = config.spectrum.depth
    if read_by_regularizers or any(row.limit for row in rows_of(names)):
        depth = max(depth, DEPTH)
    spectrum = Spectrum(network, config.spectrum.values, depth, world.rank, world.ranks)
    return Constraint(
        network,
        names,
        config.lipschitz,
        config.sigma0,
        spectrum,
        CONSTRAINS_EMBEDDINGS[side],
        follow=read_by_regularizers,
        history=History(network, follows=any(row.needs_history for row, _ in regularizers)),
        frozen=_frozen(network, config, side),
    )


def _place(network: nn.Module, world: World) -> None:
    """To the device, in the layout of its convolutions."""
    if next(network.parameters()).device != world.device:
        network.to(world.device)
    lay_out(network)
