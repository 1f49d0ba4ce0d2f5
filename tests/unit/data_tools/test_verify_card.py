"""A dataset.json that does not fit its shards, or is none."""

import json
import re

import pytest

from tests.unit.data_tools.shardsets import check, found_in, samples_of, write_set

FIRST, SECOND, THIRD = "000000.tar", "000001.tar", "000002.tar"


@pytest.fixture
def good(tmp_path):
    """Three shards, four images each, whose hashes are known."""
    folder = write_set(tmp_path / "set", *(samples_of(4 * shard, 4) for shard in range(3)))
    assert check(folder, "--record")[0] == 0
    return folder


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"images": 13}, "13 images, but 12 in the index"),
        ({"counts": [4, 3, 5]}, "3 images of class 'bee', but 4"),
        ({"counts": [4, 4]}, "counts of 2 classes, but 3"),
        ({"classes": ["ant", "cow", "bee"]}, "number 1 is 'cow', not 'bee'"),
        (
            {"classes": ["ant", "bee"], "counts": [4, 4]},
            "other classes than in the index: 2, not 3",
        ),
        ({"version": 2}, "version 2, not 1"),
        ({"classes": None}, "not a description"),
        ({"shards": [1]}, "not a description"),
        ({"shards": {FIRST: {}}}, "not a description.*no 'images'"),
    ],
)
def test_card_that_does_not_fit(good, change, told):
    path = good / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    code, report = check(good)
    assert code == 2
    assert {row["kind"] for row in report["found"]} == {"card"}
    assert re.search(f"^{path}: .*{told}", report["found"][0]["text"])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"labels": null}'])
def test_card_that_is_none(good, content):
    (good / "dataset.json").write_bytes(content)
    code, report = check(good, "--record")
    assert (code, found_in(report)) == (2, {("card", "", None)})
    assert (good / "dataset.json").read_bytes() == content


def test_hashes_that_do_not_fit(good):
    path = good / "dataset.json"
    told = json.loads(path.read_text())
    told["shards"][FIRST]["sha256"] = "0" * 64
    told["shards"]["000007.tar"] = told["shards"].pop(SECOND)
    told["shards"][THIRD]["images"] = 5
    path.write_text(json.dumps(told))
    texts = [row["text"] for row in check(good)[1]["found"]]
    assert sorted(text.partition(": ")[2] for text in texts) == sorted([
        "000001.tar is in the index, but not in it",
        "000002.tar with 5 images in {0} bytes, but 4 in {0} in the index".format(
            told["shards"][THIRD]["bytes"]
        ),
        "000007.tar is in it, but not in the index",
        "its SHA-256 is not that of dataset.json: copy the shard again",
    ])  # fmt: skip


def test_hashes_in_capitals(good):
    path = good / "dataset.json"
    told = json.loads(path.read_text())
    for row in told["shards"].values():
        row["sha256"] = row["sha256"].upper()
    path.write_text(json.dumps(told))
    assert check(good)[0] == 0
