"""Shards by several processes: the same bytes however often it is stopped; and the report."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biggan_sn.data.shards import ShardError, load_index
from data_tools.sources import open_folder
from data_tools.writing import Plan
from tests.unit.data_tools.making import (
    CLASSES,
    PYTHON,
    SIDE,
    contents,
    files,
    make,
    refused,
    run,
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
        *(*PYTHON, "-m", "data_tools.make_shards", "folder", str(photographs), str(out)),
        *("--resolution", str(SIDE), "--per_shard", "10", "--processes", str(processes)),
    ]


@pytest.mark.parametrize("processes", [2, 3])
def test_the_number_of_processes_does_not_show(photographs, whole, tmp_path, processes):
    subprocess.run(command(photographs, tmp_path / "out", processes), check=True)
    assert contents(tmp_path / "out") == whole


def started_and_stopped(words, journal, stop):
    """Exit code and messages of a run that gets a signal after three shards."""
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        if journal.exists() and journal.read_text().count("\n") >= 4:
            process.send_signal(stop)
            break
        time.sleep(0.005)
    said = process.communicate(timeout=60)[1].splitlines()
    return process.returncode, said


@pytest.mark.parametrize(("stop", "processes"), [
    (signal.SIGKILL, 2), (signal.SIGTERM, 2), (signal.SIGINT, 2), (signal.SIGTERM, 1),
])  # fmt: skip
def test_a_run_that_is_stopped_goes_on(photographs, whole, tmp_path, stop, processes):
    out = tmp_path / "out"
    journal = out / ".unfinished" / "journal.jsonl"
    for _ in range(5):  # on a busy machine it may be done before it is told to stop
        code, said = started_and_stopped(command(photographs, out, processes), journal, stop)
        if code:
            break
        shutil.rmtree(out)
    assert code == {signal.SIGKILL: -9}.get(stop, 130)
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
        assert not any(out.glob("*.tar")) or (out / "index.npz").exists()  # would be made of a part
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
    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_tools.writing._HashedFile.write", full)
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
