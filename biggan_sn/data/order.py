"""Which image comes at which position: pure functions of the seed and the position.

So a position is all the state there is, and any number of processes see the same batches.
"""

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from biggan_sn.positions import integers, permutation

Numbers = NDArray[np.int64]


class Order(Protocol):
    """Image numbers by position."""

    def __call__(self, positions: range) -> Numbers:
        """Image numbers [len(positions)]."""
        ...


class Shuffled:
    """The epochs end to end, each a permutation of its own.

    Args:
        size: number of images.
        seed: of the permutations.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self._permute)

    def _permute(self, epoch: int) -> Numbers:
        return permutation(self.seed, f"epoch/{epoch}", self.size)

    def __call__(self, positions: range) -> Numbers:
        """Image numbers [len(positions)]."""
        where = np.arange(positions.start, positions.stop)
        epochs, places = where // self.size, where % self.size
        images = np.empty_like(where)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            images[chosen] = self._epoch(int(epoch))[places[chosen]]
        return images


class Balanced:
    """Every class equally often: the classes end to end, in a new order every time, and of each
    class its images, shuffled anew when all have been taken.

    Args:
        labels: of each image, [number of images]; every class has some.
        seed: of all permutations.
    """

    def __init__(self, labels: NDArray[np.integer], seed: int) -> None:
        self.seed = seed
        by_class = np.argsort(labels, kind="stable")
        self._members = np.split(by_class, np.cumsum(np.bincount(labels))[:-1])
        self._epoch = lru_cache(maxsize=2 * len(self._members))(self._permute)

    def _permute(self, label: int, epoch: int) -> Numbers:
        members = self._members[label]
        return members[permutation(self.seed, f"class/{label}/{epoch}", len(members))]

    def __call__(self, positions: range) -> Numbers:
        """Image numbers [len(positions)]."""
        classes = len(self._members)
        first, last = positions.start // classes, (positions.stop - 1) // classes
        labels = [permutation(self.seed, f"classes/{r}", classes) for r in range(first, last + 1)]
        images = np.empty(len(positions), np.int64)
        for slot, position in enumerate(positions):
            turn, place = divmod(position, classes)  # each turn takes one image of every class
            label = int(labels[turn - first][place])
            epoch, number = divmod(turn, len(self._members[label]))
            images[slot] = self._epoch(label, epoch)[number]
        return images


class Chunked:
    """Chunks of images that lie side by side, read at one go: for disks and networks on which it
    is slow to fetch every image from somewhere else.

    Each place of a batch walks through a chunk, image by image from batch to batch, and then takes
    another; so the images of a batch come from as many chunks as it has places, and each process
    reads those of its own places only. All chunks are taken in a random order before any comes
    again. In every epoch they are cut at other places; where their length does not divide the
    number of images, the last one borrows from the first.

    Args:
        size: number of images.
        seed: of the permutations and cuts.
        length: images of a chunk.
        batch_size: places of a batch, over all processes.
    """

    def __init__(self, size: int, seed: int, length: int, batch_size: int) -> None:
        self.size = size
        self.seed = seed
        self.length = length
        self.batch_size = batch_size
        self._chunks = -(-size // length)
        self._epoch = lru_cache(maxsize=4)(self._cut)

    def _cut(self, epoch: int) -> Numbers:
        """The first image of each chunk, in the order in which they are taken."""
        start = integers(self.seed, f"cut/{epoch}", range(1), 1, self.size)[0, 0]
        order = permutation(self.seed, f"chunks/{epoch}", self._chunks)
        return (start + order * self.length) % self.size

    def __call__(self, positions: range) -> Numbers:
        """Image numbers [len(positions)]."""
        numbers, places = self.chunks(positions)
        return (self._first(numbers) + places) % self.size

    def chunks(self, positions: range) -> tuple[Numbers, Numbers]:
        """Of each position, its chunk's number since the beginning, and its place in that."""
        where = np.arange(positions.start, positions.stop)
        batches, lanes = where // self.batch_size, where % self.batch_size
        return batches // self.length * self.batch_size + lanes, batches % self.length

    def early(self, chunk: int) -> int:
        """At which place of a chunk to begin with the next one of the same place of a batch, which
        is `batch_size` further: at another for each, so that there is as much to fetch always."""
        return chunk % self.batch_size % self.length

    def images(self, chunk: int, place: int) -> Numbers:
        """Those of a chunk from `place` on."""
        first = self._first(np.array([chunk]))[0]
        return (first + np.arange(place, self.length)) % self.size

    def _first(self, numbers: Numbers) -> Numbers:
        epochs, chunks = numbers // self._chunks, numbers % self._chunks
        first = np.empty_like(numbers)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            first[chosen] = self._epoch(int(epoch))[chunks[chosen]]
        return first
