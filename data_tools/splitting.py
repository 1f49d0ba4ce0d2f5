"""A source in two: images to train on, and others that training never sees."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biggan_sn.positions import permutation
from data_tools.sources import Source
from data_tools.work import digest_of


@dataclass(frozen=True)
class Part:
    """Some images of a source, in its order.

    Args:
        source: of all.
        chosen: numbers of these among them, [n].
    """

    source: Source
    chosen: NDArray[np.int64]

    @property
    def classes(self) -> tuple[str, ...]:
        """All of the source's, by label."""
        return self.source.classes

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of each, [n]."""
        return self.source.labels[self.chosen]

    def name(self, image: int) -> str:
        """As the source calls it."""
        return self.source.name(int(self.chosen[image]))

    def read(self, image: int) -> bytes | NDArray[np.uint8]:
        """As the source has it."""
        return self.source.read(int(self.chosen[image]))

    def digest(self) -> str:
        """Of the source, and of which images these are."""
        return digest_of([self.source.digest(), *map(str, self.chosen.tolist())])


def split(source: Source, share: float) -> dict[str, Part]:
    """`heldout`, this share of each class and one image at least, drawn at random, but for the same
    images always the same; and `train`, the others.

    Raises:
        ValueError: of a class nothing would be left to train on.
    """
    labels = source.labels
    order = permutation(0, "heldout", len(labels))
    aside = np.zeros(len(labels), dtype=bool)
    for label, name in enumerate(source.classes):
        members = order[labels[order] == label]
        count = max(1, round(share * len(members)))
        if count >= len(members):
            raise ValueError(
                f"--heldout {share}: class {name!r} has {len(members)} images, and none of them "
                "would be left to train on"
            )
        aside[members[:count]] = True
    return {
        "train": Part(source, np.flatnonzero(~aside)),
        "heldout": Part(source, np.flatnonzero(aside)),
    }
