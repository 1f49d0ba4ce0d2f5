"""The arena as it is used: games played side by side, stopped, carried on, and compared."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import Namespace

from biggan_sn.arena.play import play
from biggan_sn.arena.points import POINTS, ring
from biggan_sn.arena.writing import check_games
from biggan_sn.cli import main
from biggan_sn.cli.arena import _configs
from biggan_sn.config import (
    CollapseConfig,
    Config,
    DataConfig,
    EMAConfig,
    EvaluationConfig,
    LipschitzConfig,
    LogsConfig,
    ModelConfig,
    MonitorConfig,
    PlayerConfig,
)
from biggan_sn.training.records import read

ROOT = Path(__file__).parents[2]
GAMES, METHODS = (ROOT / "configs" / "arena" / name for name in ("games", "methods"))
SIDE = PlayerConfig(lr=2e-3, betas=(0.0, 0.99))
FEW = Config(
    data=DataConfig(path="few", num_classes=1),
    model=ModelConfig(channels=64, z_dim=8),
    lipschitz=LipschitzConfig(generator=()),
    generator=SIDE,
    discriminator=SIDE,
    ema=EMAConfig(decay=0.9, start=20),
    collapse=CollapseConfig(every=10, explosion="warn", quality="warn"),
    evaluation=EvaluationConfig(samples=2000),
    steps=300,
    d_steps=1,
    batch_size=128,
)


def arena(out, *options, methods=("sn_hinge", "minimax"), games=("ring8",)):
    return [
        "arena",
        *("--games", *(str(GAMES / f"{name}.yaml") for name in games)),
        *("--methods", *(str(METHODS / f"{name}.yaml") for name in methods)),
        *("--seeds", "0", "--steps", "3", "--out", str(out), *options),
    ]


@pytest.fixture
def few(monkeypatch):
    """Four wide modes, which are found soon."""
    monkeypatch.setitem(POINTS, "few", ring(4, 0.15))


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_generator_of_points_finds_its_modes(tmp_path, few):
    assert play(FEW, tmp_path)
    result = result_of(tmp_path)
    assert result["modes"] == 4 and result["lost"] == -1 and result["ms_per_step"] > 0
    assert result["quality"] > 0.5 and result["kl"] < 0.1  # by three seeds 0.82 and 0.0012
    points = np.load(tmp_path / "samples.npy")
    assert points.shape == (2000, 2)
    scores = POINTS["few"].score(points.astype(np.float64))
    assert scores["modes"] == result["modes"]
    assert scores["quality"] == pytest.approx(result["quality"], abs=1e-3)
    steps = [line["step"] for line in read(tmp_path / "scalars.jsonl")]
    assert steps == list(range(10, 301, 10))


def test_a_game_that_is_lost_says_when(tmp_path, few):
    wild = replace(SIDE, lr=1e30)
    config = replace(FEW, generator=wild, discriminator=wild, lipschitz=LipschitzConfig((), ()))
    assert play(config, tmp_path)
    result = result_of(tmp_path)
    assert 0 < result["lost"] < config.steps
    assert [result[name] for name in ("modes", "quality", "kl")] == [None] * 3


def test_a_game_of_images_is_a_run(small_config, shards, tmp_path):
    config = replace(
        small_config,
        monitor=MonitorConfig(0),
        logs=LogsConfig(every=1, images=0),
        evaluation=EvaluationConfig(
            every=2, extractor="digits", metrics=("fid", "modes"), samples=30, real=str(shards)
        ),
        steps=2,
    )
    assert play(config, tmp_path)
    result = result_of(tmp_path)
    said = next(line for line in read(tmp_path / "scalars.jsonl") if "evaluation/fid" in line)
    names = {"fid": "fid", "modes": "modes", "quality": "certain", "kl": "modes_kl"}
    assert {name: result[name] for name in names} == {
        name: said[f"evaluation/{metric}"] for name, metric in names.items()
    }
    assert result["ms_per_step"] > 0
    assert (tmp_path / "checkpoints" / "step_00000002").is_dir()


def test_from_games_to_a_table_and_pictures(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(arena(out, "--jobs", "2")) == 0
    said = capsys.readouterr()
    assert "## ring8, 3 steps" in said.out and "| sn_hinge | 1 |" in said.out
    assert "ring8, minimax, seed 0: " in said.err
    assert {path.name for path in out.iterdir()} == {
        "ring8", "arena.csv", "arena.md", "scores.png", "samples.png"
    }  # fmt: skip
    played = out / "ring8" / "minimax" / "seed0" / "result.json"
    before = played.stat().st_mtime_ns
    assert main(arena(out, methods=("sn_hinge", "minimax", "gn_hinge"))) == 0  # one more
    assert played.stat().st_mtime_ns == before
    assert "| gn_hinge | 1 |" in capsys.readouterr().out
    assert main(arena(out, "--steps", "4")) == 2
    assert "was another work (config differ)" in capsys.readouterr().err


def test_a_game_that_fails_spoils_no_other(tmp_path, capsys):
    method = tmp_path / "broken.yaml"
    method.write_text("generator: {microbatch: 128}\ndiscriminator: {microbatch: 256}\n")
    command = arena(tmp_path / "out", "--jobs", "2", methods=("minimax",))
    command.insert(command.index("--seeds"), str(method))
    folder = tmp_path / "out" / "ring8" / "broken" / "seed0"
    folder.mkdir(parents=True)
    (folder / "samples.npy").mkdir()  # so that it cannot write there
    assert main(command) == 1
    said = capsys.readouterr()
    assert f"ring8, broken, seed 0: failed (exit code 1); {folder / 'output.txt'}" in said.err
    assert "IsADirectoryError" in (folder / "output.txt").read_text()
    assert "| minimax | 1 |" in said.out and "broken" not in said.out


def test_told_to_stop_it_stops_all_games_and_goes_on(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "biggan_sn", *arena(out, "--jobs", "2", "--steps", "1000000")]
    records = [out / "ring8" / m / "seed0" / "scalars.jsonl" for m in ("sn_hinge", "minimax")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not all(path.exists() for path in records):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 130
    assert "the same command goes on" in process.stderr.read()
    process.stderr.close()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(out).encode() not in path.read_bytes(), "a game plays on"
        except OSError:
            continue
    assert not list(out.rglob("result.json"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--jobs", "0"), "--jobs"),
        (("--seeds", "1", "1"), "is there twice"),
        (("--methods", str(METHODS / "nothing.yaml")), "nothing.yaml"),
        (("--model.norm", "virtual_batch"), "--model.norm"),
    ],
)
def test_wrong_input(tmp_path, capsys, options, said):
    assert main(arena(tmp_path / "out", *options)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("model: {norm: virtual_batch}", "model.norm virtual_batch"),
        ("finetune: {source: runs/mine}", "finetune.source: players of points begin anew"),
        ("augment: {transforms: [cutout]}", "augment.transforms: cutout"),
        ("consistency: {real: 10}", "consistency.transforms: flip, translation"),
    ],
)
def test_what_points_have_not_is_refused(tmp_path, capsys, setting, named):
    method = tmp_path / "mine.yaml"
    method.write_text(f"{setting}\n")
    assert main(arena(tmp_path / "out", "--methods", str(method))) == 2
    assert f"ring8 with mine: {named}" in capsys.readouterr().err


def test_images_need_their_scores(tmp_path, capsys):
    method = tmp_path / "silent.yaml"
    method.write_text("evaluation: {every: 0}\n")
    command = arena(tmp_path / "out", "--methods", str(method), games=("digits",))
    assert main(command) == 2
    assert "digits with silent: an arena compares by fid and modes" in capsys.readouterr().err


def test_every_game_and_method_goes_with_every_other(tmp_path):
    games, methods = sorted(GAMES.glob("*.yaml")), sorted(METHODS.glob("*.yaml"))
    assert len(games) >= 5 and len(methods) >= 10
    check_games(_configs(Namespace(games=games, methods=methods, seeds=[0], steps=None)))


def test_help_for_few_images_goes_with_their_game():
    """What a layer says must hold in the game: its times are those of few images."""
    names = ("diffaugment", "ada", "cr", "bcr", "zcr", "lecam", "top_k")
    layers = [METHODS.parents[1] / "layers" / f"{name}.yaml" for name in names]
    few = [GAMES / "few_digits.yaml"]
    games = _configs(Namespace(games=few, methods=layers, seeds=[0], steps=None))
    check_games(games)
    played = {method: config for (_, method, _), config in games.items()}
    assert played["lecam"].lecam.weight > 0 and played["lecam"].lecam.start < 500
    assert played["ada"].augment.target > 0 and played["ada"].augment.images < 50_000
    assert played["top_k"].top_k.at(played["top_k"].steps) == 0.5
