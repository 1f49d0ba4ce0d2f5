"""Who handles which position, and the random numbers that belong to it."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biggan_sn import positions
from biggan_sn.positions import integers, permutation, shares, uniform, words

WORD = 2**64


@settings(deadline=None, max_examples=100)
@given(
    start=st.integers(0, 10**12),
    ranks=st.integers(1, 9),
    microbatch=st.integers(1, 7),
    rounds=st.integers(1, 5),
)
def test_shares_tile_the_batches(start, ranks, microbatch, rounds):
    batch_size = ranks * microbatch * rounds
    handlers = [shares(start, batch_size, rank, ranks, microbatch) for rank in range(ranks)]
    for batch in range(3):
        handled = [[next(handler) for handler in handlers] for _ in range(rounds)]
        assert all(len(share) == microbatch for played in handled for share in played)
        # Round by round, in the order of the ranks: nothing twice, nothing left out, and the
        # batch in its own order whatever its cut.
        first = start + batch * batch_size
        in_order = [position for played in handled for share in played for position in share]
        assert in_order == list(range(first, first + batch_size))


@pytest.mark.parametrize(("batch_size", "ranks", "microbatch"), [(10, 3, 1), (12, 2, 4)])
def test_shares_that_do_not_tile_are_refused(batch_size, ranks, microbatch):
    with pytest.raises(AssertionError):
        next(shares(0, batch_size, 0, ranks, microbatch))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**63),
    start=st.integers(0, 2**60),
    count=st.integers(0, 9),
    width=st.integers(1, 11),
)
def test_words_belong_to_their_position(seed, start, count, width):
    together = words(seed, "purpose", range(start, start + count), width)
    assert together.shape == (count, width)
    for row, position in zip(together, range(start, start + count), strict=True):
        np.testing.assert_array_equal(
            row, words(seed, "purpose", range(position, position + 1), width)[0]
        )


def test_words_differ_by_seed_purpose_and_position():
    drawn = np.concatenate(
        [
            words(seed, purpose, range(start, start + 50), 5)
            for seed in (0, 1, 10)
            for purpose in ("", "0", "z", "flip", "epoch/1", "epoch/11")
            for start in (0, 50)
        ]
    )
    assert len(np.unique(drawn)) == drawn.size  # 9000 words of 64 bits do not meet by chance


def _philox(key, counter):
    """Philox4x64-10 as Salmon et al. 2011 print it, in Python's own integers."""
    c = [counter >> shift & (WORD - 1) for shift in (0, 64, 128, 192)]
    k = list(key)
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [second // WORD ^ c[1] ^ k[0], second % WORD, first // WORD ^ c[3] ^ k[1], first % WORD]
        k = [(k[0] + 0x9E3779B97F4A7C15) % WORD, (k[1] + 0xBB67AE8584CAA73B) % WORD]
    return c


@pytest.mark.parametrize("position", [0, 1, 12345678901])
def test_words_are_those_of_philox(position):
    key = hashlib.blake2b(b"3/flip", digest_size=16).digest()
    halves = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    # Five words take two counter values of four; numpy counts up before it draws.
    drawn = [word for i in (1, 2) for word in _philox(halves, 2 * position + i)]
    assert words(3, "flip", range(position, position + 1), 5)[0].tolist() == drawn[:5]


def _kolmogorov_smirnov(numbers):
    """Largest gap between the numbers' distribution and the uniform one, times sqrt(N)."""
    ordered, size = np.sort(numbers), len(numbers)
    steps = np.arange(size + 1) / size
    return max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()) * size**0.5


def test_uniform_is_uniform():
    numbers = uniform(5, "test", range(7, 20_007), 3)
    assert numbers.dtype == np.float64
    assert 0 < numbers.min() < 1e-3 and 1 - 1e-3 < numbers.max() < 1
    for column in numbers.T:
        assert _kolmogorov_smirnov(column) < 1.95  # passed by chance 999 times in 1000
    # Neither the columns of a position nor neighbours in a column go together.
    bound = 4 / len(numbers) ** 0.5
    correlation = np.corrcoef(numbers.T)
    assert abs(correlation[np.triu_indices(3, 1)]).max() < bound
    assert abs(np.corrcoef(numbers[1:, 0], numbers[:-1, 0])[0, 1]) < bound


@pytest.mark.parametrize("word", [0, 1, WORD // 2, WORD - 2**12, WORD - 1])
def test_extreme_words_stay_inside(monkeypatch, word):
    # The largest word comes once in 2**52 draws: rounded to 1 it would be a class too many.
    monkeypatch.setattr(positions, "words", lambda *_: np.array([[word]], np.uint64))
    assert 0 < uniform(0, "", range(1), 1)[0, 0] < 1
    for end in (1, 2, 3, 10, 1000, 2**31, 2**52 - 1):
        assert 0 <= integers(0, "", range(1), 1, end)[0, 0] < end


@pytest.mark.parametrize("end", [1, 2, 7, 1000])
def test_integers_are_uniform(end):
    drawn = integers(2, "test", range(20_000), 2, end)
    assert drawn.dtype == np.int64
    assert drawn.min() >= 0 and drawn.max() < end
    counts = np.bincount(drawn.ravel(), minlength=end)
    expected = drawn.size / end
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # Mean end - 1 and variance 2 (end - 1): four deviations.
    assert chi_square <= end - 1 + 4 * (2 * (end - 1)) ** 0.5


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32), size=st.integers(0, 300))
def test_permutation_is_one(seed, size):
    order = permutation(seed, "test", size)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(size))


def test_permutation_is_pinned():
    # Whatever changes these reorders the data of every run that goes on.
    pinned = [9, 11, 3, 6, 4, 8, 0, 1, 7, 2, 5, 10]
    assert permutation(0, "epoch/0", 12).tolist() == pinned
    assert permutation(0, "epoch/1", 12).tolist() != pinned
    assert permutation(1, "epoch/0", 12).tolist() != pinned


def test_permutation_mixes():
    # In a random order an element stays in place once on average, and lands anywhere.
    places = np.stack([permutation(seed, "test", 50) for seed in range(200)])
    assert 0.6 < (places == np.arange(50)).sum(1).mean() < 1.4
    assert abs(places.mean(0) - 24.5).max() < 4 * 14.43 / 200**0.5
