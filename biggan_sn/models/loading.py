"""The averaged generator, wherever it is kept: in a run, a checkpoint or an export. Needs no more
than torch, numpy and safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biggan_sn.checkpoint import (
    CARD_NAME,
    CheckpointError,
    fill_network,
    find,
    load_network,
    load_state,
    read_tensors,
)
from biggan_sn.config import Config
from biggan_sn.config_io import from_dict, to_dict
from biggan_sn.models.card import REMEDY, Card, read_card
from biggan_sn.models.generator import Generator
from biggan_sn.models.zoo import build_generator, put_constraints
from biggan_sn.nn.layers import lay_out
from biggan_sn.nn.lipschitz import unconstrain

TENSORS = "generator.safetensors"  # of an export
STATISTICS = "statistics"  # in the state of an export: (truncation, mode) -> tensors by name


def config_of(checkpoint: Path, state: Mapping[str, Any]) -> Config:
    """The config of the run that a checkpoint with this state is of.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        config: Config = from_dict(state["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}: its config cannot be read ({error})") from error
    return config


def load_generator(
    path: Path, device: str | torch.device = "cpu"
) -> tuple[Generator, dict[str, Any]]:
    """The averaged generator of a run, a checkpoint or an export, with plain weights and in eval
    mode, and the state: of the checkpoint, or of an export what that has of it.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if (path / CARD_NAME).is_file():
        network, state = _load_export(path)
    else:
        network, state = _load_checkpoint(find(path))
    network = network.to(device).eval().requires_grad_(False)
    unconstrain(network)
    return lay_out(network), state


def _load_checkpoint(checkpoint: Path) -> tuple[Generator, dict[str, Any]]:
    state = load_state(checkpoint)
    config = config_of(checkpoint, state)
    with torch.device("meta"):
        network = build_generator(config)
        put_constraints(network, config, "generator")
    load_network(network, checkpoint, "ema", assign=True)
    return network, state


def _load_export(folder: Path) -> tuple[Generator, dict[str, Any]]:
    card, file = read_card(folder), folder / TENSORS
    if TENSORS not in card.files:
        raise CheckpointError(
            f"{folder}: an export as {card.format}, which other programs read; one as safetensors "
            "can be loaded here"
        )
    try:
        with torch.device("meta"):
            network = build_generator(card.config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / CARD_NAME}: no generator can be built ({error})"
        ) from error
    tensors = read_tensors(file, card.files[TENSORS], REMEDY)
    statistics = _take_statistics(tensors, card)
    fill_network(network, tensors, file, assign=True)
    state = {"config": to_dict(card.config), "classes": list(card.classes), "step": card.step}
    return network, state | {STATISTICS: statistics}


def _take_statistics(
    tensors: dict[str, Tensor], card: Card
) -> dict[tuple[float, str], dict[str, Tensor]]:
    """Those of each truncation, by the names of their buffers; no longer in `tensors`."""
    return {
        (each.truncation, each.mode): {
            name.removeprefix(each.prefix): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(each.prefix)
        }
        for each in card.statistics
    }


def use_statistics(
    generator: Generator,
    state: Mapping[str, Any],
    truncation: float | None,
    mode: str = "resample",
) -> bool:
    """Gives `generator` the statistics that an export with this state holds for a truncation, in
    place; returns whether there are any. Without, it keeps those of training."""
    found = state.get(STATISTICS, {}).get((truncation, mode))
    if not found:
        return False
    generator.load_state_dict(found, strict=False)
    return True
