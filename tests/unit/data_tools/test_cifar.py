"""CIFAR's archives, made as their authors made them, and pickles that should not be run."""

import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest

from biggan_sn.data.shards import load_index
from data_tools import cifar
from data_tools.cifar import open_cifar, read_pickle
from tests.unit.data_tools.making import (
    SIDE,
    files,
    make,
    pixels_of,
    refused,
    stored,
    tar_of,
)

TEN = tuple(f"kind {number}" for number in range(10))
HUNDRED = tuple(f"sort {number}" for number in range(100))


class _Python2(pickle._Pickler):  # the one written in Python can be added to
    """Writes bytes as Python 2 did, and the names numpy had then."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, data):
        if len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes

    def save_str(self, text):
        self.save_bytes(text.encode())

    dispatch[str] = save_str

    def save_global(self, obj, name=None):
        module = obj.__module__.replace("_core", "core")
        self.write(f"c{module}\n{name or obj.__name__}\n".encode())
        self.memoize(obj)


for _kind in (type, type(len), type(open_cifar)):
    _Python2.dispatch[_kind] = _Python2.save_global


def python2(value):
    out = io.BytesIO()
    _Python2(out, 2).dump(value)
    return out.getvalue()


def python3(value):
    return pickle.dumps(value, 2)


def batch(numbers, classes, key):
    """One colour per image: red is the label, green the number; a green line above, blue left."""
    images = np.zeros((len(numbers), 3, SIDE, SIDE), np.uint8)
    labels = [number % classes for number in numbers]
    images[:, 0], images[:, 1] = np.array(labels)[:, None, None], np.array(numbers)[:, None, None]
    images[:, 1, 0, 1:], images[:, 2, 1:, 0] = 255, 255
    names = [f"{number}_s.png".encode() for number in numbers]
    return {b"data": images.reshape(len(numbers), -1), key: labels, b"filenames": names}


def cifar10(write=python2):
    parts = {"batches.meta": write({b"num_cases_per_batch": 4, b"num_vis": 3072,
                                    b"label_names": [name.encode() for name in TEN]})}  # fmt: skip
    for number in range(1, 6):
        numbers = range(4 * number - 4, 4 * number)
        parts[f"data_batch_{number}"] = write(batch(numbers, 10, b"labels"))
    parts["test_batch"] = write(batch(range(100, 110), 10, b"labels"))
    return {"readme.html": b"<html>", **parts}


def cifar100(write=python2):
    coarse = [b"all"] * 20
    parts = {"meta": write({b"fine_label_names": [name.encode() for name in HUNDRED],
                            b"coarse_label_names": coarse})}  # fmt: skip
    for name, numbers in (("train", range(120)), ("test", range(100, 200))):
        rows = batch(numbers, 100, b"fine_labels") | {b"coarse_labels": [0] * len(numbers)}
        parts[name] = write(rows)
    return parts


def packed(path, folder, parts):
    path.write_bytes(tar_of([(f"{folder}/{name}", data) for name, data in parts.items()], "w:gz"))
    return path


@pytest.mark.parametrize("write", [python2, python3])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("unpacked", [True, False])
def test_cifar10(tmp_path, write, split, unpacked):
    parts, path = cifar10(write), tmp_path / "cifar-10-batches-py"
    if unpacked:
        path.mkdir()
        for name, data in parts.items():
            (path / name).write_bytes(data)
    else:
        path = packed(tmp_path / "cifar-10-python.tar.gz", path.name, parts)
    out = tmp_path / "out"
    assert make("cifar", path, out, "--format", "png", "--split", split) == 0
    assert load_index(out).classes == TEN
    assert files(tmp_path) == sorted([path.name, "out"])
    numbers = range(20) if split == "train" else range(100, 110)
    found = {int(pixels_of(s)[9, 9, 1]): s for s in stored(out)}
    assert sorted(found) == list(numbers)
    for number, sample in found.items():
        pixels = pixels_of(sample)
        assert sample.label == number % 10 and (pixels[..., 0] == number % 10).all()
        assert (pixels[0, 1:, 1] == 255).all() and (pixels[1:, 0, 2] == 255).all()


def test_python2_pickles_are_what_the_authors_have():
    names = {op.name for op, _, _ in pickletools.genops(cifar10()["data_batch_1"])}
    assert {"BINSTRING", "SHORT_BINSTRING", "REDUCE", "BUILD"} <= names
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in cifar10()["data_batch_1"]
    assert b"c_codecs\nencode\n" in cifar10(python3)["data_batch_1"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar100_by_fine_labels(tmp_path, split):
    path = packed(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", cifar100())
    source = open_cifar(path, split)
    assert source.classes == HUNDRED
    np.testing.assert_array_equal(source.pixels[:, 9, 9, 0], source.labels)
    assert len(source.labels) == {"train": 120, "test": 100}[split]
    assert source.pixels.shape[1:] == (SIDE, SIDE, 3)


def test_arrays_by_columns(tmp_path):
    parts = cifar10()
    rows = batch(range(4), 10, b"labels")
    rows[b"data"] = np.asfortranarray(rows[b"data"])
    parts["data_batch_1"] = python2(rows)
    path = packed(tmp_path / "a.tar.gz", "x", parts)
    assert open_cifar(path, "train").pixels[:4, 9, 9, 1].tolist() == [0, 1, 2, 3]


def test_digest_is_of_pixels_and_labels(tmp_path):
    sources = [open_cifar(packed(tmp_path / "a.tgz", "x", cifar10()), "train")]
    for change in ("pixels", "labels"):
        again = open_cifar(tmp_path / "a.tgz", "train")
        getattr(again, change)[0] += 1
        sources.append(again)
    assert len({source.digest() for source in sources}) == 3
    assert open_cifar(tmp_path / "a.tgz", "train").digest() == sources[0].digest()


# ---------------------------------------------------------------------------------------- hostile


class Reducing:
    """Asks a reader to call something."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def hostile(witness):
    command = f"touch {witness}"
    return {
        "os.system": pickle.dumps(Reducing(os.system, (command,)), 2),
        "eval": pickle.dumps(Reducing(eval, (f"open({str(witness)!r}, 'w')",)), 2),
        "by protocol 4": pickle.dumps(Reducing(os.system, (command,)), 4),
        "within": python3({b"data": [Reducing(os.system, (command,))]}),
        "getattr": b"cbuiltins\ngetattr\n(cos\nX\x06\x00\x00\x00systemtR.",
        "attribute of a name": b"cnumpy\nndarray.__class__\n.",
        "numpy.load": pickle.dumps(Reducing(np.load, (str(witness),)), 2),
        "instance": f"(S'{command}'\nios\nsystem\n.".encode(),
        "new object": pickle.dumps(Reducing(pickle.Unpickler, (io.BytesIO,)), 2),
        "persistent": b"Psomething\n.",
        "extension": b"\x82\x01.",
        "codec": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
        "object array": python3({b"data": np.array([None, "a"], object)}),
        "array of real numbers": python3({b"data": np.zeros((1, 3072))}),
        "array of bytes with a sign": python3({b"data": np.zeros((4, 3072), np.int8)}),
        "array of dates": python3({b"data": np.zeros(3, "M8[s]")}),
        "array of records": python3({b"data": np.zeros(3, [("a", "u1"), ("b", "O")])}),
        "far place in memory": b"\x80\x02Nr\xff\xff\xff\x7f0.",
        "far place, as text": b"Np2000000000\n0.",
        "long string": b"\x80\x02T\xff\xff\xff\x7fabc.",
        "long bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fabc.",
        "long number": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
        "state of the class": b"cnumpy\nndarray\n}S'values'\nI1\nsb.",
        "state of a function": b"c_codecs\nencode\n}S'x'\nI1\nsb.",
        "no dictionary": python3([1, 2]),
        "empty": b"",
        "text": b"not a pickle",
        "cut": python2(batch(range(4), 10, b"labels"))[:-100],
    }  # fmt: skip


