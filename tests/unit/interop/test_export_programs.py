"""Programs of torch.export and ONNX: the images of the generator, without this package."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import biggan_sn
from biggan_sn.cli import main
from biggan_sn.interop import programs
from biggan_sn.models.card import CARD_NAME
from tests.unit.interop.runs import CLASSES, MODELS, config_for, make_run

pytest.importorskip("onnxruntime", reason="pip install 'biggan_sn[onnx]'")

FILES = {"torch_export": programs.PROGRAM, "onnx": programs.ONNX}
SIZES = (1, 3, 40)
# Images of either program in a process that has no other library of this project.
SCRIPT = """
import sys
for module in sys.argv[1].split():
    sys.modules[module] = None
import numpy
out, inputs = sys.argv[2:]
stored = numpy.load(inputs)
if out.endswith(".onnx"):
    sys.modules["torch"] = None
    import onnxruntime
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    draw = lambda z, y: session.run(None, {"z": z, "y": y})[0]
else:
    import torch
    torch.set_num_threads(1)
    program = torch.export.load(out).module()
    draw = lambda z, y: program(torch.from_numpy(z), torch.from_numpy(y)).numpy()
for size in map(int, stored["sizes"]):
    gap = abs(draw(stored[f"z{size}"], stored[f"y{size}"]) - stored[f"images{size}"]).max()
    assert gap < 1e-4, (size, gap)
"""
BLOCKED = "biggan_sn jsonargparse yaml safetensors torchvision accelerate deepspeed PIL"


@pytest.fixture
def checkpoint(tmp_path):
    return make_run(tmp_path / "run", config_for("sngan"))


def draw(generator, inputs):
    arrays = {"sizes": np.array(SIZES)}
    for size in SIZES:
        z, y = torch.randn(size, 8), torch.arange(size) % len(CLASSES)
        images = generator(z, y).numpy()
        arrays |= {f"z{size}": z.numpy(), f"y{size}": y.numpy(), f"images{size}": images}
    np.savez(inputs, **arrays)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", FILES)
def test_images_are_those_of_the_generator(name, kind, tmp_path, capsys):
    """With statistics of a truncation where there are any, for any number of images."""
    run, out = tmp_path / "run", tmp_path / "out"
    make_run(run, config_for(kind))
    options = (
        ("--truncations", "0.6", "--standing_statistics", "2") if kind != "virtual_batch" else ()
    )
    assert main(["export", str(run), str(out), "--format", name, *options]) == 0
    assert f"{FILES[name]}: images are up to" in capsys.readouterr().out
    plain = tmp_path / "plain"
    assert main(["export", str(run), str(plain), *options]) == 0
    truncation = 0.6 if options else None
    torch.manual_seed(0)
    generator = biggan_sn.load_generator(plain, truncation=truncation)
    draw(generator, tmp_path / "inputs.npz")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, BLOCKED, str(out / FILES[name]), tmp_path / "inputs.npz"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if options:
        z, y = torch.randn(2, 8), torch.tensor([0, 1])
        gap = (generator(z, y) - biggan_sn.load_generator(run)(z, y)).abs().max()
        assert gap > 1e-2, "other statistics would show"
    assert str(biggan_sn.__path__[0]).encode() not in (out / FILES[name]).read_bytes()


def test_the_card_of_a_program(checkpoint, tmp_path):
    out = tmp_path / "out"
    assert main(["export", str(checkpoint), str(out), "--format", "torch_export"]) == 0
    card = json.loads((out / CARD_NAME).read_text())
    assert (card["format"], list(card["files"])) == ("torch_export", [programs.PROGRAM])
    assert (card["inputs"], card["images"]) == ({"z": ["N", 8], "y": ["N"]}, ["N", 3, 32, 32])
    with pytest.raises(ValueError, match="an export as torch_export, which other programs read"):
        biggan_sn.load_generator(out)


def test_a_program_that_differs_does_not_stay(checkpoint, tmp_path, monkeypatch, capsys):
    """Another generator than the one that is compared with."""
    trace = programs._trace

    def other(generator):
        changed = biggan_sn.load_generator(checkpoint)
        changed.conv.bias += 1e-3
        return trace(changed)

    monkeypatch.setattr(programs, "_trace", other)
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(checkpoint), str(tmp_path / "o"), "--format", "torch_export"]) == 2
    said = capsys.readouterr().err
    assert "generator.pt2: its images are up to 1.0e-03 from the generator's" in said
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
