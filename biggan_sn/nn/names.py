"""What the tensors of a network are called, whatever constraints are on it, and its parts."""

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

from torch import nn

ORIGINAL = ".parametrizations.weight.original"  # torch's name of a weight before any constraint

T = TypeVar("T")


def plain_name(name: str) -> str:
    """The name of a parameter as if there was no constraint."""
    return name.replace(ORIGINAL, ".weight")


def plain(state: Mapping[str, T]) -> dict[str, T]:
    """All of a state_dict but what constraints have beside the weights, by plain names."""
    named = {plain_name(name): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in named.items() if "parametrizations" not in name}


def part_of(name: str) -> str:
    """The part of a network to which a tensor belongs: blocks.0, attention.1, linear."""
    found = re.match(r"\w+\.\d+(?=\.)|\w+", name)
    assert found, name
    return found[0]


def tables_of(network: nn.Module) -> list[str]:
    """The plain names of the weights [classes, C] that have a row for each class."""
    modules = network.named_modules()
    return [f"{name}.weight" for name, module in modules if isinstance(module, nn.Embedding)]


def frozen_parameters(network: nn.Module, layers: Collection[str], where: str) -> set[nn.Parameter]:
    """The parameters of these layers.

    Args:
        network: plain or constrained.
        layers: plain names of its layers or parts, as blocks.0 or blocks.0.conv1.
        where: the field that names them, for errors.

    Raises:
        ValueError: there is no such layer, or nothing is left to train.
    """
    named = {plain_name(name): parameter for name, parameter in network.named_parameters()}
    found = set()
    for layer in layers:
        own = {p for name, p in named.items() if f"{name}.".startswith(f"{layer}.")}
        if not own:
            there = ", ".join(dict.fromkeys(map(part_of, named)))
            raise ValueError(f"{where}: there is no layer {layer!r}; there are {there}")
        found |= own
    if layers and len(found) == len(named):
        raise ValueError(f"{where}: nothing would be left to train")
    return found
