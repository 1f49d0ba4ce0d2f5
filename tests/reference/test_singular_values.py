"""The block Lanczos method and the certified bounds against the full decomposition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biggan_sn.nn.spectral import (
    TopSingularTriplets,
    block_lanczos,
    certified_bounds,
    gram_iteration,
    power_iteration,
)

KINDS = {
    "orthogonal": torch.ones_like,
    "rank one": lambda i: (i == 0).double(),
    "decaying": lambda i: 0.7**i,
    "exploded": lambda i: torch.where(i == 0, 1000.0, 0.9**i),
    "nearly equal": lambda i: torch.where(i < 2, 1 - 1e-5 * i, 0.5 * 0.9**i),
    "zero": torch.zeros_like,
}


def basis(rows, columns, generator):
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


@st.composite
def matrices(draw):
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scale = 10.0 ** draw(st.integers(-6, 6))
    rank = min(rows, columns)
    sigmas = KINDS[draw(st.sampled_from(sorted(KINDS)))](torch.arange(rank, dtype=torch.float64))
    left, right = basis(rows, rank, generator), basis(columns, rank, generator)
    return (scale * (left * sigmas) @ right.mT).float()


def top(matrix, values=3):
    return TopSingularTriplets([matrix.shape]).refresh([matrix], values)


def exact(matrix):
    return torch.linalg.svdvals(matrix.double())


@settings(max_examples=150, deadline=None)
@given(matrices())
def test_values_equal_those_of_the_full_decomposition(matrix):
    true = exact(matrix)
    k = min(3, len(true))
    sigmas = top(matrix).sigmas[0, :k]
    assert torch.isfinite(sigmas).all()
    assert (sigmas <= true[:k] * (1 + 1e-5) + 1e-5 * true[0]).all(), "Ritz values are lower bounds"
    assert (true[:k] - sigmas <= 1e-3 * true[:k] + 2e-6 * true[0]).all()


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_vectors_are_singular_vectors(matrix):
    triplets = top(matrix, values=1)
    sigma, u, v = triplets.sigmas[0, 0], triplets.lefts[0][:, 0], triplets.rights[0][:, 0]
    scale = exact(matrix)[0]
    if scale > 0:
        assert abs(u.norm() - 1) < 1e-4
        assert abs(v.norm() - 1) < 1e-4
        assert (matrix @ v - sigma * u).norm() < 1e-4 * scale
        assert abs(u @ matrix @ v - sigma) < 1e-4 * scale


@settings(max_examples=40, deadline=None)
@given(matrices(), st.integers(0, 10**6))
def test_values_do_not_hang_on_transpose_sign_or_order(matrix, seed):
    rows = torch.randperm(matrix.shape[0], generator=torch.Generator().manual_seed(seed))
    sigmas = top(matrix).sigmas
    tolerance = 2e-3 * exact(matrix)[0] + 1e-30
    for same in (matrix.mT.contiguous(), -matrix, matrix[rows]):
        assert (top(same).sigmas - sigmas).abs().max() <= tolerance


def test_many_shapes_at_once_equal_one_by_one():
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 200), (200, 64), (3, 27), (1, 50), (50, 1), (768, 20)]
    weights = [torch.randn(*shape, generator=generator) for shape in shapes]
    together = TopSingularTriplets(shapes).refresh(weights).sigmas
    for found, weight in zip(together, weights, strict=True):
        k = min(3, *weight.shape)
        torch.testing.assert_close(found[:k].double(), exact(weight)[:k], rtol=2e-3, atol=0)
        assert (found[k:] == 0).all()


def test_a_value_that_overtakes_another_is_seen():
    """One vector stays with the old direction (3.0 where 5.0 is true); a block does not."""
    generator = torch.Generator().manual_seed(0)
    left, right = basis(64, 64, generator), basis(200, 64, generator)
    sigmas = torch.cat([torch.tensor([3.0, 1.0]), torch.linspace(0.9, 0.1, 62)]).double()
    tracker = TopSingularTriplets([(64, 200)])
    u, v, sigma = left[:, 0].float(), right[:, 0].float(), torch.ones(())
    for second in torch.linspace(1, 5, 20):
        sigmas[1] = second
        matrix = ((left * sigmas) @ right.mT).float()
        found = tracker.refresh([matrix]).sigmas[0, 0]
        power_iteration([matrix], [u], [v], [sigma])
        assert abs(found / sigmas.max() - 1) < 1e-3
    assert sigma < 0.9 * sigmas.max()


def test_a_weight_that_is_not_finite_says_so_and_recovers():
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    broken = weight.clone()
    broken[0, 0] = torch.nan
    tracker = TopSingularTriplets([weight.shape, weight.shape])
    sigmas = tracker.refresh([broken, weight]).sigmas
    assert torch.isnan(sigmas[0]).all()
    for _ in range(3):
        sigmas = tracker.refresh([weight, weight]).sigmas
    for found in sigmas:
        torch.testing.assert_close(found.double(), exact(weight)[:3], rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 4)])
def test_power_iteration_finds_the_largest_triplet(shape):
    matrix = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u = torch.ones(shape[0], dtype=torch.float64)
    v, sigma = torch.ones(shape[1], dtype=torch.float64), torch.ones((), dtype=torch.float64)
    power_iteration([matrix], [u], [v], [sigma], 2000)
    left, true, right = torch.linalg.svd(matrix)
    torch.testing.assert_close(sigma, true[0])
    assert abs(abs(u @ left[:, 0]) - 1) < 1e-9
    assert abs(abs(v @ right[0]) - 1) < 1e-9


def test_power_iteration_leaves_the_vectors_of_a_zero_matrix_alone():
    u, v, sigma = torch.tensor([0.6, 0.8]), torch.tensor([1.0, 0.0, 0.0]), torch.ones(())
    power_iteration([torch.zeros(2, 3)], [u], [v], [sigma], 3)
    assert u.tolist() == torch.tensor([0.6, 0.8]).tolist()
    assert v.tolist() == [1.0, 0.0, 0.0]
    assert sigma == 0


def alike(first, second):
    """Whether two Triplets agree to the last bit."""
    return torch.equal(first.sigmas, second.sigmas) and all(
        torch.equal(a, b)
        for one, other in ((first.lefts, second.lefts), (first.rights, second.rights))
        for a, b in zip(one, other, strict=True)
    )


def gaussian(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(matrices(), st.integers(-6, 6))
def test_values_scale_with_the_matrix(matrix, exponent):
    factor = 10.0**exponent
    expected = factor * top(matrix).sigmas
    found = top(factor * matrix).sigmas
    assert ((found - expected).abs() <= 1e-5 * expected[0, 0] + 1e-3 * expected).all()


def test_a_power_of_two_changes_no_digit():
    """No threshold inside depends on the size of the weights."""
    matrix = gaussian(30, 50)
    expected = top(matrix).sigmas
    for factor in (2.0**-40, 2.0**40):
        torch.testing.assert_close(
            top(factor * matrix).sigmas, factor * expected, rtol=1e-6, atol=0
        )


def test_what_was_found_does_not_change_with_the_next_search():
    first, second = gaussian(12, 30), gaussian(12, 30, seed=1)
    tracker = TopSingularTriplets([first.shape])
    found = tracker.refresh([first])
    kept = type(found)(found.sigmas.clone(), [found.lefts[0].clone()], [found.rights[0].clone()])
    tracker.refresh([second])
    assert alike(found, kept)


class Counted:
    """A linear map that counts how often it is read."""

    def __init__(self, matrix, reads, transposed=False):
        self.matrix, self.reads, self.transposed = matrix, reads, transposed
        self.shape = matrix.shape

    @property
    def mT(self):  # noqa: N802 (as torch calls it)
        return Counted(self.matrix.mT, self.reads, not self.transposed)

    def __matmul__(self, block):
        self.reads.append(self.transposed)
        return self.matrix @ block


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_search_finds_the_best_of_its_krylov_space_and_reads_no_more_than_needed(depth):
    """The singular values of W on span{W^T U, (W^T W) W^T U, ...}, by plain decompositions."""
    matrix, reads = gaussian(30, 60, dtype=torch.float64), []
    start = basis(30, 8, torch.Generator().manual_seed(1))
    blocks = [matrix.mT @ start]
    for _ in range(depth - 1):
        blocks.append(matrix.mT @ (matrix @ blocks[-1]))
    krylov = torch.linalg.qr(torch.cat([block / block.norm() for block in blocks], 1))[0]
    expected = torch.linalg.svdvals(matrix @ krylov)[:8]
    sigmas, (lefts,), (rights,) = block_lanczos([Counted(matrix, reads)], [start], depth)
    torch.testing.assert_close(sigmas[0], expected, rtol=1e-9, atol=0)
    assert (matrix @ rights - lefts * sigmas[0]).norm() < 1e-9
    assert reads == [True, False] * depth


def test_the_first_search_is_deep_and_the_later_ones_as_deep_as_asked():
    weights = [gaussian(40, 90), gaussian(40, 90, seed=1)]
    deep, shallow = (TopSingularTriplets([weights[0].shape]) for _ in range(2))
    first = deep.refresh(weights[:1], depth=3), shallow.refresh(weights[:1], depth=1)
    assert alike(*first)
    second = deep.refresh(weights[1:], depth=3), shallow.refresh(weights[1:], depth=1)
    true = exact(weights[1])[0]
    assert second[1].sigmas[0, 0] < 0.95 * true, "one round of subspace iteration is not enough"
    assert second[1].sigmas[0, 0] < second[0].sigmas[0, 0] <= true * (1 + 1e-6)


def test_a_zero_matrix_that_grows_is_found():
    matrix = gaussian(8, 20)
    tracker = TopSingularTriplets([matrix.shape])
    for _ in range(2):
        assert (tracker.refresh([torch.zeros_like(matrix)]).sigmas == 0).all()
    for _ in range(4):
        found = tracker.refresh([matrix]).sigmas[0]
    torch.testing.assert_close(found.double(), exact(matrix)[:3], rtol=1e-4, atol=0)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_broken_layer_does_not_disturb_its_neighbours(poison):
    weights = [gaussian(8, 20, seed=i) for i in range(3)]
    broken = weights[1].clone()
    broken[2, 3] = poison
    healthy, sick = (TopSingularTriplets([w.shape for w in weights]) for _ in range(2))
    for _ in range(2):
        expected = healthy.refresh(weights)
        found = sick.refresh([weights[0], broken, weights[2]])
        assert torch.isnan(found.sigmas[1]).all()
        for number in (0, 2):
            assert torch.equal(found.sigmas[number], expected.sigmas[number])
            assert torch.equal(found.lefts[number], expected.lefts[number])
            assert torch.equal(found.rights[number], expected.rights[number])


@pytest.mark.parametrize("seed", range(6))
def test_what_is_negligible_is_zero(seed):
    """A matrix of rank two: more values are rounding, or exactly 0 with vectors that are finite."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(-3, 4, (20, 2), generator=generator).float()
    matrix = left @ torch.randint(-3, 4, (2, 30), generator=generator).float()
    start = basis(20, 8, generator).float()
    sigmas, (lefts,), (rights,) = block_lanczos([matrix], [start], 3)
    torch.testing.assert_close(sigmas[0, :2], exact(matrix)[:2], rtol=1e-5, atol=0)
    assert ((sigmas == 0) | (sigmas > 1e-9 * sigmas[:, :1])).all()
    assert (sigmas[0, 2:] < 1e-6 * sigmas[0, 0]).all()
    assert torch.isfinite(lefts).all() and torch.isfinite(rights).all()


