"""How the processes of a job move one network together: the rows of ENGINES.

Forward passes with second derivatives, frozen opponents and terms on the weights themselves go
through each of them alike; see the tests that compare them.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from inspect import signature
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from biggan_sn.config import PlayerConfig
from biggan_sn.nn.clock import EXCHANGES, Mark, mark
from biggan_sn.training.world import World
from biggan_sn.training.zero import Partitioned

# Batch norms share statistics themselves, and a forward pass on one rank alone (a sample, a check)
# must not wait for the others. Newer torch has another name for it.
_SYNC = "forward_sync_buffers"
_KNOWN = _SYNC in signature(DistributedDataParallel).parameters
_NO_SYNC_OF_BUFFERS: dict[str, Any] = {_SYNC if _KNOWN else "broadcast_buffers": False}


class Engine(Protocol):
    """Gradients of one network over all processes, and the optimizer they feed.

    Attributes:
        model: what the player's own forward passes go through.
        optimizer: whose rates may be changed between steps.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def begin(self, rounds: int) -> None:
        """Forgets all gradients; so many backward passes will come before the step."""
        ...

    def apart(self) -> AbstractContextManager[Any]:
        """Within, gradients stay on their process: for all passes but the last."""
        ...

    def backward(self, loss: Tensor, scale: float) -> None:
        """Adds the gradient of `scale` times the loss."""
        ...

    def step(self, scale: float) -> bool:
        """An optimizer step along the mean over processes of the gradients over `scale`. If that is
        not 1 and not all are finite, none is taken. Returns whether one was."""
        ...

    def moments(self, parameter: nn.Parameter) -> Mapping[str, Tensor]:
        """What the optimizer keeps for a parameter; on the leading process, which is the one that
        saves. Every process must call it."""
        ...

    def load_moments(self, moments: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
        """Restores what `moments` gave, for all parameters that are trained."""
        ...

    def close(self) -> None:
        """Lets go of the network."""
        ...


class Replicated:
    """Every process holds all, and gradients meet while they are made: PyTorch's
    DistributedDataParallel (Li et al. 2020). A single process goes without."""

    def __init__(self, network: nn.Module, config: PlayerConfig, world: World) -> None:
        self.model: nn.Module = network
        self._device = world.device
        self._last_bucket: Mark | None = None
        self._apart: Callable[[], AbstractContextManager[Any]] = nullcontext
        if world.ranks > 1:
            self.model = DistributedDataParallel(
                network, gradient_as_bucket_view=True, **_NO_SYNC_OF_BUFFERS
            )
            self.model.register_comm_hook(None, self._average)
            self._apart = self.model.no_sync
        trainable = [p for p in network.parameters() if p.requires_grad]
        self._rows = {
            parameter: nn.Parameter(_as_row(parameter, parameter)) for parameter in trainable
        }
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            self._rows.values(), lr=config.lr, betas=config.betas, eps=config.eps, fused=True
        )

    def _average(
        self,
        state: None,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        """What it does anyway with a bucket of gradients, and notes when."""
        if EXCHANGES.on:
            self._last_bucket = mark(self._device)
        flat = bucket.buffer().div_(dist.get_world_size())
        future: torch.futures.Future[list[Tensor]] = dist.all_reduce(
            flat, async_op=True
        ).get_future()
        return future.then(lambda done: done.value()[0])

    def begin(self, rounds: int) -> None:
        for parameter in self._rows:
            parameter.grad = None

    def apart(self) -> AbstractContextManager[Any]:
        return self._apart()

    def backward(self, loss: Tensor, scale: float) -> None:
        (scale * loss).backward()
        if self._last_bucket is not None:  # from there on nothing is left to compute
            EXCHANGES.add(self._last_bucket, mark(self._device))
            self._last_bucket = None

    def step(self, scale: float) -> bool:
        for parameter, row in self._rows.items():
            row.grad = None if parameter.grad is None else _as_row(parameter.grad, parameter)
        if scale != 1.0:
            gradients = [row.grad for row in self._rows.values() if row.grad is not None]
            torch._foreach_mul_(gradients, 1 / scale)
            # They are means over all processes by now, so that all decide alike.
            if not torch.stack(list(torch._foreach_norm(gradients))).sum().isfinite():
                return False
        self.optimizer.step()
        return True

    def moments(self, parameter: nn.Parameter) -> Mapping[str, Tensor]:
        slots = self.optimizer.state.get(self._rows[parameter], {})
        return {name: _as_tensor(slot, parameter) for name, slot in slots.items()}

    def load_moments(self, moments: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
        for parameter, slots in moments.items():
            self.optimizer.state[self._rows[parameter]] = {
                name: _as_row(slot.to(parameter.device, copy=True), parameter)
                for name, slot in slots.items()
            }

    def close(self) -> None:
        """Nothing holds it."""


# The fused optimizer walks through memory, and on a CPU copies what is not in one row: it gets
# rows, in the order in which the numbers of a parameter lie there.


def _as_row(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The numbers of a tensor of the shape of `parameter`, in the order of its memory; a view where
    they lie in that order. One number is its own row."""
    if tensor.dim() == 0:
        return tensor
    return tensor.detach().permute(_order(parameter)).reshape(-1)


def _as_tensor(row: Tensor, parameter: Tensor) -> Tensor:
    """The inverse of `_as_row`."""
    if row.dim() == 0:
        return row
    order = _order(parameter)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return row.view([parameter.shape[axis] for axis in order]).permute(inverse)


def _order(parameter: Tensor) -> list[int]:
    """The axes of a parameter, from the one whose neighbours lie farthest apart."""
    return sorted(range(parameter.dim()), key=parameter.stride().__getitem__, reverse=True)


ENGINES: dict[str, Callable[[nn.Module, PlayerConfig, World], Engine]] = {
    "ddp": Replicated,
    "zero1": partial(Partitioned, stage=1),
    "zero2": partial(Partitioned, stage=2),
}
PARTITIONED = ("zero1", "zero2")  # a process has a part of what the others have whole
