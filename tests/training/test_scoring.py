"""Scores on the way: on any number of ranks, those that the checkpoint has afterwards."""

import json
from dataclasses import replace

import pytest

from biggan_sn.checkpoint import Checkpoints, load_state
from biggan_sn.cli import main
from biggan_sn.config import CheckpointConfig, DataConfig, EvaluationConfig, LipschitzConfig
from biggan_sn.evaluation import reference
from biggan_sn.evaluation.evaluating import Evaluation
from biggan_sn.evaluation.sampling import Sampling
from biggan_sn.evaluation.sweep import Sweep
from biggan_sn.models.loading import load_generator
from biggan_sn.training import records
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World
from tests.training.crew import Crew

METRICS = ("fid", "is", "precision_recall", "density_coverage", "class_fid", "variety")


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    two = Crew(2, tmp_path_factory.mktemp("crew"))
    yield two
    two.close()


@pytest.fixture
def config(small_config, shards):
    side = replace(small_config.generator, microbatch=0)
    return replace(
        small_config,
        generator=side,
        discriminator=side,
        lipschitz=LipschitzConfig(["spectral_norm"], ["spectral_norm"]),
        checkpoint=CheckpointConfig(every=2, keep=9, keep_best=1),
        evaluation=EvaluationConfig(2, METRICS, 90, "digits", "", str(shards)),
    )


def _train(rank, ranks, config, folder):
    trainer = Trainer(config, folder, World(rank, ranks))
    assert trainer.run()
    return trainer.step


def scores_of(run):
    scores = {}
    for record in records.read(run / records.SCALARS):
        if "evaluation/fid" in record:
            step = record.pop("step")
            scores[step] = {key.removeprefix("evaluation/"): x for key, x in record.items()}
    return scores


def test_scores_on_the_way_are_those_of_the_checkpoints(crew, config, tmp_path, capsys):
    run = tmp_path / "run"
    assert crew(_train, config, run) == [6, 6]
    scores = scores_of(run)
    assert list(scores) == [2, 4, 6]
    assert "class_fid" in scores[2]
    assert not any("/" in name for name in scores[2]), "there may be thousands of classes"
    for step, found in scores.items():
        checkpoint = run / "checkpoints" / f"step_{step:08d}"
        capsys.readouterr()
        assert main(["evaluate", str(checkpoint)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert {name: told[name] for name in found} == found
        assert load_state(checkpoint)["score"] == found["fid"]
    best = Checkpoints(run / "checkpoints").best()
    assert int(best.name.removeprefix("step_")) == min(scores, key=lambda s: scores[s]["fid"])


def _sweep(rank, ranks, checkpoint, section, out):
    world = World(rank, ranks)
    generator, state = load_generator(checkpoint, world.device)
    samplings = [Sampling(truncation=0.5, standing_statistics=2), Sampling()]
    evaluation = Evaluation(section, DataConfig(), world)
    sweep = Sweep(generator, state["classes"], [0, 2], 2, samplings, evaluation, {"step": 6})
    record = sweep(out, world)
    again = sweep(out, world)  # all is there: nobody waits for anybody
    assert again == record and bool(record) == (rank == 0)
    return True


def test_two_processes_sweep_as_one(crew, config, tmp_path):
    Trainer(replace(config, steps=2), tmp_path / "run", World()).run()
    checkpoint = Checkpoints(tmp_path / "run" / "checkpoints").newest()
    section = replace(config.evaluation, every=0)
    crew(_sweep, checkpoint, section, tmp_path / "two")
    _sweep(0, 1, checkpoint, section, tmp_path / "one")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert {"sweep.json", "sweep.csv", "sweep.png", "curves.png"} < set(names)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_real_images_are_looked_at_before_the_first_step(config, tmp_path, monkeypatch):
    seen = []
    made = reference.make_statistics
    monkeypatch.setenv("BIGGAN_SN_CACHE", str(tmp_path / "cache"))
    trainer = Trainer(replace(config, steps=4), tmp_path / "run", World())
    monkeypatch.setattr(
        reference, "make_statistics", lambda *args: seen.append(trainer.step) or made(*args)
    )
    trainer.run()
    assert seen == [0], "once, and not at the first evaluation"


def test_evaluations_change_no_step(config, tmp_path):
    ends = []
    for every in (0, 1):
        scored = replace(config, steps=3, evaluation=replace(config.evaluation, every=every))
        trainer = Trainer(scored, tmp_path / str(every), World())
        trainer.run()
        ends.append({k: v for n in trainer.networks.values() for k, v in n.state_dict().items()})
    assert all((ends[0][key] == ends[1][key]).all() for key in ends[0])
