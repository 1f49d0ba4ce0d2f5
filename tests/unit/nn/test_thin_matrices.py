"""What pieces compute together against each matrix by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biggan_sn.nn.thin_matrices import ROWS, ThinMatrices

LENGTHS = st.lists(
    st.one_of(st.integers(1, 12), st.sampled_from([ROWS - 1, ROWS, ROWS + 1, 2 * ROWS, 300])),
    min_size=1,
    max_size=5,
)
WIDTHS = st.integers(1, 14)  # wider than some are long


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def matrices_of(lengths, width, seed=0, dtype=torch.float64):
    return [gaussian(n, width, seed=seed + i, dtype=dtype) for i, n in enumerate(lengths)]


def assert_all_close(found, expected):
    found = list(found)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-11)


def assert_all_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, WIDTHS)
def test_matrices_come_out_as_they_went_in(lengths, width):
    matrices = matrices_of(lengths, width)
    thin = ThinMatrices.of([matrix.mT.contiguous().mT for matrix in matrices])
    assert_all_equal(thin, matrices)
    assert all(piece.is_contiguous() for piece in thin)
    assert thin.pieces.numel() < (sum(lengths) + ROWS * len(lengths)) * width


@settings(max_examples=40, deadline=None)
@given(LENGTHS, WIDTHS, WIDTHS)
def test_products_are_those_of_each_matrix(lengths, width, other):
    a, b = matrices_of(lengths, width), matrices_of(lengths, other, seed=50)
    thin, others = ThinMatrices.of(a), ThinMatrices.of(b)
    small = gaussian(len(a), width, other, seed=99)
    pairs = list(zip(a, b, strict=True))
    assert_all_close(thin.dot(others), [one.mT @ two for one, two in pairs])
    assert_all_close(thin.gram(), [one.mT @ one for one in a])
    assert_all_close(thin.times(small), [one @ s for one, s in zip(a, small, strict=True)])
    left = [two - one @ s for (one, two), s in zip(pairs, small, strict=True)]
    assert_all_close(others.less(thin, small), left)
    assert_all_equal(
        ThinMatrices.beside([thin, others, thin]), [torch.cat([x, y, x], 1) for x, y in pairs]
    )
    assert ThinMatrices.beside([thin]) is thin


@settings(max_examples=40, deadline=None)
@given(LENGTHS, WIDTHS, st.data())
def test_columns_are_chosen_for_each_matrix(lengths, width, data):
    a, b = matrices_of(lengths, width), matrices_of(lengths, width, seed=50)
    b[0][:] = torch.nan
    chosen = gaussian(len(a), width, seed=7) > 0
    first = data.draw(st.integers(1, width))
    kept = ThinMatrices.of(a).where(chosen, ThinMatrices.of(b))
    for found, one, two, mask in zip(kept, a, b, chosen, strict=True):
        expected = torch.where(mask, one, two)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    only = ThinMatrices.of(b).only(chosen[:, :first])
    for found, two, mask in zip(only, b, chosen[:, :first], strict=True):
        expected = torch.where(mask, two[:, :first], 0.0)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grams_are_those_of_double_precision(dtype):
    """sigma_1 beside a sigma_0 a million times as large, which fp32 would not tell from zero."""
    matrix = gaussian(300, 2, dtype=dtype) * torch.tensor([1e6, 1.0], dtype=dtype)
    (gram,) = ThinMatrices.of([matrix]).gram()
    assert gram.dtype == torch.float64
    torch.testing.assert_close(gram, matrix.double().mT @ matrix.double(), rtol=1e-14, atol=0)
    assert ThinMatrices.of([matrix]).times(gram[None]).pieces.dtype == dtype


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 4), st.sampled_from([torch.nan, torch.inf]))
def test_neighbours_change_no_bit_of_a_matrix(lengths, position, poison):
    """Neither their number nor their content: processes share the work, and layers break."""
    own = gaussian(333, 8, seed=77, dtype=torch.float32)
    small = gaussian(1, 8, 8, seed=78)
    others = matrices_of(lengths, 8, dtype=torch.float32)
    for other in others:
        other[-1] = poison
    position = min(position, len(others))
    alone = ThinMatrices.of([own])
    among = ThinMatrices.of([*others[:position], own, *others[position:]])
    rotations = small.expand(len(lengths) + 1, 8, 8)
    for found, expected in (
        (among.gram(), alone.gram()),
        (among.dot(among), alone.dot(alone)),
        (list(among.times(rotations)), list(alone.times(small))),
        (list(among.less(among, rotations)), list(alone.less(alone, small))),
    ):
        assert torch.equal(found[position], expected[0])
