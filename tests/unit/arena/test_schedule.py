"""What was begun is gone on with, and nothing else."""

import json

import pytest

from biggan_sn.arena.play import RESULT
from biggan_sn.arena.schedule import PLAN, Cell
from biggan_sn.config import Config, DataConfig
from biggan_sn.training.records import SCALARS

CONFIG = Config(data=DataConfig(path="ring8", num_classes=1), steps=9)


@pytest.fixture
def cell(tmp_path):
    made = Cell("ring8", "few", CONFIG, tmp_path)
    made.plan()
    return made


def change(cell, **values):
    plan = json.loads((cell.folder / PLAN).read_text())
    plan["config"].update(values)
    (cell.folder / PLAN).write_text(json.dumps(plan))


def test_fields_that_came_later_are_no_other_work(cell):
    plan = json.loads((cell.folder / PLAN).read_text())
    del plan["config"]["finetune"], plan["config"]["data"]["chunk"]
    (cell.folder / PLAN).write_text(json.dumps(plan))
    cell.plan()


@pytest.mark.parametrize("values", [{"steps": 8}, {"gone": 1}, {"steps": "many"}])
def test_another_work_is_refused(cell, values):
    change(cell, **values)
    with pytest.raises(ValueError, match=r"another work \(config differ\)"):
        cell.plan()


@pytest.mark.parametrize("played", [False, True])
def test_what_was_stopped_of_points_begins_anew(cell, played):
    scalars = cell.folder / SCALARS
    scalars.write_text('{"step": 7}\n')
    if played:
        (cell.folder / RESULT).write_text("{}")
    cell.plan()
    assert cell.steps() == (9 if played else 0)
    assert scalars.exists() == played
