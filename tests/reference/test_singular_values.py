"""The block Lanczos method against the full decomposition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biggan_sn.nn.spectral import TopSingularTriplets, power_iteration

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
