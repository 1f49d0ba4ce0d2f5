"""From what was found in files to networks and optimizers in our words."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from biggan_sn.config import Config
from biggan_sn.interop.changes import blue_last, choose_statistics
from biggan_sn.interop.formats import Format
from biggan_sn.interop.inferring import (
    Discriminator,
    Generator,
    architecture_of,
    infer_discriminator,
    infer_generator,
)
from biggan_sn.interop.moments import Memory, recall, with_rates
from biggan_sn.interop.reading import ForeignError
from biggan_sn.interop.renaming import Foreign, Keys, rename
from biggan_sn.interop.sources import PLAYERS, Source
from biggan_sn.models.plan import DISCRIMINATOR_WIDTHS
from biggan_sn.nn.lipschitz import LIPSCHITZ

NORM = "spectral_norm"  # by which all of these programs constrain weights, if they do


@dataclass(frozen=True)
class Options:
    """What no tensor tells.

    Args:
        bgr: the images that they make and see have blue first.
        truncation: whose statistics to take, where there are those of several.
    """

    bgr: bool = False
    truncation: float = 1.0


@dataclass(frozen=True)
class Understood:
    """All that a run can be made of.

    Args:
        generator, ema: as they train it, and its average; one is the other where one is missing.
        discriminator: if there is one.
        g, d: what the networks are.
        notes: what a person should know, one line each.
    """

    generator: Foreign
    ema: Foreign
    discriminator: Foreign | None
    g: Generator
    d: Discriminator | None
    notes: tuple[str, ...]


def understand(source: Source, row: Format, options: Options) -> Understood:
    """The networks and optimizers of a source.

    Raises:
        ForeignError: they do not fit the format, or one another.
        ValueError: the options do not fit them.
    """
    networks = {
        part: rename(found.where, found.tensors, _with_options(row.keys[part], options))
        for part, found in source.networks.items()
    }
    for network in networks.values():
        _change(network)
    generator = networks.get("generator") or networks["ema"]
    ema = networks.get("ema") or generator
    discriminator = networks.get("discriminator")
    g = infer_generator(generator)
    d = infer_discriminator(discriminator) if discriminator else None
    if discriminator and d and (d.resolution, d.num_classes) != (g.resolution, g.num_classes):
        raise ForeignError(
            f"{discriminator.where}: judges {d.num_classes} classes at {d.resolution} pixels, and "
            f"{generator.where} makes {g.num_classes} at {g.resolution}"
        )
    notes = (*source.notes, *_notes(source))
    return Understood(generator, ema, discriminator, g, d, notes)


def memories_of(source: Source, found: Understood) -> dict[str, Memory]:
    """Those of the optimizers of the networks that are there, by player.

    Raises:
        ForeignError: one is of another network.
    """
    networks = {"generator": found.generator, "discriminator": found.discriminator}
    return {
        player: recall(where, optimizer, network)
        for player, (where, optimizer) in source.optimizers.items()
        if player in source.networks and (network := networks[player])
    }


def buffers_of(name: str, source: Source, found: Understood) -> dict[str, Tensor]:
    """What the networks of a source have beside what is trained, as it was: ours is made of it, but
    does not lead back to it. By the format's name, the network and their own name."""
    kept: dict[str, Tensor] = {}
    for part, network in source.networks.items():
        foreign: Foreign = getattr(found, part)
        trained = {foreign.theirs[parameter] for parameter in foreign.parameters}
        kept |= {
            f"{name}/{part}/{key}": tensor
            for key, tensor in network.tensors.items()
            if key not in trained
        }
    return kept


def _with_options(keys: Keys, options: Options) -> Keys:
    chosen = (choose_statistics(options.truncation), *([blue_last] if options.bgr else []))
    return keys._replace(changes=(*keys.changes, *chosen))


def _change(network: Foreign) -> None:
    try:
        for change in network.keys.changes:
            change(network.tensors)
    except (RuntimeError, IndexError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ForeignError(
            f"{network.where}: shapes that do not fit one another ({reason})"
        ) from error


def _notes(source: Source) -> list[str]:
    """What is missing, and what comes in its place."""
    absent = {
        "generator": "no generator as it is trained: training goes on from its average",
        "ema": "no average of the generator: it begins anew as a copy",
        "discriminator": "no discriminator: one that is trained on begins with fresh weights",
    }
    notes = [note for part, note in absent.items() if part not in source.networks]
    there = [player for player in PLAYERS if player in source.networks]
    without = [player for player in there if player not in source.optimizers]
    return notes + [f"no optimizer of the {player}: Adam begins anew" for player in without]


def config_for(found: Understood, config: Config) -> Config:
    """`config` with all that the tensors tell instead of what it says."""
    g, d = found.g, found.d
    sides = [side // 2 for side in DISCRIMINATOR_WIDTHS if side <= g.resolution]
    attention = d.attention if d else tuple(side for side in g.attention if side in sides)
    channels = d.channels if d else g.channels
    model = replace(
        config.model,
        name=architecture_of(g, d.wide if d else True),
        channels=g.channels,
        generator_widths=g.widths,
        discriminator_channels=0 if channels == g.channels else channels,
        generator_attention=g.attention,
        discriminator_attention=attention,
        z_dim=g.z_dim,
        shared_dim=g.shared_dim,
        hierarchical_z=g.hierarchical_z,
        minibatch_layer="none",
        norm="batch",
    )
    lipschitz = replace(
        config.lipschitz,
        generator=_rows(config.lipschitz.generator, g.normed),
        discriminator=_rows(config.lipschitz.discriminator, d.normed)
        if d
        else config.lipschitz.discriminator,
    )
    data = replace(config.data, resolution=g.resolution, num_classes=g.num_classes)
    return replace(config, data=data, model=model, lipschitz=lipschitz)


def _rows(names: tuple[str, ...], normed: bool) -> tuple[str, ...]:
    """Constraints of the config, and on the weights what the source has."""
    free = tuple(name for name in names if name not in LIPSCHITZ or not LIPSCHITZ[name].weight)
    return (NORM, *free) if normed else free


def going_on(config: Config, memories: Mapping[str, Memory], averaged: bool) -> Config:
    """`config` with the rates of their optimizers where it leaves the defaults, long enough, and
    with an average that is not begun again if there is one."""
    default = Config()
    step = steps_of(memories)
    return replace(
        config,
        generator=with_rates(config.generator, default.generator, memories.get("generator")),
        discriminator=with_rates(
            config.discriminator, default.discriminator, memories.get("discriminator")
        ),
        ema=replace(
            config.ema, start=min(config.ema.start, step) if averaged else config.ema.start
        ),
        steps=max(config.steps, step),
    )


def steps_of(memories: Mapping[str, Memory]) -> int:
    """Updates of G so far, as its optimizer counts them."""
    return memories["generator"].steps if "generator" in memories else 0
