"""The commands: from folders of images to shards, their index and what describes them."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from biggan_sn.data.digits import load_digits, stack_digits
from biggan_sn.data.shards import ShardError, load_index
from biggan_sn.positions import permutation
from data_tools.make_shards import SOURCES, main, write_shards
from data_tools.sources import find_images
from tests.unit.data_tools.making import (
    CLASSES,
    SIDE,
    files,
    make,
    pixels_of,
    plain,
    refused,
    run,
    stored,
)

WHOLE = ["dataset.json", "index.npz", "report.json"]


def made(tree, out, *options):
    assert make("folder", tree, out, *options) == 0
    return load_index(out)


def pictures(out):
    """All images uint8 [N, 32, 32, 3], in the shards' order."""
    return np.stack([pixels_of(sample) for sample in stored(out)])


# ---------------------------------------------------------------------------------------- folder


@pytest.mark.parametrize("form", ["jpg", "png"])
def test_folder_becomes_shards(tree, tmp_path, capsys, form):
    index = made(tree, tmp_path / "out", "--per_shard", "6", "--format", form)
    line = "15 images of 3 classes (4 to 6 each) in 3 shards"
    assert line in capsys.readouterr().out
    assert files(tmp_path / "out") == ["000000.tar", "000001.tar", "000002.tar", *WHOLE]
    assert index.classes == CLASSES
    assert np.bincount(index.shard).tolist() == [5, 5, 5]
    assert np.bincount(index.label).tolist() == [4, 5, 6]
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        assert {name.split(".")[1] for name in tar.getnames()} == {form, "cls"}
    colors = pictures(tmp_path / "out").mean((1, 2))
    assert abs(colors[:, 0] - 100 * index.label).max() < 3  # every image with its own label
    found = sorted((label, round(green / 40)) for label, green in zip(index.label, colors[:, 1],
                                                                      strict=True))  # fmt: skip
    assert found == [(label, number) for label in range(3) for number in range(4 + label)]


def test_images_are_mixed_over_the_shards(tree, tmp_path):
    # In the order of the folders the first shard would hold one class.
    index = made(tree, tmp_path / "out")
    assert (np.diff(index.label) < 0).any()
    expected = np.repeat([0, 1, 2], [4, 5, 6])[permutation(0, "shards", 15)]
    assert index.label.tolist() == expected.tolist()


