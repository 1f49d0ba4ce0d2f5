"""Lipschitz constraints, put on finished networks from outside.

The networks are plain layers and never say "spectral"; `constrain` walks one and registers what
the rows of LIPSCHITZ ask for on the weight of each layer.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from biggan_sn.config import LipschitzConfig
from biggan_sn.nn.spectral import (
    MATRIX_LAYERS,
    as_matrix,
    as_row,
    chain_of,
    power_iteration,
    raw_weight,
)
from biggan_sn.tables import lookup

CONVERGENCE = 30  # power iterations where there is no earlier u to start from, or a distant one


class _DivideBySigma(torch.autograd.Function):
    """W / sigma, with sigma known. Its derivative counts that sigma depends on W:
    (g - <g, W/sigma> u v^T) / sigma, Miyato et al. 2018, eq. 12; exact once u, v have converged.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
        ctx.save_for_backward(weight, u, v, sigma)
        return weight / sigma

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        weight, u, v, sigma = ctx.saved_tensors
        inner = torch.dot(as_matrix(gradient).reshape(-1), as_matrix(weight).reshape(-1))
        columns = (inner / sigma.square() * u).view(-1, *(1,) * (weight.dim() - 1))
        result = (gradient / sigma).addcmul_(columns, as_row(v, weight), value=-1)
        if result.stride() != weight.stride():  # DDP and the fused Adam want one layout
            result = torch.empty_like(weight).copy_(result)
        return result, None, None, None


class SpectralNorm(nn.Module):
    """Parametrization of one weight: W / max(sigma, eps), sigma its largest singular value.

    u, v and sigma change in `Constraint.refresh` and nowhere else: a forward pass only reads them.
    So microbatches, activation checkpointing, extra forwards and reading a weight cannot change
    training, as they do where the power iteration runs inside forward.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.eps = eps
        rows, columns = as_matrix(weight).shape
        self.register_buffer("u", _unit_vector(rows, weight))
        self.register_buffer("v", _unit_vector(columns, weight))
        self.register_buffer("sigma", torch.ones((), dtype=weight.dtype, device=weight.device))

    u: Tensor
    v: Tensor
    sigma: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        sigma = self.sigma.clamp_min(self.eps)
        return _DivideBySigma.apply(weight, self.u, self.v, sigma)


def _unit_vector(size: int, like: Tensor) -> Tensor:
    """A fixed vector of irregular entries: alike on all ranks, orthogonal to no weight in use."""
    entries = torch.cos(torch.arange(1, size + 1, dtype=torch.float64) ** 2)
    return (entries / entries.norm()).to(like)


class Constraint:
    """The spectrally normalised weights of one network, refreshed together."""

    def __init__(self, network: nn.Module, iterations: int) -> None:
        self.iterations = iterations
        self._weights: list[Tensor] = []
        self._norms: list[SpectralNorm] = []
        for module in network.modules():
            if parametrize.is_parametrized(module, "weight"):
                for norm in chain_of(module).children():
                    if isinstance(norm, SpectralNorm):
                        self._weights.append(raw_weight(module))
                        self._norms.append(norm)

    def after_step(self) -> None:
        """To be called once after each optimizer step, and by nobody else."""
        self.refresh(self.iterations)

    @torch.no_grad()
    def refresh(self, iterations: int) -> None:
        """Power iterations from the present u to new u, v and sigma, for all weights at once."""
        if not self._norms:
            return
        device = self._norms[0].u.device.type
        with torch.autocast(device, enabled=False):
            power_iteration(
                [as_matrix(weight) for weight in self._weights],
                [norm.u for norm in self._norms],
                [norm.v for norm in self._norms],
                [norm.sigma for norm in self._norms],
                iterations,
            )


class Lipschitz(NamedTuple):
    """A row: what to do to the weight of each layer."""

    weight: Callable[[nn.Module, LipschitzConfig], object]


def constrain(
    network: nn.Module, rows: Sequence[str], config: LipschitzConfig, embeddings: bool
) -> Constraint:
    """Puts the constraints called `rows` on every convolution and linear map of `network`, and on
    its embeddings if asked (D: yes; G: no, Brock et al. 2019), in place.

    Raises:
        ValueError: a name that is no row of LIPSCHITZ.
    """
    chosen = [lookup(LIPSCHITZ, name, "lipschitz constraint") for name in rows]
    layers = MATRIX_LAYERS if embeddings else MATRIX_LAYERS[:2]
    for module in [m for m in network.modules() if isinstance(m, layers)]:
        for row in chosen:
            row.weight(module, config)
    constraint = Constraint(network, config.power_iterations)
    if not any(weight.is_meta for weight in network.parameters()):
        constraint.refresh(CONVERGENCE)
    return constraint


def unconstrain(network: nn.Module) -> None:
    """Gives `network` plain weights with which it computes the same, sigma divided in; in place."""
    for module in [m for m in network.modules() if parametrize.is_parametrized(m, "weight")]:
        weight = module.weight
        assert isinstance(weight, Tensor)
        # Not remove_parametrizations: copies share their class with the original, and it would
        # take the weight from that class.
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        module.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)


def _spectral_norm(module: nn.Module, config: LipschitzConfig) -> None:
    weight = module.weight
    assert isinstance(weight, Tensor)
    norm = SpectralNorm(weight.detach(), config.eps)
    # unsafe: spare the trial call; the map keeps shape and type by construction
    parametrize.register_parametrization(module, "weight", norm, unsafe=True)


def _torch_spectral_norm(module: nn.Module, config: LipschitzConfig) -> None:
    parametrizations.spectral_norm(module, "weight", config.power_iterations, config.eps)


# torch_spectral_norm, which iterates inside every forward pass, is here to be compared with.
LIPSCHITZ: dict[str, Lipschitz] = {
    "spectral_norm": Lipschitz(weight=_spectral_norm),
    "torch_spectral_norm": Lipschitz(weight=_torch_spectral_norm),
}
