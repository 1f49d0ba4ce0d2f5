"""Files that are there whole or not at all, and work that goes on with what it left in them."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it becomes `path` when it is on the disk as a whole, or never."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    to_disk(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write files into; it becomes `path`, where nothing or an empty folder may be,
    when all of it is on the disk, or never. Folders above it are made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        for file in (*unfinished.iterdir(), unfinished):
            to_disk(file)
        unfinished.rename(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    to_disk(path.parent)


def write_whole(path: Path, contents: bytes) -> None:
    """Writes a file, and its folder if need be, so that it is there whole or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(contents)


def to_disk(path: Path) -> None:
    """Brings a file to disk, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_plan(
    path: Path, before: Mapping[str, object], now: Mapping[str, object], remove: Path
) -> None:
    """Raises ValueError if what was begun at `path` was of another plan, and says what differs, and
    what to remove to begin anew."""
    different = [key for key in now if before.get(key) != now[key]]
    if different or before.keys() != now.keys():
        names = ", ".join(different) or ", ".join(sorted(before.keys() ^ now.keys()))
        raise ValueError(
            f"{path}: what was begun there was another work ({names} differ): "
            f"go on with the same, or remove {remove}"
        )
