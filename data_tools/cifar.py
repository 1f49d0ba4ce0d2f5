"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as their authors publish them for Python.

The archives hold pickles, and a pickle is a program. These are read by a reader that knows only
what such files need: plain values, and three names, which stand for objects of this module. Before
that every instruction is looked at, so that none asks for memory that the file cannot fill.
"""

import io
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_tools.work import digest_of

SIDE = 32
VALUES = 3 * SIDE * SIDE  # of an image: red, green, blue, each by rows
LARGEST = 256 << 20  # bytes of a pickle; the largest of the authors has 155 million
MOST_FILES = 100  # in an archive; the authors' have nine


class Parts(NamedTuple):
    """The files of one of the two data sets, and the keys in them.

    Args:
        splits: the files of each split.
        labels: key of the labels in these.
        meta: the file with the names of the classes.
        names: key of the names in it.
    """

    splits: dict[str, tuple[str, ...]]
    labels: str
    meta: str
    names: str


@dataclass(frozen=True)
class ArraySource:
    """Pixels in memory.

    Args:
        path: where they are from.
        pixels: uint8 [N, H, W, 3].
        labels: of each, [N].
        classes: name of each class, by label.
    """

    path: Path
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def name(self, image: int) -> str:
        """Its number."""
        return f"{self.path}: image {image}"

    def read(self, image: int) -> NDArray[np.uint8]:
        """Pixels [H, W, 3]."""
        return self.pixels[image]

    def digest(self) -> str:
        """Of the pixels, too, as they are at hand."""
        content = sha256(self.pixels.tobytes() + self.labels.tobytes()).hexdigest()
        return digest_of([*self.classes, str(self.pixels.shape), content])


def open_cifar(path: Path, split: str) -> ArraySource:
    """The images of one split, with the fine labels of CIFAR-100.

    Args:
        path: the archive, or the folder that is unpacked from it.
        split: train or test.

    Raises:
        ValueError: it is something else, or damaged.
    """
    files = _read_folder(path) if path.is_dir() else _read_archive(path)
    parts = next((parts for parts in CIFARS if parts.meta in files), None)
    if parts is None:
        raise ValueError(f"{path}: not CIFAR-10 or CIFAR-100 for Python, for it has no meta file")
    classes = _class_names(path, parts, files)
    batches = [_batch(path, name, parts, files, len(classes)) for name in parts.splits[split]]
    pixels, labels = zip(*batches, strict=True)
    return ArraySource(path, np.concatenate(pixels), np.concatenate(labels), classes)


def _read_folder(path: Path) -> dict[str, bytes]:
    wanted = [path / name for name in KNOWN if (path / name).is_file()]
    if large := [file for file in wanted if file.stat().st_size > LARGEST]:
        raise ValueError(f"{large[0]}: too large for a part of CIFAR")
    return {file.name: file.read_bytes() for file in wanted}


def _read_archive(path: Path) -> dict[str, bytes]:
    """The known files of an archive, by their names without folders."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for number, member in enumerate(tar):
                if number >= MOST_FILES or member.size > LARGEST:
                    raise ValueError(f"{path}: {member.name!r} is too much for CIFAR")
                name = PurePosixPath(member.name).name
                content = tar.extractfile(member) if member.isreg() and name in KNOWN else None
                if content is not None:
                    files[name] = content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a readable archive ({error})") from error
    return files


def _class_names(path: Path, parts: Parts, files: Mapping[str, bytes]) -> tuple[str, ...]:
    stored = read_pickle(files[parts.meta], f"{path}: {parts.meta}").get(parts.names)
    names = [_text(name) for name in stored] if isinstance(stored, list) else []
    if len(names) < 2 or "" in names:
        raise ValueError(f"{path}: {parts.meta}: no names of classes ({parts.names})")
    return tuple(names)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _batch(
    path: Path, name: str, parts: Parts, files: Mapping[str, bytes], classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels [n, 32, 32, 3] and labels [n] of one file."""
    if name not in files:
        raise ValueError(f"{path}: {name} is missing")
    stored = read_pickle(files[name], f"{path}: {name}")
    array, labels = stored.get("data"), stored.get(parts.labels)
    pixels = getattr(array, "values", None)
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != VALUES or not len(pixels):
        raise ValueError(f"{path}: {name}: its data are not uint8 [n, {VALUES}]")
    if not isinstance(labels, list) or [type(label) for label in labels] != [int] * len(pixels):
        raise ValueError(f"{path}: {name}: {parts.labels} is not one number per image")
    if wrong := [label for label in labels if not 0 <= label < classes]:
        raise ValueError(f"{path}: {name}: label {wrong[0]} is out of range for {classes} classes")
    images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, np.int64)


def read_pickle(data: bytes, name: str) -> dict[str, Any]:
    """The dictionary of a file of CIFAR; arrays in it are `Array`s.

    Raises:
        ValueError: it is damaged, or holds anything else than such files do.
    """
    try:
        _check_instructions(data)
        stored = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises whatever it trips over
        raise ValueError(f"{name}: not a file of CIFAR ({error})") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{name}: not a file of CIFAR (no dictionary)")
    return {_text(key): value for key, value in stored.items()}


def _check_instructions(data: bytes) -> None:
    argument: Any  # a number, for instructions that name a place in memory
    for instruction, argument, place in pickletools.genops(data):
        if instruction.name not in INSTRUCTIONS:
            raise ValueError(f"instruction {instruction.name} at byte {place}")
        # Memory is taken for all places up to that one.
        if instruction.name.endswith("PUT") and argument > place:
            raise ValueError(f"a place in memory of {argument} at byte {place}")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return STAND_INS[module, name]
        except KeyError:
            raise ValueError(f"it asks for {module}.{name}") from None


class Array:
    """Stands for numpy's array: uint8 values of any shape."""

    __slots__ = ("values",)
    values: NDArray[np.uint8]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, _, by_columns, content = state
        values = np.frombuffer(content, np.uint8)
        self.values = values.reshape(shape, order="F" if by_columns else "C")


class Kind:
    """Stands for numpy's type of values, of which there is one."""

    __slots__ = ()

    def __init__(self, name: str | bytes, align: object, copy: object) -> None:
        del align, copy
        if name not in {"u1", b"u1"}:
            raise ValueError(f"an array of type {name!r}")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which single bytes have none of."""


def _new_array(kind: object, shape: object, name: object) -> Array:
    del kind, shape, name
    return Array()


def _to_bytes(text: str, encoding: str) -> bytes:
    """What Python 3 writes for bytes in an old protocol."""
    if encoding not in {"latin1", "latin-1"}:
        raise ValueError(f"an encoding {encoding!r}")
    return text.encode("latin-1")


CIFARS = (
    Parts(
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        "labels",
        "batches.meta",
        "label_names",
    ),
    Parts({"train": ("train",), "test": ("test",)}, "fine_labels", "meta", "fine_label_names"),
)
KNOWN = {
    name for parts in CIFARS for names in (*parts.splits.values(), (parts.meta,)) for name in names
}

STAND_INS: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Kind,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("_codecs", "encode"): _to_bytes,
}

# Of protocol 2 and before: values, lists, dictionaries, tuples, names, calls, states.
INSTRUCTIONS = {
    *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"),
}
