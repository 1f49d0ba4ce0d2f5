"""One shard, read strictly: a tar in which nothing that tar readers pass over in silence passes.

A shard cut at a member boundary or a damaged header would otherwise lose data without a word
(tarfile ends there as if the archive did), and two members of one name would be mixed up.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from zlib_ng.zlib_ng import crc32

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png")
RAW_EXTENSION = "rgb"  # uint8 [H, W, 3] as it is
LABEL_EXTENSION = "cls"
END_OF_ARCHIVE = 1024  # two blocks of zeros close a tar
LONGEST_END = END_OF_ARCHIVE + 20 * 512  # with those that fill its last record
MOST_CLASSES = 1_000_000
LARGEST_IMAGE = 2**31 - 1  # bytes


class ShardError(ValueError):
    """Something is wrong with the data; the message names the file."""


class Entry(NamedTuple):
    """An image of a shard: bytes from its start, its class, whether it is raw, its CRC-32."""

    offset: int
    size: int
    label: int
    raw: bool
    crc: int


def scan_shard(path: Path) -> list[Entry]:
    """Every image of one shard, in its order.

    Raises:
        ShardError: whatever is not a complete, plain tar of images with a label each.
    """
    try:
        with path.open("rb") as file:
            return scan_tar(file, path.stat().st_size, str(path))
    except OSError as error:
        raise ShardError(f"{path}: not a readable tar ({error})") from error


def scan_tar(file: BinaryIO, length: int, path: str) -> list[Entry]:
    """Every image of an open shard of `length` bytes; `path` is its name for messages.

    Raises:
        ShardError: as scan_shard.
    """
    images: list[Entry] = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for sample in _samples(tar, file, length, path):
                images += sample.finish()
    except ShardError:
        raise
    except Exception as error:  # tarfile raises whatever it trips over, a header of headers as well
        raise ShardError(
            f"{path}: not a readable tar ({str(error) or type(error).__name__})"
        ) from error
    if not images:
        raise ShardError(f"{path}: no images in it")
    return images


def _samples(tar: tarfile.TarFile, file: BinaryIO, length: int, path: str) -> Iterator["_Sample"]:
    """What lies side by side under one key."""
    sample, seen = _Sample("", path), set[str]()
    for member in tar:
        if member.isdir():
            continue
        key, extension = _split_name(member, path, length)
        if key != sample.key:
            yield sample
            if key in seen:
                raise ShardError(f"{path}: the members of {key!r} are not side by side")
            seen.add(key)
            sample = _Sample(key, path)
        sample.add(member, extension, file)
    _check_end(path, file, tar.offset)
    yield sample


class _Sample:
    """The members of one key, as they come by."""

    def __init__(self, key: str, path: str) -> None:
        self.key = key
        self.path = path
        self.image: tuple[int, int, bool, int] | None = None
        self.label: int | None = None

    def add(self, member: tarfile.TarInfo, extension: str, file: BinaryIO) -> None:
        """Notes a member if it is the image or the label; `file` is the tar."""
        file.seek(member.offset_data)  # tarfile finds its own place again
        if extension in (*IMAGE_EXTENSIONS, RAW_EXTENSION):
            if self.image is not None:
                raise ShardError(f"{self.path}: sample {self.key!r} has two images")
            crc = crc32(file.read(member.size))
            self.image = (member.offset_data, member.size, extension == RAW_EXTENSION, crc)
        elif extension == LABEL_EXTENSION:
            if self.label is not None:
                raise ShardError(f"{self.path}: sample {self.key!r} has two labels")
            self.label = self._label(member.name, member.size, file.read(min(member.size, 32)))

    def _label(self, name: str, size: int, text: bytes) -> int:
        if size > len(text) or not text.strip().isdigit():
            raise ShardError(f"{self.path}: {name!r} holds no class number: {text!r}")
        if (label := int(text)) >= MOST_CLASSES:
            raise ShardError(f"{self.path}: label {label} is out of range")
        return label

    def finish(self) -> list[Entry]:
        """The image, of a sample that is whole; none where there was no sample yet."""
        if not self.key:
            return []
        if self.image is None or self.label is None:
            missing = "image" if self.image is None else f".{LABEL_EXTENSION} member"
            raise ShardError(f"{self.path}: sample {self.key!r} has no {missing}")
        offset, size, raw, crc = self.image
        return [Entry(offset, size, self.label, raw, crc)]


def _split_name(member: tarfile.TarInfo, path: str, length: int) -> tuple[str, str]:
    if not member.isreg() or member.issparse():
        raise ShardError(f"{path}: {member.name!r} is not a regular file")
    if member.size < 0 or member.offset_data + member.size > length:
        raise ShardError(f"{path}: {member.name!r} is cut off")
    if member.size > LARGEST_IMAGE:
        raise ShardError(f"{path}: {member.name!r} is too large for an image")
    folder, slash, name = member.name.rpartition("/")
    stem, dot, extension = name.partition(".")
    if not stem or not dot:
        raise ShardError(f"{path}: {member.name!r} is not named key.extension")
    return folder + slash + stem, extension.lower()


def _check_end(path: str, file: BinaryIO, end: int) -> None:
    """tarfile takes any bad header for the end of the archive; the real end is zeros only, and
    few: a long tail of them is what a crash leaves of data that never reached the disk."""
    file.seek(end)
    rest = file.read(LONGEST_END + 1)
    if not END_OF_ARCHIVE <= len(rest) <= LONGEST_END or rest.strip(b"\0"):
        raise ShardError(f"{path}: damaged or cut off at byte {end}")
