"""Opens files of other programs. Nothing in them is run: a pickle that asks for more than tensors
and plain values is refused."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import safe_globals

_ASKED = re.compile(r"(?:unsupported )?GLOBAL (\S+)", re.IGNORECASE)


class ForeignError(ValueError):
    """Weights of another program that cannot be imported; the message names the file."""


def load(path: Path, numbers: Sequence[type] = ()) -> Any:
    """What torch.save wrote to `path`, on the CPU. With `numbers`, numpy's kinds of single numbers,
    such may be among it.

    Raises:
        ForeignError: it asks for code, or cannot be read.
    """
    if not path.is_file():
        raise ForeignError(f"{path}: there is no such file")
    try:
        with safe_globals(_allowed(numbers)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        asked = _ASKED.search(str(error))
        if asked is None:
            raise ForeignError(f"{path}: not a file of torch.save ({_first(error)})") from error
        raise ForeignError(
            f"{path}: refused: its pickle asks for {asked[1]}, and only tensors and plain values "
            "are read from files of others"
        ) from error
    except Exception as error:  # a pickle that is broken raises whatever it likes
        raise ForeignError(f"{path}: not a file of torch.save ({_first(error)})") from error


def _allowed(numbers: Sequence[type]) -> list[Any]:
    """What makes such a number again, under its names in all versions of numpy."""
    make = np.float64(0).__reduce__()[0]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    return [*((make, name) for name in names), *numbers] if numbers else []


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def section(path: Path, content: Any, name: str) -> Any:
    """What `content`, read from `path`, has under a name.

    Raises:
        ForeignError: there is nothing.
    """
    if not isinstance(content, Mapping) or name not in content:
        raise ForeignError(f"{path}: has no {name!r}")
    return content[name]


def tensors_in(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors of one network by name, in their order, those of numbers with a fraction as fp32;
    without the prefix that DataParallel puts before all names.

    Raises:
        ForeignError: there is something else, or a number that is not finite.
    """
    if not isinstance(content, Mapping) or not content:
        raise ForeignError(f"{path}: holds no tensors by name")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ForeignError(f"{path}: {name!r} is no tensor with a name")
        if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise ForeignError(f"{path}: {name!r} is not a plain tensor of real numbers")
        if not tensor.isfinite().all():
            raise ForeignError(f"{path}: {name!r} has values that are not finite")
    wrapped = all(name.startswith("module.") for name in content)
    return {
        name.removeprefix("module.") if wrapped else name: _plain(tensor)
        for name, tensor in content.items()
    }


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
