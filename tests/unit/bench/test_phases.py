"""Time is divided into phases without gaps and without counting twice."""

import time

import pytest
import torch

from biggan_sn.bench.phases import OTHER, Phases

CPU = torch.device("cpu")


def test_inner_phases_are_no_part_of_outer_ones(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("biggan_sn.bench.phases.mark", lambda device: float(next(clock)))
    phases = Phases(CPU)
    inner = phases.timed(lambda: "inner", lambda: None)
    outer = phases.timed(lambda: "outer", lambda: (inner(), inner()))
    with phases.running():
        outer()
        inner()
    # marks: 0 start, 1 outer, 2 inner, 3, 4 inner, 5, 6 end of outer, 7 inner, 8, 9 end
    assert phases.seconds() == {OTHER: 3, "outer": 3, "inner": 3}


def test_a_phase_that_fails_is_closed():
    phases = Phases(CPU)

    def fail():
        raise KeyError

    with phases.running(), pytest.raises(KeyError):
        phases.timed(lambda: "failing", fail)()
    assert set(phases.seconds()) == {OTHER, "failing"}


def test_all_time_is_in_some_phase():
    phases = Phases(CPU)
    sleep = phases.timed(lambda: "asleep", time.sleep)
    start = time.perf_counter()
    with phases.running():
        sleep(0.02)
    whole = time.perf_counter() - start
    found = phases.seconds()
    assert 0.02 <= found["asleep"] <= sum(found.values()) <= whole
