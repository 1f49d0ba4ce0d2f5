"""Axes: where a value lies, and which round numbers stand beside it."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from biggan_sn.report.scales import brief, fitting, linear


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 160, ["0", "50", "100", "150", "200"]),
        (0.093, 0.127, ["0.09", "0.10", "0.11", "0.12", "0.13"]),
        (-23, 12, ["-30", "-20", "-10", "0", "10", "20"]),
        (1, 1.9, ["1.0", "1.2", "1.4", "1.6", "1.8", "2.0"]),
        (0, 100_000, ["0", "20k", "40k", "60k", "80k", "100k"]),
        (0, 12_500, ["0", "5k", "10k", "15k"]),
        (0, 2.5e6, ["0", "500k", "1000k", "1500k", "2000k", "2500k"]),
        (0, 5e7, ["0", "10M", "20M", "30M", "40M", "50M"]),
        (0, 5e-5, ["0", "1e-5", "2e-5", "3e-5", "4e-5", "5e-5"]),
        (0, 4e20, ["0", "1e20", "2e20", "3e20", "4e20"]),
    ],
)
def test_ticks_are_round_and_enclose(low, high, labels):
    scale = linear(low, high)
    assert list(scale.labels) == labels
    assert (scale.low, scale.high) == (scale.ticks[0], scale.ticks[-1])
    assert scale.low <= low < high <= scale.high


def test_a_tight_axis_ends_where_it_is_told():
    scale = linear(0, 163, tight=True)
    assert (scale.low, scale.high) == (0, 163)
    assert scale.labels == ("0", "50", "100", "150")


def test_places():
    scale = linear(-10, 10)
    assert [scale.place(value) for value in (-10, 0, 5, 10)] == [0, 0.5, 0.75, 1]
    scale = fitting([1, 1000])
    assert [scale.place(value) for value in (1, 10, 1000)] == pytest.approx([0, 1 / 3, 1])


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [
        ([1, 100], False),
        ([1, 101], True),
        ([0.001, 0.2], True),
        ([0, 1e6], False),
        ([-1, 1e6], False),
        ([5, math.nan, 1e9, math.inf], True),
        ([5, math.inf, 6], False),
        ([], False),
        ([math.nan], False),
    ],
)
def test_logarithmic_where_positive_and_more_than_two_decades(values, logarithmic):
    assert fitting(values).logarithmic is logarithmic


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.02, 900], ["0.01", "0.1", "1", "10", "100", "1000"]),
        ([3e-5, 2], ["1e-5", "1e-4", "0.001", "0.01", "0.1", "1", "10"]),
        ([1, 1e12], ["1", "100", "1e4", "1e6", "1e8", "1e10", "1e12"]),
    ],
)
def test_powers_of_ten(values, labels):
    scale = fitting(values)
    assert list(scale.labels) == labels
    assert scale.low <= min(values) < max(values) <= scale.high


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-300, 1e140, 0.1 + 0.2])
def test_what_never_changes_lies_inside(value):
    scale = fitting([value, value])
    assert 0.1 < scale.place(value) < 0.9


@example([-2.7114e16, -2.6864e16])  # three figures do not tell ticks apart
@example([1.0, 5e-324])  # of which no power of ten is as small
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=6))
def test_any_values_have_an_axis(values):
    scale = fitting(values)
    assert math.isfinite(scale.low) and scale.low < scale.high < math.inf
    assert 2 <= len(scale.ticks) <= 9
    assert len(set(scale.labels)) == len(scale.labels), "ticks can be told apart"
    for value in values:
        if abs(value) <= 1e150:
            assert -1e-6 <= scale.place(value) <= 1 + 1e-6


@given(st.floats(1, 1e9))
def test_any_length_of_a_run_has_an_axis(last):
    scale = linear(0, last, tight=True)
    assert all(0 <= tick <= last * (1 + 1e-6) for tick in scale.ticks)
    assert len(scale.ticks) >= 2


def test_brief():
    assert [brief(x) for x in (3.14159, 1e-5, 123456.0, 0.0, math.nan, -math.inf)] == [
        "3.142", "1e-5", "1.235e5", "0", "nan", "-inf",
    ]  # fmt: skip
