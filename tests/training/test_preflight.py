"""Preflight as it is started, and what it says where something is wrong."""

import json
import math
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml

from biggan_sn.checkpoint import Checkpoints
from biggan_sn.cli import main
from biggan_sn.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    FinetuneConfig,
)
from biggan_sn.config_io import to_dict
from biggan_sn.preflight import run as preflight_run
from biggan_sn.preflight.exchange import measure_exchange
from biggan_sn.preflight.run import preflight
from biggan_sn.preflight.scores import check_scores
from biggan_sn.preflight.storage import check_folder, check_shards, most_kept
from biggan_sn.preflight.trial import TrialError
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World
from tests.training.crew import Crew
from tests.training.test_launch_scripts import end, start

CHECKS = ["versions", "devices", "clocks", "folder", "shards", "tensors", "exchange", "steps",
          "memory", "data", "disk"]  # fmt: skip


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    two = Crew(2, tmp_path_factory.mktemp("crew"))
    yield two
    two.close()


@pytest.fixture(autouse=True)
def counted(request, monkeypatch):
    """Counting the memory of a step takes seconds: done where it could change what is tested."""
    if "leaves_training" not in request.node.name and "cannot_fit" not in request.node.name:
        monkeypatch.setattr("biggan_sn.preflight.memory.count_memory", lambda *_: 10**6)


@pytest.fixture
def given(small_config, tmp_path):
    path = tmp_path / "given.yaml"
    path.write_text(yaml.safe_dump(to_dict(small_config)))
    return ["--config", str(path), "--run_dir", str(tmp_path / "run")]


def lines_of(out):
    return {line.split()[1]: line for line in out.splitlines() if line.split()[0] in
            ("ok", "note", "FAILS")}  # fmt: skip


def test_two_processes_are_checked_and_the_run_forecast(given, tmp_path):
    more = ("--generator.microbatch", "2", "--json", str(tmp_path / "found.json"))
    two = {"PROCESSES": "2", "CUDA_VISIBLE_DEVICES": ""}
    code, out, err = end(start("node.sh", "preflight", *given, *more, **two))
    assert code == 0, err[-3000:]
    found = lines_of(out)
    assert list(found) == CHECKS
    assert "2 processes on 1 node" in found["devices"]
    assert "30 images of 3 classes in 2 shards, 30 of them read" in found["shards"]
    assert "right on all ranks" in found["exchange"]
    told = json.loads((tmp_path / "found.json").read_text())
    forecast = told["forecast"]
    assert forecast["hours"] == pytest.approx(6 * forecast["seconds_per_step"] / 3600)
    assert forecast["images_per_second"] == pytest.approx(8 / forecast["seconds_per_step"])
    assert all(value > 0 for value in forecast.values())
    assert "batch that grows, 2 images on each GPU:" in out
    rows = [line for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row.split()[0]) for row in rows] == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert not (tmp_path / "run").exists(), "nothing is left behind"


def _check_scores(rank, ranks, section):
    world = World(rank, ranks)
    weights = "" if rank == 0 else section.weights  # one node has them, the other has not
    config = Config(data=DataConfig(path=section.real, resolution=32, num_classes=3),
                    evaluation=replace(section, weights=weights))  # fmt: skip
    found = check_scores(world, config, ["one", "two"])
    return {"verdict": found.verdict, "text": found.text}


def test_scores(crew, shards, tmp_path):
    section = EvaluationConfig(5, ("fid", "is"), 20, "digits", "", str(shards))
    good = crew(_check_scores, section)
    assert good[0] == good[1]
    assert good[0] == {"verdict": "ok", "text": "fid, is of 20 samples, by digits, every 5 steps"}
    first, second = crew(_check_scores, replace(section, weights=str(tmp_path / "w.pth")))
    assert first == second and first["verdict"] == "FAILS"
    assert first["text"].startswith("all is well (rank 0 on one), ")
    assert "w.pth" in first["text"] and first["text"].endswith("(rank 1 on two)")
    (few, _) = crew(_check_scores, replace(section, metrics=("class_accuracy", "fid")))
    assert few["verdict"] == "FAILS" and "3 classes" in few["text"]


