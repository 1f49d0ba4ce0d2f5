"""From the names of another program to ours, by tables."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import NamedTuple

from torch import Size, Tensor

from biggan_sn.interop.reading import ForeignError

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], None]  # in place, of what is there

# What is no parameter; u, v: singular vectors; counter: of batches summed up in the statistics.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "u", "v", "counter")
DROPPED = ""
_NUMBERED = re.compile(r"(blocks|attention)\.([\d-]+)\.")


class Keys(NamedTuple):
    """How the tensors of a network are called elsewhere, and how they differ.

    Args:
        modules: of theirs, without the last part of a tensor's name, -> ours, as we call them
            before any constraint. {i} is the number of a block, or {i}-{k} where they have two;
            {j} is one within it. Blocks are numbered anew, and attention, which they may count
            among them, by the block before it.
        leaves: last parts of names (patterns) -> ours; DROPPED is left out.
        changes: what is done to their tensors under our names, in this order.
        back: whole names of ours, or last parts of them, -> theirs, where that does not follow from
            the tables above; DROPPED is not given back.
    """

    modules: Mapping[str, str]
    leaves: Mapping[str, str]
    changes: Sequence[Change] = ()
    back: Mapping[str, str] = {}


@dataclass
class Foreign:
    """A network of theirs under our names.

    Args:
        where: the file, for messages.
        keys: by which it was renamed.
        tensors: by our names.
        shapes: theirs, of the same, whatever was changed since.
        theirs: our name -> theirs.
        numbers: how a name of ours starts, up to a number -> what stands for {i} and {k} in theirs.
        parameters: our names of what they train, in the order of their optimizer.
    """

    where: str
    keys: Keys
    tensors: Tensors
    shapes: dict[str, Size]
    theirs: dict[str, str]
    numbers: dict[str, dict[str, str]]
    parameters: list[str]

    def need(self, name: str) -> Tensor:
        """The tensor that we call `name`.

        Raises:
            ForeignError: there is none.
        """
        if name not in self.tensors:
            raise ForeignError(f"{self.where}: lacks {self.their_name(name)!r} (our {name})")
        return self.tensors[name]

    def their_name(self, name: str) -> str:
        """What they call our `name`, whether they have it or not, with a star for the number of a
        block that they do not have."""
        if name in self.theirs:
            return self.theirs[name]
        numbers = {"i": "*", "k": "*"} | self.numbers.get(_start(name), {})
        return name_back(self.keys, name, numbers) or name


def name_back(keys: Keys, name: str, numbers: Mapping[str, str]) -> str:
    """What they call our plain `name`, with these numbers in the places of {i} and {k}; DROPPED
    where they have nothing like it. Where they have several names for it, their usual one."""
    if name in keys.back:
        return keys.back[name]
    module, _, leaf = name.rpartition(".")
    leaves = [their for their, our in keys.leaves.items() if our == leaf]
    theirs = keys.back.get(leaf, (leaves or [leaf])[0])
    for template, ours in keys.modules.items():
        match = _match(ours.replace("{i}-{k}", "{i}"), module)
        if match and theirs != DROPPED:
            return f"{template.format(**{**match.groupdict(), **numbers})}.{theirs}"
    return DROPPED


def rename(where: str, tensors: Mapping[str, Tensor], keys: Keys) -> Foreign:
    """A network of theirs under our names, not yet changed.

    Raises:
        ForeignError: a name that is in no table.
    """
    found: dict[str, tuple[str, dict[str, str]]] = {}  # ours -> theirs, and the numbers in it
    for name in tensors:
        module, _, leaf = name.rpartition(".")
        leaves = [our for their, our in keys.leaves.items() if fnmatchcase(leaf, their)]
        places = [(ours, m) for t, ours in keys.modules.items() if (m := _match(t, module))]
        if not leaves or not places:
            raise ForeignError(f"{where}: {name!r} is nothing that this format has")
        if leaves[0] != DROPPED:
            ours, match = places[0]
            found[f"{ours.format(**match.groupdict())}.{leaves[0]}"] = name, match.groupdict()
    again = _numbering(found)
    theirs = {again(ours): their for ours, (their, _) in found.items()}
    numbers = {
        _start(again(ours)): {n: groups[n] for n in "ik" if n in groups}
        for ours, (_, groups) in found.items()
    }
    parameters = [name for name in theirs if name.rpartition(".")[2] not in BUFFERS]
    contents = {ours: tensors[their] for ours, their in theirs.items()}
    shapes = {name: tensor.shape for name, tensor in contents.items()}
    return Foreign(where, keys, contents, shapes, theirs, numbers, parameters)


def bare_name(name: str) -> str:
    """What we call a tensor, of a constraint too, as if it was its layer's."""
    name = name.replace(".parametrizations.weight.original", ".weight")
    return name.replace(".parametrizations.weight.0.", ".")


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """That of names with numbers in the places of {i}, {j} and {k}."""
    return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(template)))


def _match(template: str, name: str) -> re.Match[str] | None:
    return _pattern(template).fullmatch(name)


def _start(name: str) -> str:
    """The part of a name up to the number of its block; empty where it has none."""
    match = _NUMBERED.match(name)
    return match[0] if match else ""


def _numbering(names: Iterable[str]) -> Callable[[str], str]:
    """Names with blocks numbered from 0 without gaps, and attention by the block before it."""
    found = {(m[1], m[2]) for name in names if (m := _NUMBERED.match(name))}
    blocks = [_order(number) for kind, number in found if kind == "blocks"]

    def again(match: re.Match[str]) -> str:
        before = sum(number <= _order(match[2]) for number in blocks)
        return f"{match[1]}.{before - 1}."

    return lambda name: _NUMBERED.sub(again, name)


def _order(number: str) -> list[int]:
    return [int(part) for part in number.split("-")]
