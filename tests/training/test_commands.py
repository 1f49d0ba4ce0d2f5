"""The verbs as a person uses them, from training to a picture."""

import csv
import gc
import json
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import biggan_sn
from biggan_sn.checkpoint import Checkpoints
from biggan_sn.cli import main
from biggan_sn.config import PlayerConfig
from biggan_sn.config_io import from_dict, to_dict
from biggan_sn.data.loader import open_dataset
from biggan_sn.training.world import World
from tests.forging import forge


@pytest.fixture(scope="module")
def given(small_config, tmp_path_factory):
    path = tmp_path_factory.mktemp("given") / "given.yaml"
    path.write_text(yaml.safe_dump(to_dict(small_config)))
    return path


@pytest.fixture(scope="module")
def lean(small_config, tmp_path_factory):
    """The same in fewer passes, for what many passes do not change."""
    side = PlayerConfig(lr=1e-3)
    config = replace(small_config, penalties={}, generator=side, discriminator=side, d_steps=1)
    path = tmp_path_factory.mktemp("lean") / "lean.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    return path


@pytest.fixture(scope="module")
def trained(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--config", str(given), "--run_dir", str(folder), "--steps", "2"]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """Two steps; a copy, which a test may go on with or spoil."""
    return copytree(trained, tmp_path / "run", symlinks=True)


def test_train_then_go_on_without_the_config(run, capsys):
    assert yaml.safe_load((run / "config.yaml").read_text())["steps"] == 2
    assert main(["train", "--run_dir", str(run), "--steps", "3", "--logs.images", "3"]) == 0
    out = capsys.readouterr().out
    assert "goes on from step_00000002" in out
    page = f"biggan-sn report {run}"
    assert out.splitlines()[-1] == f"{run}: finished; all about it on one page: {page}"
    assert yaml.safe_load((run / "config.yaml").read_text())["steps"] == 3
    with Image.open(run / "pictures" / "samples.png") as picture:
        assert picture.size == (3 * 34 + 2, 8 * 34 + 2), "a column for each of 3 classes, 8 rows"


def test_every_start_writes_down_what_the_run_is_made_with(run):
    path = run / "environment.json"
    written = json.loads(path.read_text())
    assert written["versions"]["torch"] == torch.__version__
    assert (written["processes"], written["engine"]) == (1, "ddp")
    path.write_text("{}")
    assert main(["train", "--run_dir", str(run), "--steps", "3"]) == 0
    assert json.loads(path.read_text()) == written


def test_a_run_has_a_page(run, capsys):
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{run / 'report.html'}"
    page = (run / "report.html").read_text()
    for words in ("step 2 of 2", "finished", "d_loss", "Heat-map of G", torch.__version__):
        assert words in page
    for words in ("cannot be", "Not recorded", "Nothing was logged"):
        assert words not in page


def test_another_config_in_the_same_folder_is_refused(run, given, capsys):
    arguments = ["train", "--config", str(given), "--run_dir", str(run)]
    assert main([*arguments, "--model.channels", "3", "--seed", "5"]) == 2
    error = capsys.readouterr().err
    assert "model.channels: 2 -> 3; seed: 0 -> 5" in error


def test_two_jobs_do_not_share_a_folder(run, capsys):
    with World().holding(run):
        assert main(["train", "--run_dir", str(run), "--steps", "3"]) == 2
    assert f"{run}: another job is training there" in capsys.readouterr().err
    assert yaml.safe_load((run / "config.yaml").read_text())["steps"] == 2, "left alone"
    assert main(["train", "--run_dir", str(run), "--steps", "3"]) == 0


def test_a_run_that_diverges_stops_before_it_saves_over_a_good_checkpoint(run, capsys):
    """The last good step is 2; from there on the rates are absurd."""
    state = run / "checkpoints" / "step_00000002" / "generator.safetensors"
    weights = load_file(state)
    weights["conv.bias"] += torch.nan
    save_file(weights, state)
    forge(state.parent)
    options = ["--steps", "50", "--checkpoint.every", "1", "--collapse.rollbacks", "0"]
    assert main(["train", "--run_dir", str(run), *options]) == 4
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error" in x]
    assert "step 3: d_loss is nan: the run collapsed" in line
    assert f"to go back: biggan-sn rollback {run} --to 2" in line
    assert Checkpoints(run / "checkpoints").newest().name == "step_00000002"


def test_sample_grid_folder_and_arrays(run, tmp_path, capsys):
    classes = ("--classes", "0", "owl")  # by number or name
    drawing = ["sample", str(run), *classes, "--per_class", "3", "--truncation", "0.5"]
    for out in ("grid.png", "arrays.npz", "folder"):
        assert main([*drawing, "--out", str(tmp_path / out)]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / out)
    with np.load(tmp_path / "arrays.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert labels.tolist() == [0, 0, 0, 2, 2, 2]
    with Image.open(tmp_path / "folder" / "class0002_000001.png") as single:
        assert (np.asarray(single) == images[4]).all(), "all three show the same samples"
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert (sheet[2 + 34 : 2 + 34 + 32, 2 + 34 : 2 + 34 + 32] == images[4]).all()
    square = ("--classes", "owl", "--per_class", "7", "--out", str(tmp_path / "square.png"))
    assert main(["sample", str(run), *square]) == 0
    with Image.open(tmp_path / "square.png") as picture:
        assert picture.size == (2 + 3 * 34, 2 + 3 * 34), "one class is no strip"


def test_sweep_and_evaluate(run, tmp_path, capsys):
    sweep = ["sweep", str(run), "--truncations", "0.1", "2", "--standing_statistics", "2"]
    scores = ["--extractor", "digits", "--samples", "9", "--metrics", "fid", "precision_recall"]
    assert main([*sweep, *scores, "--per_class", "3", "--out", str(tmp_path / "sweep")]) == 0
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["truncation"] for row in rows] == ["0.1", "2.0", ""]
    assert float(rows[0]["diversity"]) < float(rows[1]["diversity"])
    capsys.readouterr()
    out = tmp_path / "scores.json"
    options = ["--standing_statistics", "2", "--out", str(out)]
    assert main(["evaluate", str(run), *scores, *options]) == 0
    assert capsys.readouterr().out == out.read_text()
    found = json.loads(out.read_text())
    assert found["fid"] == float(rows[-1]["fid"]), "the last point has no truncation either"
    assert (found["samples"], found["real_images"], found["features"]) == (9, 30, 30)


def test_images_are_scored_as_the_checkpoint_they_are_of(run, tmp_path, capsys, shards):
    scores = ["--extractor", "digits", "--metrics", "fid", "precision_recall", "class_fid"]
    assert main(["evaluate", str(run), *scores, "--samples", "9"]) == 0
    expected = json.loads(capsys.readouterr().out)
    for out in ("folder", "arrays.npz"):
        path = str(tmp_path / out)
        assert main(["sample", str(run), "--per_class", "3", "--out", path]) == 0
        capsys.readouterr()
        assert main(["evaluate", path, *scores, "--real", str(shards)]) == 0
        found = json.loads(capsys.readouterr().out)
        for name in ("fid", "precision", "recall", "class_fid", "class_fid/dog"):
            # They were drawn in batches of other sizes, which round otherwise.
            assert found[name] == pytest.approx(expected[name], rel=1e-2)
        for option in ("samples", "truncation", "standing_statistics"):
            assert main(["evaluate", path, *scores, f"--{option}", "5"]) == 2
            assert f"--{option} is for checkpoints: {path}" in capsys.readouterr().err


def test_what_is_no_number_is_null(run, capsys):
    """Of one sample of a class nobody can say how varied it is. JSON has no nan."""
    scores = ["--extractor", "digits", "--metrics", "variety", "--samples", "3"]
    assert main(["evaluate", str(run), *scores]) == 0
    line = capsys.readouterr().out
    assert json.loads(line, parse_constant=pytest.fail)["variety"] is None


def test_a_sweep_that_is_stopped_says_so(run, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("biggan_sn.evaluation.sweep.renew_statistics", stop)
    out = str(tmp_path / "sweep")
    assert main(["sweep", str(run), "--scored", "false", "--out", out]) == 130
    assert capsys.readouterr().err == (
        f"biggan-sn: stopped; what is in {out} is kept, and the same command goes on\n"
    )


def test_interpolate_from_sample_to_sample(run, tmp_path, capsys):
    """Its ends are what `sample` draws, pixel for pixel; 32 pixels are enlarged to 64."""
    drawing = ["--classes", "2", "0", "--seed", "3", "--truncation", "0.7"]
    drawing += ["--standing_statistics", "2"]
    arrays = tmp_path / "arrays.npz"
    assert main(["sample", str(run), *drawing, "--per_class", "1", "--out", str(arrays)]) == 0
    out = tmp_path / "rows.png"
    capsys.readouterr()
    assert main(["interpolate", str(run), *drawing, "--steps", "3", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with np.load(arrays) as file:
        owl, cat = file["images"]
    with Image.open(out) as picture:
        sheet = np.asarray(picture)
    assert sheet.shape[0] == 2 + 2 * 66
    names = (sheet.shape[1] - (3 * 66 - 2)) // 2  # as wide at both ends: both name both classes
    for row, (first, last) in enumerate([(owl, cat), (cat, owl)]):
        line = sheet[2 + 66 * row :, names:][:64:2]
        shown = [line[:, 66 * step :][:, :64:2] for step in range(3)]
        assert (shown[0] == first).all() and (shown[2] == last).all()
        assert (shown[1] != first).any() and (shown[1] != last).any()
    options = ["--between", "z", "--rows", "5", "--classes", "1"]
    assert main(["interpolate", str(run), *options, "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.height == 2 + 5 * 66


def test_neighbours_among_the_images_of_the_run(given, tmp_path, capsys):
    """Those that it was trained on: some of two classes, numbered anew."""
    folder = tmp_path / "part"
    part = ["--data.classes", "[owl, cat]", "--data.images", "8", "--data.num_classes", "2"]
    options = ["--config", str(given), *part, "--data.heldout", "", "--collapse.every", "0"]
    assert main(["train", "--run_dir", str(folder), *options, "--steps", "1"]) == 0
    state = json.loads((folder / "checkpoints" / "latest" / "state.json").read_text())
    index = open_dataset(from_dict(state["config"]).data)
    capsys.readouterr()
    command = ["neighbours", str(folder), "--extractor", "digits", "--out", str(tmp_path / "n.png")]
    assert main([*command, "--nearest", "8", "--per_class", "2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("median distance of 4 samples to the nearest real image: by pixels")
    assert told[0].endswith("; 0 copies")
    assert told[1:] == [str(tmp_path / "n.png"), str(tmp_path / "n.csv")]
    with (tmp_path / "n.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows[::16]] == ["owl", "owl", "cat", "cat"]
    assert [row["sample"] for row in rows[::16]] == ["0", "1", "0", "1"]
    assert sorted(int(row["real"]) for row in rows[:8]) == list(range(8)), "all are found"
    for row in rows:
        assert int(row["real_class"]) == index.label[int(row["real"])]
        assert row["real_name"] == index.classes[int(row["real_class"])]
    assert main([*command, "--nearest", "9"]) == 2
    assert "9 nearest of 8 real images" in capsys.readouterr().err


def test_neighbours_finds_copies(run, tmp_path, capsys):
    """The samples themselves, mixed up, for real images."""
    drawing = ["--truncation", "0.5", "--seed", "4", "--standing_statistics", "1"]
    arrays = tmp_path / "arrays.npz"
    assert main(["sample", str(run), *drawing, "--per_class", "2", "--out", str(arrays)]) == 0
    with np.load(arrays) as file:
        images, labels = file["images"], file["labels"]
    order = np.array([3, 0, 5, 1, 4, 2])
    np.savez(arrays, images=images[order], labels=labels[order])
    capsys.readouterr()
    command = ["neighbours", str(run), *drawing, "--per_class", "2", "--nearest", "1"]
    out = ["--real", str(arrays), "--extractor", "digits", "--out", str(tmp_path / "n.png")]
    assert main([*command, *out]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert "in [-1, 1]) 0, real to real 0." in line
    assert line.endswith("; 6 copies")
    with (tmp_path / "n.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["distance"] for row in rows} == {"0.0"}
    found = [int(row["real"]) for row in rows if row["by"] == "pixels"]
    assert order[found].tolist() == list(range(6))
    assert [row["real"] for row in rows[::2]] == [row["real"] for row in rows[1::2]]


def test_bench_compares_two_configs_in_one_run(given, capsys, monkeypatch):
    monkeypatch.setattr("biggan_sn.progress.LINES_EVERY", 0)
    arguments = ["bench", "--config", str(given), "--rounds", "2", "--steps_per_round", "1"]
    against = "lipschitz.discriminator=[torch_spectral_norm]"
    checked = ["--penalties", "{}", "--check_norms", "true"]
    assert main([*arguments, *checked, "--against", against, "d_steps=1"]) == 0
    printed = capsys.readouterr()
    assert "\n10/10 steps, " in printed.err
    records = [json.loads(line) for line in printed.out.splitlines()]
    assert len(records) == 2
    assert records[0]["speedup"] == 1
    for record in records:
        share = record["control_share"]
        median, most = record["norm_error"]
        assert 0 < median <= most < 0.1
        assert share.pop("all") == pytest.approx(sum(share.values()))
        assert {name for name, part in share.items() if not part > 0} == {"clamp"}, "is off"
        phases = record["breakdown_ms"]
        assert phases.keys() == {
            *("data", "G forward", "D step", "G step", "terms", "Adam", "spectra", "EMA", "other"),
            "communication",
        }
        assert min(spent for name, spent in phases.items() if name != "communication") > 0
        assert record["mfu"] == pytest.approx(
            record["model_flops_per_iter"] / record["sec_per_iter"] / record["peak_flops"]
        )
        assert 0 < record["hfu"] < 1
        assert record["devices"]
        assert record["launches_per_iter"] > 100
    assert records[0]["params_D"] == records[1]["params_D"]
    assert records[1]["images_per_s"] == pytest.approx(4 / records[1]["sec_per_iter"])
    assert records[0]["images_per_s"] == pytest.approx(8 / records[0]["sec_per_iter"])


@pytest.mark.parametrize("mode", ["d", "g", "sample"])
def test_bench_of_a_part_of_a_step(lean, tmp_path, capsys, mode):
    table = tmp_path / "operations.txt"
    arguments = ["bench", "--config", str(lean), "--mode", mode, "--rounds", "1"]
    assert main([*arguments, "--steps_per_round", "1", "--profile", str(table)]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["mode"] == mode
    assert "aten::" in table.read_text()
    assert record["images_per_s"] == pytest.approx(4 / record["sec_per_iter"])
    assert record["model_flops_per_iter"] > 0


def test_bench_of_the_side_of_the_weights(lean, capsys):
    arguments = ["bench", "--config", str(lean), "--mode", "weights", "--rounds", "1"]
    assert main([*arguments, "--steps_per_round", "1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["model_flops_per_iter"] == 0, "no pass through a network"
    assert {"Adam", "spectra", "EMA", "terms"} < record["breakdown_ms"].keys()
    assert not {"G forward", "D step", "data"} & record["breakdown_ms"].keys()


def test_bench_finds_forms_that_a_run_takes(lean, tmp_path, capsys):
    table = tmp_path / "forms.json"
    arguments = ["bench", "--config", str(lean)]
    layers = ["--mode", "layers", "--rounds", "1", "--table", str(table)]
    assert main([*arguments, *layers]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {record["network"] for record in records} == {"generator", "discriminator"}
    for record in records:
        assert record["fastest"] == min(record["ms"], key=record["ms"].__getitem__)
    chosen = json.loads(table.read_text())
    assert chosen["generator"].keys() == {
        f"blocks.{block}.{layer}" for block in range(3) for layer in ("conv1", "shortcut")
    }
    assert chosen["discriminator"]["blocks.0.conv2"] in ("plain", "strided")
    chosen["generator"] |= {f"blocks.{block}.conv1": "interleaved" for block in range(3)}
    table.write_text(json.dumps(chosen))
    counting = [*arguments, "--count_only", "--speed.forms", str(table)]
    assert main(counting) == 0
    interleaved = json.loads(capsys.readouterr().out)
    chosen["generator"] |= {f"blocks.{block}.conv1": "plain" for block in range(3)}
    table.write_text(json.dumps(chosen))
    assert main(counting) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["model_flops_per_iter"] == interleaved["model_flops_per_iter"]
    assert plain["hw_flops_per_iter"] > interleaved["hw_flops_per_iter"]
    for wrong, line in (
        ('{"generator": {"blocks.9.conv1": "plain"}}', "there is no layer 'blocks.9.conv1'"),
        ('{"generator": {"blocks.0.conv1": "plane"}}', "did you mean 'plain'?"),
        ("[1]", "is no table of forms"),
    ):
        table.write_text(wrong)
        assert main(counting) == 2
        assert line in capsys.readouterr().err


def test_bench_counts_and_compares_with_what_was_counted(lean, tmp_path, capsys):
    passes = [f"--{side}.microbatch=4" for side in ("generator", "discriminator")]
    arguments = ["bench", "--config", str(lean), "--count_only", *passes]
    assert main([*arguments, "--json", str(tmp_path / "old.json")]) == 0
    (old,) = json.loads((tmp_path / "old.json").read_text())
    assert json.loads(capsys.readouterr().out) == old
    assert "sec_per_iter" not in old
    twice = [*arguments, "--batch_size", "8", "--compare", str(tmp_path / "old.json")]
    assert main(twice) == 0
    new, compared = map(json.loads, capsys.readouterr().out.splitlines())
    times = compared["times_before"]
    assert times["params_G"] == 1
    assert times["model_flops_per_iter"] == pytest.approx(2)
    assert times["saved_bytes_per_image"] == {"G": pytest.approx(1), "D": pytest.approx(1)}
    assert "mode" not in times
    assert new["model_flops_per_iter"] == 2 * old["model_flops_per_iter"]


def test_bench_prices_the_clamp_where_it_is_on(lean, capsys):
    arguments = ["bench", "--config", str(lean), "--rounds", "1", "--steps_per_round", "1"]
    rows = "[spectral_norm, sigma0_ratio_clamp]"
    assert main([*arguments, "--lipschitz.generator", rows, "--monitor.every", "0"]) == 0
    share = json.loads(capsys.readouterr().out)["control_share"]
    assert share["clamp"] > 0
    assert share["monitor"] == 0


def table_of(text):
    """Layer -> its bounds, from the verb's table."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if " to " in line]
    return {
        row[0]: [tuple(map(float, cell.split(" to "))) for cell in row[2:] if " to " in cell]
        for row in rows
    }


# webdataset leaves a file open that it did not read to its end
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_bench_of_reading(shards, capsys, monkeypatch):
    from biggan_sn.bench import data

    monkeypatch.setattr(data, "BATCH", 8)
    monkeypatch.setattr(data, "IMAGES", 64)
    arguments = ["bench", "--mode", "data", "--rounds", "2", "--images_per_round", "20"]
    arguments += ["--data.resolution", "32"]
    assert main([*arguments, "--data.path", str(shards), "--data.num_classes", "3"]) == 0
    assert main(arguments) == 0
    given, jpeg, raw = map(json.loads, capsys.readouterr().out.splitlines())
    ours, theirs, bare = "biggan_sn", data.PIPELINE, "decoding alone"
    assert [set(record) & {ours, theirs, bare} for record in (given, jpeg, raw)] == [
        {ours, theirs},  # PNG
        {ours, theirs, bare},
        {ours},
    ]
    assert raw["bytes"] == 32 * 32 * 3 > jpeg["bytes"]
    for record in (given, jpeg):
        least, most = record[theirs]["range"]
        assert 0 < least <= record[theirs]["times"] <= most
    assert all(record[ours]["per_core"] > 0 for record in (given, jpeg, raw))
    gc.collect()
    assert main([*arguments[:2], "dta"]) == 2
    assert "did you mean 'data'?" in capsys.readouterr().err


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_spectrum_certifies_every_layer(run, capsys, network):
    assert main(["spectrum", str(run), "--network", network]) == 0
    out = capsys.readouterr().out
    state = load_file(run / "checkpoints" / "latest" / f"{network}.safetensors")
    weights = {
        name.partition(".parametrizations.weight.original")[0]: tensor
        for name, tensor in state.items()
        if name.endswith("weight.original")
    }
    table = table_of(out)
    assert weights.keys() <= table.keys()
    for layer, weight in weights.items():
        (low, high), in_use, *_ = table[layer]
        true = torch.linalg.matrix_norm(weight.flatten(1).double(), 2).item()
        assert low * (1 - 1e-4) <= true <= high * (1 + 1e-4), "five digits are printed"
        assert high / low < 1.01
        assert in_use == pytest.approx((1, 1), abs=1e-3), "spectral norm is on"
    assert ("Lipschitz constant of D" in out) == (network == "discriminator")


def test_spectrum_of_some_layers(run, capsys):
    capsys.readouterr()
    assert main(["spectrum", str(run), "--layers", "blocks.1.*"]) == 0
    assert set(table_of(capsys.readouterr().out)) == {
        f"blocks.1.{name}" for name in ("conv1", "conv2", "shortcut")
    }
    assert main(["spectrum", str(run), "--layers", "block.1"]) == 2
    assert "'block.1'" in capsys.readouterr().err
    assert main(["spectrum", str(run), "--network", "critic"]) == 2
    assert "'critic'" in capsys.readouterr().err


def test_spectrum_draws_runs_side_by_side(run, given, tmp_path, capsys):
    other = tmp_path / "other"
    free = ["--lipschitz.discriminator", "[]", "--steps", "2"]
    assert main(["train", "--config", str(given), "--run_dir", str(other), *free]) == 0
    capsys.readouterr()
    out = tmp_path / "new" / "spectra.png"
    assert main(["spectrum", str(run), str(other), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as picture:
        assert picture.width > 1000
    assert main(["spectrum", str(run), str(run), "--out", str(out)]) == 2
    assert "is there twice" in capsys.readouterr().err
    assert main(["spectrum", str(run), "--layers", "linear", "--out", str(out)]) == 2
    assert "nothing to draw" in capsys.readouterr().err
    wide = tmp_path / "wide"
    more = ["--model.channels", "3", "--model.discriminator_attention", "[]", "--steps", "2"]
    assert main(["train", "--config", str(given), "--run_dir", str(wide), *more]) == 0
    assert main(["spectrum", str(run), str(wide), "--out", str(out)]) == 2
    assert f"{wide}: its layers are not those of {run}" in capsys.readouterr().err


def test_load_generator_from_python(run):
    generator = biggan_sn.load_generator(run)
    images = generator(torch.randn(2, generator.z_dim), torch.tensor([0, 2]))
    assert images.shape == (2, 3, 32, 32)
    assert not images.requires_grad


def test_print_config_shows_everything(given, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", str(given), "--run_dir", "x", "--print_config"])
    assert ended.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["channels"] == 2
    assert shown["discriminator"]["betas"] == [0.0, 0.999]
