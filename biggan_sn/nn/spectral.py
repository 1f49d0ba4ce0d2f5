"""Singular values of matrices: power iteration for the largest, block Lanczos for the top few,
and bounds that certify what was found.

All of this runs in fp32 or better, outside autocast and outside every graph.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan_sn.nn.precision import at_least_fp32, without_autocast
from biggan_sn.nn.replicas import Ownership
from biggan_sn.nn.thin_matrices import ThinMatrices
from biggan_sn.positions import uniform

NEGLIGIBLE = 1e-9  # of sigma_0; far below what fp32 products can tell from zero
TINY = 1e-300  # instead of zero below a fraction
DEPTH = 3  # of block Lanczos where nothing else is asked for
ROUNDING = 1e-10  # more than fp64 rounding takes from a bound


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
    if not matrices:
        return
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
    Vectors that belong to a sigma of nan or 0 are finite and mean nothing.
    """

    sigmas: Tensor
    lefts: list[Tensor]
    rights: list[Tensor]


class TopSingularTriplets:
    """Follows the top singular triplets of matrices that change slowly.

    Block Golub-Kahan-Lanczos (Golub, Luk, Overton 1981) on the short side of each matrix, started
    from the subspace found last time. A search reads every matrix 2 * depth times. The values
    are Ritz values: they never exceed the true ones. A block sees what one vector cannot: equal
    singular values, and values that overtake one another.

    Products are fp32. The Gram matrices of the thin blocks are fp64, because an fp32 one loses
    sigma_1 just when sigma_0 explodes; their eigenproblems are solved together for all matrices.

    Args:
        shapes: of the matrices.
        like: a tensor of the device and precision to work in.
        rank, ranks: number of this process, and of processes, which share the work.
    """

    WIDTH = 8
    COLD_ROUNDS = 6

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        like: Tensor | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        like = at_least_fp32(torch.empty(0) if like is None else like)
        self.tall = [shape[0] > shape[1] for shape in shapes]
        self.bases = [self._random_basis(i, min(s)).to(like) for i, s in enumerate(shapes)]
        self.ownership = Ownership([s[0] * s[1] for s in shapes], rank, ranks)
        self.cold = True

    def _random_basis(self, index: int, side: int) -> Tensor:
        numbers = uniform(index, "singular bases", range(side), self.WIDTH)
        basis = torch.linalg.qr(torch.from_numpy(numbers - 0.5))[0]
        return nn.functional.pad(basis, (0, self.WIDTH - basis.shape[1]))

    @torch.no_grad()
    def refresh(self, matrices: Sequence[Tensor], values: int = 3, depth: int = DEPTH) -> Triplets:
        """The top `values` (at most WIDTH) triplets of the matrices as they are now, which the
        next search starts from. The first search is deeper and goes on for several rounds. Every
        process must call it."""
        rounds = 1
        if self.cold:
            rounds, depth, self.cold = self.COLD_ROUNDS, max(depth, DEPTH), False
        for _ in range(rounds):
            found, self.bases = self._search(matrices, values, depth)
        return found

    def _search(
        self, matrices: Sequence[Tensor], values: int, depth: int
    ) -> tuple[Triplets, list[Tensor]]:
        """The triplets, and the bases to start from next time."""
        wide = [m.mT if tall else m for m, tall in zip(matrices, self.tall, strict=True)]
        # What others find comes to these places.
        sigmas = [basis.new_empty(self.WIDTH) for basis in self.bases]
        shorts = [torch.empty_like(basis) for basis in self.bases]
        longs = [b.new_empty(m.shape[1], values) for m, b in zip(wide, self.bases, strict=True)]
        mine = self.ownership.mine
        if mine:
            with without_autocast(shorts[0].device):
                maps = [at_least_fp32(wide[i]) for i in mine]
                starts = [self.bases[i] for i in mine]
                found, new_shorts, new_longs = block_lanczos(maps, starts, depth)
            # Where nothing was found (zero or nan) the next search starts as this one did.
            some = found > 0
            new_shorts = new_shorts.where(some, ThinMatrices.of(starts))
            new_longs = new_longs.only(some[:, :values])
            rows = found.to(shorts[0].dtype).unbind()
            for i, row, short, long in zip(mine, rows, new_shorts, new_longs, strict=True):
                sigmas[i], shorts[i], longs[i] = row, short, long
        self.ownership.exchange(sigmas, shorts, longs)
        pairs = [
            (long, short[:, :values]) if tall else (short[:, :values], long)
            for short, long, tall in zip(shorts, longs, self.tall, strict=True)
        ]
        lefts, rights = ([pair[side] for pair in pairs] for side in (0, 1))
        return Triplets(torch.stack(sigmas)[:, :values], lefts, rights), shorts