def test_scores_are_looked_at_where_some_are_asked_for(small_config, tmp_path):
    section = EvaluationConfig(5, ("fid",), 20, "digits", "", str(tmp_path / "none"))
    lines = []
    config = replace(small_config, evaluation=section)
    report = preflight(World(), config, tmp_path / "run", lines.append)
    assert not report.passed
    found = lines_of("\n".join(lines))
    assert found["scores"].startswith("FAILS") and "exchange" not in found


def test_the_forecast_of_checkpoints_is_what_a_run_writes(small_config, tmp_path):
    config = replace(small_config, checkpoint=CheckpointConfig(every=1, keep=2, keep_spaced=1))
    report = preflight(World(), config, tmp_path / "before", lambda line: None)
    assert report.passed
    run = tmp_path / "run"
    Trainer(config, run, World()).run()
    newest = Checkpoints(run / "checkpoints").newest()
    written = sum(file.stat().st_size for file in newest.iterdir())
    assert report.forecast["checkpoint_gigabytes"] == pytest.approx(written / 1e9, rel=0.1), (
        "of tiny networks"
    )


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("keep_spaced", [0, 2])
def test_no_run_keeps_more_checkpoints_than_forecast(small_config, tmp_path, every, keep_spaced):
    keep = CheckpointConfig(every=every, keep=2, keep_spaced=keep_spaced, keep_best=1)
    steps = 40
    checkpoints = Checkpoints(tmp_path, keep.keep, keep.keep_best, keep.every, keep.keep_spaced)
    most = 0
    for step in [0, *range(every, steps + 1, every)]:
        checkpoints.save(step, {}, {}, score=float(steps - step) if step == every else None)
        most = max(most, len(checkpoints.all()) + 1)  # and the next one, while it is written
    assert most <= most_kept(keep, steps) <= most + 2 * keep_spaced + 1


def sums(rank, ranks, wrong):
    """Measured, and with a sum that one process gets wrong."""
    dist_all_reduce = dist.all_reduce

    def faulty(tensor, *arguments, **options):
        result = dist_all_reduce(tensor, *arguments, **options)
        if wrong and rank == 1 and tensor.numel() > 1000:
            tensor[77] += 1
        return result

    dist.all_reduce = faulty
    try:
        finding, exchange = measure_exchange(World(rank, ranks), 40_000)
    finally:
        dist.all_reduce = dist_all_reduce
    return {"finding": asdict(finding), "exchange": exchange and asdict(exchange)}


def test_a_wrong_sum_is_seen_on_all_ranks_and_named(crew):
    right, wrong = crew(sums, False), crew(sums, True)
    for result in right:
        assert result["finding"]["verdict"] == "ok"
        assert result["exchange"]["ranks"] == 2
        assert result["exchange"]["latency"] > 0
        assert math.isfinite(result["exchange"]["bandwidth"])
    assert right[0] == right[1], "all know the same"
    for result in wrong:
        assert result["finding"]["verdict"] == "FAILS"
        assert "came out wrong on rank 1" in result["finding"]["text"]


def other_shards(rank, ranks, config, folders):
    """As where one node sees an older copy."""
    os.environ["LOCAL_RANK"] = "0"
    finding = check_shards(World(rank, ranks), replace(config, path=folders[rank]), ["n1", "n2"])
    return asdict(finding)


def test_every_node_must_see_the_same_shards(crew, small_config, shards, tmp_path):
    copy, empty = tmp_path / "copy", tmp_path / "empty"
    shutil.copytree(shards, copy)
    data = replace(small_config.data, heldout="")
    same, same_too = crew(other_shards, data, [str(shards), str(copy)])
    assert same == same_too
    assert same["verdict"] == "ok"
    assert same["text"].endswith("on each of 2 nodes")
    (last, *_) = sorted(copy.glob("*.tar"), reverse=True)
    last.unlink()
    for found in crew(other_shards, data, [str(shards), str(copy)]):
        assert found["verdict"] == "FAILS"
        assert str(last) in found["text"] and "(on n2)" in found["text"]
    (found, _) = crew(other_shards, data, [str(shards), str(empty)])
    assert "no such folder" in found["text"]


