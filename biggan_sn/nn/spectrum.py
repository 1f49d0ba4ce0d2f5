"""The spectra of all weights of a network while it trains: one search serves whoever asks."""

import torch
from torch import Tensor, nn

from biggan_sn.nn.matrices import as_matrix, as_weight, named_weights
from biggan_sn.nn.spectral import DEPTH, TopSingularTriplets, Triplets


class Spectrum:
    """The top singular triplets of every raw weight (before any constraint) of a network, those of
    embeddings included.

    Spectral normalisation, the clamp and the regularizers of sigma_0 and the monitor all read it.

    Args:
        network: whose weights; not on the meta device.
        values: how many triplets of each.
        depth: of the search.
        rank, ranks: number of this process, and of processes, which share the work.

    Attributes:
        layers: names, in the network's order.
        place: rank and ranks.
        triplets: as found last.
    """

    def __init__(
        self, network: nn.Module, values: int, depth: int = DEPTH, rank: int = 0, ranks: int = 1
    ) -> None:
        weights = named_weights(network)
        self.layers = tuple(weights)
        self.values = values
        self.depth = depth
        self.place = (rank, ranks)
        self._weights = list(weights.values())
        shapes = [as_matrix(weight).shape for weight in self._weights]
        self._search = TopSingularTriplets(shapes, self._weights[0].detach(), rank, ranks)
        self.triplets = self.refresh()

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.triplets.sigmas.device

    def matrices(self) -> list[Tensor]:
        """The weights as they are now."""
        return [as_matrix(weight.detach()) for weight in self._weights]

    def refresh(self, least_depth: int = 1) -> Triplets:
        """Finds the triplets of the weights as they are now. Every process must call it."""
        depth = max(self.depth, least_depth)
        self.triplets = self._search.refresh(self.matrices(), self.values, depth)
        self._current = True
        return self.triplets

    def moved(self) -> None:
        """To be called when the weights changed and nobody needs to know to what."""
        self._current = False

    def known(self) -> Triplets:
        """The triplets of the weights as they are now; where nobody follows them, by a deeper
        search. Every process must call it."""
        return self.triplets if self._current else self.refresh(DEPTH)

    def lengths(self) -> Tensor:
        """The Frobenius norm [number of layers] of each weight as it is now."""
        return torch.stack(list(torch._foreach_norm(self.matrices())))

    @torch.no_grad()
    def clamp(self, limits: Tensor, only_first: bool) -> None:
        """W <- W - sum_i max(0, sigma_i - limit) u_i v_i^T, in place (Brock et al. 2019, section
        4.1), and the triplets accordingly. The other singular values and all vectors stay. Every
        process must call it.

        Args:
            limits: [number of layers]; inf leaves a weight alone.
            only_first: the sum has one term, as the paper writes it, though others may exceed.
        """
        sigmas, lefts, rights = self.triplets
        excess = (sigmas - limits[:, None]).clamp_min(0).nan_to_num(0.0)
        if only_first:
            excess[:, 1:] = 0
        for weight, u, v, over in zip(self._weights, lefts, rights, excess, strict=True):
            weight.sub_(as_weight((u * over) @ v.mT, weight))
        clamped, order = (sigmas - excess).sort(descending=True, stable=True)
        self.triplets = Triplets(
            clamped,
            [u[:, new] for u, new in zip(lefts, order, strict=True)],
            [v[:, new] for v, new in zip(rights, order, strict=True)],
        )
        if (clamped[:, -1] < sigmas[:, -1]).any():
            # Values beyond those that were known may now be larger than some of them. Their turn
            # comes after the next step.
            self.refresh()

    def state(self) -> dict[str, Tensor]:
        """What the next step and the next search start from, by name."""
        state: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers):
            state[f"{layer}/basis"] = self._search.bases[number]
            state[f"{layer}/sigmas"] = self.triplets.sigmas[number]
            state[f"{layer}/u"] = self.triplets.lefts[number]
            state[f"{layer}/v"] = self.triplets.rights[number]
        return {
            name: value.clone(memory_format=torch.contiguous_format)
            for name, value in state.items()
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restores what `state` gave.

        Raises:
            ValueError: it is that of another network.
        """
        mine = self.state()
        for name in sorted(mine.keys() | state.keys()):
            if name not in mine or name not in state or mine[name].shape != state[name].shape:
                raise ValueError(f"not the spectra of this network: {name!r}")
        placed = {name: state[name].to(like) for name, like in mine.items()}
        for basis, layer in zip(self._search.bases, self.layers, strict=True):
            basis.copy_(placed[f"{layer}/basis"])
        self.triplets = Triplets(
            torch.stack([placed[f"{layer}/sigmas"] for layer in self.layers]),
            [placed[f"{layer}/u"] for layer in self.layers],
            [placed[f"{layer}/v"] for layer in self.layers],
        )
        self._current = False
