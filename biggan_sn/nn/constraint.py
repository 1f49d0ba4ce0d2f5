"""What keeps a network in bounds from step to step: projections, clamps, fresh u, v and sigma."""

from collections.abc import Sequence, Set

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from biggan_sn.config import LipschitzConfig, Sigma0Config
from biggan_sn.nn.history import History
from biggan_sn.nn.lipschitz import rows_of
from biggan_sn.nn.matrices import as_matrix, chain_of, matrix_layers, named_weights, raw_weight
from biggan_sn.nn.parametrizations import ConvSpectralNorm, SpectralNorm
from biggan_sn.nn.precision import without_autocast
from biggan_sn.nn.replicas import Ownership
from biggan_sn.nn.spectral import power_iteration
from biggan_sn.nn.spectrum import Spectrum

CONVERGENCE = 30  # power iterations where there is no earlier u to start from


class Constraint:
    """All that the rows of a network ask for after its optimizer steps.

    Args:
        network: as `constrain` left it.
        names: the same rows.
        config: their knobs.
        sigma0: those of the clamps.
        spectrum: of the network.
        embeddings: whether embeddings are clamped.
        follow: search the spectrum after each step even if no row reads it.
        history: of the network, which learns of each step; by default nobody keeps one.
        frozen: parameters that never change: no row does anything to them, and their u, v and sigma
            are found once.
    """

    def __init__(
        self,
        network: nn.Module,
        names: Sequence[str],
        config: LipschitzConfig,
        sigma0: Sigma0Config,
        spectrum: Spectrum,
        embeddings: bool,
        follow: bool = False,
        history: History | None = None,
        frozen: Set[nn.Parameter] = frozenset(),
    ) -> None:
        rows = rows_of(names)
        self.network = network
        self.config = config
        self.sigma0 = sigma0
        self.spectrum = spectrum
        self.history = history or History(network, follows=False)
        self._projections = [row.project for row in rows if row.project]
        self._limits = [row.limit for row in rows if row.limit]
        self._moving = [p for p in network.parameters() if p not in frozen]
        weights = named_weights(network, embeddings)
        clamped = {layer for layer, weight in weights.items() if weight not in frozen}
        self._free = torch.tensor(
            [layer not in clamped for layer in spectrum.layers], device=spectrum.device
        )
        self.norms = SpectralNorms(network, spectrum, frozen)
        self.norms.settle()
        self.follows = follow or self.clamps or self.norms.read_spectrum

    def after_step(self) -> None:
        """To be called once after each optimizer step of the network, and by nobody else. Every
        process must call it."""
        for project in self._projections:
            project(self._moving, self.config)
        if self.follows:
            self.spectrum.refresh()
            self.clamp()
        else:
            self.spectrum.moved()
        self.norms.follow(self.config.power_iterations)
        self.history.follow()

    @property
    def clamps(self) -> bool:
        """Whether any row clamps sigma_0."""
        return bool(self._limits)

    def clamp(self) -> None:
        """Clamps sigma_0 as the rows say. The spectrum must be that of the weights as they are."""
        for limit in self._limits:
            limits = limit(self.spectrum.triplets.sigmas, self.sigma0)
            limits = limits.masked_fill(self._free, torch.inf)
            self.spectrum.clamp(limits, self.sigma0.only_first)


