"""Layers that can be computed in several ways which are equal but for rounding."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import nn


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
