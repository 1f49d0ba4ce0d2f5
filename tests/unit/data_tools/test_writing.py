"""Shards by several processes: the same bytes however often it is stopped; and the report."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biggan_sn.data.shards import ShardError, load_index
from biggan_sn.positions import permutation
from data_tools.sources import find_images, open_folder
from data_tools.writing import Plan, write_part
from tests.unit.data_tools.making import (
    CLASSES,
    SIDE,
    contents,
    files,
    make,
    pixels_of,
    plain,
    refused,
    run,
    stored,
)


def made(tree, out, *options):
    assert make("folder", tree, out, *options) == 0
    return load_index(out)


class Killed(BaseException):
    """As if the process were gone."""


def raise_killed(*arguments):
    raise Killed


def stop_at(monkeypatch, name, *arguments):
    """A run that is gone when it comes to a function."""
    with monkeypatch.context() as patch:
        patch.setattr(f"data_tools.writing.{name}", raise_killed)
        with pytest.raises(Killed):
            make("folder", *arguments)


# ---------------------------------------------------------------------------------------- the same


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """150 images of three classes that take a while each."""
    root = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(5)
    for name in CLASSES:
        (root / name).mkdir()
        for number in range(5):
            pixels = random.integers(0, 256, (60, 80, 3), np.uint8)
            image = Image.fromarray(pixels).resize((800, 600))
            image.save(root / name / f"{number}.jpg")
            for copy in range(9):
                os.link(root / name / f"{number}.jpg", root / name / f"{number}_{copy}.jpg")
    return root


@pytest.fixture(scope="module")
def whole(photographs, tmp_path_factory):
    """What all the runs should come to, by one process and without a stop."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert make("folder", photographs, out, "--per_shard", 10) == 0
    return contents(out)


def command(photographs, out, processes):
    return [
        *(sys.executable, "-m", "data_tools.make_shards", "folder", str(photographs), str(out)),
        *("--resolution", str(SIDE), "--per_shard", "10", "--processes", str(processes)),
    ]


@pytest.mark.parametrize("processes", [2, 3])
def test_the_number_of_processes_does_not_show(photographs, whole, tmp_path, processes):
    subprocess.run(command(photographs, tmp_path / "out", processes), check=True)
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(("stop", "processes"), [
    (signal.SIGKILL, 2), (signal.SIGTERM, 2), (signal.SIGINT, 2), (signal.SIGTERM, 1),
])  # fmt: skip
def test_a_run_that_is_stopped_goes_on(photographs, whole, tmp_path, stop, processes):
    out = tmp_path / "out"
    journal = out / ".unfinished" / "journal.jsonl"
    process = subprocess.Popen(
        command(photographs, out, processes), stderr=subprocess.PIPE, text=True
    )
    while not journal.exists() or journal.read_text().count("\n") < 4:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(stop)
    said = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == {signal.SIGKILL: -9}.get(stop, 130)
    if stop != signal.SIGKILL:
        assert said == ["make_shards: stopped; the same command goes on"]
    assert files(out) == [".unfinished"]
    assert run("index", out) == 2
    done = {path.name: path.stat().st_ino for path in journal.parent.glob("*.tar")}
    assert 3 <= len(done) < 15
    assert make("folder", photographs, out, "--per_shard", 10) == 0
    assert contents(out) == whole
    kept = [name for name, inode in done.items() if (out / name).stat().st_ino == inode]
    assert len(kept) >= 3  # those in the journal are not made again


def test_stopped_at_any_step_of_moving(photographs, whole, tmp_path, monkeypatch):
    first = tmp_path / "first"
    stop_at(monkeypatch, "_publish", photographs, first, "--per_shard", 10)
    for steps in range(len(whole)):
        out = tmp_path / f"after {steps}"
        shutil.copytree(first, out)
        with monkeypatch.context() as patch:
            kill_after(patch, out, steps)
            with pytest.raises(Killed):
                make("folder", photographs, out, "--per_shard", 10)
        assert len(files(out)) == steps + 1
        with pytest.raises(ShardError):
            load_index(out)
        assert make("folder", photographs, out, "--per_shard", 10) == 0
        assert contents(out) == whole


def kill_after(patch, out, steps):
    """The process is gone when it moves something to `out` after so many steps."""
    replace = Path.replace

    def replace_or_die(path, target):
        nonlocal steps
        if Path(target).parent == out:
            if steps == 0:
                raise Killed
            steps -= 1
        return replace(path, target)

    patch.setattr(Path, "replace", replace_or_die)