REASONS = {
    "os.system": r"it asks for posix\.system",
    "within": r"it asks for posix\.system",
    "by protocol 4": "instruction FRAME",
    "codec": "an encoding 'rot13'",
    "far place in memory": "a place in memory of 2147483647",
    "far place, as text": "a place in memory of 2000000000",
    "array of real numbers": "an array of type 'f8'",
    "array of bytes with a sign": "an array of type 'i1'",
    "object array": "an array of type 'O8'",
}


@pytest.mark.parametrize("kind", hostile("x"))
def test_hostile_pickles_are_not_run(tmp_path, capsys, kind):
    witness = tmp_path / "ran"
    parts = cifar10() | {"data_batch_2": hostile(witness)[kind]}
    path = packed(tmp_path / "cifar.tar.gz", "x", parts)
    named = f"{path}: data_batch_2: not a file of CIFAR .{REASONS.get(kind, '')}"
    refused(capsys, named, "cifar", path, tmp_path / "out", "--resolution", SIDE)
    assert files(tmp_path) == ["cifar.tar.gz"]


def test_the_hostile_ones_would_have_run(tmp_path):
    pickle.loads(hostile(tmp_path / "ran")["os.system"])
    assert files(tmp_path) == ["ran"]


def test_nothing_of_numpy_is_called():
    assert all(stand_in.__module__ == cifar.__name__ for stand_in in cifar.STAND_INS.values())
    array = read_pickle(python3({b"data": np.arange(6, dtype=np.uint8)}), "x")["data"]
    assert array.values.tolist() == list(range(6))


