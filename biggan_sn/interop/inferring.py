"""What a network is, from the shapes of its tensors alone: no config of others is believed."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from biggan_sn.interop.changes import is_deep
from biggan_sn.interop.reading import ForeignError
from biggan_sn.interop.renaming import Foreign
from biggan_sn.models.plan import (
    DISCRIMINATOR_WIDTHS,
    GENERATOR_WIDTHS,
    IMAGE_CHANNELS,
    SMALLEST,
)
from biggan_sn.models.zoo import ARCHITECTURES


class Generator(NamedTuple):
    """A generator of others, in the words of our config."""

    resolution: int
    channels: int
    widths: tuple[int, ...]
    attention: tuple[int, ...]
    num_classes: int
    z_dim: int
    shared_dim: int
    hierarchical_z: bool
    deep: bool
    normed: bool


class Discriminator(NamedTuple):
    """A discriminator of others, in the words of our config."""

    resolution: int
    channels: int
    attention: tuple[int, ...]
    num_classes: int
    wide: bool
    deep: bool
    normed: bool


def infer_generator(g: Foreign) -> Generator:
    """What this generator is.

    Raises:
        ForeignError: something is missing, or it is of no kind that we have.
    """
    deep = is_deep(g.tensors)
    last = "conv4" if deep else "conv2"
    per = 2 if deep else 1
    blocks = _numbers(g, "blocks")
    outs = [g.need(f"blocks.{i}.{last}.weight").shape[0] for i in blocks]
    widths = [g.need("blocks.0.conv1.weight").shape[1], *outs[per - 1 :: per]]
    resolution = SMALLEST * 2 ** (len(blocks) // per)
    _check_known(g, resolution, list(GENERATOR_WIDTHS), f"{len(blocks)} blocks")
    channels, multiples = _multiples(widths, GENERATOR_WIDTHS[resolution])
    shared = g.need("shared.weight").shape if "shared.weight" in g.tensors else (0, 0)
    gain, first = g.need("blocks.0.norm1.gain.weight").shape, g.need("linear.weight").shape
    classes, shared_dim = shared if shared[1] else (gain[0], 0)
    chunk = gain[1] - shared_dim if shared_dim else 0
    hierarchical = chunk > 0 and not deep
    parts = len(blocks) + 1 if hierarchical else 1
    return Generator(
        resolution,
        channels,
        multiples,
        tuple(SMALLEST * 2 ** (i // per + 1) for i in _numbers(g, "attention")),
        classes,
        (first[1] - shared_dim) if deep else first[1] * parts,
        shared_dim,
        hierarchical,
        deep,
        normed="linear.u" in g.tensors,
    )


def infer_discriminator(d: Foreign) -> Discriminator:
    """What this discriminator is.

    Raises:
        ForeignError: something is missing, or it is of no kind that we have.
    """
    deep = is_deep(d.tensors)
    last = "conv4" if deep else "conv2"
    per = 2 if deep else 1
    blocks = _numbers(d, "blocks")
    widths = [d.need(f"blocks.{i}.{last}.weight").shape[0] for i in blocks][per - 1 :: per]
    if deep:
        widths = [d.need("stem.weight").shape[0], *widths]
    sizes = {len(multiples): side for side, (multiples, _) in DISCRIMINATOR_WIDTHS.items()}
    _check_known(d, len(widths), list(sizes), f"{len(blocks)} blocks")
    resolution = sizes[len(widths)]
    multiples, halvings = DISCRIMINATOR_WIDTHS[resolution]
    numbers = [i // per for i in _numbers(d, "attention")]
    return Discriminator(
        resolution,
        _base(d, widths, multiples, resolution),
        tuple(resolution // 2 ** min(i + 1, halvings) for i in numbers),
        d.need("embed.weight").shape[0],
        wide=deep or d.need("blocks.0.conv1.weight").shape[0] > IMAGE_CHANNELS,
        deep=deep,
        normed="linear.u" in d.tensors,
    )


def architecture_of(g: Generator, wide: bool) -> str:
    """The row of ARCHITECTURES that is nearest to it: the config says what differs."""
    fitting = {
        name: row
        for name, row in ARCHITECTURES.items()
        if row.deep == g.deep and (row.wide == wide or g.deep)
    }
    return min(fitting, key=lambda name: bool(fitting[name].shared_dim) != bool(g.shared_dim))


def _numbers(network: Foreign, kind: str) -> list[int]:
    matches = (re.match(rf"{kind}\.(\d+)\.", name) for name in network.tensors)
    return sorted({int(match[1]) for match in matches if match})


def _check_known(network: Foreign, found: int, known: Sequence[int], what: str) -> None:
    if found not in known:
        raise ForeignError(f"{network.where}: {what}, and no architecture here has as many")


def _multiples(widths: Sequence[int], known: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """The base width of G and in which multiples of it `widths` are; none if they are `known`."""
    base = math.gcd(*widths) // math.gcd(*known)
    if [base * multiple for multiple in known] == list(widths):
        return base, ()
    base = math.gcd(*widths)
    return base, tuple(width // base for width in widths)


def _base(network: Foreign, widths: Sequence[int], known: Sequence[int], side: int) -> int:
    """The base width of D."""
    base, others = _multiples(widths, known)
    if others:
        have, ours = (" ".join(map(str, numbers)) for numbers in (widths, known))
        raise ForeignError(
            f"{network.where}: its blocks are {have} channels wide, which are not {ours} times one "
            f"number as here at {side} pixels"
        )
    return base
