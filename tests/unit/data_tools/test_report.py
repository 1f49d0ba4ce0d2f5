"""What is said of a data set: its description, what was left out, and when that is too much."""

import hashlib
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from biggan_sn.data.shards import load_index
from biggan_sn.positions import permutation
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


def made(tree, out, *options):
    assert make("folder", tree, out, *options) == 0
    return load_index(out)


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
    assert [row["images"] for row in shards.values()] == [7, 8]
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
    assert made(tree, tmp_path / "out", "--format", "raw").raw.all()
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
    assert f"images left out: 1, listed in {out}/report.json" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert [row["image"] for row in report["left_out"]] == [str(bad)]
    assert "none of JPEG" in report["left_out"][0]["reason"]
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


def test_damage_is_counted_over_all_shards(tree, tmp_path, capsys):
    # One image of each of the first shards: none of these has too many by itself.
    images, _ = find_images(tree)
    for place in (0, 3, 6):
        images[permutation(0, "shards", 15)[place]][0].write_bytes(b"text")
    out = tmp_path / "out"
    asked = ("folder", tree, out, "--resolution", SIDE, "--processes", 1, "--per_shard", 3)
    refused(capsys, "; .*: 2 of 15 images, more than", *asked, "--damaged_share", 0.1)
    assert files(out / ".unfinished") == ["000000.tar", "000001.tar", "journal.jsonl"]
    refused(capsys, "2 of 15 images, more than", *asked, "--damaged_share", 0.1)
    assert files(out / ".unfinished") == ["000000.tar", "000001.tar", "journal.jsonl"]
    assert run(*asked, "--damaged_share", 0.2) == 0
    assert len(load_index(out)) == 12
