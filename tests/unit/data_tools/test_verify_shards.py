"""Every kind of damage is found by name, and nothing else is."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from biggan_sn.data.shards import load_index
from data_tools import verifying
from data_tools.verify_shards import main
from data_tools.verifying import WORKPLACE
from tests.unit.data_tools.shardsets import (
    BLOCK,
    CLASSES,
    SIDE,
    check,
    file_of,
    flip,
    found_in,
    member,
    samples_of,
    write_set,
    write_tar,
)

FIRST, SECOND, THIRD = SHARDS = ("000000.tar", "000001.tar", "000002.tar")
PER_SHARD = 4
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """A good set of three shards, four images each, whose hashes are known."""
    folder = tmp_path_factory.mktemp("recorded") / "set"
    write_set(folder, *(samples_of(shard * PER_SHARD, PER_SHARD) for shard in range(3)))
    assert check(folder, "--record")[0] == 0
    return folder


@pytest.fixture
def good(recorded, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(recorded, tmp_path / "set"))


def places(folder, shard):
    """Where the images of a shard begin."""
    index = load_index(folder)
    return index.offset[index.shard == SHARDS.index(shard)].tolist()


# ------------------------------------------------------------------------------------ good sets


def test_a_good_set(good, capsys):
    code, report = check(good)
    assert (code, report["errors"], report["warnings"], report["found"]) == (0, 0, 0, [])
    assert report["hashes_known"]
    assert (report["images"], report["shards"], report["resolution"]) == (12, 3, SIDE)
    assert (report["classes"], report["counts"]) == (list(CLASSES), [4, 4, 4])
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "12 images of 3 classes in 3 shards; 4 to 4 of a class, median 4",
        f"{good}: all is well",
    ]
    assert printed.err == ""
    assert not (good / WORKPLACE).exists()


def test_what_make_shards_writes(shards, tmp_path):
    code, report = check(Path(shutil.copytree(shards, tmp_path / "made")))
    assert (code, report["found"], report["hashes_known"]) == (0, [], True)


def test_hashes_that_are_not_known(good, capsys):
    (good / "dataset.json").unlink()
    code, report = check(good)
    assert code == 0 and not report["hashes_known"]
    assert "no SHA-256 of the shards is known" in (told := capsys.readouterr().out)
    assert "--record" in told
    assert not (good / "dataset.json").exists()


def test_record(good, recorded, capsys):
    before = (good / "dataset.json").read_bytes()
    (good / "dataset.json").unlink()
    assert check(good, "--record")[0] == 0
    assert "dataset.json has the SHA-256" in capsys.readouterr().out
    told = json.loads((good / "dataset.json").read_text())
    for name in SHARDS:
        digest = subprocess.run(["sha256sum", good / name], capture_output=True, check=True).stdout
        size = (good / name).stat().st_size
        assert told["shards"][name] == {
            "images": PER_SHARD,
            "bytes": size,
            "sha256": digest.split()[0].decode(),
        }
    assert (told["version"], told["images"], told["resolution"]) == (1, 12, SIDE)
    assert (told["classes"], told["counts"]) == (list(CLASSES), [4, 4, 4])
    assert (good / "dataset.json").read_bytes() == before
    assert check(good)[0] == 0


def test_record_keeps_what_is_told_already(good):
    told = json.loads((good / "dataset.json").read_text())
    shards = told.pop("shards")
    told["fit"], told["left_out"] = "long", 7
    (good / "dataset.json").write_text(json.dumps(told))
    assert not check(good)[1]["hashes_known"]
    assert check(good, "--record")[0] == 0
    assert json.loads((good / "dataset.json").read_text()) == {**told, "shards": shards}


def test_nothing_is_recorded_where_something_is_wrong(good):
    (good / "dataset.json").unlink()
    flip(good / FIRST, places(good, FIRST)[0])
    assert check(good, "--record")[0] == 2
    assert not (good / "dataset.json").exists()


@pytest.mark.parametrize("option", ["--no_pixels", "--processes=2"])
def test_other_ways_to_check_a_good_set(good, option):
    assert main([str(good), option]) == 0


# ------------------------------------------------------------------------------------ damage


def flip_image(folder):
    byte = places(folder, SECOND)[2]
    flip(folder / SECOND, byte + 700, 3)
    return {("hash", SECOND, None), ("image", SECOND, byte)}


def flip_label(folder):
    flip(folder / SECOND, member(folder / SECOND, "0005.cls")[1])
    return {("hash", SECOND, None), ("label", SECOND, places(folder, SECOND)[1])}


def label_that_is_none(folder):
    flip(folder / SECOND, member(folder / SECOND, "0005.cls")[1], 6)
    return {("hash", SECOND, None), ("tar", SECOND, None)}


def flip_header(folder):
    flip(folder / SECOND, member(folder / SECOND, "0006.jpg")[0] + 3)
    return {("hash", SECOND, None), ("tar", SECOND, None)}


def flip_padding(folder):
    _, content, size = member(folder / SECOND, "0005.cls")
    flip(folder / SECOND, content + size + 9)
    return {("hash", SECOND, None)}


def cut_between_members(folder):
    cut = member(folder / SECOND, "0006.jpg")[0]
    os.truncate(folder / SECOND, cut)
    gone = {("image", SECOND, byte) for byte in places_of(folder, SECOND) if byte > cut}
    assert len(gone) == 2
    return {("size", SECOND, None), ("tar", SECOND, None), *gone}


def places_of(folder, shard):
    """As `places`, of shards that the index does not fit any more."""
    index = verifying.read_index(folder, "")
    return index.offset[index.shard == SHARDS.index(shard)].tolist()


def cut_within_an_image(folder):
    _, content, _ = member(folder / SECOND, "0007.png")
    os.truncate(folder / SECOND, content + 100)
    return {("size", SECOND, None), ("tar", SECOND, None), ("image", SECOND, content)}


def empty(folder):
    gone = {("image", SECOND, byte) for byte in places(folder, SECOND)}
    (folder / SECOND).write_bytes(b"")
    return {("size", SECOND, None), ("tar", SECOND, None), *gone}


def zeros(folder):
    _, content, size = member(folder / SECOND, "0006.jpg")
    data = bytearray((folder / SECOND).read_bytes())
    data[content : content + size] = bytes(size)
    (folder / SECOND).write_bytes(data)
    return {("hash", SECOND, None), ("image", SECOND, content)}


def swap(folder):
    (folder / FIRST).rename(folder / "x")
    (folder / SECOND).rename(folder / FIRST)
    (folder / "x").rename(folder / SECOND)
    return {("renamed", FIRST, None), ("renamed", SECOND, None)}


def rename(folder):
    (folder / SECOND).rename(folder / "00000x.tar")
    return {("renamed", "00000x.tar", None)}


def overwrite(folder):
    (folder / THIRD).rename(folder / SECOND)
    return {("renamed", SECOND, None), ("missing", SECOND, None)}


def copy(folder):
    shutil.copy(folder / SECOND, folder / "000009.tar")
    return {("additional", "000009.tar", None)}


def copy_over(folder):
    shutil.copy(folder / THIRD, folder / SECOND)
    return {("additional", SECOND, None), ("missing", SECOND, None)}


def add(folder):
    write_tar(folder / "000003.tar", samples_of(100, 3))
    return {("additional", "000003.tar", None)}


def add_damaged(folder):
    (folder / "000003.tar").write_bytes(b"no tar")
    return {("additional", "000003.tar", None), ("tar", "000003.tar", None)}


def remove(folder):
    (folder / SECOND).unlink()
    return {("missing", SECOND, None)}


def folder_instead(folder):
    gone = {("image", SECOND, byte) for byte in places(folder, SECOND)}
    (folder / SECOND).unlink()
    (folder / SECOND).mkdir()
    return {("unreadable", SECOND, None), ("tar", SECOND, None), *gone}


def other_order(folder):
    size = (folder / SECOND).stat().st_size
    write_tar(folder / SECOND, samples_of(PER_SHARD, PER_SHARD)[::-1])
    assert (folder / SECOND).stat().st_size == size  # but other images at other places
    return {("hash", SECOND, None), ("index", SECOND, BLOCK)}


def one_more(folder):
    """In the room that a tar keeps for its last record, so that it is no longer."""
    size = (folder / SECOND).stat().st_size
    plain = file_of(np.zeros((SIDE, SIDE, 3), np.uint8), "PNG")
    write_tar(folder / SECOND, [*samples_of(PER_SHARD, PER_SHARD), ("x", "png", plain, 0)])
    assert (folder / SECOND).stat().st_size == size
    byte = member(folder / SECOND, "x.png")[1]
    return {("hash", SECOND, None), ("index", SECOND, byte)}


def two_shards(folder):
    return flip_image(folder) | {
        (kind, THIRD, byte and places(folder, THIRD)[0])
        for kind, _, byte in flip_first_of_third(folder)
    }


def flip_first_of_third(folder):
    byte = places(folder, THIRD)[0]
    flip(folder / THIRD, byte + 10)
    return {("hash", THIRD, None), ("image", THIRD, byte)}


DAMAGE = [
    flip_image, flip_label, label_that_is_none, flip_header, flip_padding, cut_between_members,
    cut_within_an_image, empty, zeros, swap, rename, overwrite, copy, copy_over, add, add_damaged,
    remove, folder_instead, other_order, one_more, two_shards,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(good, damage, capsys):
    expected = damage(good)
    code, report = check(good)
    assert code == 2
    assert found_in(report) == expected
    assert (report["errors"], report["warnings"]) == (len(expected), 0)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[-1] == f"{good}: errors: {len(expected)}, warnings: 0"
    for row, line in zip(report["found"], lines, strict=False):
        assert line == f"error: {row['text']}"
        assert row["text"].startswith(str(good / row["shard"]))
        assert row["byte"] is None or f"image at byte {row['byte']}:" in row["text"]
    assert printed.err == ""
    assert not (good / WORKPLACE).exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_where_no_hashes_are_known(good, damage):
    (good / "dataset.json").unlink()
    expected = {row for row in damage(good) if row[0] != "hash"}
    code, report = check(good)
    assert code == (2 if expected else 0)
    assert found_in(report) == expected


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_without_pixels(good, damage):
    # Decoding is for images that were damaged before they were indexed.
    expected = damage(good)
    assert found_in(check(good, "--no_pixels")[1]) == expected


def test_any_bit(good):
    """Wherever it is, it is found, and the image that it is in, and nothing else."""
    path = good / SECOND
    whole = path.read_bytes()
    index = load_index(good)
    of_shard = index.shard == 1
    starts, sizes = index.offset[of_shard], index.size[of_shard]
    for byte in np.random.default_rng(0).integers(0, len(whole), 40).tolist():
        path.write_bytes(whole)
        flip(path, byte, byte % 8)
        found = found_in(check(good)[1])
        inside = (starts <= byte) & (byte < starts + sizes)
        damaged = {("image", SECOND, start) for start in starts[inside].tolist()}
        assert (
            found - damaged <= {("hash", SECOND, None), ("tar", SECOND, None)} and damaged <= found
        )
        assert ("hash", SECOND, None) in found
    path.write_bytes(whole)
    assert check(good)[0] == 0


def test_nothing_can_be_read(good):
    gone = {("image", shard, byte) for shard in SHARDS for byte in places(good, shard)}
    told = json.loads((good / "dataset.json").read_text())
    del told["resolution"]
    (good / "dataset.json").write_text(json.dumps(told))
    for shard in SHARDS:
        (good / shard).write_bytes(b"")
    found = found_in(check(good)[1])
    assert found == gone | {(kind, shard, None) for kind in ("size", "tar") for shard in SHARDS}
