"""Regularizers: terms on the weights of G."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from biggan_sn.nn.spectral import as_matrix, named_weights
from biggan_sn.tables import lookup

Regularizer = Callable[[nn.Module], Tensor | float]  # network -> scalar


def orthogonal(network: nn.Module) -> Tensor:
    """Sum over layers of |W W^T * (1 - I)|_F^2, which leaves the norms of the filters free.

    Brock et al. 2019, eq. 3, on the raw weights of convolutions and linear maps. The matrix of
    all pairs of filters is never formed: |W W^T|_F = |W^T W|_F, and the smaller one is taken, less
    the diagonal sum_i |w_i|^4. (The reference code adds half of this term's gradient.)
    """
    weights = named_weights(network, embeddings=False).values()
    return torch.stack([off_diagonal(as_matrix(weight)) for weight in weights]).sum()


def off_diagonal(matrix: Tensor) -> Tensor:
    """|W W^T * (1 - I)|_F^2 of W [m, n] in memory of min(m, n)^2."""
    rows, columns = matrix.shape
    gram = matrix @ matrix.mT if rows <= columns else matrix.mT @ matrix
    return gram.square().sum() - matrix.square().sum(1).square().sum()


def build_regularizer(weights: Mapping[str, float]) -> Regularizer:
    """The weighted sum of the regularizers named; 0 where no weight is above 0.

    Raises:
        ValueError: a name that is no row of REGULARIZERS.
    """
    terms = [(lookup(REGULARIZERS, name, "regularizer"), w) for name, w in weights.items()]

    def total(network: nn.Module) -> Tensor | float:
        return sum((weight * term(network) for term, weight in terms if weight > 0), start=0.0)

    return total


REGULARIZERS: dict[str, Regularizer] = {"orthogonal": orthogonal}
