"""An export as safetensors: the generator of the run, to the last bit, with less around it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import biggan_sn
from biggan_sn.checkpoint import CARD_NAME, CheckpointError, find, fingerprint, load_tensors
from biggan_sn.cli import main
from biggan_sn.evaluation.sampling import Sampling, renew_statistics
from biggan_sn.interop import exporting
from biggan_sn.interop.formats import EXPORTS, Export
from biggan_sn.models.loading import TENSORS
from biggan_sn.models.plan import SMALLEST
from tests.unit.interop.runs import CLASSES, STEP, config_for, make_run

PASSES = 3
OPTIONS = ("--truncations", "0.5", "1.5", "--standing_statistics", str(PASSES), "--seed", "4")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run and its export, by kind; each is made once."""
    made = {}

    def make(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            make_run(folder / "run", config_for(kind))
            options = OPTIONS if kind != "virtual_batch" else ()
            arguments = (str(folder / "run"), str(folder / "out"), *options)
            assert main(["export", *arguments, "--licence", "CC-BY-4.0"]) == 0
            made[kind] = folder / "run", folder / "out"
        return made[kind]

    return make


@pytest.fixture
def out(runs, tmp_path):
    """A copy of an export, to damage."""
    return shutil.copytree(runs("biggan")[1], tmp_path / "export")


def inputs(images=5, seed=0):
    make = torch.Generator().manual_seed(seed)
    return torch.randn(images, 8, generator=make), torch.arange(images) % len(CLASSES)


# ------------------------------------------------------------------------------- the same generator

SCRIPT = """
import sys
blocked, places, images = sys.argv[1].split(), sys.argv[2].split(), sys.argv[3]
for module in blocked:
    sys.modules[module] = None
import numpy, torch
torch.set_num_threads(1)
import biggan_sn
stored = numpy.load(images)
z, y = torch.from_numpy(stored["z"]), torch.from_numpy(stored["y"])
for number, place in enumerate(places):
    made = biggan_sn.load_generator(place)(z, y)
    assert numpy.array_equal(made.numpy(), stored[str(number // 2)]), place
halved = biggan_sn.load_generator(places[-1], truncation=0.5)(z, y)
assert numpy.array_equal(halved.numpy(), stored["halved"])
"""
CALLED = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}
NEEDED = {"torch", "numpy", "safetensors"}


