"""Grids, strips and heat-maps, pixel by pixel where it matters."""

import numpy as np
import pytest
import torch

from biggan_sn.evaluation.pictures import ALARM, GAP, RAMP, grid, heat_map, strip


def flat_images(values):
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


def test_grid_shows_a_class_in_each_column():
    pixels = grid(flat_images([0, 0, 128, 128, 255, 255]), columns=3)
    cell = 4 + GAP
    assert pixels.shape == (2 * cell + GAP, 3 * cell + GAP, 3)
    for row in range(2):
        for column, value in enumerate((0, 128, 255)):
            corner = pixels[GAP + row * cell, GAP + column * cell]
            assert corner.tolist() == [value] * 3


def test_strip_puts_every_grid_under_its_title():
    black, grey = (np.full((10, 60, 3), value, np.uint8) for value in (0, 128))
    sheet = strip([black, grey], ["first", "second"])
    assert (sheet[-10:, :60] == 0).all()
    assert (sheet[-10:, -60:] == 128).all()
    title = sheet[:-10]
    assert (title[:, :60] < 100).any(), "ink above the first"
    assert (title[:, -60:] < 100).any(), "ink above the second"


def test_titles_wider_than_their_grids_stay_apart():
    black = np.zeros((10, 8, 3), np.uint8)
    titles = ["scaled_resample 0.25", "scaled_resample 1"]
    narrow, wide = strip([black, black], titles), strip([np.repeat(black, 40, 1)] * 2, titles)
    inks = [(sheet[:-10] < 100).any(2).sum() for sheet in (narrow, wide)]
    assert inks[0] == pytest.approx(inks[1], rel=0.1), "all the ink of both titles is there"


def test_heat_map_spreads_the_ramp_and_marks_what_is_not_finite():
    values = np.array([[0.0, 1.0], [0.5, np.nan]])
    pixels = heat_map(values, ["low", "middle"], "G", 10, 20).reshape(-1, 3)
    seen = {tuple(color) for color in np.unique(pixels, axis=0).tolist()}
    assert tuple(RAMP[0].astype(int)) in seen
    assert tuple(RAMP[2].astype(int)) in seen
    assert tuple(RAMP[-1].astype(int)) in seen
    assert ALARM in seen


@pytest.mark.parametrize("values", [np.zeros((1, 1)), np.full((3, 2), np.nan), np.ones((2, 900))])
def test_heat_map_of_unusual_matrices(values):
    assert heat_map(values, ["layer"] * len(values), "G", 0, 1).dtype == np.uint8
