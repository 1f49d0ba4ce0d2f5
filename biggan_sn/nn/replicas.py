"""What processes that train together tell one another: sums, and the work of one for all."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _SumOverReplicas(torch.autograd.Function):
    """The sum of a tensor over all processes. Its derivative is itself, so any order exists."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_over_replicas(gradient)


def sum_over_replicas(x: Tensor) -> Tensor:
    """Differentiable all-reduce; every process gets the sum."""
    return _SumOverReplicas.apply(x)


def num_replicas() -> int:
    """Number of processes that train together; 1 outside a job."""
    return dist.get_world_size() if dist.is_initialized() else 1


class Ownership:
    """Splits a list of tasks among processes; each learns the results of all.

    So a task is done once, and its result has the same bits everywhere, also where the machines
    of a job round differently.

    Args:
        costs: of each task, in any unit.
        rank, ranks: number of this process, and of processes.
    """

    def __init__(self, costs: Sequence[int], rank: int = 0, ranks: int = 1) -> None:
        self.rank, self.ranks = rank, ranks
        self.owners = _assign(costs, ranks)

    @property
    def mine(self) -> list[int]:
        """The tasks of this process."""
        return [task for task, owner in enumerate(self.owners) if owner == self.rank]

    def exchange(self, *results: Sequence[Tensor]) -> None:
        """Fills in the tasks of others, in place. Every process must call it, with tensors of the
        same shapes. All go in one flat message, in which each number is zero but at its owner."""
        if self.ranks == 1:
            return
        tensors = [tensor for group in results for tensor in group]
        own = [owner == self.rank for _ in results for owner in self.owners]
        dtype = max((tensor.dtype for tensor in tensors), key=lambda kind: kind.itemsize)
        parts = [
            tensor.reshape(-1).to(dtype) if mine else tensor.new_zeros(tensor.numel(), dtype=dtype)
            for tensor, mine in zip(tensors, own, strict=True)
        ]
        flat = torch.cat(parts)
        dist.all_reduce(flat)
        pieces = flat.split([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))


def _assign(costs: Sequence[int], ranks: int) -> list[int]:
    """An owner for each task: the longest first, each to whoever has least (Graham 1969)."""
    loads = [0] * ranks
    owners = [0] * len(costs)
    for task in sorted(range(len(costs)), key=lambda task: (-costs[task], task)):
        owners[task] = loads.index(min(loads))
        loads[owners[task]] += costs[task]
    return owners
