"""A part of the images of an index: some of the classes, or some of each."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from biggan_sn.data.shards import ShardIndex
from biggan_sn.data.tars import ShardError
from biggan_sn.positions import permutation


def choose(index: ShardIndex, classes: Sequence[str], images: int) -> ShardIndex:
    """The index of a part; of all where nothing is asked for.

    Args:
        index: of all.
        classes: names of those taken; they are numbered anew in this order. Empty takes all.
        images: how many to take, of every class the same share as near as can be; 0 takes all.
            Those of a smaller number are among those of a larger one.

    Raises:
        ShardError: there is no such class, none of them has an image, or there are not so many.
    """
    if classes:
        index = _take(index, *_of_classes(index, classes), tuple(classes))
    if images:
        index = _take(index, _of_each(index, images), index.label, index.classes)
    return index


def _of_classes(
    index: ShardIndex, classes: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The images of these classes, and the new label of every image."""
    known = {name: label for label, name in enumerate(index.classes)}
    new = np.full(len(index.classes), -1, np.int32)
    for label, name in enumerate(classes):
        if name not in known:
            near = get_close_matches(name, index.classes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ShardError(f"{index.root}: data.classes: there is no class {name!r}{hint}")
        if new[known[name]] >= 0:
            raise ShardError(f"data.classes: {name!r} is there twice")
        new[known[name]] = label
    chosen = np.flatnonzero(new[index.label] >= 0)
    if not len(chosen):
        raise ShardError(f"{index.root}: data.classes: no image of {', '.join(classes)}")
    return chosen, new[index.label]


def _of_each(index: ShardIndex, images: int) -> NDArray[np.int64]:
    """So many images, each class in its share: those that come first where the images of each
    class, shuffled, are laid out evenly from 0 to 1."""
    counts = np.bincount(index.label, minlength=len(index.classes))
    if not (counts > 0).sum() <= images <= len(index):
        raise ShardError(
            f"{index.root}: data.images must be between {(counts > 0).sum()}, one of each class, "
            f"and {len(index)}, all there are, got {images}"
        )
    shuffled = permutation(0, "subset", len(index))  # whatever the seed of the run
    shuffled = shuffled[np.argsort(index.label[shuffled], kind="stable")]
    ranks = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    along = ranks / np.repeat(counts, counts)  # 0 for the first of each class
    return np.sort(shuffled[np.argsort(along, kind="stable")[:images]])


def _take(
    index: ShardIndex,
    chosen: NDArray[np.int64],
    labels: NDArray[np.int32],
    classes: tuple[str, ...],
) -> ShardIndex:
    digest = hashlib.sha256(index.fingerprint.encode())
    digest.update(chosen.tobytes() + labels[chosen].astype(np.int64).tobytes())
    return replace(
        index,
        classes=classes,
        shard=index.shard[chosen],
        offset=index.offset[chosen],
        size=index.size[chosen],
        label=labels[chosen],
        raw=index.raw[chosen],
        crc=index.crc[chosen],
        fingerprint=digest.hexdigest()[:16],
    )