def block_lanczos(
    matrices: Sequence[Tensor], starts: Sequence[Tensor], depth: int
) -> tuple[Tensor, ThinMatrices, ThinMatrices]:
    """One restart cycle. matrices [m, n], starts [m, width], best with m <= n.

    Builds an orthonormal basis K of span{W^T U, (W^T W) W^T U, ...} and solves the projected
    problem: the eigenvalues of (W K)^T (W K) are squared Ritz values. With depth 1 that is one
    round of subspace iteration. Returns the values as sigmas [number of matrices, width], largest
    first, and u [m, width], v [n, width] of each matrix. Apart from two products with each matrix
    in each round, all matrices share their calls.
    """
    bases: list[ThinMatrices] = []
    images: list[ThinMatrices] = []
    for _ in range(depth):
        sources = images[-1] if images else starts
        products = [m.mT @ source for m, source in zip(matrices, sources, strict=True)]
        bases.append(_orthonormalize(ThinMatrices.of(products), bases))
        products = [m @ block for m, block in zip(matrices, bases[-1], strict=True)]
        images.append(ThinMatrices.of(products))
    all_images = ThinMatrices.beside(images)
    grams = all_images.gram()
    finite = _finite(grams)
    squares, rotations = _eigh(grams, finite)
    width = starts[0].shape[1]
    squares, rotations = squares.flip(-1)[:, :width], rotations.flip(-1)[..., :width]
    sigmas = squares.clamp_min(0).sqrt()
    lost = sigmas <= NEGLIGIBLE * sigmas[:, :1]
    inverses = sigmas.reciprocal().masked_fill(lost, 0.0)
    sigmas = sigmas.masked_fill(lost, 0.0).masked_fill(~finite[:, None], torch.nan)
    lefts = all_images.times(rotations * inverses[:, None, :])
    return sigmas, lefts, ThinMatrices.beside(bases).times(rotations)


def _orthonormalize(blocks: ThinMatrices, bases: Sequence[ThinMatrices]) -> ThinMatrices:
    """Each block orthonormal and orthogonal to its bases; lost directions become zero columns.

    Two passes of Gram-Schmidt ("twice is enough", Kahan and Parlett). In the first, directions
    below rounding go; in the second, those that lose half of their length again were rounding
    noise inside the basis, and would be counted twice.
    """
    basis = ThinMatrices.beside(bases) if bases else None
    for lost, rescale in ((1e-12, True), (0.25, False)):
        if basis:
            blocks = blocks.less(basis, basis.dot(blocks))
        grams = blocks.gram()
        scales = _scales(grams) if rescale else torch.ones_like(grams[:, 0])
        grams = grams * (scales[:, :, None] * scales[:, None, :])
        values, vectors = _eigh(grams, _finite(grams))
        inverses = values.clamp_min(lost).rsqrt().masked_fill(values <= lost, 0.0)
        blocks = blocks.times(scales[:, :, None] * vectors * inverses[:, None, :])
    return blocks


def _scales(grams: Tensor) -> Tensor:
    """1 / length of each column, [number of matrices, width], so that columns of any size, from
    1e-30 to 1e30, count alike; 0 for those below."""
    squares = grams.diagonal(dim1=-2, dim2=-1)
    return squares.clamp_min(1e-60).rsqrt().masked_fill(squares <= 1e-60, 0.0)


def _finite(grams: Tensor) -> Tensor:
    """Whether all numbers of each are finite."""
    return (0 * grams).sum((-2, -1)) == 0  # nan and inf make it nan


def _eigh(grams: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors; those of the identity where not finite."""
    identity = torch.eye(grams.shape[-1], dtype=grams.dtype, device=grams.device)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], grams, identity))
    return values, vectors


@torch.no_grad()
def certified_bounds(matrix: Tensor) -> tuple[float, float]:
    """Two numbers between which the largest singular value of a matrix [m, n] lies for certain.

    Below: |W v| / |v| in fp64 for the best v that block Lanczos finds. Above: Gram iteration.
    Costs ten products of matrices of the short side. (nan, nan) where W is not finite.
    """
    matrix = matrix.double()
    if not torch.isfinite(matrix).all():
        return math.nan, math.nan
    v = TopSingularTriplets([matrix.shape], matrix).refresh([matrix], 1).rights[0]
    length = v.norm()
    lower = float((matrix @ v).norm() / length) if length > 0 else 0.0
    upper = float(gram_iteration(matrix))
    assert lower <= upper
    return lower, upper


@torch.no_grad()
def gram_iteration(matrices: Tensor, iterations: int = 10) -> Tensor:
    """An upper bound of the largest singular value of each real or complex matrix: [..., m, n] ->
    [...], fp64.

    Delattre et al. 2023: sigma_0 <= |G^(2^(k-1))|_F^(1/2^k) with G = W W^*. At most
    rank^(1/2^(k+1)) too high: 0.5% for k = 10 and a rank of 20,000.
    """
    rows, columns = matrices.shape[-2:]
    wide = matrices if rows <= columns else matrices.mT
    scale = wide.abs().double().amax((-2, -1))
    wide = wide.to(torch.promote_types(wide.dtype, torch.float64))
    wide = wide / scale.clamp_min(TINY)[..., None, None]
    power = wide @ wide.mH  # is G^(2^i) / exp(logarithm)
    logarithm = torch.zeros_like(scale)
    for _ in range(iterations - 1):
        norm = power.abs().square().sum((-2, -1)).sqrt().clamp_min(TINY)
        power = power / norm[..., None, None]
        power = power @ power.mH
        logarithm = 2 * (logarithm + norm.log())
    norm = power.abs().square().sum((-2, -1)).sqrt().clamp_min(TINY)
    bound = ((logarithm + norm.log()) / 2**iterations).exp()
    return scale * bound * (1 + ROUNDING)
