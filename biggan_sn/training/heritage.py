"""Begins a run with what another has learnt (Wang et al. 2018): networks, average, new classes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from biggan_sn.checkpoint import CheckpointError, find, load_state, load_tensors
from biggan_sn.config import Config
from biggan_sn.config_io import to_dict
from biggan_sn.models.loading import config_of
from biggan_sn.models.zoo import BUILDERS, Network, put_constraints
from biggan_sn.nn.names import plain, tables_of
from biggan_sn.training.build import build, fresh_networks
from biggan_sn.training.ema import EMA
from biggan_sn.training.inheriting import (
    Fit,
    Rows,
    find_fit,
    first_misfit,
    match_classes,
    renumber,
)
from biggan_sn.training.saving import UNSEEN
from biggan_sn.training.step import GANStep
from biggan_sn.training.world import World

LEAST = 0.25  # of the weights of a network: with fewer most of it would begin anew
SHOWN = 10  # names of classes in a line
LETTERS = {"generator": "G", "discriminator": "D"}
REFERENCE = "reference_y"  # numbers of classes, which mean others where those have other numbers


def begin(
    config: Config, world: World, attempt: int, classes: Sequence[str], goes_on: bool
) -> tuple[GANStep, tuple[str, ...]]:
    """A run as it is built, and what a person should know of what it begins with, one line each.
    Every process must call it.

    Args:
        config: of the run.
        world: this process's place.
        attempt: as in `build`.
        classes: their names, by number.
        goes_on: it has a checkpoint of its own, and needs nobody else's.

    Raises:
        CheckpointError: what it is to begin with is not there, or cannot be read.
        ValueError: too little of that fits.
    """
    if goes_on or not config.finetune.source:
        return build(config, world, attempt), ()
    heritage = open_heritage(config, classes)
    if not world.agree(heritage.step):
        raise CheckpointError(
            f"finetune.source: the processes do not find the same checkpoint; {heritage.path} must "
            "be a folder that all nodes share, of a run that has ended"
        )
    play = build(config, world, attempt, heritage.networks)
    heritage.give(play.ema)
    return play, tuple(heritage.notes(config, classes))


@dataclass(frozen=True)
class Heritage:
    """What a run takes over from a checkpoint of another.

    Args:
        path: of the checkpoint.
        step: of it.
        config: of the other run.
        rows: number there of each class here.
        fits: by side, what fits.
        apart: by side, whether rows of its tables have nothing to do with one another.
    """

    path: Path
    step: int
    config: Config
    rows: Rows
    fits: Mapping[str, Fit]
    apart: Mapping[str, bool]

    def networks(self, config: Config) -> tuple[Network, Network]:
        """G and D, plain: fresh but for what is taken over. u, v and sigma are found for these
        weights once constraints are put on."""
        made = fresh_networks(config)
        for network, side in zip(made, BUILDERS, strict=True):
            self._fill(network, side, side)
        return made

    def give(self, average: EMA) -> None:
        """Puts into the average of a new G what is taken over of that of the other."""
        self._fill(average.network, "ema", "generator")

    @torch.no_grad()
    def _fill(self, network: nn.Module, group: str, side: str) -> None:
        theirs = plain(load_tensors(self.path, group))
        places = plain(network.state_dict())  # the tensors themselves
        tables = tables_of(network)
        for name, origin in self.fits[side].origins.items():
            tensor = theirs[origin]
            if name in tables:
                tensor = renumber(tensor, self.rows, self.apart[side])
            places[name].copy_(tensor)

    def notes(self, config: Config, classes: Sequence[str]) -> Iterator[str]:
        """What a person should know, one line each."""
        yield f"begins with {self.path}"
        for side, fit in self.fits.items():
            letter = LETTERS[side]
            taken = ", ".join(fit.parts())
            yield f"{letter}: {fit.share:.0%} of its weights are taken over: {taken}"
            if fit.new:
                yield f"{letter}: new: {', '.join(fit.new)}"
            before, now = (getattr(c.lipschitz, side) for c in (self.config, config))
            if before != now:
                yield (
                    f"lipschitz.{side}: {list(before)} -> {list(now)}: weights are taken over as "
                    "they were before any constraint"
                )
        yield from self._on_classes(classes)
        if config.ema.start > 0:
            yield (
                f"ema.start {config.ema.start}: until then the average is a copy of G; with 0 it "
                "goes on from that of the other run"
            )

    def _on_classes(self, classes: Sequence[str]) -> Iterator[str]:
        pairs = list(zip(classes, self.rows, strict=True))
        known = [name for name, row in pairs if row is not None]
        new = [name for name, row in pairs if row is None]
        yield f"classes: {len(known)} known{_listed(known)}, {len(new)} new{_listed(new)}"
        if new:
            mean = {side: apart or not known for side, apart in self.apart.items()}
            told = (f"{'the mean of all' if mean[s] else '0'} in {LETTERS[s]}" for s in LETTERS)
            yield f"rows of new classes: {', '.join(told)}"


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return f" ({', '.join(names[:SHOWN])}{more})" if names else ""


def open_heritage(config: Config, classes: Sequence[str]) -> Heritage:
    """What the config's `finetune.source` has for a run of these classes.

    Raises:
        CheckpointError: it is not there, or cannot be read.
        ValueError: too little of it fits.
    """
    try:
        path = find(Path(config.finetune.source))
        state = load_state(path)
        theirs = config_of(path, state)
        shapes = {side: _shapes(path, side) for side in BUILDERS}
    except CheckpointError as error:
        raise CheckpointError(f"finetune.source: {error}") from error
    names = state.get("classes", [])
    rows = match_classes(names, classes, named=state.get("data") != UNSEEN)
    if list(rows) != list(range(len(names))):
        shapes["generator"].pop(REFERENCE, None)
    networks = {side: _on_meta(config, side) for side in BUILDERS}
    places = {side: _places(network) for side, network in networks.items()}
    fits = {side: find_fit(shapes[side], *places[side], len(names)) for side in BUILDERS}
    for side, fit in fits.items():
        if fit.share < LEAST:
            misfit = first_misfit(shapes[side], places[side][0])
            raise ValueError(
                f"finetune.source: {path} fits {fit.share:.0%} of the weights of {LETTERS[side]}, "
                f"and at least {LEAST:.0%} must: {misfit}{_differences(theirs, config)}"
            )
    apart = {side: _rows_apart(network) for side, network in networks.items()}
    return Heritage(path, state["step"], theirs, rows, fits, apart)


def _shapes(path: Path, group: str) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in plain(load_tensors(path, group)).items()}


def _on_meta(config: Config, side: str) -> Network:
    """A network as the config has it, constraints on, that has only shapes."""
    with torch.device("meta"):
        network = BUILDERS[side](config)
        put_constraints(network, config, side)
    return network


def _places(network: Network) -> tuple[dict[str, torch.Size], list[str]]:
    """Shapes of its tensors, and which of them are tables of classes."""
    shapes = {name: tensor.shape for name, tensor in plain(network.state_dict()).items()}
    return shapes, tables_of(network)


def _rows_apart(network: Network) -> bool:
    """Whether no constraint keeps something of all rows of a table of classes together, as u, v and
    sigma are."""
    layers = [table.removesuffix(".weight") for table in tables_of(network)]
    beside = tuple(f"{layer}.parametrizations.weight.0." for layer in layers)
    return not any(name.startswith(beside) for name in network.state_dict())


def _differences(theirs: Config, ours: Config) -> str:
    """In what the configs differ about networks, in words."""
    old, new = (
        {f"model.{name}": value for name, value in to_dict(config)["model"].items()}
        | {"data.resolution": config.data.resolution}
        for config in (theirs, ours)
    )
    told = [f"{name}: {old[name]} -> {value}" for name, value in new.items() if old[name] != value]
    return f" ({'; '.join(told)})" if told else ""
