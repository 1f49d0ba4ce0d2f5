"""Truncation sweeps: each point with its own statistics, none lost, none of another sweep."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from biggan_sn.config import DataConfig, EvaluationConfig
from biggan_sn.evaluation.collecting import Alone
from biggan_sn.evaluation.evaluating import Evaluation
from biggan_sn.evaluation.images import Drawn
from biggan_sn.evaluation.sampling import Sampling, draw_classes, renew_statistics
from biggan_sn.evaluation.sweep import Sweep, best_points, describe
from biggan_sn.models.zoo import build_generator

ALONE = Alone(torch.device("cpu"))
CLASSES = ("cat", "dog", "owl")
ABOUT = {"checkpoint": "runs/x/checkpoints/step_00000003", "step": 3, "metrics": ("fid", "is")}
METRICS = ("fid", "is", "precision_recall", "class_fid")
TRUNCATIONS = (
    Sampling(truncation=0.1, standing_statistics=3),
    Sampling(truncation=1.0, standing_statistics=3),
    Sampling(),  # by the statistics of training, whatever came before
)


@pytest.fixture
def generator(small_config):
    torch.manual_seed(0)
    network = build_generator(small_config).eval().requires_grad_(False)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(0.01)  # as training may leave it: far from those of any truncation
    return network


@pytest.fixture(scope="module")
def evaluation(shards):
    section = EvaluationConfig(0, METRICS, 30, "digits", "", str(shards))
    return Evaluation(section, DataConfig(), ALONE)


def sweep(generator, evaluation, samplings=TRUNCATIONS, about=ABOUT):
    return Sweep(generator, CLASSES, [2, 0], 3, samplings, evaluation, about)


def test_each_point_is_as_if_it_were_alone(generator, evaluation, tmp_path):
    trained = {name: buffer.clone() for name, buffer in generator.named_buffers()}
    record = sweep(generator, evaluation)(tmp_path, ALONE)
    assert json.loads((tmp_path / "sweep.json").read_text()) == json.loads(json.dumps(record))
    assert [point["truncation"] for point in record["points"]] == [0.1, 1.0, None]
    assert all(torch.equal(value, trained[name]) for name, value in generator.named_buffers())
    grids = [np.asarray(Image.open(tmp_path / point["grid"])) for point in record["points"]]
    for sampling, point, picture in zip(TRUNCATIONS, record["points"], grids, strict=True):
        generator.load_state_dict(trained, strict=False)
        renew_statistics(generator, sampling)
        expected = evaluation.scores(Drawn(generator, 30, sampling, CLASSES))
        single = {f"class_fid/{name}" for name in CLASSES}
        assert point["scores"] == {k: v for k, v in expected.items() if k not in single}
        assert point["scores"].keys() == {"fid", "is", "is_std", "precision", "recall", "class_fid"}
        images, _ = draw_classes(generator, [2, 0], 3, sampling)
        for number, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            top, left = 2 + number % 3 * 34, 2 + number // 3 * 34
            assert (picture[top : top + 32, left : left + 32] == image).all()
    first, second, _ = (point["scores"]["fid"] for point in record["points"])
    assert first != second
    assert record["points"][0]["diversity"] < record["points"][1]["diversity"]
    assert record["real"] == evaluation.describe_real()
    assert record["real"]["images"] == 30 and record["real"]["is"] >= 1
    strip = np.asarray(Image.open(tmp_path / "sweep.png"))
    places = [
        left
        for left in range(strip.shape[1] - 69)
        if any((strip[26:-8, left : left + 70] == picture).all() for picture in grids)
    ]
    assert len(places) == 3, "side by side"
    assert np.asarray(Image.open(tmp_path / "curves.png")).std() > 10


def test_table(generator, evaluation, tmp_path):
    record = sweep(generator, evaluation)(tmp_path, ALONE)
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["truncation"] for row in rows] == ["0.1", "1.0", ""]
    for row, point in zip(rows, record["points"], strict=True):
        assert {name: float(row[name]) for name in point["scores"]} == point["scores"]
        assert float(row["diversity"]) == point["diversity"]
    for name, number in record["best"].items():
        assert [name in row["best"].split() for row in rows] == [n == number for n in range(3)]


def test_without_scores(generator, tmp_path):
    record = sweep(generator, None)(tmp_path, ALONE)
    assert [point["scores"] for point in record["points"]] == [{}, {}, {}]
    assert record["best"] == {} and describe(record) == []
    assert not (tmp_path / "curves.png").exists() and (tmp_path / "sweep.png").exists()


def test_a_sweep_that_was_stopped_goes_on(generator, evaluation, tmp_path, monkeypatch):
    whole = sweep(generator, evaluation)(tmp_path / "whole", ALONE)
    scored = []
    scores = Evaluation.scores

    def stopping(self, images, advance):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(images)
        return scores(self, images, advance)

    monkeypatch.setattr(Evaluation, "scores", stopping)
    with pytest.raises(KeyboardInterrupt):
        sweep(generator, evaluation)(tmp_path / "part", ALONE)
    before = json.loads((tmp_path / "part" / "sweep.json").read_text())
    assert len(before["points"]) == 2
    monkeypatch.setattr(Evaluation, "scores", scores)
    drawn = []
    monkeypatch.setattr(Evaluation, "scores", lambda *args: drawn.append(1) or scores(*args))
    counts = []
    again = sweep(generator, evaluation)(tmp_path / "part", ALONE, advance=counts.append)
    assert again == whole
    total = sweep(generator, evaluation).images
    renewing = sum(sampling.renewing for sampling in TRUNCATIONS)
    assert counts[0] == 2 * 30 + renewing - TRUNCATIONS[2].renewing, "two points were there"
    assert sum(counts) == total == 3 * 30 + renewing
    assert len(drawn) == 1
    said = []
    sweep(generator, evaluation)(tmp_path / "said", ALONE, said.append)
    assert [line.rpartition(": ")[2] for line in said] == [f"{n} points of 3" for n in (1, 2, 3)]
    assert all(
        f"fid {p['scores']['fid']:.4g}" in line
        for p, line in zip(whole["points"], said, strict=True)
    )
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "part" / path.name).read_bytes(), path.name


def test_more_points_join_those_that_are_there(generator, evaluation, tmp_path, monkeypatch):
    first = sweep(generator, evaluation, TRUNCATIONS[1:])(tmp_path, ALONE)
    drawn = []
    scores = Evaluation.scores
    monkeypatch.setattr(Evaluation, "scores", lambda *args: drawn.append(1) or scores(*args))
    more = sweep(generator, evaluation, TRUNCATIONS[:2])(tmp_path, ALONE)
    assert len(drawn) == 1
    assert more["points"][1:] == first["points"]
    (tmp_path / first["points"][0]["grid"]).unlink()
    again = sweep(generator, evaluation, TRUNCATIONS)(tmp_path, ALONE)
    assert len(drawn) == 2, "a point without its grid is drawn anew"
    assert again["points"] == more["points"]


@pytest.mark.parametrize("change", [{"step": 4}, {"metrics": ("fid",)}, {"generator": "0a"}])
def test_another_sweep_is_not_mixed_with(generator, tmp_path, change):
    sweep(generator, None)(tmp_path, ALONE)
    before = (tmp_path / "sweep.json").read_bytes()
    with pytest.raises(
        ValueError, match=f"another sweep is there, of another {next(iter(change))}:"
    ):
        sweep(generator, None, about={**ABOUT, **change})(tmp_path, ALONE)
    assert (tmp_path / "sweep.json").read_bytes() == before


def test_where_a_checkpoint_lies_does_not_matter(generator, tmp_path):
    """A relative path, an absolute one, a run that was moved: its weights are what they are."""
    sweep(generator, None)(tmp_path, ALONE)
    sweep(generator, None, about={**ABOUT, "checkpoint": "elsewhere"})(tmp_path, ALONE)


def test_a_sweep_against_other_images_is_not_mixed_with(generator, evaluation, tmp_path, shards):
    sweep(generator, evaluation)(tmp_path, ALONE)
    data = DataConfig(path=str(shards), resolution=32, num_classes=3, images=12)
    other = Evaluation(replace(evaluation.section, real=""), data, ALONE)
    with pytest.raises(ValueError, match="another sweep is there, of another real:"):
        sweep(generator, other)(tmp_path, ALONE)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"points": [{}]}', '{"points": 3}'])
def test_damaged_record(generator, tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ValueError, match=r"sweep\.json: damaged"):
        sweep(generator, None)(tmp_path, ALONE)


def points(*scores):
    return [{"scores": s, "truncation": None if i else 0.5, "mode": "resample", "seed": 0,
             "standing_statistics": 0} for i, s in enumerate(scores)]  # fmt: skip


def test_best_points():
    found = points({"fid": 9.0, "is": 3.0}, {"fid": 2.0, "is": 5.0}, {"fid": 4.0, "is": 8.0})
    assert best_points(found, 4.4) == {"fid": 1, "real_is": 1, "is": 2}
    assert best_points(found, 3.9) == {"fid": 1, "real_is": 0, "is": 2}
    assert best_points(found, None) == {"fid": 1, "is": 2}
    assert best_points(points({"fid": math.nan}, {"fid": 3.0}), 2.0) == {"fid": 1}
    assert best_points(points({"is": math.nan, "fid": math.nan}), 2.0) == {}
    assert best_points(points({}, {}), 2.0) == {}
    equal = points({"fid": 3.0, "is": 2.0}, {"fid": 3.0, "is": 2.0})  # the first one is truncated
    assert best_points(equal, 5.0) == {"fid": 1, "real_is": 1, "is": 1}


def test_what_is_said():
    found = points({"fid": 9.0}, {"fid": 12.0})
    lines = describe({"points": found, "best": {"fid": 0}, "real": {}})
    assert [" ".join(line.split()) for line in lines] == [
        "best FID resample 0.5 fid 9",
        "no truncation no truncation fid 12",
    ]