def test_the_same_images_give_the_same_bytes(tree, tmp_path):
    made(tree, tmp_path / "one", "--per_shard", "6")
    copied = tmp_path / "copy"
    shutil.copytree(tree, copied)
    for path in copied.rglob("*"):
        path.touch()  # another time, another place
    made(copied, tmp_path / "two", "--per_shard", "6")
    for name in ("000000.tar", "000001.tar", "000002.tar"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert load_index(tmp_path / "one").fingerprint == load_index(tmp_path / "two").fingerprint


# ---------------------------------------------------------------------------------- wrong folders


def test_no_folder(tmp_path, capsys):
    out = tmp_path / "out"
    refused(capsys, f"{tmp_path}/nowhere: no such folder",
            "folder", tmp_path / "nowhere", out, "--resolution", SIDE)  # fmt: skip
    assert not out.exists()


def test_one_class(tree, tmp_path, capsys):
    out = tmp_path / "out"
    refused(capsys, f"{tree}/ant: .*more.*one level off", "folder", tree / "ant", out,
            "--resolution", SIDE)  # fmt: skip
    assert not out.exists()


def test_images_without_classes(tree, tmp_path, capsys):
    refused(capsys, f"{tree}/bee/more: .*no folder", "folder", tree / "bee" / "more",
            tmp_path / "out", "--resolution", SIDE)  # fmt: skip


def test_empty_class(tree, tmp_path, capsys):
    (tree / "dog").mkdir()
    (tree / "dog" / "notes.txt").write_text("no image")
    refused(capsys, f"{tree}/dog: no images", "folder", tree, tmp_path / "out",
            "--resolution", SIDE)  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_no_shard_has_its_name_before_all_are_written(tmp_path):
    # For a kill cannot be tidied up after.
    out = tmp_path / "out"

    def samples():
        for number in range(6):
            assert [name for name in files(out) if not name.endswith(".tmp")] == []
            yield b"image", "png", number % 2

    out.mkdir()
    for name in ("000000.tar.tmp", "000009.tar.tmp"):  # a killed run left these
        (out / name).write_bytes(b"half")
    write_shards(samples(), 6, out, 2, ("a", "b"))
    assert files(out) == ["000000.tar", "000001.tar", "000002.tar", *WHOLE[:2]]


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def samples():
        yield b"image", "png", 0
        yield b"image", "png", 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(samples(), 9, tmp_path / "out", 1, ("a", "b"))
    assert files(tmp_path / "out") == []


def test_shards_are_not_overwritten(tree, tmp_path, capsys):
    out = tmp_path / "out"
    made(tree, out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    refused(capsys, f"{out}: 1 shards are there already", "folder", tree, out, "--resolution", SIDE)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_out_is_a_file(tree, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    refused(capsys, f"{tmp_path}/out", "folder", tree, tmp_path / "out", "--resolution", SIDE)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(("option", "value"), [
    ("--quality", 0), ("--quality", 101), ("--per_shard", 0), ("--processes", 0),
    ("--damaged_share", -0.1), ("--damaged_share", 1.1), ("--damaged_share", "nan"),
])  # fmt: skip
def test_wrong_numbers(tree, tmp_path, capsys, option, value):
    refused(capsys, f"{option} must be .*got {value}", "folder", tree, tmp_path / "out",
            "--resolution", SIDE, option, value)  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_terminated_before_the_first_image(tree, tmp_path, capsys, monkeypatch):
    def open_slowly(path):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("data_tools.make_shards.open_folder", open_slowly)
    assert make("folder", tree, tmp_path / "out") == 130
    assert capsys.readouterr().err == "make_shards: stopped; the same command goes on\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["folder", "a", "b"], "--resolution"),
        (["folder", "a", "b", "--resolution", "100"], "100"),
        (["tiles", "a"], "tiles"),
        ([], "COMMAND"),
    ],
)
def test_wrong_command_lines(capsys, arguments, named):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


# ------------------------------------------------------------------------------- digits and index


def test_stacked_digits(tmp_path, capsys):
    assert run("stacked_digits", tmp_path / "out", "--images", "12", "--per_shard", "5") == 0
    index = load_index(tmp_path / "out")
    assert index.classes == ("stacked digits",) and index.label.tolist() == [0] * 12
    np.testing.assert_array_equal(
        pictures(tmp_path / "out"), stack_digits(load_digits()[0], 12).images
    )
    about = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert about["source"] == "stacked_digits" and len(about["shards"]) == 3


def test_no_stacked_digits(tmp_path, capsys):
    assert run("stacked_digits", tmp_path / "out", "--images", "0") == 2
    assert "--images" in capsys.readouterr().err


def test_digits(tmp_path, capsys):
    assert run("digits", tmp_path / "digits") == 0
    printed = capsys.readouterr().out
    assert "1400 images of 10 classes" in printed and "397 images of 10 classes" in printed
    for name, digits in zip(("train", "heldout"), load_digits(), strict=True):
        index = load_index(tmp_path / "digits" / name)
        assert len(index) == {"train": 1400, "heldout": 397}[name]
        assert index.classes == tuple("0123456789")
        assert index.label.tolist() == digits.labels.tolist()
        if name == "heldout":
            out = tmp_path / "digits" / name
            np.testing.assert_array_equal(pictures(out), digits.images)
            about = json.loads((out / "dataset.json").read_text())
            assert about["source"] == "digits" and about["resolution"] == 32
            assert sum(about["counts"]) == about["images"] == 397
    train, heldout = load_digits()
    known = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in known for image in heldout.images)


