"""What processes that train together tell one another: sums, and the work of one for all."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from biggan_sn.nn.clock import EXCHANGES


class _SumOverReplicas(torch.autograd.Function):
    """The sum of a tensor over processes. Its derivative is itself, so any order exists."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        with EXCHANGES.span(x.device):
            dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return sum_over_replicas(gradient, ctx.group), None


def sum_over_replicas(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Differentiable all-reduce; every process of the group gets the sum."""
    return _SumOverReplicas.apply(x, group)


def mean_over_replicas(x: Tensor, ranks: int) -> Tensor:
    """The mean of a tensor over all processes, of which there are `ranks`; differentiable. Every
    process must call it."""
    if ranks == 1:
        return x
    assert dist.group.WORLD is not None
    return sum_over_replicas(x, dist.group.WORLD) / ranks


def gather_over_replicas(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The rows of all processes of the group, one after the other: [n, C] -> [N, C], n alike on
    all. Differentiable; every process must call it."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    before, after = rank * len(x), (ranks - 1 - rank) * len(x)
    return sum_over_replicas(F.pad(x, (0, 0, before, after)), group)


@torch.no_grad()
def average_over_replicas(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its mean over all processes, in one message. Every process must call
    it, with tensors of the same shapes and of one type."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with EXCHANGES.span(flat.device):
        dist.all_reduce(flat)
    pieces = (flat / dist.get_world_size()).split([tensor.numel() for tensor in tensors])
    shaped = [piece.view(tensor.shape) for tensor, piece in zip(tensors, pieces, strict=True)]
    torch._foreach_copy_(list(tensors), shaped)


class Sharing(NamedTuple):
    """How statistics over many images come about that lie on several processes.

    Args:
        parts: pieces of the batch here, each of which has statistics of its own.
        group: the processes that join theirs; None if each keeps to itself.
    """

    parts: int
    group: dist.ProcessGroup | None


ALONE = Sharing(1, None)


def sharing_for(planned: Mapping[int, Sharing] | None, images: int, what: str) -> Sharing:
    """How a batch of so many images comes by its statistics, as `planned` by that number; by itself
    if nothing was planned.

    Raises:
        ValueError: nobody spoke of a batch of this size to `what`.
    """
    if planned is None:
        return ALONE
    if images not in planned:
        sizes = " or ".join(map(str, planned))
        raise ValueError(
            f"{what} over processes: a batch of {images} images, where every process "
            f"must have {sizes}; its statistics would not be those of the whole"
        )
    return planned[images]


def plan_sharing(here: int, together: int, ranks: int) -> tuple[int, int]:
    """How `together` images are joined when each of `ranks` processes has `here`: the number of
    pieces of a process's batch, and that of processes that join one.

    Raises:
        ValueError: it does not come out even.
    """
    if together % here == 0 and ranks % (together // here) == 0:
        return 1, together // here
    if here % together == 0:
        return here // together, 1
    raise ValueError(
        f"model.norm_batch {together} does not fit: {ranks} processes have {here} images each in "
        f"one pass; it must divide {here}, or be a multiple of it that divides {ranks * here}"
    )


def share(here: int, together: int, ranks: int) -> Sharing:
    """The groups of consecutive processes that join the statistics of `together` images. Every
    process must call it.

    Raises:
        ValueError: see `plan_sharing`.
    """
    parts, processes = plan_sharing(here, together, ranks)
    if processes == 1:
        return Sharing(parts, None)
    if processes == ranks:
        return Sharing(parts, dist.group.WORLD)
    group, _ = dist.new_subgroups(processes)
    return Sharing(parts, group)


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
        lengths = [tensor.numel() for tensor in tensors]
        flat = tensors[0].new_zeros(sum(lengths), dtype=dtype)
        places = [
            place.view(tensor.shape)
            for place, tensor in zip(flat.split(lengths), tensors, strict=True)
        ]
        told = [number for number, mine in enumerate(own) if mine]
        if told:
            torch._foreach_copy_([places[i] for i in told], [tensors[i] for i in told])
        with EXCHANGES.span(flat.device):
            dist.all_reduce(flat)
        torch._foreach_copy_(tensors, places)


def _assign(costs: Sequence[int], ranks: int) -> list[int]:
    """An owner for each task: the longest first, each to whoever has least (Graham 1969)."""
    loads = [0] * ranks
    owners = [0] * len(costs)
    for task in sorted(range(len(costs)), key=lambda task: (-costs[task], task)):
        owners[task] = loads.index(min(loads))
        loads[owners[task]] += costs[task]
    return owners