def other_folders(rank, ranks, folders):
    """As where each node has a disk of its own under the same name."""
    from biggan_sn.preflight import storage

    sees, storage._sees = storage._sees, lambda trace, text: sees(trace, text, patience=0.2)
    try:
        finding = check_folder(World(rank, ranks), Path(folders[rank]), ["n1", "n2"])
    finally:
        storage._sees = sees
    return asdict(finding)


def test_the_run_must_lie_where_all_nodes_see_it(crew, tmp_path):
    (tmp_path / "b").mkdir()
    shared = [str(tmp_path / "a")] * 2
    assert [f["verdict"] for f in crew(other_folders, shared)] == ["ok", "ok"]
    for found in crew(other_folders, [str(tmp_path / "a"), str(tmp_path / "b")]):
        assert found["verdict"] == "FAILS"
        assert "what n1 writes there, n2 does not see" in found["text"]
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "file").touch()
    (found, _) = crew(other_folders, [str(tmp_path / "file" / "run")] * 2)
    assert found["verdict"] == "FAILS"
    assert "cannot be written on n1" in found["text"]


def test_a_disk_with_too_little_room_fails_before_the_run(given, monkeypatch, capsys):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    assert main(["preflight", *given]) == 2
    out, err = capsys.readouterr()
    assert lines_of(out)["disk"].startswith("FAILS")
    assert "10 kB free" in lines_of(out)["disk"]
    assert err == "biggan-sn: error: not ready to train: disk; the lines above say why\n"


def test_wrong_shards_fail_before_any_step(given, shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preflight_run, "run_trial", None)
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    shard = sorted(copy.glob("*.tar"))[0]
    shard.write_bytes(shard.read_bytes()[:-512])
    assert main(["preflight", *given, "--data.path", str(copy)]) == 2
    out, err = capsys.readouterr()
    assert str(shard) in lines_of(out)["shards"]
    assert "not ready to train: shards" in err
    assert len(err.splitlines()) == 1


def test_networks_whose_tensors_cannot_fit_are_not_tried(given, monkeypatch, capsys):
    monkeypatch.setattr(preflight_run, "run_trial", None)
    assert main(["preflight", *given, "--model.channels", "4096"]) == 2
    out, err = capsys.readouterr()
    assert "lower generator.microbatch 4 and" in lines_of(out)["tensors"]
    assert err == "biggan-sn: error: not ready to train: tensors; the lines above say why\n"


def test_networks_that_do_not_fit_are_one_line(given, monkeypatch, capsys):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("biggan_sn.preflight.trial._timing", full)
    assert main(["preflight", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "out of memory on cpu: lower generator.microbatch 4 and discriminator.microbatch 2, or"
        in line
    )
    assert issubclass(TrialError, ValueError)


def test_a_run_that_is_there_is_checked_with_its_own_config(given, tmp_path, capsys):
    assert main(["train", *given, "--steps", "2"]) == 0
    capsys.readouterr()
    assert main(["preflight", "--run_dir", str(tmp_path / "run")]) == 0
    assert "30 images of 3 classes" in capsys.readouterr().out


def test_preflight_leaves_training_as_it_was(small_config, tmp_path):
    """The random numbers of a run are its own."""
    config: Config = small_config
    Trainer(config, tmp_path / "plain", World()).run()
    preflight(World(), config, tmp_path / "checked", lambda line: None)
    Trainer(config, tmp_path / "checked", World()).run()
    plain, checked = (
        (tmp_path / name / "checkpoints" / "latest" / "generator.safetensors").read_bytes()
        for name in ("plain", "checked")
    )
    assert plain == checked


@pytest.mark.parametrize("there", [True, False])
def test_what_a_run_begins_with_is_looked_at(small_config, tmp_path, capsys, there):
    source, given = tmp_path / "source", tmp_path / "tuned.yaml"
    config = replace(small_config, finetune=FinetuneConfig(str(source)))
    given.write_text(yaml.safe_dump(to_dict(config)))
    if there:
        Trainer(replace(small_config, steps=1), source, World()).run()
    capsys.readouterr()
    where = ["--config", str(given), "--run_dir", str(tmp_path / "run")]
    assert main(["preflight", *where]) == (0 if there else 2)
    found = lines_of(capsys.readouterr().out)["source"]
    assert found.startswith("ok" if there else "FAILS")
    assert ("3 known (cat, dog, owl), 0 new" if there else f"{source}: no checkpoint") in found
