"""Programs of torch.export and ONNX: the images of the generator, without this package."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import biggan_sn
from biggan_sn.cli import main
from biggan_sn.evaluation.sampling import Sampling, renew_statistics
from biggan_sn.interop import programs
from biggan_sn.models.card import CARD_NAME
from biggan_sn.models.latent import Latents
from tests.unit.interop.runs import CLASSES, MODELS, config_for, make_run

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'biggan_sn[onnx]'")

CLOSE = 1e-4
SIZES = (1, 3, 40)
STANDING = Sampling(0, 0.6, "resample", 2)
OPTIONS = ("--truncations", "0.6", "--standing_statistics", "2")
SAVED = {"torch_export": programs.PROGRAM, "onnx": programs.ONNX}


def open_program(path):
    program = torch.export.load(str(path)).module()
    return lambda z, y: program(z, y).numpy()


def open_onnx(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda z, y: session.run(None, {"z": z.numpy(), "y": y.numpy()})[0]


OPEN = {"torch_export": open_program, "onnx": open_onnx}


def inputs(size):
    latents = Latents(9, 8, len(CLASSES), "inputs")
    return latents.z(range(size), STANDING.truncation), latents.y(range(size))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run of a kind and its export in a format; each is made once."""
    made = {}

    def export(name, kind):
        if (name, kind) not in made:
            folder = tmp_path_factory.mktemp(f"{name}_{kind}")
            make_run(folder / "run", config_for(kind))
            options = OPTIONS if kind != "virtual_batch" else ()
            arguments = (str(folder / "run"), str(folder / "out"), "--format", name, *options)
            assert main(["export", *arguments]) == 0
            made[name, kind] = folder / "run", folder / "out"
        return made[name, kind]

    return export


@pytest.fixture
def checkpoint(tmp_path):
    return make_run(tmp_path / "run", config_for("sngan"))


# ONNX takes long, and these have every kind of layer between them.
PROGRAMS = [("torch_export", kind) for kind in MODELS]
PROGRAMS += [("onnx", kind) for kind in ("biggan", "biggan_deep", "virtual_batch")]


@pytest.mark.parametrize(("name", "kind"), PROGRAMS)
def test_images_are_those_of_the_generator(name, kind, exported):
    """For any number of them, and with the statistics of a truncation where there are any."""
    run, out = exported(name, kind)
    trained, generator = biggan_sn.load_generator(run), biggan_sn.load_generator(run)
    tracks = kind != "virtual_batch"
    renew_statistics(generator, STANDING)
    draw = OPEN[name](out / SAVED[name])
    for size in SIZES:
        z, y = inputs(size)
        images = draw(z, y)
        assert abs(images - generator(z, y).numpy()).max() < CLOSE
        others = abs(images - trained(z, y).numpy()).max()
        assert (others > 100 * CLOSE) == tracks, "other statistics would show"
    assert len(np.unique(images.round(3), axis=0)) == max(SIZES), "each its own"
    here = str(biggan_sn.__path__[0])
    assert here.encode() not in (out / SAVED[name]).read_bytes(), "nobody learns where it was made"


# In a process that has neither this package nor what it depends on.
SCRIPT = """
import sys
for module in sys.argv[1].split():
    sys.modules[module] = None
import numpy
stored = numpy.load(sys.argv[3])
z, y = stored["z"], stored["y"]
if sys.argv[2].endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
    images = session.run(None, {"z": z, "y": y})[0]
else:
    import torch
    program = torch.export.load(sys.argv[2]).module()
    images = program(torch.from_numpy(z), torch.from_numpy(y)).numpy()
assert abs(images - stored["images"]).max() < 1e-4
"""
BLOCKED = {
    "torch_export": "biggan_sn jsonargparse yaml safetensors torchvision accelerate deepspeed PIL",
    "onnx": "biggan_sn torch onnx onnxscript safetensors PIL",
}


@pytest.mark.parametrize("name", SAVED)
def test_a_program_needs_nothing_of_ours(name, exported, tmp_path):
    run, out = exported(name, "virtual_batch")
    z, y = inputs(5)
    images = biggan_sn.load_generator(run)(z, y)
    np.savez(tmp_path / "x.npz", z=z.numpy(), y=y.numpy(), images=images.numpy())
    arguments = (BLOCKED[name], str(out / SAVED[name]), str(tmp_path / "x.npz"))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    card = json.loads((out / CARD_NAME).read_text())
    assert (card["format"], list(card["files"])) == (name, [SAVED[name]])
    assert (card["inputs"], card["images"]) == ({"z": ["N", 8], "y": ["N"]}, ["N", 3, 32, 32])
    with pytest.raises(ValueError, match=f"an export as {name}, which other programs read"):
        biggan_sn.load_generator(out)


def test_a_program_that_differs_does_not_stay(checkpoint, tmp_path, monkeypatch, capsys):
    """One of another generator than it is compared with."""
    trace = programs._trace

    def of_another(generator):
        changed = biggan_sn.load_generator(checkpoint)
        changed.conv.bias += 1e-2
        return trace(changed)

    monkeypatch.setattr(programs, "_trace", of_another)
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(checkpoint), str(tmp_path / "o"), "--format", "torch_export"]) == 2
    said = capsys.readouterr().err
    assert "generator.pt2: its images are up to 1.0e-02 from the generator's" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_program_has_one_truncation(checkpoint, tmp_path, capsys):
    options = ("--format", "onnx", "--truncations", "0.5", "1")
    assert main(["export", str(checkpoint), str(tmp_path / "out"), *options]) == 2
    assert "holds the statistics of 1 at most, got 2" in capsys.readouterr().err


def test_a_library_is_missing(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(checkpoint), str(tmp_path / "out"), "--format", "onnx"]) == 2
    said = capsys.readouterr().err
    assert "--format onnx needs onnxruntime: pip install 'biggan_sn[onnx]'" in said
    assert len(said.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
