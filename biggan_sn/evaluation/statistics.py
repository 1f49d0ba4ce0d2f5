"""What metrics have to know of a set of images, and the file that keeps it."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biggan_sn.files import whole_file


@dataclass(frozen=True)
class Statistics:
    """Of a set of images, as one extractor sees them.

    Args:
        mu, sigma: mean [D] and covariance [D, D] of the features of all images, float64.
        features, logits: of some of them, float32 [kept, D] and [kept, number of logits].
        numbers, labels: of the same, int64 [kept]; labels are -1 where unknown.
        counts: images of each class, int64 [number of classes].
        classes: their names.
        images: how many there are.
        height, width: of each, pixels.
        extractor: its name.
        weights: SHA-256 of its weights.
        fingerprint: hash of the images.
    """

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    features: NDArray[np.float32]
    logits: NDArray[np.float32]
    numbers: NDArray[np.int64]
    labels: NDArray[np.int64]
    counts: NDArray[np.int64]
    classes: tuple[str, ...]
    images: int
    height: int
    width: int
    extractor: str
    weights: str
    fingerprint: str

    def save(self, path: Path) -> None:
        """Writes a .npz, whole or not at all."""
        values = asdict(self)
        with whole_file(path) as file:
            np.savez(file, **values)


def load_statistics(path: Path) -> Statistics:
    """What `Statistics.save` wrote.

    Raises:
        ValueError: it did not, or the file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            names = [field.name for field in fields(Statistics)]
            if missing := [name for name in names if name not in stored]:
                raise ValueError(f"it has no {', '.join(missing)}")
            values = {name: stored[name] for name in names}
    except Exception as error:  # a damaged zip raises whatever its reader trips over
        raise ValueError(
            f"{path}: not statistics that data_tools.dataset_stats makes, or damaged ({error})"
        ) from error
    classes = tuple(values.pop("classes").tolist())
    single = {name: value.item() for name, value in values.items() if value.ndim == 0}
    return Statistics(**{**values, **single}, classes=classes)


def holds_statistics(path: Path) -> bool:
    """Whether this is a .npz of statistics, and not one of images."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {"mu", "sigma"} <= set(stored)
    except Exception:  # whoever opens it next says what is wrong
        return False
