"""The tables of an arena, from results that are made up."""

import csv
import io
import json

import pytest

from biggan_sn.arena.play import RESULT
from biggan_sn.arena.schedule import Cell
from biggan_sn.arena.table import COLUMNS, csv_of, lines_of, markdown_of
from biggan_sn.arena.writing import write_all
from biggan_sn.config import Config


def cell(folder, game, method, seed, **result):
    place = folder / game / method / str(seed)
    place.mkdir(parents=True)
    usual = {"quality": 0.5, "kl": 0.25, "fid": None, "ms_per_step": 2.0, "alarms": 0, "lost": -1}
    if result:
        (place / RESULT).write_text(json.dumps({**usual, **result}))
    return Cell(game, method, Config(seed=seed, steps=7), place)


@pytest.fixture
def cells(tmp_path):
    return [
        cell(tmp_path, "ring8", "few", 0, modes=2.0),
        cell(tmp_path, "ring8", "few", 1, modes=5.0),
        cell(tmp_path, "ring8", "all", 0, modes=8.0, alarms=3),
        cell(tmp_path, "ring8", "all", 1, modes=None, quality=None, kl=None, lost=4),
        cell(tmp_path, "digits", "all", 0, modes=10.0, fid=20.0),
        cell(tmp_path, "digits", "few", 0),  # not played
    ]


def rows_of(table):
    lines = [line for line in table.splitlines() if line.startswith("|") and "---" not in line]
    return [[word.strip() for word in line.strip("|").split("|")] for line in lines]


def test_means_deviations_and_order(cells):
    table = markdown_of(lines_of(cells))
    head, best, second, head_of_digits, digits = rows_of(table)
    assert head == head_of_digits == ["method", "seeds", *(c.title for c in COLUMNS.values())]
    assert best == ["all", "2", "8.0", "0.500", "0.250", "", "2.0 ± 0.0", "1.5 ± 2.1", "1"]
    assert second[:3] == ["few", "2", "3.5 ± 2.1"] and second[-1] == "0"
    assert digits[:2] == ["all", "1"] and digits[5] == "20.0"
    assert "## ring8, 7 steps" in table and "## digits, 7 steps" in table


def test_a_line_for_each_game(cells):
    lines = list(csv.DictReader(io.StringIO(csv_of(lines_of(cells)))))
    assert len(lines) == 5
    assert lines[1]["method"] == "few" and lines[1]["seed"] == "1" and lines[1]["modes"] == "5.0"
    assert lines[3]["modes"] == "" and lines[3]["lost"] == "4"


def test_files_and_pictures(cells, tmp_path):
    from PIL import Image

    (table, _) = write_all(cells, tmp_path / "out")
    assert (tmp_path / "out" / "arena.md").read_text() == table
    assert (tmp_path / "out" / "arena.csv").read_text() == csv_of(lines_of(cells))
    with Image.open(tmp_path / "out" / "scores.png") as picture:
        width, height = picture.size
    assert width > 800 and height > 200
    assert not (tmp_path / "out" / "samples.png").exists()


def test_nothing_was_played(tmp_path):
    assert write_all([cell(tmp_path, "ring8", "few", 0)], tmp_path / "out") == [
        "no game was played to its end"
    ]
