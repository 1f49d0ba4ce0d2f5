"""Real handwritten digits that come inside scikit-learn: data for a machine without a network.

1797 images of 8x8 pixels by 13 writers (Alpaydin and Kaynak 1998), enlarged to 32x32. The last
397 are held out; but for some fifteen of them, they are by writers of their own.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biggan_sn.positions import integers

NUM_CLASSES = 10
CHANNELS = 3
STACKED_CLASSES = NUM_CLASSES**CHANNELS
RESOLUTION = 32
HELD_OUT = 397


class Digits(NamedTuple):
    """images [N, 32, 32, 3] uint8, labels [N] int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load_digits() -> tuple[Digits, Digits]:
    """The digits to train on, and those held out."""
    from sklearn import datasets  # slow to import, and only needed here

    source = datasets.load_digits()
    images = np.stack([_enlarge(image) for image in source.images])
    labels = source.target.astype(np.int64)
    return (
        Digits(images[:-HELD_OUT], labels[:-HELD_OUT]),
        Digits(images[-HELD_OUT:], labels[-HELD_OUT:]),
    )


def stack_digits(digits: Digits, number: int) -> Digits:
    """Three random digits in the three colours, whose 1000 combinations are modes that can be
    counted: the stacked MNIST of Metz et al. 2017, section 3.3.1. Image i is the same whatever
    their number. labels are 100 red + 10 green + blue."""
    chosen = integers(0, "stacked digits", range(number), CHANNELS, len(digits.labels))
    places = NUM_CLASSES ** np.arange(CHANNELS - 1, -1, -1)
    images = np.stack([digits.images[rows, :, :, 0] for rows in chosen.T], axis=-1)
    return Digits(images, digits.labels[chosen] @ places)


def _enlarge(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    """8x8 with values 0..16 -> 32x32x3 with values 0..255, bicubic."""
    grey = Image.fromarray((image * (255 / 16)).round().astype(np.uint8))
    large = grey.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(large)[:, :, None], 3, 2)
