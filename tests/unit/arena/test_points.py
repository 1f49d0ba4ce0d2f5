"""Mixtures in the plane: drawn as they are defined, and counted by hand."""

import math

import numpy as np
import pytest
import torch

from biggan_sn.arena.points import POINTS, Mixture, as_points

TWO = Mixture(np.array([[0.0, 0.0], [10.0, 0.0]]), 1.0)


def test_the_mixtures_are_those_of_the_papers():
    ring, grid = POINTS["ring8"], POINTS["grid25"]
    np.testing.assert_allclose(np.linalg.norm(ring.centres, axis=1), 1)
    turns = np.sort(np.arctan2(*ring.centres.T))
    np.testing.assert_allclose(np.diff(turns), math.pi / 4)
    wanted = {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}
    assert {tuple(centre) for centre in grid.centres} == wanted
    assert (ring.deviation, grid.deviation) == (0.01, 0.05)


@pytest.mark.parametrize("name", POINTS)
def test_points_are_drawn_from_their_mixture(name):
    mixture, number = POINTS[name], 40_000
    points = mixture.draw(3, "test", range(number))
    away = points[:, None] - mixture.centres[None]
    nearest = np.linalg.norm(away, axis=2).argmin(1)
    counts = np.bincount(nearest, minlength=len(mixture.centres))
    share = number / len(mixture.centres)
    assert (abs(counts - share) < 5 * share**0.5).all()
    inside = away[np.arange(number), nearest] / mixture.deviation
    np.testing.assert_allclose(inside.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(inside.T), np.eye(2), atol=0.03)
    # Within 3 deviations of a normal in the plane: 1 - exp(-9/2); the divergence of counts of N
    # draws is (modes - 1) / 2N in the mean.
    scores = mixture.score(points)
    assert scores["modes"] == len(mixture.centres)
    assert scores["quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.003)
    assert 0 < scores["kl"] < 3 * (len(mixture.centres) - 1) / (2 * number)


def test_points_hang_on_seed_and_position_only():
    mixture = POINTS["grid25"]
    whole = mixture.draw(0, "test", range(20))
    assert np.array_equal(mixture.draw(0, "test", range(5, 12)), whole[5:12])
    assert not np.array_equal(mixture.draw(1, "test", range(20)), whole)
    batches = mixture.batches(0, 8, torch.device("cpu"))
    joined = torch.cat([next(batches).images, next(batches).images])
    assert joined.shape == (16, 2, 1, 1) and joined.dtype == torch.float32
    expected = mixture.draw(0, "points", range(16))
    np.testing.assert_allclose(as_points(joined), expected, rtol=1e-6)
    assert next(batches).labels.tolist() == [0] * 8


def test_scores_by_hand():
    near, edge, far = [0.0, 0.0], [0.0, 3.0], [0.0, 3.001]
    other = [10.0, 0.0]
    found = TWO.score(np.array([near, edge, far, other, near]))
    assert found["modes"] == 2 and found["quality"] == 4 / 5
    expected = 3 / 4 * math.log(2 * 3 / 4) + 1 / 4 * math.log(2 / 4)
    assert found["kl"] == pytest.approx(expected, rel=1e-12)
    assert TWO.score(np.array([near, near]))["kl"] == pytest.approx(math.log(2))
    assert TWO.score(np.array([near, other]))["kl"] == pytest.approx(0)


def test_nothing_near_a_mode_has_no_divergence():
    found = TWO.score(np.array([[5.0, 5.0]]))
    assert (found["modes"], found["quality"]) == (0, 0) and math.isnan(found["kl"])
    assert TWO.score(np.full((3, 2), np.nan))["modes"] == 0
