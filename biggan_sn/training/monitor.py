"""Watches the singular values of every weight of both networks."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from biggan_sn.nn.spectral import TopSingularTriplets, as_matrix, named_weights


@dataclass(frozen=True)
class Spectra:
    """The largest singular values of the weights of one network.

    Args:
        layers: name of each layer, in the network's order.
        sigmas: [number of layers, k], largest first; 0 past the rank of a weight.
    """

    layers: tuple[str, ...]
    sigmas: Tensor


class SpectrumMonitor:
    """sigma_0, sigma_1, ... of every raw weight (before any constraint) of the networks given.

    Args:
        networks: short name (G, D) -> network.
        values: how many singular values.
    """

    def __init__(self, networks: dict[str, nn.Module], values: int) -> None:
        self._weights = {
            (short, layer): weight
            for short, network in networks.items()
            for layer, weight in named_weights(network).items()
        }
        self.values = values
        weights = list(self._weights.values())
        shapes = [as_matrix(weight).shape for weight in weights]
        self._triplets = TopSingularTriplets(shapes, weights[0].device)

    def measure(self) -> dict[str, Spectra]:
        """The spectra as they are now, by the networks' short names."""
        matrices = [as_matrix(weight) for weight in self._weights.values()]
        sigmas = self._triplets.refresh(matrices, self.values).sigmas.cpu()
        shorts = dict.fromkeys(short for short, _ in self._weights)
        return {
            short: Spectra(
                tuple(layer for owner, layer in self._weights if owner == short),
                sigmas[[owner == short for owner, _ in self._weights]],
            )
            for short in shorts
        }

    def state(self) -> dict[str, Tensor]:
        """The subspaces the next measurement starts from; nothing before the first."""
        if self._triplets.cold:
            return {}
        keys = [f"{short}/{layer}" for short, layer in self._weights]
        return dict(zip(keys, self._triplets.bases, strict=True))

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restores what `state` gave.

        Raises:
            ValueError: it is that of other networks.
        """
        if not state:
            return
        self._triplets.cold = False
        for name, basis in self.state().items():
            if name not in state or state[name].shape != basis.shape:
                raise ValueError(f"not the spectra of these networks: {name!r}")
            basis.copy_(state[name])