def test_stopped_before_the_journal_is_gone(photographs, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    stop_at(monkeypatch, "shutil.rmtree", photographs, out, "--per_shard", 10)
    assert len(load_index(out)) == 150
    assert make("folder", photographs, out, "--per_shard", 10) == 0
    assert contents(out) == whole


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"half")])
def test_shards_that_were_lost_are_made_again(photographs, whole, tmp_path, monkeypatch, damage):
    # A power cut may take what the journal says is there.
    out = tmp_path / "out"
    stop_at(monkeypatch, "_publish", photographs, out, "--per_shard", 10)
    damage(out / ".unfinished" / "000003.tar")
    assert make("folder", photographs, out, "--per_shard", 10) == 0
    assert contents(out) == whole


@pytest.mark.parametrize(("option", "value", "named"), [
    ("--quality", 50, "quality"), ("--format", "png", "format"),
    ("--fit", "long", "fit"), ("--per_shard", 3, "per_shard"), ("--resolution", 64, "resolution"),
])  # fmt: skip
def test_another_work_is_refused(tree, tmp_path, capsys, monkeypatch, option, value, named):
    out = tmp_path / "out"
    stop_at(monkeypatch, "_publish", tree, out, "--per_shard", 5)
    before = contents(out / ".unfinished")
    asked = ("folder", tree, out, "--resolution", SIDE, "--processes", 1, "--per_shard", 5)
    refused(capsys, rf"another work \(({named}) differ\).*remove", *asked, option, value)
    assert contents(out / ".unfinished") == before
    assert run(*asked, "--damaged_share", 0.5) == 0  # what does not change the bytes may change


