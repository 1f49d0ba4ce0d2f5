"""A run that is stopped, by whatever, ends with the bits of one that is not."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from biggan_sn.data.shards import load_index
from biggan_sn.evaluation import reference
from biggan_sn.evaluation.extractors import EXTRACTORS
from biggan_sn.evaluation.reference import SAVE_EVERY
from tests.unit.data_tools.features import BATCH, IMAGES, noise_set, refused, row, run
from tests.unit.data_tools.making import PYTHON, without_progress
from tests.unit.data_tools.shardsets import flip, noise, write_set

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    return noise_set(tmp_path_factory.mktemp("stats") / "set")


@pytest.fixture(autouse=True)
def _quick_row(monkeypatch):
    monkeypatch.setitem(EXTRACTORS, "colours", row(0))


@pytest.fixture(scope="session")
def straight(shards, tmp_path_factory):
    """The file of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("straight") / "s.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXTRACTORS, "colours", row(0))
        assert run(shards, out) == 0
    return out.read_bytes()


def stopped(folder, out, signal_, save_every):
    """Stops a run of its own process some batches after its part is there; how far that was, its
    exit code, and what it said."""
    part = out.with_name("s.npz.part")
    words = [*PYTHON, "-m", "tests.unit.data_tools.features", "0.12", str(save_every)]
    words += [str(folder), "--out", str(out), "--extractor", "colours", "--batch", str(BATCH)]
    program = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not part.exists():
        assert time.monotonic() < deadline and program.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    program.send_signal(signal_)
    said = program.communicate()[1]
    with np.load(part) as stored:
        return int(stored["done"]), program.returncode, said


@pytest.mark.parametrize(
    ("signal_", "save_every"),
    [(signal.SIGKILL, 0.0), (signal.SIGKILL, 0.3), (signal.SIGTERM, 0.0), (signal.SIGINT, 0.3)],
)
def test_stop(shards, tmp_path, straight, monkeypatch, signal_, save_every):
    out = tmp_path / "s.npz"
    done, code, said = stopped(shards, out, signal_, save_every)
    assert 0 < done < IMAGES and done % BATCH == 0
    line = "dataset_stats: stopped; the same command goes on\n"
    assert (code, without_progress(said)) in ((-9, ""), (130, line))
    assert not out.exists()
    seen = images_seen(monkeypatch)
    assert run(shards, out) == 0
    assert out.read_bytes() == straight
    assert sum(seen) == IMAGES - done
    assert list(tmp_path.iterdir()) == [out]


def images_seen(monkeypatch):
    """A list that fills with the sizes of the batches that are extracted from now on."""
    sizes = []
    quick = row(0)(None, None)

    def extract(images):
        sizes.append(len(images))
        return quick.extract(images)

    monkeypatch.setitem(EXTRACTORS, "colours", lambda *_: quick._replace(extract=extract))
    return sizes


def interrupted(folder, out, monkeypatch, after=3, error=KeyboardInterrupt):
    """A run that ends before a batch, in this process."""
    quick = row(0)(None, None)
    left = iter(range(after))

    def extract(images):
        if next(left, None) is None:
            raise error
        return quick.extract(images)

    with monkeypatch.context() as patch:
        patch.setitem(EXTRACTORS, "colours", lambda *_: quick._replace(extract=extract))
        return run(folder, out)


@pytest.mark.parametrize("after", range(8))
def test_stop_before_any_batch(shards, tmp_path, straight, monkeypatch, after):
    assert interrupted(shards, tmp_path / "s.npz", monkeypatch, after) == 130
    seen = images_seen(monkeypatch)
    assert run(shards, tmp_path / "s.npz") == 0
    assert (tmp_path / "s.npz").read_bytes() == straight
    assert sum(seen) == IMAGES - after * BATCH


def test_saved_now_and_then(shards, tmp_path, monkeypatch):
    assert SAVE_EVERY == 30
    now, saves = [0.0], []
    monkeypatch.setattr(reference.time, "monotonic", lambda: now[0])
    quick = row(0)(None, None)

    def extract(images):
        now[0] += 11
        return quick.extract(images)

    save = reference._save
    monkeypatch.setattr(
        reference,
        "_save",
        lambda part, task, state, device: (
            saves.append(state.done) or save(part, task, state, device)
        ),
    )
    monkeypatch.setitem(EXTRACTORS, "colours", lambda *_: quick._replace(extract=extract))
    assert run(shards, tmp_path / "s.npz") == 0
    assert saves == [12, 24]  # every 33 s, three batches


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--batch", 5), "batch differ"),
        (("--features", 9), "features differ"),
    ],
)
def test_part_of_another_plan(shards, tmp_path, monkeypatch, capsys, options, named):
    interrupted(shards, tmp_path / "s.npz", monkeypatch)
    capsys.readouterr()
    before = (tmp_path / "s.npz.part").read_bytes()
    refused(capsys, rf"s.npz.part: .*\({named}\).*remove {tmp_path}/s.npz.part", shards,
            tmp_path / "s.npz", *options)  # fmt: skip
    assert (tmp_path / "s.npz.part").read_bytes() == before


@pytest.mark.parametrize("what", ["digest", "name"])
def test_part_of_another_extractor(shards, tmp_path, monkeypatch, capsys, what):
    interrupted(shards, tmp_path / "s.npz", monkeypatch)
    capsys.readouterr()
    other = row(0)(None, None)._replace(**{what: "other"})
    monkeypatch.setitem(EXTRACTORS, "colours", lambda *_: other)
    named = {"digest": "weights", "name": "extractor"}[what]
    refused(capsys, f"{named} differ", shards, tmp_path / "s.npz")


def test_part_of_other_images(shards, tmp_path, monkeypatch, capsys):
    interrupted(shards, tmp_path / "s.npz", monkeypatch)
    capsys.readouterr()
    # Images of the same size at the same places.
    samples = [(f"{n:04d}", "rgb", noise(n).tobytes(), n % 3) for n in range(9)]
    others = [(f"{n:04d}", "rgb", noise(n + 9).tobytes(), n % 3) for n in range(9)]
    first, second = write_set(tmp_path / "a", samples), write_set(tmp_path / "b", others)
    assert load_index(first).fingerprint == load_index(second).fingerprint
    assert interrupted(first, tmp_path / "t.npz", monkeypatch, 1) == 130
    capsys.readouterr()
    refused(capsys, r"t.npz.part: .*\(images differ\)", second, tmp_path / "t.npz")
    refused(capsys, r"s.npz.part: .*\(index, images.* differ\)", first, tmp_path / "s.npz")


def test_damaged_part(shards, tmp_path, monkeypatch, capsys):
    interrupted(shards, tmp_path / "s.npz", monkeypatch)
    capsys.readouterr()
    part = tmp_path / "s.npz.part"
    whole = part.read_bytes()
    for damaged in (b"", b"garbage", whole[:-40], whole[:300]):
        part.write_bytes(damaged)
        refused(capsys, f"{part}: damaged .*: remove it to begin anew", shards, tmp_path / "s.npz")


def test_damaged_image(shards, tmp_path, capsys, straight):
    folder = Path(shutil.copytree(shards, tmp_path / "set"))
    index = load_index(folder)
    byte = int(index.offset[17])
    flip(folder / "000001.tar", byte + 50)
    out = tmp_path / "s.npz"
    refused(capsys, f"000001.tar, image at byte {byte}: ", folder, out)
    with np.load(tmp_path / "s.npz.part") as stored:
        assert stored["done"] == 16  # what was before it is not lost
    flip(folder / "000001.tar", byte + 50)
    assert run(folder, out) == 0
    assert out.read_bytes() == straight
