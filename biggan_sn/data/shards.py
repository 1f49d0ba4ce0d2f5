"""The index of a folder of WebDataset shards, read strictly.

A shard is a plain tar of samples, each an image member `key.jpg` (or .jpeg, .png) and a label
member `key.cls` beside it. The headers are read once and kept in `index.npz`: shard, offset, size
and label of every image. Everything that tar readers let pass in silence is an error here, for a
shard cut at a member boundary or a damaged header would otherwise lose data without a word.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

INDEX_NAME = "index.npz"
INDEX_VERSION = 1
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png")
LABEL_EXTENSION = "cls"
END_OF_ARCHIVE = 1024  # two blocks of zeros close a tar
LONGEST_END = END_OF_ARCHIVE + 20 * 512  # with those that fill its last record
MOST_CLASSES = 1_000_000
_ARRAYS = ("shard", "offset", "size", "label")


class ShardError(ValueError):
    """Something is wrong with the data; the message names the file."""


@dataclass(frozen=True)
class ShardIndex:
    """Where every image of a folder of shards is.

    Args:
        root: the folder.
        names: file name of each shard, sorted.
        sizes: length of each shard, bytes.
        classes: name of each class, by label.
        shard, offset, size, label: of each image, [number of images]; bytes from the start of
            the shard.
        fingerprint: hash of all that decides which image has which number.
    """

    root: Path
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    classes: tuple[str, ...]
    shard: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[np.int64]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.label)

    def where(self, image: int) -> str:
        """The place of an image, for messages."""
        path = self.root / self.names[self.shard[image]]
        return f"{path}, image at byte {self.offset[image]}"


def build_index(root: Path, classes: tuple[str, ...] = ()) -> ShardIndex:
    """Reads the headers of every .tar of `root`.

    Args:
        root: folder of shards.
        classes: names of the classes; by default the labels found, as numbers.

    Raises:
        ShardError: no shard, a damaged one, an empty one, or a label outside the classes.
    """
    paths = sorted(root.glob("*.tar"))
    if not paths:
        raise ShardError(f"{root}: no .tar shards there")
    scans = [scan_shard(path) for path in paths]
    rows = [(i, *row) for i, scan in enumerate(scans) for row in scan]
    shard, offset, size, label = np.array(rows, dtype=np.int64).T.copy()
    classes = classes or _numbers(int(label.max()) + 1)
    if (wrong := np.flatnonzero((label < 0) | (label >= len(classes)))).size:
        path = paths[shard[wrong[0]]]
        raise ShardError(
            f"{path}: label {label[wrong[0]]} is out of range for {len(classes)} classes"
        )
    if len(np.unique(label)) < 2:
        raise ShardError(f"{root}: all {len(label)} images have one label, {label[0]}")
    names = tuple(path.name for path in paths)
    sizes = tuple(path.stat().st_size for path in paths)
    fingerprint = _fingerprint(names, sizes, (shard, offset, size, label))
    return ShardIndex(root, names, sizes, classes, shard, offset, size, label, fingerprint)


def scan_shard(path: Path) -> list[tuple[int, int, int]]:
    """Offset, size and label of every image of one shard, in its order.

    Raises:
        ShardError: whatever is not a complete, plain tar of images with a label each.
    """
    images: list[tuple[int, int, int]] = []
    seen: set[str] = set()
    try:
        length = path.stat().st_size
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            sample = _Sample("", path)
            for member in tar:
                if member.isdir():
                    continue
                key, extension = _split_name(member, path, length)
                if key != sample.key:
                    images += sample.finish()
                    if key in seen:
                        raise ShardError(f"{path}: the members of {key!r} are not side by side")
                    seen.add(key)
                    sample = _Sample(key, path)
                sample.add(member, extension, file)
            _check_end(path, file, tar.offset)
            images += sample.finish()
    except ShardError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise ShardError(f"{path}: not a readable tar ({error})") from error
    if not images:
        raise ShardError(f"{path}: no images in it")
    return images


class _Sample:
    """The members of one key, as they come by."""

    def __init__(self, key: str, path: Path) -> None:
        self.key = key
        self.path = path
        self.image: tuple[int, int] | None = None
        self.label: int | None = None

    def add(self, member: tarfile.TarInfo, extension: str, file: BinaryIO) -> None:
        if extension in IMAGE_EXTENSIONS:
            if self.image is not None:
                raise ShardError(f"{self.path}: sample {self.key!r} has two images")
            self.image = (member.offset_data, member.size)
        elif extension == LABEL_EXTENSION:
            if self.label is not None:
                raise ShardError(f"{self.path}: sample {self.key!r} has two labels")
            file.seek(member.offset_data)  # tarfile finds its own place again
            text = file.read(min(member.size, 32))
            if member.size > len(text) or not text.strip().isdigit():
                raise ShardError(f"{self.path}: {member.name} holds no class number: {text!r}")
            self.label = int(text)
            if self.label >= MOST_CLASSES:
                raise ShardError(f"{self.path}: label {self.label} is out of range")

    def finish(self) -> list[tuple[int, int, int]]:
        if not self.key:
            return []
        if self.image is None or self.label is None:
            missing = "image" if self.image is None else f".{LABEL_EXTENSION} member"
            raise ShardError(f"{self.path}: sample {self.key!r} has no {missing}")
        return [(*self.image, self.label)]


def _split_name(member: tarfile.TarInfo, path: Path, length: int) -> tuple[str, str]:
    if not member.isreg() or member.issparse():
        raise ShardError(f"{path}: {member.name!r} is not a regular file")
    if member.size < 0 or member.offset_data + member.size > length:
        raise ShardError(f"{path}: {member.name!r} is cut off")
    folder, slash, name = member.name.rpartition("/")
    stem, dot, extension = name.partition(".")
    if not stem or not dot:
        raise ShardError(f"{path}: {member.name!r} is not named key.extension")
    return folder + slash + stem, extension.lower()


def _check_end(path: Path, file: BinaryIO, end: int) -> None:
    """tarfile takes any bad header for the end of the archive; the real end is zeros only, and
    few: a long tail of them is what a crash leaves of data that never reached the disk."""
    file.seek(end)
    rest = file.read(LONGEST_END + 1)
    if not END_OF_ARCHIVE <= len(rest) <= LONGEST_END or rest.strip(b"\0"):
        raise ShardError(f"{path}: damaged or cut off at byte {end}")


def _fingerprint(
    names: tuple[str, ...], sizes: tuple[int, ...], arrays: Iterable[NDArray[np.int64]]
) -> str:
    digest = hashlib.sha256(json.dumps([names, sizes]).encode())
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def save_index(index: ShardIndex) -> Path:
    """Writes `index.npz` into the folder of the shards, whole or not at all."""
    meta = {
        "version": INDEX_VERSION,
        "names": index.names,
        "sizes": index.sizes,
        "classes": index.classes,
        "fingerprint": index.fingerprint,
    }
    path = index.root / INDEX_NAME
    unfinished = index.root / f".{INDEX_NAME}.tmp"
    with unfinished.open("wb") as file:
        np.savez(
            file,
            meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
            **{name: getattr(index, name) for name in _ARRAYS},
        )
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    return path


def load_index(root: Path) -> ShardIndex:
    """The index of a folder of shards, checked against the shards that are there.

    Raises:
        ShardError: no folder, no index, an index of another version or of other shards.
    """
    remedy = f"write it with: python -m data_tools.make_shards index {root}"
    if not root.is_dir():
        raise ShardError(f"{root}: no such folder of shards")
    if not any(root.glob("*.tar")):
        made = "make some with: python -m data_tools.make_shards folder IMAGES OUT --resolution R"
        raise ShardError(f"{root}: no .tar shards there; {made}")
    index = _read_index(root, remedy)
    _check_shards(root, dict(zip(index.names, index.sizes, strict=True)), remedy)
    return index


def stored_classes(root: Path) -> tuple[str, ...]:
    """The names of the classes in the index of `root`; none where there are only numbers, or no
    readable index."""
    try:
        classes = _read_index(root, "").classes
    except ShardError:
        return ()
    return () if classes == _numbers(len(classes)) else classes


def _numbers(count: int) -> tuple[str, ...]:
    """The names of classes that have none."""
    return tuple(str(number) for number in range(count))


def _read_index(root: Path, remedy: str) -> ShardIndex:
    path = root / INDEX_NAME
    if not path.is_file():
        raise ShardError(f"{path}: no index; {remedy}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            meta = json.loads(stored["meta"].tobytes())
            if (version := meta["version"]) == INDEX_VERSION:
                names, sizes, classes = (tuple(meta[key]) for key in ("names", "sizes", "classes"))
                arrays = {name: stored[name] for name in _ARRAYS}
                whole = meta["fingerprint"] == _fingerprint(names, sizes, arrays.values())
    except Exception as error:  # a damaged zip raises whatever its reader trips over
        raise ShardError(f"{path}: not a readable index ({error}); {remedy}") from error
    if version != INDEX_VERSION:
        raise ShardError(f"{path}: index version {version}, not {INDEX_VERSION}; {remedy}")
    if not whole:
        raise ShardError(f"{path}: not a readable index (its fingerprint is wrong); {remedy}")
    return ShardIndex(root, names, sizes, classes, **arrays, fingerprint=meta["fingerprint"])


def _check_shards(root: Path, sizes: dict[str, int], remedy: str) -> None:
    for name, size in sizes.items():
        shard = root / name
        if not shard.is_file():
            raise ShardError(f"{shard}: the shard is missing")
        if shard.stat().st_size != size:
            raise ShardError(
                f"{shard}: {shard.stat().st_size} bytes, but {size} when it was indexed; {remedy}"
            )
    if new := sorted({path.name for path in root.glob("*.tar")} - sizes.keys()):
        raise ShardError(f"{root / new[0]}: a shard that is not in the index; {remedy}")
