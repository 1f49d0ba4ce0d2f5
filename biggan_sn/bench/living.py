"""How much memory tensors take, by whether anyone still holds them."""

import gc
import weakref
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Living(TorchDispatchMode):
    """While open, follows the memory of all tensors that there are, each piece once, views left
    out. Tensors of shapes without numbers count as what they stand for.

    Attributes:
        peak: the most that lived at once, in bytes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._pieces: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __enter__(self) -> Self:
        gc.collect()  # what only circles hold is gone
        for thing in gc.get_objects():
            if issubclass(type(thing), Tensor):  # isinstance would ask some for more
                self._see(thing)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._see(tensor)
        return made

    def _see(self, tensor: Tensor) -> None:
        piece = tensor.untyped_storage()
        number, size = id(piece), piece.nbytes()  # its object lives as long as the memory does
        if number in self._pieces:
            return

        def gone(_: object) -> None:
            self._now -= size
            del self._pieces[number]

        self._pieces[number] = weakref.ref(piece, gone)
        self._now += size
        self.peak = max(self.peak, self._now)
