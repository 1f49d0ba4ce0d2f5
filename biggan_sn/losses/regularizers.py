"""Regularizers: terms on the weights of a network."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from biggan_sn.config import Sigma0Config
from biggan_sn.nn.history import History
from biggan_sn.nn.matrices import as_matrix, named_weights
from biggan_sn.nn.spectrum import Spectrum
from biggan_sn.tables import weighted_rows

Term = Callable[[nn.Module, Spectrum, Sigma0Config, History], Tensor]  # -> scalar


class Regularizer(NamedTuple):
    """A row. All but historical_averaging, which knows no difference between parameters, act on the
    raw weights of convolutions and linear maps.

    Args:
        term: (network, its spectrum, where sigma_0 shall be, its history) -> scalar.
        needs_spectrum: it reads the spectrum, which then is searched at full depth.
        needs_history: it reads the mean of what the parameters were, which then is kept.
    """

    term: Term
    needs_spectrum: bool = False
    needs_history: bool = False


def orthogonal(
    network: nn.Module, spectrum: Spectrum, target: Sigma0Config, history: History
) -> Tensor:
    """Sum over layers of |W W^T * (1 - I)|_F^2, which leaves the norms of the filters free.

    Brock et al. 2019, eq. 3. The matrix of all pairs of filters is never formed:
    |W W^T|_F = |W^T W|_F, and the smaller one is taken, less the diagonal sum_i |w_i|^4.
    (The reference code adds half of this term's gradient.)
    """
    return off_diagonal(*_matrices(network))


def off_diagonal(*matrices: Tensor) -> Tensor:
    """Sum of |W W^T * (1 - I)|_F^2 over matrices W [m, n], in memory of min(m, n)^2 of each."""
    return _OffDiagonal.apply(*matrices)


class _OffDiagonal(torch.autograd.Function):
    """Its derivative is 4 (W W^T * (1 - I)) W. Written out it takes three calls for each matrix;
    what autograd would make of it takes twenty."""

    @staticmethod
    def forward(ctx: Any, *matrices: Tensor) -> Tensor:
        grams = [_small_gram(matrix) for matrix in matrices]
        squares = [  # the diagonal of W W^T
            gram.diagonal() if len(gram) == len(matrix) else torch.linalg.vecdot(matrix, matrix)
            for matrix, gram in zip(matrices, grams, strict=True)
        ]
        ctx.save_for_backward(*matrices, *grams, *squares)
        # Little may remain of the first where filters are nearly orthogonal.
        lengths = torch.stack(torch._foreach_norm(grams, dtype=torch.float64))
        difference = lengths.square().sum() - torch.cat(squares).double().square().sum()
        return difference.to(matrices[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        saved = ctx.saved_tensors
        count = len(saved) // 3
        matrices, grams, squares = saved[:count], saved[count : 2 * count], saved[2 * count :]
        results = [
            gram @ matrix if len(gram) == len(matrix) else matrix @ gram
            for matrix, gram in zip(matrices, grams, strict=True)
        ]
        torch._foreach_addcmul_(results, [square[:, None] for square in squares], matrices, -1)
        torch._foreach_mul_(results, 4 * gradient)
        return tuple(results)


def orthonormal(
    network: nn.Module, spectrum: Spectrum, target: Sigma0Config, history: History
) -> Tensor:
    """Sum over layers of |W^T W - I|_F^2 on the short side of W, where it can be 0: it pulls all
    singular values to 1, as the orthonormal regularization that Miyato et al. 2018 compare with. On
    the long side the term is the same but for a constant."""
    terms = []
    for matrix in _matrices(network):
        gram = _small_gram(matrix)
        terms.append(
            (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum()
        )
    return torch.stack(terms).sum()


def sigma0(
    network: nn.Module, spectrum: Spectrum, target: Sigma0Config, history: History
) -> Tensor:
    """Sum over layers of (sigma_0 - sigma_reg)^2: Brock et al. 2019, section 4.1. One-sided, that
    of the layers above it, unless the config says otherwise."""
    excess = [sigma - target.sigma_reg for sigma, _ in _top_sigmas(network, spectrum)]
    return _squares(torch.stack(excess), target.two_sided)


def sigma0_ratio(
    network: nn.Module, spectrum: Spectrum, target: Sigma0Config, history: History
) -> Tensor:
    """Sum over layers of (sigma_0 - r * sigma_1)^2 as `sigma0`, with no gradient through sigma_1.
    A weight that has no sigma_1 takes no part."""
    excess = [
        torch.where(second > 0, sigma - target.ratio * second, 0.0)
        for sigma, second in _top_sigmas(network, spectrum)
    ]
    return _squares(torch.stack(excess), target.two_sided)


def historical_averaging(
    network: nn.Module, spectrum: Spectrum, target: Sigma0Config, history: History
) -> Tensor:
    """|theta - (1/t) sum theta[i]|^2 over all parameters of the network, i = 1 .. t being all its
    updates so far: Salimans et al. 2016, section 3.3."""
    return history.distance()


def _squares(excess: Tensor, two_sided: bool) -> Tensor:
    return (excess if two_sided else excess.clamp_min(0)).square().sum()


def _top_sigmas(network: nn.Module, spectrum: Spectrum) -> list[tuple[Tensor, Tensor]]:
    """sigma_0, as u^T W v with a gradient u v^T in W, and sigma_1 without, of each layer."""
    sigmas, lefts, rights = spectrum.triplets
    found = []
    for layer, weight in named_weights(network, embeddings=False).items():
        number = spectrum.layers.index(layer)
        u, v = lefts[number][:, 0], rights[number][:, 0]
        found.append((torch.dot(u, as_matrix(weight) @ v), sigmas[number, 1]))
    return found


def _matrices(network: nn.Module) -> list[Tensor]:
    return [as_matrix(weight) for weight in named_weights(network, embeddings=False).values()]


def _small_gram(matrix: Tensor) -> Tensor:
    rows, columns = matrix.shape
    return matrix @ matrix.mT if rows <= columns else matrix.mT @ matrix


def build_regularizer(
    weights: Mapping[str, float], spectrum: Spectrum, target: Sigma0Config, history: History
) -> Callable[[nn.Module], Tensor | float]:
    """The weighted sum of the regularizers named; 0 where no weight is above 0."""
    terms = [(row.term, weight) for row, weight in rows_of(weights)]

    def total(network: nn.Module) -> Tensor | float:
        found = (weight * term(network, spectrum, target, history) for term, weight in terms)
        return sum(found, start=0.0)

    return total


def rows_of(weights: Mapping[str, float]) -> list[tuple[Regularizer, float]]:
    """The rows named whose weight is above 0, and their weights.

    Raises:
        ValueError: a name that is no row of REGULARIZERS.
    """
    return weighted_rows(REGULARIZERS, weights, "regularizer")


REGULARIZERS: dict[str, Regularizer] = {
    "orthogonal": Regularizer(orthogonal),
    "orthonormal": Regularizer(orthonormal),
    "sigma0": Regularizer(sigma0, needs_spectrum=True),
    "sigma0_ratio": Regularizer(sigma0_ratio, needs_spectrum=True),
    "historical_averaging": Regularizer(historical_averaging, needs_history=True),
}
