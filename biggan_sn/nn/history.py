"""The mean of all that the weights of a network have been."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

COUNT = "count"


class History:
    """(1/t) sum theta[i] over i = 1 .. t, where theta[1] are the parameters that `begin` found and
    one more comes with each update: Salimans et al. 2016, section 3.3. Every process has all of it.

    Args:
        network: whose parameters; they may be moved in memory, but not replaced.
        follows: whether anybody asks; else nothing is kept.
    """

    def __init__(self, network: nn.Module, follows: bool = True) -> None:
        self._parameters = dict(network.named_parameters()) if follows else {}
        self._means: dict[str, Tensor] = {}
        self.begin()

    @torch.no_grad()
    def begin(self) -> None:
        """Forgets all but the parameters as they are."""
        self._means = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._count = 1

    @torch.no_grad()
    def follow(self) -> None:
        """To be called after each update, when constraints have acted."""
        self._count += 1
        if self._parameters:
            now: list[Tensor] = list(self._parameters.values())
            torch._foreach_lerp_(list(self._means.values()), now, 1 / self._count)

    def distance(self) -> Tensor:
        """|theta - mean|^2, with its gradient in theta."""
        return _Distance.apply(list(self._means.values()), *self._parameters.values())

    def state(self) -> dict[str, Tensor]:
        """All of it by name, in tensors; nothing where nothing is kept."""
        return {**self._means, COUNT: torch.tensor(self._count)} if self._parameters else {}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave. Where that was nothing, it begins here.

        Raises:
            ValueError: it is that of another network.
        """
        self.begin()
        if not state or not self._parameters:
            return
        found = {name: tensor.shape for name, tensor in state.items() if name != COUNT}
        if found != {name: mean.shape for name, mean in self._means.items()} or COUNT not in state:
            raise ValueError("not the history of this network")
        for name, mean in self._means.items():
            mean.copy_(state[name])
        self._count = int(state[COUNT])


class _Distance(torch.autograd.Function):
    """Three calls for all parameters together, where autograd would make three for each."""

    @staticmethod
    def forward(ctx: Any, means: list[Tensor], *parameters: Tensor) -> Tensor:
        differences = torch._foreach_sub(list(parameters), means)
        ctx.save_for_backward(*differences)
        return torch.stack(list(torch._foreach_norm(differences))).square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *torch._foreach_mul(ctx.saved_tensors, 2 * gradient))