# ------------------------------------------------------------------------------------------ wrong


@pytest.mark.parametrize(("rows", "named"), [
    ({b"data": np.zeros((4, 3071), np.uint8)}, "3072"),
    ({b"data": np.zeros((4, 3, 1024), np.uint8)}, "3072"),
    ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, "3072"),
    ({b"data": [0] * 3072}, "3072"),
    ({b"labels": [0, 1, 2]}, "not one number per image"),
    ({b"labels": [0, 1, 2, None]}, "not one number per image"),
    ({b"labels": [0, 1, 2, True]}, "not one number per image"),
    ({b"labels": [0, 1, 2, 0.5]}, "BINFLOAT"),
    ({b"labels": None}, "not one number per image"),
    ({b"labels": [0, 1, 2, 10]}, "label 10 is out of range for 10 classes"),
    ({b"labels": [0, 1, 2, -1]}, "label -1 is out of range"),
])  # fmt: skip
def test_wrong_batches(tmp_path, capsys, rows, named):
    parts = cifar10() | {"data_batch_3": python2(batch(range(4), 10, b"labels") | rows)}
    path = packed(tmp_path / "cifar.tar.gz", "x", parts)
    refused(capsys, f"{path}: data_batch_3: .*{named}", "cifar", path, tmp_path / "out",
            "--resolution", SIDE)  # fmt: skip


def test_wrong_meta(tmp_path, capsys):
    for names in (None, [], ["one"], [b""], "names"):
        parts = cifar10() | {"batches.meta": python2({b"label_names": names})}
        path = packed(tmp_path / "cifar.tar.gz", "x", parts)
        refused(capsys, "batches.meta: no names of classes", "cifar", path, tmp_path / "out",
                "--resolution", SIDE)  # fmt: skip


def test_parts_that_are_missing(tmp_path, capsys):
    for name, named in (("data_batch_4", "data_batch_4 is missing"), ("batches.meta", "no meta")):
        parts = cifar10()
        del parts[name]
        path = packed(tmp_path / "cifar.tar.gz", "x", parts)
        refused(capsys, f"{path}: .*{named}", "cifar", path, tmp_path / "out", "--resolution", SIDE)


def test_damaged_archives(tmp_path, capsys):
    path = packed(tmp_path / "cifar.tar.gz", "x", cifar10())
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for damaged in (whole[: len(whole) // 2], b"", b"text", bytes(flipped)):
        path.write_bytes(damaged)
        refused(capsys, f"{path}: ", "cifar", path, tmp_path / "out", "--resolution", SIDE)
    refused(
        capsys, "no such file", "cifar", tmp_path / "no", tmp_path / "out", "--resolution", SIDE
    )
    refused(capsys, "no meta", "cifar", tmp_path, tmp_path / "out", "--resolution", SIDE)


def test_archives_that_grow(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cifar, "LARGEST", 100_000)
    path = packed(tmp_path / "a.tar.gz", "x", cifar10() | {"test_batch": bytes(200_000)})
    refused(capsys, "'x/test_batch' is too much for CIFAR", "cifar", path, tmp_path / "out",
            "--resolution", SIDE)  # fmt: skip
    path = packed(tmp_path / "b.tar.gz", "x", {f"{number}": b"" for number in range(101)})
    refused(capsys, "'x/100' is too much", "cifar", path, tmp_path / "out", "--resolution", SIDE)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "meta").write_bytes(bytes(200_000))
    refused(capsys, "c/meta: too large", "cifar", tmp_path / "c", tmp_path / "out",
            "--resolution", SIDE)  # fmt: skip
