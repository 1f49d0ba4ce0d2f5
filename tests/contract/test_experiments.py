"""The experiments still train what they say."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from biggan_sn.config_io import after_rollbacks
from biggan_sn.models.zoo import BUILDERS
from biggan_sn.training.build import check
from data_tools.make_shards import main as make_shards
from tests.experiments import collapse, finetuning, saving


@pytest.mark.parametrize("kind", collapse.KINDS)
@pytest.mark.parametrize("goes_back", [False, True], ids=["warns", "goes back"])
def test_every_kind_builds(kind, goes_back, tmp_path):
    config = collapse.Job(kind, 0, goes_back, tmp_path).config()
    check(config, 1)
    usual = collapse.usual(tmp_path / "data" / "train", config.steps, 0)
    if collapse.KINDS[kind].ends == "healthy":
        assert (replace(config, collapse=usual.collapse) == usual) == (kind == "spectral norm")
    after = after_rollbacks(config, 2)
    factor = 1 / 4 if goes_back else 1
    assert after.generator.lr == config.generator.lr * factor
    assert after.discriminator.lr == config.discriminator.lr * factor


def test_there_are_as_many_as_the_report_promises(tmp_path):
    judged = [
        job for job in collapse.jobs(tmp_path) if job.seed in collapse.JUDGING and not job.goes_back
    ]
    ends = [collapse.KINDS[job.kind].ends == "healthy" for job in judged]
    assert sum(ends) >= 20
    assert len(ends) - sum(ends) >= 20
    assert len({job.folder for job in collapse.jobs(tmp_path)}) == len(collapse.jobs(tmp_path))


def test_quality_is_lost_from_where_it_stays_lost(tmp_path):
    job = collapse.Job("spectral norm", 0, False, tmp_path)
    usual = collapse.Usual(dict.fromkeys(range(4), 100.0), dict.fromkeys(range(4), 1.0))
    fids, varieties = {0: 90.0, 1: 160.0, 2: 140.0, 3: 150.1}, dict.fromkeys(range(4), 1.0)
    outcome = collapse.Outcome(job, fids, varieties, [], None)
    assert outcome.ruined(usual) == 3
    assert replace(outcome, fids={**fids, 3: 150.0}).ruined(usual) is None
    assert replace(outcome, varieties={**varieties, 2: 0.49}).ruined(usual) == 1
    assert replace(outcome, broke=2).ruined(usual) == 2


def test_saving_is_measured_both_ways(tmp_path):
    small = {"net": {"weight": torch.ones(3)}}
    found = saving.measure(tmp_path, small, rounds=2)
    assert {len(seconds) for seconds in found.values()} == {2}
    sizes = saving.tensors_of_size(Path("configs/digits32_biggan.yaml"))
    assert sizes.keys() == {*BUILDERS, *(f"{side}_optimizer" for side in BUILDERS), "ema"}


def test_five_digits_and_then_ten(tmp_path, capsys):
    """Real digits, and the commands that the README has."""
    make_shards(["digits", str(tmp_path)])
    more = {"data.path": "train", "data.heldout": "heldout", "evaluation.real": "heldout"}
    sizes = {"model.channels": 4, "evaluation.samples": 60, "collapse.every": 0, "monitor.every": 0}
    where = [f"--{key}={tmp_path / value}" for key, value in more.items()]
    small = [f"--{key}={value}" for key, value in sizes.items()]
    given = ("--config", finetuning.CONFIG, *where, *small)
    scores = finetuning.experiment(tmp_path / "out", 3, 3, given)
    told = capsys.readouterr().out
    assert "classes: 5 known (0, 1, 2, 3, 4), 5 new (5, 6, 7, 8, 9)" in told
    assert {name: [row[0] for row in rows] for name, rows in scores.items()} == {
        "fine-tuned": [1, 2, 3],
        "from scratch": [1, 2, 3],
    }
    assert scores["fine-tuned"] != scores["from scratch"]
