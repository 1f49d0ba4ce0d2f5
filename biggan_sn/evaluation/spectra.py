"""The spectra of a checkpoint: certified bounds of every layer, and a picture of all of them."""

import math
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan_sn.checkpoint import load_network, load_state
from biggan_sn.models.discriminator import Discriminator
from biggan_sn.models.generator import Generator
from biggan_sn.models.loading import config_of
from biggan_sn.models.zoo import BUILDERS, put_constraints
from biggan_sn.nn.conv_norm import circular_norm, conv_map, conv_norm
from biggan_sn.nn.matrices import as_matrix, matrix_layers, raw_weight
from biggan_sn.nn.spectral import certified_bounds
from biggan_sn.tables import lookup

CIRCULAR_SQUARINGS = 7  # 3% too high at most for 1536 channels


class Audit(NamedTuple):
    """What is certain about one layer.

    Args:
        name: of the layer.
        shape: of its weight as a matrix.
        raw: bounds of sigma_0 of the weight before any constraint.
        in_use: bounds of sigma_0 of the weight that the layer uses, constraints included.
        between_images: bounds of the norm of a convolution with the weight in use, as the map
            between images that it is; None for other layers.
    """

    name: str
    shape: tuple[int, int]
    raw: tuple[float, float]
    in_use: tuple[float, float]
    between_images: tuple[float, float] | None


def load_player(checkpoint: Path, side: str) -> Generator | Discriminator:
    """The network of `side` (generator or discriminator) of a checkpoint as it trains: constraints
    on, not averaged.

    Raises:
        ValueError: no such side.
        CheckpointError: the checkpoint cannot be read.
    """
    build = lookup(BUILDERS, side, "network")
    config = config_of(checkpoint, load_state(checkpoint))
    with torch.device("meta"):
        network = build(config)
        put_constraints(network, config, side)
    load_network(network, checkpoint, side, assign=True)
    return network.requires_grad_(False).eval()


def audit(network: Generator | Discriminator, pattern: str = "*") -> Iterator[Audit]:
    """Bounds of the layers whose name fits `pattern` (as of files: blocks.0.*), one by one.

    Raises:
        ValueError: no layer does.
    """
    sides = network.sides()
    for name, layer in _layers(network, pattern).items():
        raw, used = as_matrix(raw_weight(layer)), as_matrix(_in_use(layer))
        images = None
        if isinstance(layer, nn.Conv2d) and name in sides:
            images = _between_images(layer, sides[name])
        rows, columns = raw.shape
        yield Audit(name, (rows, columns), certified_bounds(raw), certified_bounds(used), images)


def _layers(network: nn.Module, pattern: str) -> dict[str, nn.Module]:
    layers = matrix_layers(network)
    fitting = {name: layer for name, layer in layers.items() if fnmatch(name, pattern)}
    if not fitting:
        raise ValueError(f"no layer is called {pattern!r}; there are {', '.join(layers)}")
    return fitting


def _in_use(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight.detach()


def _between_images(layer: nn.Conv2d, side: int) -> tuple[float, float]:
    """A Ritz value below, the norm with circular padding above, in fp64."""
    here = conv_map(layer, side)
    here = here._replace(kernel=here.kernel.double())
    if not here.kernel.isfinite().all():
        return math.nan, math.nan
    around = side + here.kernel.shape[-1] - 1
    lower, upper = conv_norm(here), circular_norm(here.kernel, around, CIRCULAR_SQUARINGS)
    assert lower <= upper
    return lower, upper


def spectra_in_use(network: nn.Module, pattern: str = "*") -> dict[str, Tensor]:
    """All singular values, largest first, of the weights that the layers use, by layer. Weights of
    one row are left out.

    Raises:
        ValueError: no layer's name fits the pattern, or a weight is not finite.
    """
    spectra = {}
    for name, layer in _layers(network, pattern).items():
        matrix = as_matrix(_in_use(layer)).double()
        if not torch.isfinite(matrix).all():
            raise ValueError(f"the weight of {name} is not finite")
        if min(matrix.shape) > 1:
            spectra[name] = torch.linalg.svdvals(matrix)
    if not spectra:
        raise ValueError(
            f"the weights of {pattern!r} have one singular value each: nothing to draw"
        )
    return spectra
