"""The index of a folder of WebDataset shards.

A shard is a plain tar of samples, each an image member `key.jpg` (or .jpeg, .png; .rgb is raw
uint8) and a label member `key.cls` beside it. They are read once, strictly, and what was found is
kept in `index.npz`: where every image is, its label and its checksum. The shards themselves lie
beside it, or at a URL.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from biggan_sn.data.tars import Entry, ShardError, scan_shard

INDEX_NAME = "index.npz"
CARD_NAME = "dataset.json"  # what a person wants to know of it, and the names of its classes
INDEX_VERSION = 2
_Arrays = dict[str, NDArray[Any]]
_TYPES = {
    "shard": np.int32,
    "offset": np.int64,
    "size": np.int32,
    "label": np.int32,
    "raw": np.bool_,
    "crc": np.uint32,
}

__all__ = [
    "CARD_NAME",
    "INDEX_NAME",
    "INDEX_VERSION",
    "ShardError",
    "ShardIndex",
    "build_index",
    "load_index",
    "save_index",
    "scan_shard",
    "stored_classes",
]


@dataclass(frozen=True)
class ShardIndex:
    """Where every image of a set of shards is.

    Args:
        root: the folder of the index.
        url: where the shards lie, if not there; ends with a slash.
        names: file name of each shard, sorted.
        sizes: length of each shard, bytes.
        classes: name of each class, by label.
        shard, offset, size, label: of each image, [number of images]; bytes from the start of
            the shard.
        raw: whether it is uint8 [H, W, 3] as it is.
        crc: CRC-32 of its bytes.
        fingerprint: hash of all that decides which image has which number.
    """

    root: Path
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    classes: tuple[str, ...]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int32]
    label: NDArray[np.int32]
    raw: NDArray[np.bool_]
    crc: NDArray[np.uint32]
    fingerprint: str
    url: str = ""

    def __len__(self) -> int:
        return len(self.label)

    def path(self, shard: int) -> str:
        """Path or URL of a shard."""
        name = self.names[shard]
        if self.url.startswith("http"):
            name = quote(name)  # a # or ? would end the path
        return self.url + name if self.url else str(self.root / name)

    def where(self, image: int) -> str:
        """The place of an image, for messages."""
        return f"{self.path(self.shard[image])}, image at byte {self.offset[image]}"


def build_index(
    root: Path, classes: tuple[str, ...] = (), scans: Iterable[Sequence[Entry]] | None = None
) -> ShardIndex:
    """Reads every .tar of `root`.

    Args:
        root: folder of shards.
        classes: names of the classes; by default the labels found, as numbers.
        scans: of each shard by name, where others have read them; read here by default.

    Raises:
        ShardError: no shard, a damaged one, an empty one, or a label outside the classes.
    """
    paths = sorted(root.glob("*.tar"))
    if not paths:
        raise ShardError(f"{root}: no .tar shards there")
    names, sizes = tuple(path.name for path in paths), tuple(path.stat().st_size for path in paths)
    return index_of(
        root, "", names, sizes, map(scan_shard, paths) if scans is None else scans, classes
    )


def index_of(
    root: Path,
    url: str,
    names: tuple[str, ...],
    sizes: tuple[int, ...],
    scans: Iterable[Sequence[Entry]],
    classes: tuple[str, ...] = (),
) -> ShardIndex:
    """The index of shards that were scanned, in the order of their names.

    Raises:
        ShardError: a label outside the classes, or one label only.
    """
    parts = [np.array([(i, *row) for row in scan], np.int64) for i, scan in enumerate(scans)]
    table = np.concatenate(parts)
    columns = zip(_TYPES.items(), table.T, strict=True)
    arrays: _Arrays = {name: column.astype(dtype) for (name, dtype), column in columns}
    label = arrays["label"]
    alone = len(classes) == 1  # one class is wanted, and no folder read a level off
    classes = classes or _numbers(int(label.max()) + 1)
    index = ShardIndex(
        root,
        names,
        sizes,
        classes,
        **arrays,
        fingerprint=_fingerprint(names, sizes, arrays),
        url=url,
    )
    if (wrong := np.flatnonzero(label >= len(classes))).size:
        path = index.path(index.shard[wrong[0]])
        raise ShardError(
            f"{path}: label {label[wrong[0]]} is out of range for {len(classes)} classes"
        )
    if len(np.unique(label)) < 2 and not alone:
        raise ShardError(f"{url or root}: all {len(label)} images have one label, {label[0]}")
    if odd := [name for name in names if not _is_name(name)]:
        raise ShardError(f"{url or root}: {odd[0]!r} cannot be the name of a shard: rename it")
    return index


def _fingerprint(names: Sequence[str], sizes: Sequence[int], arrays: _Arrays) -> str:
    digest = hashlib.sha256(json.dumps([names, sizes]).encode())
    for name in ("shard", "offset", "size", "label"):
        digest.update(arrays[name].astype(np.int64).tobytes())
    return digest.hexdigest()[:16]


def save_index(index: ShardIndex) -> Path:
    """Writes `index.npz` into the folder of the index, whole or not at all."""
    meta = {
        "version": INDEX_VERSION,
        "names": index.names,
        "sizes": index.sizes,
        "classes": index.classes,
        "url": index.url,
        "fingerprint": index.fingerprint,
    }
    path = index.root / INDEX_NAME
    unfinished = index.root / f".{INDEX_NAME}.tmp"
    with unfinished.open("wb") as file:
        np.savez(
            file,
            meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
            **{name: getattr(index, name) for name in _TYPES},
        )
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    return path


def load_index(root: Path) -> ShardIndex:
    """The index of a folder of shards, checked against the shards if they lie there.

    Raises:
        ShardError: no folder, no index, an index of another version or of other shards.
    """
    remedy = f"write it with: python -m data_tools.make_shards index {root}"
    if not root.is_dir():
        raise ShardError(f"{root}: no such folder of shards")
    if not (root / INDEX_NAME).is_file() and not any(root.glob("*.tar")):
        made = "make some with: python -m data_tools.make_shards folder IMAGES OUT --resolution R"
        raise ShardError(f"{root}: no .tar shards there; {made}")
    index = read_index(root, remedy)
    if not index.url:
        _check_shards(root, dict(zip(index.names, index.sizes, strict=True)), remedy)
    return index


def stored_classes(root: Path) -> tuple[str, ...]:
    """The names of the classes of `root`, by its dataset.json or its index; none where there are
    only numbers, or neither can be read."""
    try:
        told = json.loads((root / CARD_NAME).read_text())["classes"]
        if not isinstance(told, list):  # the letters of a word are no names
            raise ValueError(told)
        classes = tuple(map(str, told))
    except (OSError, ValueError, KeyError, TypeError):
        try:
            classes = read_index(root, "").classes
        except ShardError:
            return ()
    return () if classes == _numbers(len(classes)) else classes


def _numbers(count: int) -> tuple[str, ...]:
    """The names of classes that have none."""
    return tuple(str(number) for number in range(count))


def read_index(root: Path, remedy: str) -> ShardIndex:
    """The index of `root`, by itself alone; `remedy` is said where it is no good.

    Raises:
        ShardError: there is none, or one of another version, or not a whole one.
    """
    path = root / INDEX_NAME
    if not path.is_file():
        below = sorted(str(index.parent) for index in root.glob(f"*/{INDEX_NAME}"))
        advice = f"{' or '.join(below)} has one" if below else remedy
        raise ShardError(f"{path}: no index; {advice}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            meta = json.loads(stored["meta"].tobytes())
            if (version := meta["version"]) == INDEX_VERSION:
                arrays = {name: stored[name] for name in _TYPES}
                told: dict[str, Any] = {
                    name: tuple(meta[name]) for name in ("names", "sizes", "classes")
                }
                told |= {name: str(meta[name]) for name in ("fingerprint", "url")}
                index = ShardIndex(root=root, **told, **arrays)
                _check_whole(index)
    except Exception as error:  # a damaged zip raises whatever its reader trips over
        raise ShardError(f"{path}: not a readable index ({error}); {remedy}") from error
    if version != INDEX_VERSION:
        raise ShardError(f"{path}: index version {version}, not {INDEX_VERSION}; {remedy}")
    return index


def _check_whole(index: ShardIndex) -> None:
    """Raises ValueError unless every image lies within a shard of the folder, and has a class."""
    arrays = {name: getattr(index, name) for name in _TYPES}
    if index.fingerprint != _fingerprint(index.names, index.sizes, arrays):
        raise ValueError("its fingerprint is wrong")
    if len({len(array) for array in arrays.values()}) > 1 or any(
        arrays[name].dtype != dtype or arrays[name].ndim != 1 for name, dtype in _TYPES.items()
    ):
        raise ValueError("its columns do not fit together")
    if wrong := [n for n in index.names if not _is_name(n)]:
        raise ValueError(f"{wrong[0]!r} is not the name of a shard")
    if len(index.names) != len(index.sizes):
        raise ValueError(f"it has {len(index.sizes)} sizes of {len(index.names)} shards")
    if index.url and not (index.url.endswith("/") and index.url.isprintable()):
        raise ValueError(f"{index.url!r} is not the URL of a folder")
    shard, offset, label = index.shard, index.offset, index.label
    if min(shard.min(), label.min(), index.size.min(), offset.min()) < 0 or (
        shard.max() >= len(index.names) or label.max() >= len(index.classes)
    ):
        raise ValueError("an image of it is nowhere, or of no class")
    # Not offset + size: for some that lie too far, it has no room, and is negative.
    if (offset > np.array(index.sizes, np.int64)[shard] - index.size).any():
        raise ValueError("an image of it lies behind the end of its shard")


def _is_name(name: str) -> bool:
    return Path(name).name == name and name.endswith(".tar") and name.isprintable()


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