class SpectralNorms:
    """The u, v and sigma of all spectrally normalised weights of a network, renewed together.

    Args:
        network: as `constrain` left it.
        spectrum: of the network.
        frozen: parameters that never change.
    """

    def __init__(
        self, network: nn.Module, spectrum: Spectrum, frozen: Set[nn.Parameter] = frozenset()
    ) -> None:
        self.spectrum = spectrum
        self._numbers: dict[SpectralNorm, int] = {}  # its weight's among those of the spectrum
        self._weights: dict[nn.Module, Tensor] = {}
        self._conv_norms: list[ConvSpectralNorm] = []
        self._still: set[nn.Module] = set()  # their weights never change
        for name, layer in matrix_layers(network).items():
            for norm in _parametrizations(layer):
                weight = raw_weight(layer)
                self._weights[norm] = weight.detach()
                if weight in frozen:
                    self._still.add(norm)
                if isinstance(norm, SpectralNorm):
                    self._numbers[norm] = spectrum.layers.index(name)
                elif isinstance(norm, ConvSpectralNorm):
                    self._conv_norms.append(norm)
        moving = [norm for norm in self._numbers if norm not in self._still]
        self._searched = [norm for norm in moving if norm.searches]
        self._iterated = [norm for norm in moving if not norm.searches]
        costs = [self._weights[norm].numel() for norm in self._iterated]
        self._ownership = Ownership(costs, *spectrum.place)
        self._moving_convs = [norm for norm in self._conv_norms if norm not in self._still]
        self._conv_ownership = self._share_out(self._moving_convs)

    @property
    def read_spectrum(self) -> bool:
        """Whether any of them takes its vectors from the spectrum."""
        return bool(self._searched)

    def settle(self) -> None:
        """Makes them those of the weights as they are, whatever they were before."""
        self._take(list(self._numbers))
        everything = self._share_out(self._conv_norms)
        self._iterate_convolutions(self._conv_norms, everything, CONVERGENCE)

    def follow(self, iterations: int) -> None:
        """Moves them along with the weights: to the top triplets of the spectrum, or where a row
        says so by power iterations."""
        self._take(self._searched)
        self._iterate(iterations)
        self._iterate_convolutions(self._moving_convs, self._conv_ownership, iterations)

    @torch.no_grad()
    def _take(self, norms: Sequence[SpectralNorm]) -> None:
        if not norms:
            return
        sigmas, lefts, rights = self.spectrum.triplets
        numbers = [self._numbers[norm] for norm in norms]
        tops = torch.stack([sigmas[number, 0] for number in numbers])
        vectors = [norm.u for norm in norms] + [norm.v for norm in norms]
        found = [lefts[number][:, 0] for number in numbers]
        found += [rights[number][:, 0] for number in numbers]
        # Vectors of a zero weight, or of nan, mean nothing.
        known = [sure.expand_as(v) for sure, v in zip((tops > 0).repeat(2), vectors, strict=True)]
        chosen = torch.where(torch.cat(known), torch.cat(found), torch.cat(vectors))
        torch._foreach_copy_(vectors, chosen.split([len(vector) for vector in vectors]))
        torch._foreach_copy_([norm.sigma for norm in norms], list(tops.unbind()))

    def _iterate(self, iterations: int) -> None:
        norms = self._iterated
        if not norms:
            return
        mine = [norms[number] for number in self._ownership.mine]
        with without_autocast(norms[0].u.device):
            power_iteration(
                [as_matrix(self._weights[norm]) for norm in mine],
                [norm.u for norm in mine],
                [norm.v for norm in mine],
                [norm.sigma for norm in mine],
                iterations,
            )
        self._ownership.exchange(*_buffers(norms))

    def _share_out(self, norms: Sequence[ConvSpectralNorm]) -> Ownership:
        return Ownership([norm.cost for norm in norms], *self.spectrum.place)

    def _iterate_convolutions(
        self, norms: Sequence[ConvSpectralNorm], ownership: Ownership, iterations: int
    ) -> None:
        if not norms:
            return
        for number in ownership.mine:
            norms[number].iterate(self._weights[norms[number]], iterations)
        ownership.exchange(*_buffers(norms))
        for norm in norms:
            norm.renew_slope(self._weights[norm])


def settle(network: nn.Module) -> None:
    """Makes u, v and sigma those of the weights as they are, in one process by itself."""
    if any(isinstance(module, SpectralNorm | ConvSpectralNorm) for module in network.modules()):
        SpectralNorms(network, Spectrum(network, values=1)).settle()


def _buffers(norms: Sequence[SpectralNorm | ConvSpectralNorm]) -> list[list[Tensor]]:
    """All u, all v and all sigmas."""
    return [[n.u for n in norms], [n.v for n in norms], [n.sigma for n in norms]]


def _parametrizations(layer: nn.Module) -> list[nn.Module]:
    if not parametrize.is_parametrized(layer, "weight"):
        return []
    return list(chain_of(layer).children())