def dependencies():
    """The modules of all that the package depends on."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    names = {re.split(r"[\[<>=; ]", line)[0] for line in [*project["dependencies"], *extras]}
    assert names >= {"jsonargparse", "accelerate", "torchvision", "pyyaml", "onnx"} | NEEDED
    return {CALLED.get(name, name).replace("-", "_") for name in names - {"biggan_sn"}} - NEEDED


def test_runs_checkpoints_and_exports_draw_alike_with_three_libraries(runs, tmp_path):
    z, y = inputs()
    places = []
    images = {"z": z.numpy(), "y": y.numpy()}
    for number, kind in enumerate(("biggan_deep", "virtual_batch", "biggan")):
        run, out = runs(kind)
        places += [run, out]
        images[str(number)] = biggan_sn.load_generator(find(run))(z, y).numpy()
        assert images[str(number)].std() > 0.1, "a picture in which errors show"
    halved = biggan_sn.load_generator(places[-1], truncation=0.5)(z, y).numpy()
    assert not np.array_equal(halved, images[str(number)])
    np.savez(tmp_path / "images.npz", **images, halved=halved)
    arguments = (" ".join(sorted(dependencies())), " ".join(map(str, places)))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments, str(tmp_path / "images.npz")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_sigma_is_divided_in(runs):
    tensors = load_file(runs("biggan")[1] / TENSORS)
    assert not any("parametrizations" in name or name.endswith(".u") for name in tensors)
    for name in ("linear.weight", "blocks.0.conv1.weight", "blocks.1.norm2.gain.weight"):
        norm = torch.linalg.matrix_norm(tensors[name].flatten(1), 2)
        assert norm.item() == pytest.approx(1.0, abs=1e-4), name


@pytest.mark.parametrize("rows", [(), ("weight_norm",)])
def test_whatever_was_put_on_the_weights(rows, tmp_path):
    checkpoint = make_run(tmp_path / "run", config_for(rows=rows))
    out = tmp_path / "exports" / "mine"  # neither is there
    assert main(["export", str(checkpoint), str(out)]) == 0
    z, y = inputs()
    images = [biggan_sn.load_generator(p)(z, y) for p in (checkpoint, out)]
    assert torch.equal(*images)
    raw = load_tensors(checkpoint, "ema")
    exported = load_file(out / TENSORS)
    assert torch.equal(exported["shared.weight"], raw["shared.weight"])
    assert exported["linear.weight"].shape == (8 * SMALLEST**2, 2)


# --------------------------------------------------------------------------- standing statistics


def test_statistics_are_those_of_their_truncation(runs):
    run, out = runs("biggan")
    z, y = inputs()
    for truncation in (0.5, 1.5):
        renewed = biggan_sn.load_generator(run)
        renew_statistics(renewed, Sampling(4, truncation, "resample", PASSES))
        taken = biggan_sn.load_generator(out, truncation=truncation)
        assert torch.equal(renewed(z, y), taken(z, y))
    assert torch.equal(biggan_sn.load_generator(out)(z, y), biggan_sn.load_generator(run)(z, y))


def test_samples_of_an_export_are_those_of_the_run(runs, tmp_path):
    run, out = runs("biggan")
    draw = ("--seed", "4", "--truncation", "0.5", "--per_class", "2")
    renew = ("--standing_statistics", str(PASSES))
    for source, name, more in ((run, "run", renew), (out, "out", ()), (run, "as trained", ())):
        arguments = (str(source), "--out", str(tmp_path / f"{name}.npz"), *draw, *more)
        assert main(["sample", *arguments]) == 0
    images = {p.stem: np.load(p)["images"] for p in tmp_path.glob("*.npz")}
    assert np.array_equal(images["run"], images["out"])
    assert not np.array_equal(images["as trained"], images["out"])


@pytest.mark.parametrize("options", [{"truncation": 0.4}, {"truncation": 0.5, "mode": "scale"}])
def test_no_such_statistics(options, runs):
    for place in runs("biggan"):
        with pytest.raises(CheckpointError, match=f"{place}: no statistics for the truncation 0"):
            biggan_sn.load_generator(place, **options)


def test_a_generator_without_statistics(runs, tmp_path, capsys):
    run, _ = runs("virtual_batch")
    assert main(["export", str(run), str(tmp_path / "out"), *OPTIONS]) == 2
    assert "no norms with statistics" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------- the card


def test_whoever_may_read_the_card_may_read_the_tensors(out):
    card, tensors = ((out / name).stat().st_mode for name in (CARD_NAME, TENSORS))
    assert tensors == card


def test_the_card_says_what_it_is(runs):
    _, out = runs("biggan")

    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    card = json.loads((out / CARD_NAME).read_text(), parse_constant=no_constant)
    assert card["classes"] == list(CLASSES)
    assert (card["format"], card["step"], card["licence"]) == ("safetensors", STEP, "CC-BY-4.0")
    assert card["metrics"] == {"fid": 8.5, "kid": None}
    assert card["config"]["data"] == {"resolution": 32, "num_classes": 3}
    assert card["config"]["model"]["shared_dim"] == 5
    assert card["package"] == f"biggan_sn {biggan_sn.__version__}"
    assert card["files"] == {TENSORS: fingerprint(out / TENSORS)}
    assert [each["truncation"] for each in card["statistics"]] == [0.5, 1.5]
    tensors = load_file(out / TENSORS)
    for each in card["statistics"]:
        assert f"{each['prefix']}norm.running_var" in tensors
    assert {path.name for path in out.iterdir()} == {TENSORS, CARD_NAME}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "card version 2, this package reads 1"),
        ({"version": None}, "card version None"),
        ({"classes": ["cat"]}, "1 names of 3 classes"),
        ({"classes": None}, "not a card"),
        ({"config": {"model": {"transformer": True}}}, "transformer"),
        ({"config": {"data": {"num_classes": 3}, "model": {"name": "bigan"}}}, "'biggan'"),
        ({"config": {"data": {"num_classes": 3}, "model": {"channels": "x"}}}, "not a card"),
        ({"config": []}, "not a card"),
        ({"statistics": [{"truncation": "much"}]}, "not a card"),
        ({"statistics": [3]}, "not a card"),
        ({"files": 3}, "not a card"),
        ({"metrics": 3}, "not a card"),
    ],
)
def test_a_damaged_card(change, says, out, tmp_path, capsys):
    card = json.loads((out / CARD_NAME).read_text())
    (out / CARD_NAME).write_text(json.dumps(card | change))
    with pytest.raises(CheckpointError, match=re.escape(f"{out / CARD_NAME}: ")) as caught:
        biggan_sn.load_generator(out)
    assert says in str(caught.value)
    assert main(["sample", str(out), "--out", str(tmp_path / "x.png")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"{}", b"\xff\xfe", b"[" * 100000])
def test_no_card_at_all(text, out):
    (out / CARD_NAME).write_bytes(text)
    with pytest.raises(CheckpointError, match=re.escape(f"{out / CARD_NAME}: cannot be read")):
        biggan_sn.load_generator(out)


def test_damaged_tensors(out):
    path = out / TENSORS
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"not as it was written \(SHA-256\); export it"):
        biggan_sn.load_generator(out)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{TENSORS}: cannot be read"):
        biggan_sn.load_generator(out)


def test_tensors_of_another_network(out):
    tensors = load_file(out / TENSORS)
    tensors.pop("linear.bias")
    save_file(tensors, out / TENSORS)
    card = json.loads((out / CARD_NAME).read_text())
    card["files"][TENSORS] = fingerprint(out / TENSORS)
    (out / CARD_NAME).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"not of this network: .*linear\.bias"):
        biggan_sn.load_generator(out)


# ------------------------------------------------------------------------------- what else is done


def test_rows_of_images_between_classes(runs, tmp_path):
    arguments = ("--out", str(tmp_path / "x.png"), "--steps", "3")
    assert main(["interpolate", str(runs("biggan")[1]), *arguments]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("sweep", "{out}", "--out", "{here}/sweep"),
        ("evaluate", "{out}"),
        ("spectrum", "{out}"),
        ("export", "{out}", "{here}/again"),
    ],
)
def test_verbs_that_need_more(arguments, runs, tmp_path, capsys):
    out = runs("biggan")[1]
    filled = [word.format(out=out, here=tmp_path) for word in arguments]
    assert main(filled) == 2
    assert f"{out}: an export" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_neighbours_among_images_that_are_named(runs, tmp_path):
    random = np.random.default_rng(0)
    real = random.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "real.npz", images=real)
    arguments = ("--out", str(tmp_path / "x.png"), "--extractor", "digits", "--truncation", "0.5")
    more = ("--real", str(tmp_path / "real.npz"))
    assert main(["neighbours", str(runs("biggan")[1]), *arguments, *more]) == 0
    assert (tmp_path / "x.csv").exists()


def test_neighbours_among_images_that_nobody_named(runs, tmp_path, capsys):
    arguments = ("--out", str(tmp_path / "x.png"), "--extractor", "digits")
    assert main(["neighbours", str(runs("biggan")[1]), *arguments]) == 2
    assert "data.path" in capsys.readouterr().err


def test_it_is_there_whole_or_not_at_all(runs, tmp_path, monkeypatch):
    def fail(contents, folder):
        (folder / "half").write_bytes(b"half")
        raise ValueError("the disk is full")

    monkeypatch.setitem(EXPORTS, "half", Export(fail))
    checkpoint = find(runs("biggan")[0])
    with pytest.raises(ValueError, match="the disk is full"):
        exporting.export("half", checkpoint, tmp_path / "out", exporting.Options())
    assert not any(tmp_path.iterdir())


def test_an_empty_folder_is_filled_and_another_is_left(runs, tmp_path, capsys):
    run = str(runs("sngan")[0])
    (tmp_path / "empty").mkdir()
    assert main(["export", run, str(tmp_path / "empty")]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "empty").iterdir()}
    assert main(["export", run, str(tmp_path / "empty"), "--licence", "MIT"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "empty").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
