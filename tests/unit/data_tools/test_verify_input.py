"""What cannot be checked is said in a line; what the size of the images should be."""

import json
from dataclasses import replace

import pytest

from biggan_sn.data import shards as shards_of_a_folder
from biggan_sn.data.shards import INDEX_NAME, load_index, save_index
from biggan_sn.positions import permutation
from tests.unit.data_tools.shardsets import (
    CLASSES,
    SIDE,
    check,
    file_of,
    found_in,
    noise,
    refused,
    samples_of,
    write_set,
)

FIRST = "000000.tar"


@pytest.fixture
def good(tmp_path):
    return write_set(tmp_path / "set", samples_of(0, 4), samples_of(4, 4))


def test_wrong_input(good, tmp_path, capsys):
    refused(capsys, "nowhere: no such folder", tmp_path / "nowhere")
    refused(capsys, "--processes must be 1 or more", good, "--processes", 0)
    refused(capsys, "leave --no_pixels out", good, "--record", "--no_pixels")
    refused(capsys, "is the folder itself", good, "--against", good / "." / "..", "--against", good)
    refused(capsys, "no such folder", good, "--json", tmp_path / "nowhere" / "out.json")
    refused(capsys, "no such folder", good, "--against", tmp_path / "nowhere")
    small = [(f"{n}", "png", file_of(noise(n, 16), "PNG"), n % 3) for n in range(9)]
    write_set(tmp_path / "small", small)
    refused(capsys, "images of 16 pixels cannot be compared", good, "--against", tmp_path / "small")
    wide = [(f"{n}", "png", file_of(noise(n)[:16], "PNG"), n % 3) for n in range(9)]
    write_set(tmp_path / "wide", wide)
    refused(capsys, "wide: images of 32x16 pixels", tmp_path / "wide")
    index = load_index(good)
    columns = ("shard", "offset", "size", "label")
    turned = {name: getattr(index, name)[::-1].copy() for name in (*columns, "raw", "crc")}
    fingerprint = shards_of_a_folder._fingerprint(index.names, index.sizes, turned)
    save_index(replace(index, **turned, fingerprint=fingerprint))
    refused(capsys, "not in the order of the shards; .*make_shards index", good)
    save_index(replace(index, url="https://host/there/"))
    refused(capsys, "its shards are at https://host/there/: check them where", good)
    (good / INDEX_NAME).write_bytes(b"damaged")
    refused(capsys, "index.npz: not a readable index.*make_shards index", good)
    (good / INDEX_NAME).unlink()
    refused(capsys, "index.npz: no index; .*make_shards index", good)


def test_resolution_of_most_images(tmp_path):
    """Or that of dataset.json, whatever most have."""
    first = int(permutation(0, "looks", 12)[0])
    samples = [
        (f"{n}", "png", file_of(noise(n, 16 if n == first else SIDE), "PNG"), n % 3)
        for n in range(12)
    ]
    folder = write_set(tmp_path / "set", samples)
    starts = load_index(folder).offset.tolist()
    assert found_in(check(folder)[1]) == {("image", FIRST, starts[first])}
    card = {"version": 1, "images": 12, "classes": CLASSES, "counts": [4, 4, 4], "resolution": 16}
    (folder / "dataset.json").write_text(json.dumps(card))
    others = {("image", FIRST, start) for start in starts} - {("image", FIRST, starts[first])}
    assert found_in(check(folder)[1]) == others