@pytest.mark.parametrize("shape", [(30, 80), (80, 30)])
def test_float64_matrices_are_worked_out_in_float64(shape):
    generator = torch.Generator().manual_seed(0)
    sigmas = 0.7 ** torch.arange(30, dtype=torch.float64)
    matrix = (basis(shape[0], 30, generator) * sigmas) @ basis(shape[1], 30, generator).mT
    tracker = TopSingularTriplets([shape], matrix)
    for _ in range(4):
        found = tracker.refresh([matrix])
    torch.testing.assert_close(found.sigmas[0], sigmas[:3], rtol=1e-10, atol=0)
    residual = matrix @ found.rights[0] - found.lefts[0] * found.sigmas[0]
    assert residual.norm() < 1e-10


@settings(max_examples=80, deadline=None)
@given(matrices())
def test_certified_bounds_hold_the_norm_between_them(matrix):
    true = float(exact(matrix)[0])
    lower, upper = certified_bounds(matrix)
    assert true * (1 - 1e-3) <= lower <= true * (1 + 1e-12)
    assert true <= upper <= true * min(matrix.shape) ** (1 / 2**11) * (1 + 1e-6)


def test_bounds_hold_where_no_search_converges():
    """300 values within 1%: the best vector found is short of the norm, and the bounds say so."""
    generator = torch.Generator().manual_seed(0)
    sigmas = torch.linspace(1, 0.99, 300, dtype=torch.float64)
    matrix = (basis(300, 300, generator) * sigmas) @ basis(320, 300, generator).mT
    lower, upper = certified_bounds(matrix)
    assert 0.99 < lower < 1 - 1e-6
    assert 1 <= upper < 1.003


