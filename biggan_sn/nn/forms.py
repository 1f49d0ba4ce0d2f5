"""Layers that can be computed in several ways which are equal but for rounding."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from biggan_sn.tables import lookup


@runtime_checkable
class Formed(Protocol):
    """Such a layer.

    Attributes:
        form: the one of its forms that is used; empty: whichever the layer thinks best.
        forms: all of them; the first is what the layer is called, operation by operation.
    """

    form: str

    @property
    def forms(self) -> Mapping[str, Callable[..., Any]]: ...


def formed_layers(network: nn.Module) -> dict[str, Formed]:
    """All such layers of a network, by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, Formed)}


@contextmanager
def operations_in_turn(*networks: nn.Module) -> Iterator[None]:
    """While open, every layer computes what it is called, operation by operation: as papers and
    other programs count it."""
    layers = [layer for network in networks for layer in formed_layers(network).values()]
    forms = [layer.form for layer in layers]
    for layer in layers:
        layer.form = next(iter(layer.forms))
    try:
        yield
    finally:
        for layer, form in zip(layers, forms, strict=True):
            layer.form = form


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """The forms of layers by network and name, as `bench --mode layers --table` wrote them.

    Raises:
        ValueError: there is no such file, or it is something else.
    """
    try:
        table = json.loads(path.read_text())
        return {side: dict(forms) for side, forms in table.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"speed.forms: {path} is no table of forms: {error}") from error


def choose_forms(network: nn.Module, chosen: Mapping[str, str]) -> None:
    """Sets the forms of layers by name; of the others nothing changes.

    Raises:
        ValueError: there is no such layer, or it has no such form.
    """
    layers = formed_layers(network)
    for name, form in chosen.items():
        if name not in layers:
            raise ValueError(
                f"speed.forms: there is no layer {name!r}; measure again for this config"
            )
        lookup(layers[name].forms, form, f"form of {name}")
        layers[name].form = form
