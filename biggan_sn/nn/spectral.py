"""Singular values of weights: power iteration for the largest, block Lanczos for the top few.

A weight is a matrix [C_out, everything else], as in Miyato et al. 2018, section 2.1. All of this
runs in fp32 or better, outside autocast and outside every graph.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from biggan_sn.positions import uniform

NEGLIGIBLE = 1e-9  # of sigma_0; far below what fp32 products can tell from zero
MATRIX_LAYERS = (nn.Conv2d, nn.Linear, nn.Embedding)


def named_weights(network: nn.Module, embeddings: bool = True) -> dict[str, Tensor]:
    """The raw weight of every convolution, linear map and (if asked) embedding by layer name:
    what the optimizer moves, before any constraint."""
    layers = MATRIX_LAYERS if embeddings else MATRIX_LAYERS[:2]
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, layers):
            found[name] = raw_weight(module)
    return found


def raw_weight(module: nn.Module) -> Tensor:
    """The weight of a layer before any constraint on it."""
    weight = module.weight
    if parametrize.is_parametrized(module, "weight"):
        weight = chain_of(module).original
    assert isinstance(weight, Tensor)
    return weight


def chain_of(module: nn.Module) -> parametrize.ParametrizationList:
    """The constraints on the weight of a parametrized layer."""
    assert isinstance(module.parametrizations, nn.ModuleDict)
    chain = module.parametrizations["weight"]
    assert isinstance(chain, parametrize.ParametrizationList)
    return chain


def as_matrix(weight: Tensor) -> Tensor:
    """A weight as the matrix [C_out, everything else], the input channels last in its columns: for
    the channels-last weights of convolutions that is a view, where any other order would copy."""
    if weight.dim() == 4:
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)


def as_row(vector: Tensor, weight: Tensor) -> Tensor:
    """A vector over the columns of `as_matrix(weight)` in the shape [1, ...] of one row of it."""
    if weight.dim() == 4:
        channels, height, width = weight.shape[1:]
        return vector.view(1, height, width, channels).permute(0, 3, 1, 2)
    return vector.view(1, -1)


@torch.no_grad()
def power_iteration(
    matrices: Sequence[Tensor],
    lefts: Sequence[Tensor],
    rights: Sequence[Tensor],
    sigmas: Sequence[Tensor],
    iterations: int = 1,
) -> None:
    """Moves each (u, v, sigma) in place towards the largest singular triplet of its matrix.

    Miyato et al. 2018, algorithm 1: v <- W^T u / |W^T u|, u <- W v / |W v|, sigma <- |W v|, which
    is u^T W v. A zero matrix keeps its u and v and gets sigma 0. The vector arithmetic of all
    matrices goes in a few calls.
    Shapes: matrices [m, n], lefts [m], rights [n], sigmas [].
    """
    for _ in range(iterations):
        _normalize_into(rights, [m.mT.mv(u) for m, u in zip(matrices, lefts, strict=True)])
        products = [m.mv(v) for m, v in zip(matrices, rights, strict=True)]
        norms = _normalize_into(lefts, products)
    torch._foreach_copy_(list(sigmas), norms)


def _normalize_into(targets: Sequence[Tensor], vectors: list[Tensor]) -> list[Tensor]:
    """Copies vectors / |vectors| to targets, but leaves a target alone where the vector is zero."""
    norms = list(torch._foreach_norm(vectors))
    stacked = torch.stack(norms)
    zero = stacked == 0
    torch._foreach_mul_(list(targets), list(zero.to(stacked.dtype).unbind()))
    torch._foreach_mul_(vectors, list(torch.where(zero, 0.0, 1 / stacked).unbind()))
    torch._foreach_add_(list(targets), vectors)
    return norms


class Triplets(NamedTuple):
    """The top singular triplets of several matrices W_i [m_i, n_i], largest first.

    Args:
        sigmas: [number of matrices, k]; nan for a matrix that is not finite, 0 past its rank.
        lefts: u as the columns of [m_i, k] for each matrix.
        rights: v as the columns of [n_i, k] for each matrix.
    """

    sigmas: Tensor
    lefts: list[Tensor]
    rights: list[Tensor]


class TopSingularTriplets:
    """Follows the top singular triplets of matrices that change slowly.

    Block Golub-Kahan-Lanczos (Golub, Luk, Overton 1981) on the short side of each matrix, started
    from the subspace found last time. A refresh reads every matrix 2 * depth times. The values
    are Ritz values: they never exceed the true ones. A block sees what one vector cannot: equal
    singular values, and values that overtake one another.

    Products are fp32. The Gram matrices of the thin blocks are fp64, because an fp32 one loses
    sigma_1 just when sigma_0 explodes; their eigenproblems are solved together for all matrices.
    """

    WIDTH = 8
    DEPTH = 3
    COLD_REFRESHES = 6

    def __init__(self, shapes: Sequence[Sequence[int]], device: torch.device | str = "cpu"):
        self.bases = [self._random_basis(i, min(shape)) for i, shape in enumerate(shapes)]
        self.bases = [basis.to(device) for basis in self.bases]
        self.cold = True

    def _random_basis(self, index: int, side: int) -> Tensor:
        numbers = uniform(index, "singular bases", range(side), self.WIDTH)
        basis = torch.linalg.qr(torch.from_numpy(numbers - 0.5))[0].float()
        return nn.functional.pad(basis, (0, self.WIDTH - basis.shape[1]))

    @torch.no_grad()
    def refresh(self, matrices: Sequence[Tensor], values: int = 3) -> Triplets:
        """The top `values` (at most WIDTH) triplets of the matrices as they are now."""
        tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
        wide = [m.mT if t else m for m, t in zip(matrices, tall, strict=True)]
        with torch.autocast(self.bases[0].device.type, enabled=False):
            wide = [matrix.float() for matrix in wide]
            for _ in range(self.COLD_REFRESHES if self.cold else 1):
                sigmas, short, long = _block_lanczos(wide, self.bases, self.DEPTH)
                self._keep_basis(sigmas, short)
        self.cold = False
        short = [vectors[:, :values] for vectors in short]
        long = [vectors[:, :values] for vectors in long]
        return Triplets(
            sigmas[:, :values],
            [v if t else u for u, v, t in zip(short, long, tall, strict=True)],
            [u if t else v for u, v, t in zip(short, long, tall, strict=True)],
        )

    def _keep_basis(self, sigmas: Tensor, found: list[Tensor]) -> None:
        """Continue from what was found; where nothing was (zero or nan), from what there was."""
        for basis, vectors, good in zip(self.bases, found, sigmas > 0, strict=True):
            basis.copy_(torch.where(good, vectors, basis))


def _block_lanczos(
    matrices: list[Tensor], starts: list[Tensor], depth: int
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """One restart cycle. matrices [m, n] with m <= n, starts [m, width].

    Builds an orthonormal basis K of span{W^T U, (W^T W) W^T U, ...} and solves the projected
    problem: the eigenvalues of (W K)^T (W K) are squared Ritz values.
    """
    blocks = [m.mT @ u for m, u in zip(matrices, starts, strict=True)]
    bases = [b[:, :0] for b in blocks]
    images = [m[:, :0] for m in matrices]
    for level in range(depth):
        blocks = _orthonormalize(blocks, bases)
        products = [m @ b for m, b in zip(matrices, blocks, strict=True)]
        bases = [torch.cat(pair, 1) for pair in zip(bases, blocks, strict=True)]
        images = [torch.cat(pair, 1) for pair in zip(images, products, strict=True)]
        if level < depth - 1:
            blocks = [m.mT @ p for m, p in zip(matrices, products, strict=True)]
    grams = torch.stack([_gram(image) for image in images])
    finite = torch.isfinite(grams).all(-1).all(-1)
    squares, rotations = _eigh(grams, finite)
    width = starts[0].shape[1]
    squares, rotations = squares.flip(-1)[:, :width], rotations.flip(-1)[..., :width]
    sigmas = squares.clamp_min(0).sqrt()
    sigmas = torch.where(sigmas > NEGLIGIBLE * sigmas[:, :1], sigmas, 0.0)
    inverses = torch.where(sigmas > 0, 1 / sigmas, 0.0)
    lefts = [
        image @ (rotation * inverse).to(image.dtype)
        for image, rotation, inverse in zip(images, rotations, inverses, strict=True)
    ]
    rights = [b @ rotation.to(b.dtype) for b, rotation in zip(bases, rotations, strict=True)]
    return torch.where(finite[:, None], sigmas, torch.nan), lefts, rights


def _orthonormalize(blocks: list[Tensor], bases: list[Tensor]) -> list[Tensor]:
    """Each block orthonormal and orthogonal to its basis; lost directions become zero columns.

    Two passes of Gram-Schmidt ("twice is enough", Kahan and Parlett). In the first, directions
    below rounding go; in the second, those that lose half of their square again were rounding
    noise inside the basis, and would be counted twice.
    """
    for lost, rescale in ((1e-12, True), (0.25, False)):
        blocks = [b - k @ (k.mT @ b) for b, k in zip(blocks, bases, strict=True)]
        grams = torch.stack([_gram(block) for block in blocks])
        finite = torch.isfinite(grams).all(-1).all(-1)
        scales = torch.ones_like(grams[:, 0])
        if rescale:  # columns of any size, from 1e-30 to 1e30, count alike
            squares = grams.diagonal(dim1=-2, dim2=-1)
            scales = torch.where(squares > 1e-60, squares.clamp_min(1e-60).rsqrt(), 0.0)
        values, vectors = _eigh(grams * scales[:, :, None] * scales[:, None, :], finite)
        inverses = torch.where(values > lost, values.clamp_min(lost).rsqrt(), 0.0)
        transforms = scales[:, :, None] * vectors * inverses[:, None, :]
        blocks = [b @ t.to(b.dtype) for b, t in zip(blocks, transforms, strict=True)]
    return blocks


def _gram(block: Tensor) -> Tensor:
    block = block.double()
    return block.mT @ block


def _eigh(grams: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors; those of the identity where not finite."""
    identity = torch.eye(grams.shape[-1], dtype=grams.dtype, device=grams.device)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], grams, identity))
    return values, vectors
