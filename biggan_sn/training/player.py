"""One side of the game: a network, and the optimizer that moves it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from biggan_sn.config import PlayerConfig
from biggan_sn.positions import shares

# Batch norms share statistics themselves, and a forward pass on one rank alone (a sample, a check)
# must not wait for the others. Newer torch has another name for it.
_SYNC = "forward_sync_buffers"
_KNOWN = _SYNC in signature(DistributedDataParallel).parameters
_NO_SYNC_OF_BUFFERS: dict[str, Any] = {_SYNC if _KNOWN else "broadcast_buffers": False}


class Player:
    """A network and its Adam, on this process and in step with all others.

    Args:
        network: what the opponent sees; frozen except in the player's own turn.
        config: the optimizer's knobs.
        batch_size: images of one update, over all processes.
        microbatch: images of one forward pass here.
        rank, ranks: number of this process, and of processes.

    Attributes:
        model: the network wrapped for training. In its own turn the player's forward passes go
            through it, so that gradients meet once per update.
    """

    def __init__(
        self,
        network: nn.Module,
        config: PlayerConfig,
        batch_size: int,
        microbatch: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.network = network
        self.microbatch = microbatch
        self._share = (0, batch_size, rank, ranks, microbatch)
        self._rounds = batch_size // (ranks * microbatch)
        self._last = True
        self.model: nn.Module = network
        if ranks > 1:
            self.model = DistributedDataParallel(
                network, gradient_as_bucket_view=True, **_NO_SYNC_OF_BUFFERS
            )
        self.trainable = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            self.trainable, lr=config.lr, betas=config.betas, eps=config.eps, fused=True
        )
        self._require_grad(False)

    def _require_grad(self, required: bool) -> None:
        for parameter in self.trainable:
            parameter.requires_grad_(required)

    @contextmanager
    def turn(self) -> Iterator["Player"]:
        """The player's turn: its network thaws, gathers gradients, takes a step and freezes."""
        self._require_grad(True)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            yield self
            self.optimizer.step()
        finally:
            self._require_grad(False)

    def microbatches(self) -> Iterator[range]:
        """This process's slices of a batch, as positions in it. All but the last keep their
        gradients to themselves."""
        rounds = shares(*self._share)
        for number in range(1, self._rounds + 1):
            self._last = number == self._rounds
            with nullcontext() if self._last else self._no_sync():
                yield next(rounds)

    @contextmanager
    def _no_sync(self) -> Iterator[None]:
        model = self.model
        with model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext():
            yield

    def descend(self, loss: Tensor, term: Tensor | float = 0.0) -> None:
        """Adds the gradient of one microbatch's mean loss, at its weight in the batch, and that of
        a term on the network itself at its full weight."""
        (loss / self._rounds + term).backward()

    def once(self, term: Callable[[nn.Module], Tensor | float]) -> Tensor | float:
        """A term on the network itself, in the last round; 0 before."""
        return term(self.network) if self._last else 0.0

    def state(self) -> dict[str, Tensor]:
        """The optimizer's moments by parameter name: what safetensors can hold."""
        return {
            f"{name}/{slot}": value
            for name, parameter in self.network.named_parameters()
            for slot, value in self.optimizer.state.get(parameter, {}).items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restores what `state` gave.

        Raises:
            ValueError: the moments are those of another network.
        """
        parameters = dict(self.network.named_parameters())
        slots: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            name, _, slot = key.rpartition("/")
            slots.setdefault(name, {})[slot] = value
        trainable = set(self.trainable)
        mine = {name for name, parameter in parameters.items() if parameter in trainable}
        if different := sorted(mine ^ set(slots)):
            raise ValueError(f"not the optimizer state of this network: {different[0]!r}")
        for name, values in slots.items():
            like = parameters[name]
            if {slot: value.shape for slot, value in values.items()} != _shapes(like):
                raise ValueError(f"not the optimizer state of this network: {name!r}")
            self.optimizer.state[like] = {
                slot: _placed_like(like, value) for slot, value in values.items()
            }


def _shapes(parameter: Tensor) -> dict[str, torch.Size]:
    """What Adam keeps for a parameter."""
    return {
        "step": torch.Size(),
        "exp_avg": parameter.shape,
        "exp_avg_sq": parameter.shape,
    }


def _placed_like(parameter: Tensor, slot: Tensor) -> Tensor:
    """A copy where the parameter is. The fused optimizer walks through memory: moments must lie
    there as their parameter does."""
    if slot.dim() == 0:
        return slot.to(parameter.device, copy=True)
    return torch.empty_like(parameter).copy_(slot)
