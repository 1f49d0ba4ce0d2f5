"""The index of shards that others have written, in a folder or at a URL."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from braceexpand import braceexpand

from biggan_sn.data.shards import (
    CARD_NAME,
    INDEX_NAME,
    ShardError,
    ShardIndex,
    build_index,
    index_of,
    read_index,
    save_index,
    stored_classes,
)
from biggan_sn.data.stores import Remote, filesystem
from biggan_sn.data.tars import Entry, scan_shard, scan_tar
from biggan_sn.progress import Advance
from data_tools.work import Journal, Result, complete, digest_of

BLOCK = 8 << 20  # bytes of one request
JOURNAL = ".indexing"


def index_folder(root: Path, processes: int) -> ShardIndex:
    """Reads all shards of a folder, and writes their index there. It can be interrupted.

    Raises:
        ShardError: no shard, or one that is not as it must be.
    """
    paths = sorted(root.glob("*.tar"))
    if len(paths) < 2:  # or none: build_index says so
        return _saved(build_index(root, stored_classes(root)))
    names = [path.name for path in paths]
    with _journal(root, [f"{path.name} {path.stat().st_size}" for path in paths]) as journal:
        found = complete(
            dict.fromkeys(names, 1), _scan_file, root, processes, journal, unit="shard"
        )
        scans = [_entries(found[name]) for name in names]
        return _saved(build_index(root, stored_classes(root), scans))


def index_url(root: Path, url: str, processes: int) -> ShardIndex:
    """The index of shards at a URL, written to the folder `root`. It can be interrupted.

    Args:
        root: where the index goes.
        url: ends with a slash: a place that has an index beside its shards. Otherwise the shards,
            as in https://host/train-{000000..000146}.tar: each is read once through.
        processes: how many shards are read at the same time.

    Raises:
        ShardError: nothing to read there, or a shard that is not as it must be.
    """
    root.mkdir(parents=True, exist_ok=True)
    if any(root.glob("*.tar")):
        raise ShardError(f"{root}: has shards of its own; the index of {url} needs another folder")
    if url.endswith("/"):
        return _fetched(root, url)
    base, names = expand(url)
    files = filesystem(base)
    sizes = [_size(files, base + name) for name in names]
    with _journal(root, [url, *map(str, sizes)]) as journal:
        bare = _bare(root, base, names, sizes)
        found = complete(
            dict.fromkeys(names, 1), _scan_remote, bare, processes, journal, unit="shard"
        )
        scans = [_entries(found[name]) for name in names]
        return _saved(index_of(root, base, names, tuple(sizes), scans, stored_classes(root)))


def expand(url: str) -> tuple[str, tuple[str, ...]]:
    """The place of shards, with a slash at its end, and their sorted names.

    Raises:
        ShardError: they are in more places than one, or are no shards.
    """
    urls = sorted(set(braceexpand(url)))
    bases = {one.rpartition("/")[0] + "/" for one in urls}
    names = tuple(one.rpartition("/")[2] for one in urls)
    if len(bases) > 1:
        raise ShardError(f"{url}: the shards must lie in one place")
    if wrong := [name for name in names if not name.endswith(".tar")]:
        raise ShardError(f"{url}: {wrong[0]!r} is no .tar; a place with an index ends with a slash")
    return bases.pop(), names


def _fetched(root: Path, url: str) -> ShardIndex:
    files = filesystem(url)
    for name in (INDEX_NAME, CARD_NAME):
        try:
            (root / name).write_bytes(files.cat_file(url + name))
        except FileNotFoundError as error:
            if name == INDEX_NAME:
                raise ShardError(
                    f"{url}{name}: there is no index; name the shards, as in "
                    f"{url}train-{{000000..000146}}.tar"
                ) from error
        except Exception as error:  # each library has errors of its own
            raise ShardError(
                f"{url}{name}: cannot be read ({error or type(error).__name__})"
            ) from error
    index = read_index(root, f"fetched from {url}")
    return _saved(replace(index, url=url))


def _size(files: Any, url: str) -> int:
    try:
        size = files.info(url)["size"]
    except Exception as error:  # each library has errors of its own
        raise ShardError(f"{url}: cannot be read ({error or type(error).__name__})") from error
    if not size:
        raise ShardError(f"{url}: the server does not say how long it is")
    return int(size)


def _bare(root: Path, base: str, names: Sequence[str], sizes: Sequence[int]) -> ShardIndex:
    """The index of shards of which nothing is known yet."""
    none = np.zeros(0, np.int64)
    return ShardIndex(
        root=root,
        names=tuple(names),
        sizes=tuple(sizes),
        classes=(),
        shard=none.astype(np.int32),
        offset=none,
        size=none.astype(np.int32),
        label=none.astype(np.int32),
        raw=none.astype(np.bool_),
        crc=none.astype(np.uint32),
        fingerprint="",
        url=base,
    )


def _scan_file(root: Path, name: str, advance: Advance) -> Result:
    entries = scan_shard(root / name)
    advance(1)
    return {"entries": entries}


def _scan_remote(index: ShardIndex, name: str, advance: Advance) -> Result:
    shard = index.names.index(name)
    length = index.sizes[shard]
    with io.BufferedReader(_RemoteFile(index, shard), BLOCK) as file:
        entries = scan_tar(file, length, index.path(shard))
    advance(1)
    return {"entries": entries}


def _entries(result: Result) -> list[Entry]:
    return [Entry(*entry) for entry in result["entries"]]


class _RemoteFile(io.RawIOBase):
    """A shard at a URL as a file, read through with as many tries as a Remote makes."""

    def __init__(self, index: ShardIndex, shard: int) -> None:
        self._store = Remote(index)
        self._shard = shard
        self._length = index.sizes[shard]
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._length - self._place))
        if size:
            buffer[:size] = self._store.read(self._shard, self._place, size)
        self._place += size
        return size


@contextmanager
def _journal(root: Path, about: Sequence[str]) -> Iterator[Journal]:
    """What was scanned of these shards, until all was."""
    folder = root / JOURNAL
    folder.mkdir(exist_ok=True)
    digest = digest_of(about)
    yield Journal(folder / f"{digest}.jsonl", {"shards": digest})
    rmtree(folder)


def _saved(index: ShardIndex) -> ShardIndex:
    save_index(index)
    return index
