"""A sweep as its folder has it: finished, unfinished, or damaged."""

import json
import math

import pytest

from biggan_sn.report.sweeps import read_sweep
from tests.unit.report.making import POINTS, make_sweep, point


def test_points_by_mode_in_order_of_truncation(tmp_path):
    sweep = read_sweep(make_sweep(tmp_path))
    found = {mode: [one.truncation for one in points] for mode, points in sweep.modes().items()}
    assert found == {"resample": [0.4, 1.0, None], "scale": [0.4]}
    assert [one.name for one in sweep.modes()["resample"]] == ["0.4", "1", "none"]
    assert (sweep.step, sweep.samples, sweep.extractor) == (2400, 1000, "digits")
    assert sweep.real["is"] == 9.5
    first = sweep.points[0]
    assert (first.diversity, first.standing_statistics, first.scores["fid"]) == (0.31, 16, 3.0)
    assert first.grid == tmp_path / "grid_resample_1.0.png"


def test_the_best_are_named_by_their_place_in_the_record(tmp_path):
    sweep = read_sweep(make_sweep(tmp_path))
    bests = sweep.bests()
    assert (bests["fid"].truncation, bests["is"].truncation) == (1.0, 0.4)
    assert bests["real_is"].mode == "scale"


def test_a_best_still_is_the_right_one_where_a_point_is_damaged(tmp_path):
    make_sweep(tmp_path, best={"fid": 1})
    record = json.loads((tmp_path / "sweep.json").read_text())
    record["points"][0] = {"mode": "resample"}
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    sweep = read_sweep(tmp_path)
    assert len(sweep.points) == 3
    assert sweep.bests()["fid"].truncation == 0.4


@pytest.mark.parametrize("best", [{}, {"fid": 4}, {"fid": -1}, {"fid": "0"}, {"fid": True}, [1], 5])
def test_a_best_that_is_no_point_is_none(tmp_path, best):
    assert read_sweep(make_sweep(tmp_path, best=best or {})).bests() == {}


def test_what_is_missing(tmp_path):
    (tmp_path / "sweep.json").write_text(
        '{"points": [{"truncation": 0.5, "scores": {"fid": NaN}}]}'
    )
    (one,) = read_sweep(tmp_path).points
    assert math.isnan(one.scores["fid"]) and math.isnan(one.diversity)
    assert (one.mode, one.standing_statistics, one.grid) == ("", 0, None)


@pytest.mark.parametrize("grid", ["../secret.png", "/etc/passwd", "a/b.png", "", "..", 3, "\0"])
def test_only_pictures_of_its_own_folder(tmp_path, grid):
    record = {"points": [{"truncation": 1, "grid": grid}]}
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    (one,) = read_sweep(tmp_path).points
    assert one.grid is None


@pytest.mark.parametrize("truncation", ["x", math.nan, math.inf, [], True])
def test_truncations_that_are_none(tmp_path, truncation):
    sweep = make_sweep(tmp_path, [*POINTS[:1]])
    damaged = {**point(0.5), "truncation": truncation}
    (sweep / "sweep.json").write_text(json.dumps({"points": [damaged]}))
    assert read_sweep(sweep).points == ()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"points": 3}', "null", "[" * 100_000])
def test_what_is_no_sweep(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(ValueError, match=r"sweep\.json: "):
        read_sweep(tmp_path)
