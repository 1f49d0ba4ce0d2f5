"""Sums that notice a change, and nothing else: against one series at a time, in plain Python."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biggan_sn.collapse.cusum import BURN_IN, CAP, CLIP, LEAST, new_memory, observe

THRESHOLD = 30.0


def watch(values, memory=None):
    """The memory after looks at values [looks, series], and all sums [looks, series]."""
    values = np.asarray(values, dtype=float).reshape(len(values), -1)
    memory = memory or new_memory(values.shape[1])
    sums = []
    for row in values:
        observe(memory, row)
        sums.append(memory["sums"].copy())
    return memory, np.array(sums)


def walks(random, looks=1000, series=200, memory=0.0):
    """Increments [looks, series] of unit variance, each with so much of the one before in it."""
    made = random.normal(size=(looks, series))
    for look in range(1, looks):
        made[look] = memory * made[look - 1] + math.sqrt(1 - memory**2) * made[look]
    return made


def by_hand(values):
    """What the sums are said to be, for one series, one number at a time."""
    last = math.nan
    total = burst = mean = spread = 0.0
    seen = 0
    for value in values:
        rests = not math.isfinite(value)
        if not rests and not math.isnan(last):
            away = value - last - mean
            if seen < 25:
                learnt = abs(away)
            else:
                total += min(away / (math.sqrt(math.pi / 2) * spread + 1e-4), 30) - 0.5
                total = min(max(total, 0), 100)
                burst = max(0.9 * burst + away, 0)
                learnt = min(abs(away), 3 * (spread + 1e-4))
            seen += 1
            weight = max(1 / seen, 0.05)
            mean += weight * (learnt if away > 0 else -learnt)
            spread += weight * (learnt - spread)
        last = last if rests else value
    return {"sums": total, "burst": burst, "mean": mean, "deviation": spread, "seen": seen,
            "value": last}  # fmt: skip


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1]), st.sampled_from([1e-6, 0.01, 10.0]))
@settings(max_examples=25, deadline=None)
def test_all_series_at_once_are_each_what_one_is_by_hand(seed, missing, size):
    random = np.random.default_rng(seed)
    increments = random.standard_t(2, size=(80, 6)) * size  # with outliers
    increments[50:, :3] += 5 * size
    values = np.cumsum(increments, 0)
    values[random.random(values.shape) < missing] = np.nan
    values[random.random(values.shape) < missing] = -np.inf
    memory, _ = watch(values)
    for number in range(6):
        for name, expected in by_hand(values[:, number].tolist()).items():
            found = memory[name][number]
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("memory", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_what_goes_on_as_it_did_raises_no_alarm(memory, seed):
    """200 series of 1000 looks; a trend is nothing unusual either."""
    increments = 0.01 * walks(np.random.default_rng(seed), memory=memory) + 0.004
    _, sums = watch(np.cumsum(increments, 0))
    assert sums.max() < THRESHOLD
    assert sums.max() > 3, "they do move"


def test_a_change_is_seen_soon():
    increments = walks(np.random.default_rng(0), looks=180, series=1000)
    increments[150:] += 8
    _, sums = watch(np.cumsum(increments, 0))
    seen = (sums >= THRESHOLD).argmax(0)
    assert (seen >= 150).all()
    assert (seen <= 165).all()


SIZES = st.floats(1e-3, 1e300)


@given(SIZES, st.booleans(), st.sampled_from([0.0, 1e-3, 1.0]))
@settings(deadline=None)
def test_one_jump_in_a_calm_series_is_not_enough(size, back, noise):
    increments = np.tile([noise, -noise], 40)
    increments[60] += size
    increments[61] -= size if back else 0
    _, sums = watch(np.cumsum(increments))
    assert sums.max() < THRESHOLD


@given(st.integers(0, 2**32), st.sampled_from([2.0**-3, 0.3, 17.0, 2.0**40]))
@settings(max_examples=20, deadline=None)
def test_scale_does_not_count(seed, factor):
    """Where deviations are far above what a series may tremble by."""
    values = np.cumsum(1e4 * walks(np.random.default_rng(seed), 150, 5), 0)
    values[100:] += 3e4 * np.arange(50)[:, None]
    (one, sums), (other, scaled) = watch(values), watch(factor * values)
    assert sums.max() > 5
    np.testing.assert_allclose(sums, scaled, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(other["burst"], factor * one["burst"], rtol=1e-5)


@given(st.integers(0, 2**32), st.floats(-100, 100))
@settings(max_examples=20, deadline=None)
def test_level_does_not_count(seed, level):
    values = np.cumsum(walks(np.random.default_rng(seed), 150, 5), 0)
    (one, sums), (other, moved) = watch(values), watch(level + values)
    np.testing.assert_allclose(sums, moved, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(other["value"], level + one["value"], rtol=1e-9, atol=1e-9)


def test_what_trembles_below_the_least_deviation_is_still():
    still = np.zeros((100, 1))
    still[50:] = LEAST / 2 * np.arange(50)[:, None]
    assert watch(still)[1].max() < 1


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
def test_a_series_without_a_value_rests_and_goes_on_from_its_last(nothing):
    values = np.cumsum(walks(np.random.default_rng(1), 90, 1), 0)
    values[60:] += 3 * np.arange(30)[:, None]
    before, _ = watch(values[:70])
    gap = np.concatenate([values[:70], np.full((5, 1), nothing)])
    rested, _ = watch(gap)
    for name in before:
        assert rested[name] == before[name], name
    assert before["sums"] > 0
    _, all_along = watch(values)
    _, after = watch(np.concatenate([gap, values[70:]]))
    np.testing.assert_array_equal(after[75:], all_along[70:])


def test_a_series_that_never_had_a_value_stays_at_nothing():
    memory, sums = watch(np.full((60, 2), np.nan))
    assert sums.max() == 0
    assert np.isnan(memory["value"]).all()
    assert (memory["seen"] == 0).all()


@pytest.mark.parametrize(("increments", "counts"), [(BURN_IN, False), (BURN_IN + 1, True)])
def test_nothing_counts_until_it_is_known_what_is_usual(increments, counts):
    values = np.cumsum(np.tile([1.0, -1.0], 20))[: increments + 1]
    values[-1] += 1e6
    memory, sums = watch(values)
    assert (sums[-1] > 0) == counts
    assert (memory["burst"] > 0) == counts
    assert sums[:-1].max() == 0


def test_series_do_not_know_of_one_another():
    values = np.cumsum(walks(np.random.default_rng(2), 200, 7), 0)
    values[100:, 3] += 10.0 * np.arange(100)
    values[20:40, 5] = np.nan
    together, sums = watch(values)
    for number in range(7):
        alone, own = watch(values[:, number])
        np.testing.assert_array_equal(own[:, 0], sums[:, number])
        for name in together:
            np.testing.assert_array_equal(alone[name][0], together[name][number])


def test_a_burst_is_the_growth_and_is_forgotten():
    growth = math.log(3)
    values = np.zeros(80)
    values[50:] = growth
    for later in range(0, 30, 5):
        memory, _ = watch(values[: 51 + later])
        assert memory["burst"] == pytest.approx(growth * 0.9**later, abs=1e-3)


def test_a_fall_is_no_burst_and_sums_neither_go_below_zero_nor_above_their_cap():
    falling = np.cumsum(np.concatenate([np.tile([1.0, -1.0], 20), np.full(40, -50.0)]))
    memory, sums = watch(falling)
    assert memory["burst"] == 0
    assert sums.min() == sums[-1] == 0
    rising = np.cumsum(np.concatenate([np.tile([1.0, -1.0], 20), 1e3 * 9.0 ** np.arange(40)]))
    _, sums = watch(rising)
    assert sums.max() == CAP
    _, after = watch(np.concatenate([rising, np.full(300, rising[-1])]))
    assert after[-1] == 0, "calm again some time after"


def test_a_jump_counts_no_more_than_the_clip():
    values = np.cumsum(np.tile([1.0, -1.0], 30))
    sums = [watch(np.append(values, values[-1] + jump))[1][-1].item() for jump in (1e3, 1e9)]
    assert sums[0] == sums[1] == CLIP - 0.5