def foreign_shard(path, labels):
    """As other tools write them: long member order, JPEG names, labels with newlines."""
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels):
            picture = io.BytesIO()
            plain((label, 0, 0)).save(picture, "JPEG")
            for extension, data in (("JPEG", picture.getvalue()), ("json", b"{}"),
                                    ("cls", b"%d\n" % label)):  # fmt: skip
                info = tarfile.TarInfo(f"train/{path.stem}-{number}.{extension}")
                info.size, info.mtime = len(data), 1.7e9
                tar.addfile(info, io.BytesIO(data))


def test_index_on_foreign_shards(tmp_path, capsys):
    foreign_shard(tmp_path / "b.tar", [4, 0])
    foreign_shard(tmp_path / "a.tar", [1, 2, 3])
    before = (tmp_path / "a.tar").read_bytes()
    assert run("index", tmp_path) == 0
    assert "5 images of 5 classes (1 to 1 each) in 2 shards" in capsys.readouterr().out
    index = load_index(tmp_path)
    assert index.label.tolist() == [1, 2, 3, 4, 0]
    assert index.classes == tuple("01234")
    assert (tmp_path / "a.tar").read_bytes() == before


def test_index_again_after_a_change(tmp_path):
    foreign_shard(tmp_path / "a.tar", [0, 1])
    assert run("index", tmp_path) == 0
    foreign_shard(tmp_path / "a.tar", range(40))
    with pytest.raises(ShardError):
        load_index(tmp_path)
    assert run("index", tmp_path) == 0
    assert len(load_index(tmp_path)) == 40


@pytest.mark.parametrize("damage", ["cut", "none", "one label"])
def test_index_on_what_are_no_shards(tmp_path, capsys, damage):
    shard = tmp_path / "a.tar"
    if damage != "none":
        foreign_shard(shard, [0, 0] if damage == "one label" else [0, 1])
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-9216])
    named = shard if damage == "cut" else tmp_path
    refused(capsys, f"error: {named}: ", "index", tmp_path)
    assert "index.npz" not in files(tmp_path)


def test_indexing_again_keeps_the_names_of_the_classes(tree, tmp_path):
    out = tmp_path / "out"
    made(tree, out)
    assert run("index", out) == 0
    assert load_index(out).classes == CLASSES
    (out / "index.npz").unlink()
    assert run("index", out) == 0
    assert load_index(out).classes == CLASSES  # by dataset.json
    (out / "index.npz").unlink()
    (out / "dataset.json").unlink()
    assert run("index", out) == 0
    assert load_index(out).classes == ("0", "1", "2")


def test_folders_that_programs_leave_are_no_classes(tree):
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (tree / name).mkdir()
        plain((0, 0, 0)).save(tree / name / "image.png")
    assert find_images(tree)[1] == CLASSES


# ------------------------------------------------------------------------------------------- help


def test_help_is_quick_and_has_an_example_per_source():
    # What takes seconds to import must not be waited for: webdataset, torch, datasets.
    code = (
        "import sys; from data_tools.make_shards import main\n"
        "try: main(['--help'])\n"
        "finally: print({'webdataset', 'torch', 'datasets', 'sklearn'} & sys.modules.keys())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.endswith("set()\n")
    for name, row in SOURCES.items():
        assert f"make_shards {name} " in row.example
        assert row.example in shown.stdout


@pytest.mark.parametrize("row", SOURCES)
def test_examples_are_command_lines_that_are_understood(row, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused(capsys, "no such|not installed", *SOURCES[row].example.split()[3:])
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.parametrize("row", SOURCES)
def test_every_source_has_its_help(row, capsys):
    with pytest.raises(SystemExit):
        main([row, "--help"])
    shown = capsys.readouterr().out
    assert "--damaged_share" in shown and f"make_shards {row}" in shown
