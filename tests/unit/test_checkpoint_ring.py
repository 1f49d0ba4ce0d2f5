"""Checkpoints of many ages: whenever a collapse began, there is one from before, not too long."""

import os

import pytest
import torch

from biggan_sn.checkpoint import Checkpoints, step_of

EVERY = 7


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def save(checkpoints, step, score=None):
    checkpoints.save(step, {"net": {"weight": torch.tensor(float(step))}}, {}, score)


def steps(checkpoints):
    return [step_of(path) for path in checkpoints.all()]


def by_hand(saved, keep, spaced, every):
    """What is to be there after these saves, if each drop was right: nothing is lost for good
    that a later one would keep, for both of an age are multiples of its distance."""
    kept = set(saved[-keep:])
    for j in range(1, spaced + 1):
        kept |= set([step for step in saved if step % (every * 2**j) == 0][-2:])
    return sorted(kept)


@pytest.mark.parametrize("spaced", [0, 1, 3, 5])
@pytest.mark.parametrize("keep", [1, 2])
def test_of_every_age_there_is_one_as_soon_as_the_run_is_that_old(tmp_path, spaced, keep):
    """At every one of 200 saves, j up to keep_spaced: one of an age of 2^j to 2^(j+1)."""
    checkpoints = Checkpoints(tmp_path, keep, 0, EVERY, spaced)
    saved = []
    for number in range(201 if spaced else 20):
        saved.append(number * EVERY)
        save(checkpoints, number * EVERY)
        there = steps(checkpoints)
        ages = [(saved[-1] - step) // EVERY for step in there]
        for j in range(1, spaced + 1):
            if number >= 2**j:
                assert any(2**j <= age <= 2 ** (j + 1) for age in ages), (number, j)
        assert len(there) <= keep + 2 * spaced
        assert there == by_hand(saved, keep, spaced, EVERY)
        assert there[-keep:] == saved[-keep:], "the newest"


def test_no_moment_of_a_run_is_without_a_checkpoint_from_not_long_before(tmp_path):
    """Whenever something began, up to 2^4 ago: what is kept from before it is less than four times
    as old."""
    checkpoints = Checkpoints(tmp_path, 2, 0, 1, 4)
    for now in range(150):
        save(checkpoints, now)
        there = steps(checkpoints)
        for ago in range(1, min(now, 2**4) + 1):
            before = max((step for step in there if step <= now - ago), default=None)
            assert before is not None, (now, ago)
            assert now - before < 4 * ago, (now, ago)


def test_what_is_off_the_grid_is_kept_by_no_age(tmp_path):
    """Stopped runs save where they are. 4 of these would be multiples, if steps were counted."""
    checkpoints = Checkpoints(tmp_path, 1, 0, 10, 3)
    for step in (0, 4, 8, 10, 16, 20, 32, 33, 40):
        save(checkpoints, step)
    assert steps(checkpoints) == [0, 20, 40]
    for step in (41, 48, 56, 64):
        save(checkpoints, step)
    assert steps(checkpoints) == [0, 20, 40, 64]


def test_other_reasons_to_keep_one_are_not_forgotten(tmp_path):
    checkpoints = Checkpoints(tmp_path, 3, 1, 1, 2)
    for step in range(30):
        save(checkpoints, step, score=abs(step - 5.0))
    assert steps(checkpoints) == [5, 24, 26, 27, 28, 29]
    assert checkpoints.best().name == "step_00000005"


def test_more_ages_may_be_asked_for_later(tmp_path):
    """What is gone does not come back, what is there is kept from then on."""
    for step in range(9):
        save(Checkpoints(tmp_path, 1, 0, 1, 1), step)
    assert steps(Checkpoints(tmp_path)) == [6, 8]
    for step in range(9, 14):
        save(Checkpoints(tmp_path, 1, 0, 1, 3), step)
    assert steps(Checkpoints(tmp_path)) == [8, 10, 12, 13]
