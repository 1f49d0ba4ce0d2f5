"""Which tensors of another run's networks fit ours, and what becomes of the rows of classes.

Pure functions of names, shapes and tensors, all by plain names (`nn.names`).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from biggan_sn.nn.names import part_of

Shapes = Mapping[str, torch.Size]
Rows = Sequence[int | None]  # for each class its number there; None for one that is new


class Fit(NamedTuple):
    """What of a network is taken over. A part (a block, an attention, a layer at either end) comes
    whole or begins anew.

    Args:
        origins: of all tensors that are taken, the name there by the name here.
        new: parts that begin anew.
        share: part of the weights that is taken, tables of classes left out.
    """

    origins: dict[str, str]
    new: tuple[str, ...]
    share: float

    def parts(self) -> list[str]:
        """The parts that are taken, as in `blocks.5 (its blocks.4)`."""
        pairs = {part_of(here): part_of(there) for here, there in self.origins.items()}
        return [here if here == there else f"{here} (its {there})" for here, there in pairs.items()]


def find_fit(there: Shapes, here: Shapes, tables: Collection[str], classes: int) -> Fit:
    """What fits of a network there in one here. Where one has more blocks, they are counted from
    the first or from the last, by which more weights fit: widths follow the distance from the
    image in one resolution and that from the other end in another.

    Args:
        there: the shape of each tensor of theirs.
        here: of ours.
        tables: of ours, names of those [number of classes, C].
        classes: how many there are there.
    """
    more = _count_blocks(here) - _count_blocks(there)
    fitting = {n: torch.Size((classes, *s[1:])) if n in tables else s for n, s in here.items()}
    fits = [_fit(there, fitting, tables, shift) for shift in (0, more)]
    return max(fits, key=lambda fit: fit.share)  # the first of equals


def _count_blocks(names: Collection[str]) -> int:
    return len({part_of(name) for name in names if name.startswith("blocks.")})


def _fit(there: Shapes, here: Shapes, tables: Collection[str], shift: int) -> Fit:
    names = {_shifted(name, shift): name for name in there}
    origins = {
        name: names[name]
        for name, shape in here.items()
        if name in names and there[names[name]] == shape
    }
    new = tuple(dict.fromkeys(part_of(name) for name in here if name not in origins))
    origins = {name: origin for name, origin in origins.items() if part_of(name) not in new}
    sizes = {name: shape.numel() for name, shape in here.items() if name not in tables}
    taken = sum(size for name, size in sizes.items() if name in origins)
    return Fit(origins, new, taken / sum(sizes.values()))


def _shifted(name: str, shift: int) -> str:
    """The name of a tensor of a block, or of the attention after it, so many blocks further on."""
    return re.sub(r"^(\w+\.)(\d+)(?=\.)", lambda m: f"{m[1]}{int(m[2]) + shift}", name)


def first_misfit(there: Shapes, here: Shapes) -> str:
    """The first tensor that does not fit, in words."""
    for name, shape in here.items():
        if name not in there:
            return f"{name} is not there"
        if there[name] != shape:
            return f"{name} is {list(there[name])} there and {list(shape)} here"
    return "all fit"


def match_classes(there: Sequence[str], here: Sequence[str], named: bool = True) -> Rows:
    """For each class here the number of the one of its name there. If they have no names there:
    its own number, where there are as many, else None."""
    if not named:
        return range(len(here)) if len(there) == len(here) else [None] * len(here)
    numbers = {name: number for number, name in enumerate(there)}
    return [numbers.get(name) for name in here]


def renumber(table: Tensor, rows: Rows, apart: bool = True) -> Tensor:
    """A table of classes there, [N, C], for those here: [M, C].

    Known classes keep their rows. A new one gets the mean of all rows: what a class is of which
    nothing is known, and the same however a network shares out between the table and a bias.

    Unless rows are `apart`, one norm of all of them divides each, and more of them would let known
    classes count for less. Rows of 0 leave that norm as it is, so a new one is 0 then; but where no
    class is known the mean, since a table of zeros has no direction.
    """
    zero = not apart and any(row is not None for row in rows)
    new = torch.zeros_like(table[0]) if zero else table.mean(0)
    return torch.stack([new if row is None else table[row] for row in rows])
