"""Where images come from: folders with one folder per class, and what is common to all sources."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_tools.work import digest_of

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
HIDDEN = (".", "__MACOSX")  # folders that programs leave beside those of a person
KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")  # within the folder of Kaggle's download
KAGGLE_LABELS = "LOC_val_solution.csv"
TITLES = {"imageid", "image_id", "image", "name", "filename", "file"}  # of a first column


class Source(Protocol):
    """Labelled images in a fixed order, to be read in any order.

    It is sent to every process once, so it holds no open files.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, by label."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of every image, [N]."""

    def name(self, image: int) -> str:
        """What an image is called in messages."""

    def read(self, image: int) -> bytes | NDArray[np.uint8]:
        """An encoded image file, or pixels [H, W, 3]."""

    def digest(self) -> str:
        """A hash of names, sizes and labels: another one if it is not the same images."""


@dataclass(frozen=True)
class FileSource:
    """Image files below a folder.

    Args:
        root: the folder.
        files: path of every image, from there.
        sizes: of each, bytes.
        labels: of each, [N].
        classes: name of each class, by label.
    """

    root: Path
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def name(self, image: int) -> str:
        """Its path."""
        return str(self.root / self.files[image])

    def read(self, image: int) -> bytes:
        """The file."""
        return (self.root / self.files[image]).read_bytes()

    def digest(self) -> str:
        """Of names, sizes and labels."""
        rows = zip(self.files, self.sizes, self.labels, strict=True)
        return digest_of([*self.classes, *(f"{file} {size} {label}" for file, size, label in rows)])


def open_folder(root: Path) -> FileSource:
    """The images root/<class>/**/<image>.

    Raises:
        ValueError: see find_images.
    """
    images, classes = find_images(root)
    paths, labels = zip(*images, strict=True)
    return _file_source(root, paths, labels, classes)


def find_images(root: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Every image under root/<class>/ with its label, and the sorted names of the classes.

    Raises:
        ValueError: no folder, fewer than two classes, or a class without images.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(HIDDEN))
    if len(folders) < 2:
        names = ", ".join(folder.name for folder in folders) or "no folder"
        raise ValueError(
            f"{root}: needs one folder per class, two at the least, but has {names}; "
            "is the path one level off?"
        )
    files = []
    for label, folder in enumerate(folders):
        found = sorted(p for p in folder.rglob("*") if is_image(p.relative_to(folder)))
        if not found:
            raise ValueError(f"{folder}: no images in it ({', '.join(sorted(SUFFIXES))})")
        files += [(path, label) for path in found]
    return files, tuple(folder.name for folder in folders)


def is_image(path: PurePath) -> bool:
    """Whether a file of a class is meant to be one of its images, by its name."""
    hidden = any(part.startswith(HIDDEN) for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def passed_over(root: Path) -> str:
    """A line about the files of a tree of classes that are no images by their names, and about
    images that lie beside the folders of classes; empty if there are none."""
    found: Counter[str] = Counter()
    for path in root.rglob("*"):
        inside = path.relative_to(root)
        if not path.is_file() or any(part.startswith(HIDDEN) for part in inside.parts):
            continue
        if not is_image(inside):
            found[path.suffix.lower() or "without a suffix"] += 1
        elif len(inside.parts) == 1:
            found["beside the folders of classes"] += 1
    most_first = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    kinds = ", ".join(f"{count} {kind}" for kind, count in most_first)
    return f"{root}: files passed over, for their names or places: {kinds}" if kinds else ""


def open_kaggle(root: Path, split: str) -> FileSource:
    """ImageNet as Kaggle's download holds it, unpacked; the classes are the sorted WordNet names.

    Args:
        root: the folder of the download, or the one above or below it.
        split: train, or val, whose classes are in a table.

    Raises:
        ValueError: parts of it are missing, or do not belong together.
    """
    top = _kaggle_top(root)
    train = top / KAGGLE / "train"
    if split == "train":
        return open_folder(train)
    folder, table = top / KAGGLE / split, top / KAGGLE_LABELS
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if is_image(PurePath(path.name)))
    labels, classes = labels_of([path.name for path in paths], table)
    if train.is_dir():
        _check_same_classes(table, classes, train)
    return _file_source(folder, paths, labels, classes)


def _kaggle_top(root: Path) -> Path:
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    above = [root.parent] if root.name == KAGGLE.parts[0] else []
    for top in (root, *above, *sorted(path for path in root.iterdir() if path.is_dir())):
        if (top / KAGGLE).is_dir():
            return top
    raise ValueError(f"{root}: not the folder of Kaggle's download, for it has no {KAGGLE}")


def _check_same_classes(table: Path, classes: tuple[str, ...], train: Path) -> None:
    """Labels of val mean those of train only if both have the same classes."""
    folders = {p.name for p in train.iterdir() if p.is_dir() and not p.name.startswith(HIDDEN)}
    if other := sorted(folders.symmetric_difference(classes)):
        raise ValueError(f"{table}: not the classes of {train}: {other[0]} is in one of them only")


def _file_source(
    root: Path, paths: Sequence[Path], labels: Sequence[int], classes: tuple[str, ...]
) -> FileSource:
    files = tuple(str(path.relative_to(root)) for path in paths)
    sizes = tuple(path.stat().st_size for path in paths)
    return FileSource(root, files, sizes, np.array(labels, np.int64), classes)


def labels_of(names: Sequence[str], table: Path) -> tuple[list[int], tuple[str, ...]]:
    """The label of each of the images `names`, and the sorted names of the classes.

    Args:
        names: file names of images.
        table: lines of `name,class`, the name with or without its extension. What follows the
            class after a space is passed over: Kaggle's table has boxes there.

    Raises:
        ValueError: the table is damaged, or is not about exactly these images.
    """
    given = _read_table(table)
    stems = [name if name in given else PurePath(name).stem for name in names]
    if missing := [name for name, stem in zip(names, stems, strict=True) if stem not in given]:
        raise ValueError(f"{table}: {len(missing)} images are not in it, {missing[0]!r} the first")
    if other := sorted(given.keys() - set(stems)):
        raise ValueError(f"{table}: {len(other)} of its images are missing, {other[0]!r} the first")
    if len(set(stems)) < len(stems):
        twice = next(stem for stem, count in Counter(stems).items() if count > 1)
        raise ValueError(f"{table}: two images are called {twice!r}")
    classes = tuple(sorted(set(given.values())))
    label = {name: number for number, name in enumerate(classes)}
    return [label[given[stem]] for stem in stems], classes


def _read_table(table: Path) -> dict[str, str]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{table}: not a table of name,class ({error})") from error
    if rows and rows[0][1][0].strip().lower() in TITLES:
        del rows[0]
    given: dict[str, str] = {}
    for number, row in rows:
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise ValueError(f"{table}: line {number} is not name,class: {','.join(row)[:80]!r}")
        name = row[0].strip()
        if name in given:
            raise ValueError(f"{table}: line {number} names {name!r} again")
        given[name] = row[1].split()[0]
    return given


def check_classes(source: Source, where: Path) -> None:
    """That there are two classes at the least, none of them empty.

    Raises:
        ValueError: otherwise.
    """
    if len(source.classes) < 2:
        names = ", ".join(source.classes) or "none"
        raise ValueError(f"{where}: needs two classes at the least, but has {names}")
    counts = np.bincount(source.labels, minlength=len(source.classes))
    if not counts.all():
        raise ValueError(f"{where}: no images of class {source.classes[int(counts.argmin())]}")
