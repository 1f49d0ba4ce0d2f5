"""The model on paper, against its own formulas worked out by hand and against measured limits."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biggan_sn.config import Config
from biggan_sn.preflight.exchange import Exchange
from biggan_sn.preflight.scale import GPUS, Model, per_pass_and_image
from biggan_sn.preflight.trial import Timing, Trial, in_the_long_run, penalised

A, C = 0.010, 0.002  # seconds per pass and image


def timing(images, microbatches):
    work = microbatches * (A + C * images / microbatches)
    return Timing(images, microbatches, work, work, 0, 0.0)


TRIAL = Trial(
    timings=(timing(32, 2), timing(16, 2)),
    gradients={"G": 280 * 10**6, "D": 350 * 10**6},
    norms=11,
    memory=1,
    loading=1000.0,
    checkpoint=1,
    writing=1.0,
)
EXCHANGE = Exchange(ranks=16, latency=40e-6, bandwidth=100e9)
CONFIG = Config(batch_size=2048, d_steps=2)


def test_two_timings_tell_a_pass_from_an_image():
    assert per_pass_and_image(TRIAL) == pytest.approx((A, C))


def test_one_timing_takes_all_for_images():
    alone = replace(TRIAL, timings=TRIAL.timings[:1])
    assert per_pass_and_image(alone) == pytest.approx((0, C + A / 16))


@given(st.floats(0.001, 10), st.floats(0.001, 10))
def test_noise_gives_no_negative_times(whole, half):
    first, second = TRIAL.timings
    noisy = replace(TRIAL, timings=(replace(first, work=whole), replace(second, work=half)))
    per_pass, per_image = per_pass_and_image(noisy)
    assert per_pass >= -1e-12 and per_image >= 0
    assert 2 * (per_pass + 16 * per_image) == pytest.approx(whole), "what was measured, it predicts"


def test_what_was_measured_is_predicted():
    model = Model(CONFIG, TRIAL, EXCHANGE)
    for measured in TRIAL.timings:
        passes = measured.images / 16
        expected = passes * A + measured.images * C
        assert model.predict(16, measured.images).work == pytest.approx(expected)


@pytest.mark.parametrize("gpus", GPUS)
def test_the_parts_by_hand(gpus):
    found = Model(CONFIG, TRIAL, EXCHANGE).predict(gpus, 64)
    latency = 40e-6 * math.log(gpus) / math.log(16)
    volume = (2 * 350e6 + 280e6) * 2 * (gpus - 1) / gpus
    assert found.work == pytest.approx(4 * (A + 16 * C))
    assert found.sums == pytest.approx(3 * latency + volume / 100e9)
    assert found.norms == pytest.approx(11 * 4 * (2 * 2 + 4) * latency)
    assert found.data == pytest.approx(2 * 64 / 1000)
    assert found.step == max(found.work + found.sums + found.norms, found.data)


def test_a_slow_disk_sets_the_pace():
    slow = Model(CONFIG, replace(TRIAL, loading=1.0), EXCHANGE).predict(8, 32)
    assert slow.step == slow.data == pytest.approx(64.0)


def test_small_shares_are_one_pass():
    found = Model(CONFIG, TRIAL, EXCHANGE).predict(1024, 2)
    assert found.work == pytest.approx(A + 2 * C)


def test_the_tables_have_all_gpus_that_divide_the_batch():
    lines = Model(CONFIG, TRIAL, EXCHANGE).table()
    firsts = [line.split()[0] for line in lines]
    assert [int(f) for f in firsts if f.isdecimal()] == [*GPUS, *GPUS]
    odd = Model(replace(CONFIG, batch_size=48), TRIAL, EXCHANGE).table()
    assert [int(f) for line in odd if (f := line.split()[0]).isdecimal()] == [8, 16, *GPUS]


@pytest.mark.parametrize(("every", "d_steps"), [(1, 1), (1, 2), (2, 1), (3, 2), (16, 1), (16, 4)])
def test_lazy_penalties_are_spread_over_the_steps_they_serve(every, d_steps):
    """With steps that cost 1, and a penalised update 0.25 more, the mean over a long run."""
    config = Config(penalties={"r1": 1.0}, penalty_every=every, d_steps=d_steps)

    def cost(step):
        return 1 + 0.25 * penalised(config, step)

    steps = range(16 * 3 * 5)
    mean = sum(map(cost, steps)) / len(steps)
    found = in_the_long_run(config, cost(0), cost(1))
    if penalised(config, 0) != penalised(config, 1) or every == 1:
        assert found == pytest.approx(mean)
    assert penalised(replace(config, penalties={}), 0) == 0
