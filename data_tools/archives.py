"""Images within tars, read where they lie: nothing is unpacked.

A tar is scanned once, for the place of every image; each is then one read of a piece of the file.
Tar readers take any damage for the end of an archive, so the end is looked at as well.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_tools.sources import is_image, labels_of
from data_tools.work import digest_of

BLOCK = 512
SHORTEST_END = 2 * BLOCK  # zeros close a tar
LONGEST_END = SHORTEST_END + 20 * BLOCK  # with those that fill its last record


class Member(NamedTuple):
    """A file within a tar: its name, and where its bytes are in the file of the (outer) tar."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarSource:
    """Image files within one tar, or within tars that lie in it.

    Args:
        path: the tar.
        members: every image.
        labels: of each, [N].
        classes: name of each class, by label.
    """

    path: Path
    members: tuple[Member, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def name(self, image: int) -> str:
        """The tar and the name within."""
        return f"{self.path}: {self.members[image].name}"

    def read(self, image: int) -> bytes:
        """The bytes of one member."""
        _, offset, size = self.members[image]
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)

    def digest(self) -> str:
        """Of names, places, sizes and labels."""
        rows = zip(self.members, self.labels, strict=True)
        return digest_of([*self.classes, *(f"{member} {label}" for member, label in rows)])


def open_imagenet(path: Path, table: Path | None) -> TarSource:
    """ImageNet's own tars: that of the training images, or with a table of labels a flat one.

    Raises:
        ValueError: it is damaged, or something else.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a folder, not ImageNet's tar; of folders are `folder`, `kaggle`")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open("rb") as file:
        length = path.stat().st_size
        members = list(scan_tar(file, str(path), 0, length))
        if table is not None:
            images = [member for member in members if is_image(_pure(member.name))]
            labels, classes = labels_of([_pure(member.name).name for member in images], table)
        else:
            images, labels, classes = _scan_classes(file, path, members)
    return TarSource(path, tuple(images), np.array(labels, np.int64), classes)


def _scan_classes(
    file: BinaryIO, path: Path, members: list[Member]
) -> tuple[list[Member], list[int], tuple[str, ...]]:
    """The images of a tar that has one tar per class, classes sorted by name."""
    for member in members:
        if _pure(member.name).suffix != ".tar":
            raise ValueError(
                f"{path}: {member.name!r} is not a tar of one class; "
                "a flat tar of images needs --labels TABLE.csv"
            )
    tars = sorted((_pure(member.name).stem, member) for member in members)
    classes = tuple(name for name, _ in tars)
    if len(set(classes)) < len(classes):
        raise ValueError(f"{path}: two tars of one class")
    images: list[Member] = []
    labels: list[int] = []
    for label, (name, tar) in enumerate(tqdm(tars, unit="class", disable=None, leave=False)):
        scan = scan_tar(file, f"{path}: {tar.name}", tar.offset, tar.offset + tar.size)
        found = [member for member in scan if is_image(_pure(member.name))]
        if not found:
            raise ValueError(f"{path}: {tar.name}: no images in it")
        images += [member._replace(name=f"{name}.tar/{member.name}") for member in found]
        labels += [label] * len(found)
    return images, labels, classes


def scan_tar(file: BinaryIO, name: str, start: int, stop: int) -> Iterator[Member]:
    """The files of a tar that lies in `file` from byte `start` to byte `stop`.

    Raises:
        ValueError: it is not a whole, plain tar; the message begins with `name`.
    """
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                _check_member(member, name, stop)
                yield Member(member.name, member.offset_data, member.size)
            end = tar.offset
    except (tarfile.TarError, OSError, EOFError, OverflowError) as error:
        raise ValueError(f"{name}: not a readable tar ({error})") from error
    file.seek(end)
    rest = file.read(max(0, min(stop - end, LONGEST_END + 1)))
    if not SHORTEST_END <= len(rest) <= LONGEST_END or rest.strip(b"\0"):
        raise ValueError(f"{name}: damaged or cut off at byte {end}; fetch it again")


def _check_member(member: tarfile.TarInfo, name: str, stop: int) -> None:
    if not member.isreg() or member.issparse():
        raise ValueError(f"{name}: {member.name!r} is not a regular file")
    if member.size < 0 or member.offset_data + member.size > stop:
        raise ValueError(f"{name}: {member.name!r} is cut off; fetch the tar again")


def _pure(name: str) -> PurePosixPath:
    # What the path says of places is of no meaning here; '..' would pass for a hidden folder.
    return PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in {"/", ".."}))