def test_bounds_of_a_rank_one_matrix_meet():
    matrix = 1e-3 * gaussian(7, 1, dtype=torch.float64) @ gaussian(1, 9, dtype=torch.float64)
    lower, upper = certified_bounds(matrix)
    assert lower == pytest.approx(float(exact(matrix)[0]), rel=1e-12)
    assert upper == pytest.approx(lower, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-150, 1e-6, 1e6, 1e150])
def test_bounds_of_any_size(scale):
    matrix = scale * gaussian(6, 11, dtype=torch.float64)
    true = float(exact(matrix)[0])
    lower, upper = certified_bounds(matrix)
    assert lower <= true * (1 + 1e-12)
    assert true <= upper <= true * 6 ** (1 / 2**11) * (1 + 1e-6)


def test_bounds_of_zero_and_of_what_is_not_finite():
    assert certified_bounds(torch.zeros(4, 7)) == (0, 0)
    for poison in (math.nan, math.inf):
        matrix = gaussian(4, 7)
        matrix[3, 0] = poison
        assert all(math.isnan(end) for end in certified_bounds(matrix))


@pytest.mark.parametrize("iterations", [1, 2, 5, 10])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(5, 7), (7, 5)])
def test_gram_iteration_is_a_schatten_norm(shape, dtype, iterations):
    """That of order 2^(k+1), so never below the largest singular value; of each matrix for itself,
    whatever the sizes of the others."""
    batch = gaussian(2, 3, *shape, dtype=dtype)
    batch[0, 1] *= 1e-9
    batch[1, 2] *= 1e9
    batch[1, 0] = 0
    sigmas = torch.linalg.svdvals(batch)
    scale = sigmas[..., :1].clamp_min(1e-30)
    order = 2 ** (iterations + 1)
    expected = scale[..., 0] * (sigmas / scale).pow(order).sum(-1).pow(1 / order)
    found = gram_iteration(batch, iterations)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    assert (found >= sigmas[..., 0]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_gram_iteration_of_single_precision_is_worked_out_in_double(dtype):
    batch = gaussian(4, 6, 6, dtype=dtype)
    wider = torch.promote_types(dtype, torch.float64)
    expected = gram_iteration(batch.to(wider))
    torch.testing.assert_close(gram_iteration(batch), expected, rtol=1e-12, atol=0)


@pytest.mark.gpu
def test_triplets_on_cuda_are_those_on_the_cpu():
    matrices = [gaussian(40, 90), gaussian(90, 7, seed=1), torch.zeros(5, 6)]
    shapes = [matrix.shape for matrix in matrices]
    here = TopSingularTriplets(shapes).refresh(matrices).sigmas
    tracker = TopSingularTriplets(shapes, torch.empty(0, device="cuda"))
    there = tracker.refresh([matrix.cuda() for matrix in matrices]).sigmas
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-6)
