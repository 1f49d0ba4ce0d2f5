"""Data sets in the formats of Hugging Face's library `datasets`, which is asked for only here.

Only files of this machine are read: nothing is fetched, and no code that comes with data is run.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.work import digest_of

SAVED = ("state.json", "dataset_dict.json")  # one of them is in what save_to_disk wrote


@dataclass(frozen=True)
class TableSource:
    """The rows of a `datasets.Dataset`.

    Args:
        path: where it is.
        table: the data set, with images as encoded files.
        column: name of that of images.
        labels: of each row, [N].
        classes: name of each class, by label.
    """

    path: Path
    table: Any
    column: str
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def name(self, image: int) -> str:
        """Its row."""
        return f"{self.path}: row {image}"

    def read(self, image: int) -> bytes:
        """The file stored in the row.

        Raises:
            OSError: there is none, only the name of one perhaps.
        """
        stored = self.table[image][self.column]
        if stored is None or stored["bytes"] is None:
            raise OSError("the row holds no image")
        return bytes(stored["bytes"])

    def digest(self) -> str:
        """Of the labels and of the sizes of the files."""
        sizes = [
            f"{p.name} {p.stat().st_size}" for p in sorted(self.path.rglob("*")) if p.is_file()
        ]
        return digest_of([*self.classes, self.column, *sizes, *map(str, self.labels.tolist())])


def open_datasets(path: Path, split: str) -> TableSource:
    """What Dataset.save_to_disk wrote, or a folder of parquet files.

    Args:
        path: the folder.
        split: train, test, ...

    Raises:
        ValueError: `datasets` is not installed, or cannot read it; there is no such split; or it
            has not one column of images and one of classes.
    """
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder")
    datasets = _library()
    saved = any((path / name).is_file() for name in SAVED)
    table = (_saved if saved else _parquet)(datasets, path, split)
    image = _column(path, table, datasets.Image)
    label = _column(path, table, datasets.ClassLabel)
    with _in_words(path):
        classes = tuple(table.features[label].names)
        labels = np.array(table.with_format(None)[label][:], np.float64)  # what is missing is nan
        table = table.cast_column(image, datasets.Image(decode=False))
    if not ((labels >= 0) & (labels < len(classes))).all():
        raise ValueError(f"{path}: column {label!r} has rows without a class; is it a test split?")
    return TableSource(path, table, image, labels.astype(np.int64), classes)


def _library() -> Any:
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    try:
        import datasets
    except ImportError as error:
        raise ValueError("`datasets` is not installed: pip install datasets") from error
    datasets.disable_progress_bars()
    return datasets


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """What the library raises, in one line that names the folder."""
    try:
        yield
    except Exception as error:  # over three other libraries, whatever they trip over
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: `datasets` cannot read it ({reason})") from error


def _saved(datasets: Any, path: Path, split: str) -> Any:
    with _in_words(path):
        stored = datasets.load_from_disk(str(path))
    splits = stored if isinstance(stored, dict) else {str(stored.split or split): stored}
    if split not in splits:
        raise ValueError(f"{path}: no split {split!r} there, but {', '.join(sorted(splits))}")
    return splits[split]


def _parquet(datasets: Any, path: Path, split: str) -> Any:
    """From train-00000-of-00002.parquet, data/train.parquet, train/0000.parquet and the like."""
    files = sorted(path.rglob("*.parquet"))
    if not files:
        raise ValueError(f"{path}: neither saved by `datasets` nor parquet files")
    of_split = [str(file) for file in files if split in _words(file.relative_to(path))]
    if not of_split:
        raise ValueError(f"{path}: no parquet file of split {split!r}, but {files[0].name}")
    with _in_words(path):
        return datasets.load_dataset("parquet", data_files={split: of_split}, split=split)


def _words(file: Path) -> list[str]:
    return [word for part in file.with_suffix("").parts for word in part.split("-")]


def _column(path: Path, table: Any, kind: type) -> str:
    found = [name for name, feature in table.features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        raise ValueError(
            f"{path}: needs one column of type {kind.__name__}, but has "
            f"{', '.join(found) or 'none'} among {', '.join(table.column_names)}"
        )
    return found[0]
