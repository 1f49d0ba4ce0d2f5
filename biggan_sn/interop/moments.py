"""The memory of their Adam, for ours: running moments by our names, steps, rates."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from biggan_sn.config import PlayerConfig
from biggan_sn.interop.reading import ForeignError, section
from biggan_sn.interop.renaming import Foreign, Tensors

SLOTS = ("exp_avg", "exp_avg_sq")


class Memory(NamedTuple):
    """Of one optimizer.

    Args:
        slots: of each of SLOTS, the moments by our names.
        steps: updates so far.
        rates: lr, betas and eps.
    """

    slots: Mapping[str, Tensors]
    steps: int
    rates: Mapping[str, Any]

    def of(self, name: str) -> dict[str, Tensor]:
        """What our Adam keeps of a parameter."""
        kept = {slot: self.slots[slot][name].clone() for slot in SLOTS}
        return kept | {"step": torch.tensor(float(self.steps))}


def nothing(parameter: Tensor) -> dict[str, Tensor]:
    """What our Adam knows of a parameter before its first step."""
    return {slot: torch.zeros_like(parameter) for slot in SLOTS} | {"step": torch.tensor(0.0)}


def recall(where: str, optimizer: Any, network: Foreign) -> Memory:
    """The memory in the state_dict of an Adam of theirs that moved `network`.

    Raises:
        ForeignError: it is not that of an Adam, or of another network.
    """
    path = Path(where)
    groups, entries = (section(path, optimizer, name) for name in ("param_groups", "state"))
    try:
        numbers = [number for group in groups for number in group["params"]]
        found = [entries.get(number, {}) for number in numbers]
        steps = max((int(entry["step"]) for entry in found if entry), default=0)
        rates: dict[str, Any] = {"lr": float(groups[0]["lr"]), "eps": float(groups[0]["eps"])}
        rates["betas"] = tuple(float(beta) for beta in groups[0]["betas"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ForeignError(f"{where}: not the state of an Adam ({error!r})") from error
    if len(numbers) != len(network.parameters):
        raise ForeignError(
            f"{where}: moves {len(numbers)} tensors, and {network.where} has "
            f"{len(network.parameters)}"
        )
    entry_of = dict(zip(network.parameters, found, strict=True))
    slots = {slot: _slot(where, slot, entry_of, network) for slot in SLOTS}
    return Memory(slots, steps, rates)


def _slot(where: str, slot: str, entries: Mapping[str, Any], network: Foreign) -> Tensors:
    """One kind of moments, changed as the weights are; 0 where there is none yet."""
    moments: Tensors = {}
    for name, entry in entries.items():
        shape = network.shapes[name]
        moment = entry.get(slot, torch.zeros(shape)) if isinstance(entry, Mapping) else None
        if not isinstance(moment, Tensor) or moment.shape != shape:
            theirs = network.theirs[name]
            raise ForeignError(f"{where}: its {slot} of {theirs!r} has not the shape of that")
        moments[name] = moment.detach().float()
    for change in network.keys.changes:
        change(moments)
    return moments


def with_rates(config: PlayerConfig, default: PlayerConfig, memory: Memory | None) -> PlayerConfig:
    """The optimizer of theirs goes on with its own rates where the config leaves its defaults."""
    names = ("lr", "betas", "eps")
    asked = any(getattr(config, name) != getattr(default, name) for name in names)
    return config if asked or memory is None else replace(config, **memory.rates)
