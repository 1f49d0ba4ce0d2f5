"""Sources that are not what they should be: one line that names the file and what is wrong."""

import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch

from biggan_sn.checkpoint import Checkpoints
from biggan_sn.cli import main
from biggan_sn.config import Config
from biggan_sn.interop.formats import FORMATS
from biggan_sn.interop.importing import prepare
from biggan_sn.interop.understanding import Options
from tests.reference import peers
from tests.unit.interop.leaving import (
    biggan_pytorch,
    mmgeneration,
    pretrained_biggan,
    studiogan,
)


class Hostile:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return biggan_pytorch(peers.Recorded("biggan_pytorch_32"), folder)


@pytest.fixture
def source(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "source")


@pytest.fixture
def refused(tmp_path, source, capsys):
    """Imports what is there, in vain; gives the line that says why. It takes the verb, or what that
    calls, which answers sooner."""

    def refused_(of=source, form="biggan_pytorch", whole=False, truncation=1.0):
        before = sorted(tmp_path.rglob("*"))
        if whole:
            arguments = ("--format", form, str(of), str(tmp_path / "run"))
            assert main(["import", *arguments]) == 2
            printed = capsys.readouterr()
            assert printed.out == ""
            assert printed.err.startswith("biggan-sn: error: ")
            said = printed.err.strip()
        else:
            with pytest.raises(ValueError, match=r".") as caught:
                prepare(form, of, Config(batch_size=4), Options(truncation=truncation))
            said = str(caught.value)
        assert len(said.splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before, "it left nothing"
        return said

    return refused_


@pytest.mark.parametrize("name", ["G.pth", "G_ema.pth", "D.pth", "G_optim.pth"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_that_runs_something(name, legacy, source, refused, tmp_path):
    trace = tmp_path / "it ran"
    content = {"linear.weight": torch.ones(2), "more": Hostile(trace)}
    torch.save(content, source / name, _use_new_zipfile_serialization=not legacy)
    said = refused(whole=name == "G.pth")
    assert f"{source / name}: refused: its pickle asks for {os.name}.system" in said
    assert not trace.exists()


def test_a_plain_pickle_that_runs_something(source, refused, tmp_path):
    (source / "G.pth").write_bytes(pickle.dumps(Hostile(tmp_path / "it ran"), protocol=2))
    assert str(source / "G.pth") in refused()
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nothing", b"\x80\x02.", bytes(range(256))])
def test_not_a_file_of_weights(content, source, refused):
    (source / "D.pth").write_bytes(content)
    assert f"{source / 'D.pth'}: not a file of torch.save" in refused()


def test_state_dict_is_never_opened(source, tmp_path, capsys):
    (source / "state_dict.pth").write_bytes(pickle.dumps(Hostile(tmp_path / "it ran")))
    (source / "D.pth").unlink()
    arguments = ("--format", "biggan_pytorch", str(source), str(tmp_path / "run"))
    assert main(["import", *arguments]) == 0
    assert not (tmp_path / "it ran").exists()


def change(path, **tensors):
    content = torch.load(path)
    for name, tensor in tensors.items():
        if tensor is None:
            del content[name]
        else:
            content[name] = tensor
    torch.save(content, path)


NAN = torch.full((128,), float("nan"))
WRONG = {
    "a missing weight": ("G.pth", {"blocks.1.0.conv2.weight": None}, "blocks.1.0.conv2.weight"),
    "a missing bias": ("D.pth", {"blocks.2.0.conv1.bias": None}, "'blocks.2.0.conv1.bias'"),
    "a missing u": ("D.pth", {"embed.u0": None}, "'embed.u0'"),
    "a missing statistic": (
        "G_ema.pth",
        {"blocks.0.0.bn2.stored_var": None},
        "lacks 'blocks.0.0.bn2.stored_var'",
    ),
    "a missing first layer": ("G.pth", {"linear.weight": None}, "linear.weight"),
    "a name of something else": ("G.pth", {"extra.weight": torch.ones(3)}, "'extra.weight'"),
    "a layer too many": (
        "D.pth",
        {"blocks.2.0.conv_sc.bias": torch.ones(16)},
        "'blocks.2.0.conv_sc.bias' has no place",
    ),
    "a wrong shape": (
        "G.pth",
        {"blocks.1.0.conv1.bias": torch.ones(7)},
        "'blocks.1.0.conv1.bias' comes as [7], and by the shapes of the others it must be [32]",
    ),
    "a wrong kernel": (
        "D.pth",
        {"blocks.1.0.conv1.weight": torch.ones(16, 16, 5, 5)},
        "D.pth",
    ),
    "a layer that fits no other": (
        "G.pth",
        {"blocks.1.0.conv2.weight": torch.ones(30, 30, 3, 3)},
        "'blocks.1.0.conv1.weight' comes as [32, 32, 3, 3], and by",
    ),
    "widths of no D here": (
        "D.pth",
        {
            "blocks.1.0.conv2.weight": torch.ones(20, 20, 3, 3),
            "blocks.1.0.conv2.u0": torch.ones(20),
        },
        "16 20 16 16 channels",
    ),
    "not finite": ("G_ema.pth", {"linear.bias": NAN}, "'linear.bias' has values that are not"),
    "not a tensor": ("G.pth", {"linear.bias": [1, 2]}, "'linear.bias' is no tensor"),
    "another number of classes": (
        "D.pth",
        {"embed.weight": torch.ones(9, 16), "embed.u0": torch.ones(1, 9)},
        "judges 9 classes at 32 pixels",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_tensors_that_do_not_fit(case, source, refused):
    file, tensors, named = WRONG[case]
    change(source / file, **tensors)
    said = refused()
    assert str(source / file) in said
    assert named in said


def test_an_optimizer_of_another_network(source, refused):
    shutil.copy(source / "D_optim.pth", source / "G_optim.pth")
    assert "G_optim.pth: moves " in refused()
    torch.save({"state": {}, "param_groups": [{"params": [0]}]}, source / "G_optim.pth")
    assert "G_optim.pth: not the state of an Adam" in refused()
    torch.save([1], source / "G_optim.pth")
    assert "G_optim.pth: has no 'param_groups'" in refused()


def test_a_moment_of_another_shape(source, refused):
    state = torch.load(source / "G_optim.pth")
    state["state"][3]["exp_avg"] = torch.ones(2, 2)
    torch.save(state, source / "G_optim.pth")
    assert "exp_avg of " in refused()


def test_nothing_there(refused, tmp_path):
    assert f"{tmp_path / 'nothing'}: holds neither" in refused(of=tmp_path / "nothing")


def test_a_format_that_is_none(refused):
    assert "did you mean 'biggan_pytorch'?" in refused(form="biggan_pytorhc", whole=True)


def test_a_folder_with_a_run(refused, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("steps: 1\n")
    assert f"{tmp_path / 'run'}: holds a run" in refused(whole=True)


@pytest.fixture
def left(tmp_path):
    """A folder with what a program left."""

    def left_(leave, name, *options):
        folder = tmp_path / name
        folder.mkdir()
        return leave(peers.Recorded(name), folder, *options)

    return left_


def test_statistics_of_a_truncation_that_is_not_there(left, refused):
    source = left(pretrained_biggan, "pretrained_biggan_128")
    said = refused(of=source, form="pretrained_biggan", truncation=0.51)
    assert "--truncation 0.51: there are statistics for multiples of 0.02" in said


def test_several_copies_in_one_folder(left, refused):
    source = left(studiogan, "studiogan_32")
    for path in list(source.iterdir()):
        shutil.copy(path, source / path.name.replace("current", "best"))
    said = refused(of=source, form="studiogan")
    assert "best-weights-step=1234 and current-weights-step=1234; name one" in said
    one = next(source.glob("model=G-best*"))
    assert prepare("studiogan", one, Config(batch_size=4), Options()).step == peers.STEPS


def test_numbers_of_numpy_open_no_door(left, refused, tmp_path):
    source = left(studiogan, "studiogan_32")
    path = next(source.glob("model=D-*"))
    content = torch.load(next(source.glob("model=G-*")))
    for best in (
        np.array([Hostile(tmp_path / "it ran")], dtype=object),
        Hostile(tmp_path / "it ran"),
    ):
        torch.save(content | {"best_fid": best}, path)
        assert f"{path}: refused: its pickle asks for" in refused(of=source, form="studiogan")
        assert not (tmp_path / "it ran").exists()


def test_a_network_of_no_known_part(left, refused):
    path = left(mmgeneration, "mmgeneration_64")
    content = torch.load(path)
    content["state_dict"]["encoder.weight"] = torch.ones(2, 2)
    torch.save(content, path)
    assert "'encoder.weight' is of none of generator." in refused(of=path, form="mmgeneration")


@pytest.mark.parametrize("there", [False, True])
def test_an_import_that_is_stopped_leaves_nothing(source, tmp_path, monkeypatch, capsys, there):
    run = tmp_path / "run"
    if there:
        run.mkdir()
        (run / "notes.txt").write_text("mine")
    saved = []
    save = Checkpoints.save

    def stopped(*arguments):
        saved.append(save(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stopped)
    options = ("--format", "biggan_pytorch", "--batch_size", "4")
    assert main(["import", str(source), str(run), *options]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert len(saved) == 1
    assert [path.name for path in run.glob("*")] == ["notes.txt"] * there
    assert run.exists() == there
    monkeypatch.undo()
    assert main(["import", str(source), str(run), *options]) == 0


def test_help_names_every_format(capsys):
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    assert set(re.findall(r"\w+", capsys.readouterr().out)) >= FORMATS.keys()
