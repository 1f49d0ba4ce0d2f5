"""Folders of Hugging Face's `datasets`, written by the library itself; skipped where it is not."""

import importlib.util
import socket
import sys

import numpy as np
import pytest
from PIL import Image

from biggan_sn.data.shards import load_index
from tests.unit.data_tools.making import (
    SIDE,
    file_of,
    files,
    make,
    pixels_of,
    plain,
    refused,
    stored,
)

KINDS = ("ant", "bee", "cow")

with_library = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="`datasets` is not installed"
)


def rows(datasets, labels, images=None):
    """A Dataset of one colour per image: red is the label, green the row."""
    images = images or [
        {"bytes": file_of(plain((100 * (label or 0), 20 * row, 0), (50, 40))), "path": None}
        for row, label in enumerate(labels)
    ]
    features = {
        "picture": datasets.Image(),
        "what": datasets.ClassLabel(names=list(KINDS)),
        "note": datasets.Value("string"),
    }
    notes = ["text"] * len(labels)
    return datasets.Dataset.from_dict(
        {"picture": images, "what": labels, "note": notes}, datasets.Features(features)
    )


LABELS = [2, 0, 1, 1, 0, 2, 0]


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    connect = socket.socket.connect

    def connect_here(self, address):
        assert self.family == socket.AF_UNIX, f"the network is used: {address}"
        return connect(self, address)

    monkeypatch.setattr("socket.socket.connect", connect_here)
    return library


def saved(datasets, path):
    rows(datasets, LABELS).save_to_disk(path)


def saved_splits(datasets, path):
    parts = {"train": rows(datasets, LABELS), "test": rows(datasets, [0, 1])}
    datasets.DatasetDict(parts).save_to_disk(path)


def saved_shuffled(datasets, path):
    """With rows that are in another order than in its file."""
    order = [3, 0, 6, 1, 2, 5, 4]
    mixed = rows(datasets, [LABELS[row] for row in order], [
        {"bytes": file_of(plain((100 * LABELS[row], 20 * row, 0))), "path": None} for row in order
    ])  # fmt: skip
    mixed.select(np.argsort(order)).save_to_disk(path)


def parquet(datasets, path):
    (path / "data").mkdir(parents=True)
    rows(datasets, LABELS[:4]).to_parquet(path / "data" / "train-00000-of-00002.parquet")
    images = [{"bytes": file_of(plain((100 * LABELS[row], 20 * row, 0))), "path": None}
              for row in range(4, 7)]  # fmt: skip
    rows(datasets, LABELS[4:], images).to_parquet(path / "data" / "train-00001-of-00002.parquet")
    rows(datasets, [0, 1]).to_parquet(path / "data" / "test-00000-of-00001.parquet")


def parquet_by_folder(datasets, path):
    for split, labels in (("train", LABELS), ("test", [0, 1])):
        (path / "default" / split).mkdir(parents=True)
        rows(datasets, labels).to_parquet(path / "default" / split / "0000.parquet")


@with_library
@pytest.mark.parametrize("write", [saved, saved_splits, saved_shuffled, parquet, parquet_by_folder])
@pytest.mark.parametrize("processes", [1, 2])
def test_every_row_with_its_class(datasets, tmp_path, write, processes):
    if processes == 2 and write not in {saved, parquet}:
        pytest.skip("two formats show that they can be sent to processes")
    write(datasets, tmp_path / "in")
    asked = ("--format", "png", "--processes", processes, "--per_shard", 4)
    assert make("hf", tmp_path / "in", tmp_path / "out", *asked) == 0
    assert load_index(tmp_path / "out").classes == KINDS
    found = sorted((s.label, *pixels_of(s)[0, 0].tolist()) for s in stored(tmp_path / "out"))
    assert found == sorted((k, 100 * k, 20 * row, 0) for row, k in enumerate(LABELS))


@with_library
@pytest.mark.parametrize("write", [saved_splits, parquet, parquet_by_folder])
def test_another_split(datasets, tmp_path, capsys, write):
    write(datasets, tmp_path / "in")
    refused(capsys, "no images of class cow", "hf", tmp_path / "in", tmp_path / "out",
            "--resolution", SIDE, "--split", "test")  # fmt: skip
    refused(capsys, "split 'valid'", "hf", tmp_path / "in", tmp_path / "out",
            "--resolution", SIDE, "--split", "valid")  # fmt: skip


@with_library
def test_rows_without_a_class_or_an_image(datasets, tmp_path, capsys):
    for labels in ([0, 1, None], [0, 1, -1]):
        rows(datasets, labels).save_to_disk(tmp_path / "in")
        refused(capsys, "column 'what' has rows without a class", "hf", tmp_path / "in",
                tmp_path / "out", "--resolution", SIDE)  # fmt: skip
    images = [{"bytes": file_of(plain((0, 0, 0))), "path": None}] * 3 + [None]
    rows(datasets, [0, 1, 2, 2], images).save_to_disk(tmp_path / "holes")
    asked = ("--resolution", SIDE, "--processes", 1)
    refused(capsys, r"row 3: not a readable image \(the row holds no image\)", "hf",
            tmp_path / "holes", tmp_path / "out", *asked)  # fmt: skip


@with_library
def test_columns_that_are_not_one_of_each(datasets, tmp_path, capsys):
    table = rows(datasets, LABELS)
    for columns, named in ((["what"], "Image, but has none"), (["picture"], "ClassLabel, but")):
        path = tmp_path / columns[0]
        table.select_columns(columns).save_to_disk(path)
        refused(capsys, f"{path}: needs one column of type {named}", "hf", path,
                tmp_path / "out", "--resolution", SIDE)  # fmt: skip


@with_library
def test_code_and_addresses_in_a_folder_are_not_followed(datasets, tmp_path, capsys):
    path = tmp_path / "in"
    path.mkdir()
    (path / "in.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    refused(capsys, "neither saved by `datasets` nor parquet", "hf", path, tmp_path / "out",
            "--resolution", SIDE)  # fmt: skip
    parquet(datasets, path)
    assert make("hf", path, tmp_path / "out") == 0
    assert not (tmp_path / "ran").exists()


@with_library
def test_damaged_files(datasets, tmp_path, capsys):
    for write, pattern in ((saved, "*.arrow"), (saved, "*.json"), (parquet, "**/train-00000*")):
        path = tmp_path / f"{write.__name__} {len(files(tmp_path))}"
        write(datasets, path)
        for file in path.glob(pattern):
            file.write_bytes(file.read_bytes()[:99])
        refused(capsys, f"{path}: ", "hf", path, tmp_path / "out", "--resolution", SIDE)


@with_library
def test_images_that_are_kept_as_they_are(datasets, tmp_path):
    # The file, not what the library would make of it: CMYK, 16 bits and tags are for imaging.py.
    from data_tools.huggingface import open_datasets

    grey = file_of(Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)))
    images = [{"bytes": grey, "path": None}] * 3
    rows(datasets, [0, 1, 2], images).save_to_disk(tmp_path / "in")
    assert open_datasets(tmp_path / "in", "train").read(1) == grey


def test_without_the_library(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(capsys, "pip install datasets", "hf", tmp_path, tmp_path / "out", "--resolution", SIDE)
    refused(capsys, "no such folder", "hf", tmp_path / "no", tmp_path / "out", "--resolution", SIDE)