def test_other_images_are_another_work(tree, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    stop_at(monkeypatch, "_publish", tree, out)
    (tree / "ant" / "0.jpeg").rename(tree / "bee" / "9.jpeg")
    refused(capsys, r"\(images differ\)", "folder", tree, out, "--resolution", SIDE)


def test_disk_full(tree, tmp_path, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_tools.writing.os.fsync", full)
    refused(capsys, r"No space left on device: .*/out/\.unfinished/000000", "folder", tree,
            tmp_path / "out", "--resolution", SIDE, "--processes", 1)  # fmt: skip


@pytest.mark.parametrize(("total", "per_shard"), [(15, 15), (15, 14), (15, 4), (15, 1), (7, 3)])
def test_shards_are_balanced(tree, total, per_shard):
    source = open_folder(tree)
    kept = type(source)(tree, source.files[:total], source.sizes, source.labels[:total], CLASSES)
    shards = Plan(kept, {}, 95, per_shard, 0.0).shards
    lengths = [len(positions) for positions in shards.values()]
    assert max(lengths) <= per_shard and max(lengths) - min(lengths) <= 1
    assert len(lengths) == -(-total // per_shard)
    assert [place for positions in shards.values() for place in positions] == list(range(total))


# ----------------------------------------------------------------------------------------- damaged


def unreadable(kind):
    out = io.BytesIO()
    Image.effect_noise((40, 40), 80).save(out, "PNG")
    whole = out.getvalue()
    real = io.BytesIO()
    Image.fromarray(np.zeros((40, 40), np.float32)).save(real, "TIFF")
    return {
        "empty": b"",
        "text": b"not an image",
        "cut": whole[: len(whole) // 2],
        "broken chunk": whole[:-60] + bytes(60),
        "real numbers": real.getvalue(),
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "broken chunk", "real numbers"])
@pytest.mark.parametrize("place", [0, 4, -1])
def test_unreadable_image(tree, tmp_path, capsys, kind, place):
    """It is named, and no shard is seen: the whole ones before it would pass for the data set."""
    images, _ = find_images(tree)
    bad, _ = images[permutation(0, "shards", 15)[place]]
    bad.write_bytes(unreadable(kind))
    out = tmp_path / "out"
    options = ("--resolution", SIDE, "--per_shard", 2, "--processes", 1)
    refused(capsys, f"{bad}: not a readable image .*1 of 15 images", "folder", tree, out, *options)
    assert files(out) == ([".unfinished"] if place else [])
    assert run("index", out) == 2
    # Left out if that is what is wanted, with what is done already; put right, it is another work.
    capsys.readouterr()
    if place == 4:
        assert run("folder", tree, out, *options, "--damaged_share", 0.1) == 0
        assert len(load_index(out)) == 14
        return
    plain((0, 0, 0)).save(bad)
    if place:
        refused(capsys, r"images differ\): go on with the same, or remove .*\.unfinished",
                "folder", tree, out, *options)  # fmt: skip
        shutil.rmtree(out / ".unfinished")
    assert len(made(tree, out, "--per_shard", 2)) == 15


# ------------------------------------------------------------------------------------ description


def test_dataset_json_says_what_it_is(tree, tmp_path):
    out = tmp_path / "out"
    made(tree, out, "--per_shard", 8, "--quality", 80)
    text = (out / "dataset.json").read_text()
    described = json.loads(text)
    shards = described.pop("shards")
    assert described == {
        "version": 1,
        "source": "folder",
        "resolution": 32,
        "fit": "short",
        "format": "jpg",
        "quality": 80,
        "images": 15,
        "left_out": 0,
        "classes": list(CLASSES),
        "counts": [4, 5, 6],
    }
    assert {name: row["images"] for name, row in shards.items()} == {
        "000000.tar": 7,
        "000001.tar": 8,
    }
    for name, row in shards.items():
        content = (out / name).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert str(tmp_path) not in text
    assert json.loads((out / "report.json").read_text())["left_out"] == []


def test_quality_is_of_jpeg_only(tree, tmp_path):
    make("folder", tree, tmp_path / "out", "--format", "png", "--fit", "long")
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert "quality" not in described
    assert (described["format"], described["fit"]) == ("png", "long")


def test_raw_shards(tree, tmp_path):
    about = {"resolution": SIDE, "fit": "short", "format": "raw"}
    plan = Plan(open_folder(tree), about, 95, 15, 0.0)
    tmp_path.joinpath("out").mkdir()
    write_part((plan, tmp_path / "out"), "000000.tar", int)
    samples = stored(tmp_path / "out")
    assert {(sample.extension, len(sample.image)) for sample in samples} == {("rgb", 3 * SIDE**2)}
    for sample in samples:
        assert abs(pixels_of(sample)[..., 0].astype(int) - 100 * sample.label).max() <= 2


def test_the_report_names_what_was_left_out_or_is_notable(tree, tmp_path, capsys):
    bad = tree / "cow" / "0.jpeg"
    bad.write_bytes(b"text")
    moving = tree / "bee" / "moving.gif"
    frames = [plain((0, 0, 0)), plain((255, 255, 255))]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    plain((1, 2, 3), (31, 99)).save(tree / "ant" / "small.png")
    out = tmp_path / "out"
    assert make("folder", tree, out, "--damaged_share", 0.1) == 0
    assert f"1 images left out: {out}/report.json" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert [row["image"] for row in report["left_out"]] == [str(bad)]
    assert "cannot identify" in report["left_out"][0]["reason"]
    assert report["animated"] == [str(moving)]
    assert report["enlarged"] == 1
    assert json.loads((out / "dataset.json").read_text())["counts"] == [5, 6, 5]
    # Positions are those of all images, so that leaving one out moves no other.
    order = permutation(0, "shards", 17)
    paths = [path for path, _ in find_images(tree)[0]]
    keys = [f"{place:08d}" for place, image in enumerate(order) if paths[image] != bad]
    assert [sample.key for sample in stored(out)] == keys


def test_a_class_of_which_nothing_can_be_read(tree, tmp_path, capsys):
    for path in (tree / "ant").rglob("*.*"):
        if path.suffix != ".txt":
            path.write_bytes(b"text")
    refused(capsys, "all images of class ant are unreadable", "folder", tree, tmp_path / "out",
            "--resolution", SIDE, "--processes", 1, "--damaged_share", 0.5)  # fmt: skip
    assert files(tmp_path / "out") == [".unfinished"]


def test_a_shard_of_which_nothing_can_be_read_is_not_written(tree, tmp_path):
    images, _ = find_images(tree)
    for image in permutation(0, "shards", 15)[3:6]:
        images[image][0].write_bytes(b"text")
    index = made(tree, tmp_path / "out", "--per_shard", 3, "--damaged_share", 0.2)
    assert index.names == ("000000.tar", "000002.tar", "000003.tar", "000004.tar")
    assert len(index) == 12


def test_nothing_can_be_read(tree, tmp_path, capsys):
    for path, _ in find_images(tree)[0]:
        path.write_bytes(b"text")
    refused(capsys, "none of the 15 images is readable", "folder", tree, tmp_path / "out",
            "--resolution", SIDE, "--processes", 1, "--damaged_share", 1)  # fmt: skip
