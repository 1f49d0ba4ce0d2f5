"""Images that are there more than once: within a data set, and in two."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biggan_sn.data.shards import ShardIndex
from data_tools.checking import ERROR, WARNING, Finding

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Hashed:
    """The images of a set and what they are known by.

    Args:
        index: of the shards.
        file: hash of the encoded bytes of each image, 0 if it could not be read.
        alike: hash of what makes two images the same: of the pixels, or of the encoded bytes
            where nothing was decoded; 0 if it could not be read.
    """

    index: ShardIndex
    file: Hashes
    alike: Hashes


def find_duplicates(images: Hashed) -> Iterator[Finding]:
    """Images of one set that are the same, one finding for all that are, with a word on it where
    their labels disagree. Warnings only: sets that nobody may change have such images too."""
    order = np.argsort(images.alike, kind="stable")
    ordered = images.alike[order]
    edges = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1, append=ordered[-1:] + 1))
    for place in np.flatnonzero(np.diff(edges) > 1).tolist():
        members = order[edges[place] : edges[place + 1]]
        if images.alike[members[0]]:
            yield _duplicate(images, members)


def _duplicate(images: Hashed, members: NDArray[np.int64]) -> Finding:
    index = images.index
    labels = index.label[members]
    first = int(members[0])
    disagree = labels != labels[0]
    second = int(members[np.argmax(disagree) if disagree.any() else 1])
    same = "file" if (images.file[members] == images.file[first]).all() else "pixels"
    names = [repr(index.classes[label]) for label in np.unique(labels)]
    of = (
        f"in classes {', '.join(names)}, so labels disagree"
        if disagree.any()
        else (f"in class {names[0]}")
    )
    others = f" and {len(members) - 2} more" if len(members) > 2 else ""
    return Finding(
        WARNING,
        f"same {same}",
        index.names[index.shard[first]],
        int(index.offset[first]),
        f"{index.where(first)}: the same {same} as {index.where(second)}{others}, {of}",
    )


def find_shared(images: Hashed, others: Hashed) -> Iterator[Finding]:
    """Images of one set that are in another as well."""
    order = np.argsort(others.alike, kind="stable")
    ordered = others.alike[order]
    places = np.searchsorted(ordered, images.alike)
    places[places == len(ordered)] = 0
    shared = (ordered[places] == images.alike) & (images.alike != 0)
    index = images.index
    for image in np.flatnonzero(shared).tolist():
        other = int(order[places[image]])
        same = "file" if images.file[image] == others.file[other] else "pixels"
        yield Finding(
            ERROR,
            "shared",
            index.names[index.shard[image]],
            int(index.offset[image]),
            f"{index.where(image)}: the same {same} as {others.index.where(other)}",
        )
