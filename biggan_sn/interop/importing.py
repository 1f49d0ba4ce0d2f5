"""Makes a run of ours of the weights of others."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from biggan_sn.checkpoint import Checkpoints
from biggan_sn.collapse.detector import Detector
from biggan_sn.config import Config
from biggan_sn.interop.filling import VECTORS, check_fit, fill, widest_gap
from biggan_sn.interop.formats import FORMATS
from biggan_sn.interop.moments import Memory, nothing
from biggan_sn.interop.renaming import Foreign
from biggan_sn.interop.sources import FOREIGN
from biggan_sn.interop.understanding import (
    Options,
    Understood,
    buffers_of,
    config_for,
    going_on,
    memories_of,
    steps_of,
    understand,
)
from biggan_sn.models.zoo import BUILDERS, Network
from biggan_sn.nn.names import plain_name
from biggan_sn.run_folder import CHECKPOINTS
from biggan_sn.tables import lookup
from biggan_sn.training.build import build, check
from biggan_sn.training.player import Player
from biggan_sn.training.saving import UNSEEN, moments_of, state_of, tensors_of
from biggan_sn.training.step import GANStep
from biggan_sn.training.world import World


@dataclass(frozen=True)
class Import:
    """A run that is ready to be written.

    Args:
        config: of the run.
        found: what it is made of.
        memories: of their optimizers, by player.
        kept: what only an export to the same program reads, by format, network and their name.
    """

    config: Config
    found: Understood
    memories: Mapping[str, Memory]
    kept: Mapping[str, Tensor]

    @property
    def step(self) -> int:
        """Updates of G so far."""
        return steps_of(self.memories)

    def save(self, folder: Path) -> list[str]:
        """Writes the run's checkpoint; returns what a person should know of it, one line each."""
        config, found = self.config, self.found
        play = build(config, World(), make=lambda config: _networks(config, found))
        notes = [*found.notes, *_as_theirs(play, found)]
        if self.step > 0:
            for player, name in ((play.g, "generator"), (play.d, "discriminator")):
                _remember(player, self.memories.get(name))
        spectra = {"G": play.g_constraint.spectrum, "D": play.d_constraint.spectrum}
        detector = Detector(config.collapse)
        tensors = tensors_of(play, spectra, detector) | moments_of(play)
        tensors["ema"] = play.ema.network.state_dict()  # with sigmas as theirs
        tensors |= {FOREIGN: dict(self.kept)} if self.kept else {}
        classes = [str(number) for number in range(config.data.num_classes)]
        position = self.step * config.d_steps * config.batch_size
        state = state_of(config, 1, position, 0, detector.shown(), classes, UNSEEN)
        Checkpoints(folder / CHECKPOINTS).save(self.step, tensors, state)
        return notes


def prepare(name: str, path: Path, config: Config, options: Options) -> Import:
    """Reads what the program called `name` left at `path`, and checks it to the last tensor.

    Raises:
        ForeignError: it cannot be read, or is not what the format says.
        ValueError: no such format, or a config that cannot be.
    """
    if config.finetune.source:
        raise ValueError("finetune.source: an import begins with what it imports; leave it out")
    row = lookup(FORMATS, name, "format")
    source = row.find(path)
    found = understand(source, row, options)
    config = config_for(found, config)
    check(config, 1)
    plain = replace(config, lipschitz=replace(config.lipschitz, generator=(), discriminator=()))
    networks = {"generator": found.generator, "discriminator": found.discriminator}
    normed = {"generator": found.g.normed, "discriminator": bool(found.d and found.d.normed)}
    with torch.device("meta"):
        for side, foreign in networks.items():
            if foreign:
                check_fit(BUILDERS[side](plain), foreign, side, normed[side])
        if found.ema is not found.generator:
            check_fit(BUILDERS["generator"](plain), found.ema, "generator", found.g.normed)
    memories = memories_of(source, found)
    averaged = found.ema is not found.generator or "generator" not in source.networks
    kept = buffers_of(name, source, found) if row.returns else {}
    return Import(going_on(config, memories, averaged), found, memories, kept)


def _networks(config: Config, found: Understood) -> tuple[Network, Network]:
    """G and D with their raw weights; a D that is missing with fresh ones."""
    made = []
    for side, foreign in (("generator", found.generator), ("discriminator", found.discriminator)):
        quick = replace(config, model=replace(config.model, initialization="normal"))
        network = BUILDERS[side](quick if foreign else config)
        if foreign:
            fill(network, foreign.tensors, *VECTORS)
        made.append(network)
    return made[0], made[1]


def _as_theirs(play: GANStep, found: Understood) -> list[str]:
    """Puts in the average, and u, v and sigma as their own passes have them, so that images and
    logits are theirs: what they divide by is not quite the largest singular value. Returns a note
    of how far it is."""
    networks: list[tuple[nn.Module, Foreign]] = [(play.g.network, found.generator)]
    if found.discriminator:
        networks.append((play.d.network, found.discriminator))
    gap, layer = max(widest_gap(network, foreign) for network, foreign in networks)
    for network, foreign in networks:
        fill(network, {n: t for n, t in foreign.tensors.items() if _is_vector(n)})
    fill(play.ema.network, found.ema.tensors)
    if not gap:
        return []
    return [
        f"sigmas are theirs, which lie up to {gap:.2%} from the largest singular values "
        f"({layer}); from the first step of training on they are those"
    ]


def _is_vector(name: str) -> bool:
    return name.rpartition(".")[2] in VECTORS


def _remember(player: Player, memory: Memory | None) -> None:
    """Gives Adam its memory of each parameter, or none."""
    state: dict[str, Tensor] = {}
    for name, parameter in player.named().items():
        kept = memory.of(plain_name(name)) if memory else nothing(parameter)
        state |= {f"{name}/{slot}": value for slot, value in kept.items()}
    player.load_state(state)
