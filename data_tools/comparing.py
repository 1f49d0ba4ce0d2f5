"""What a folder of shards should hold, by its index, against dataset.json and what is there."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from biggan_sn.data.shards import CARD_NAME, ShardIndex
from data_tools.card import Card
from data_tools.checking import ERROR, Finding
from data_tools.work import Result


def compare_card(folder: Path, card: Card, index: ShardIndex) -> list[Finding]:
    """Where dataset.json and the index are not of one mind."""
    texts = [*_compare_classes(card, index), *_compare_written(card, index)]
    path = folder / CARD_NAME
    return [Finding(ERROR, "card", "", None, f"{path}: {text}") for text in texts]


def _compare_classes(card: Card, index: ShardIndex) -> Iterator[str]:
    counts = tuple(np.bincount(index.label, minlength=len(index.classes)).tolist())
    if card.images != len(index):
        yield f"{card.images} images, but {len(index)} in the index"
    if card.classes != index.classes:
        yield f"other classes than in the index: {_differ(card.classes, index.classes)}"
    elif len(card.counts) != len(counts):
        yield f"counts of {len(card.counts)} classes, but {len(counts)} in the index"
    else:
        for name, told, count in zip(index.classes, card.counts, counts, strict=True):
            if told != count:
                yield f"{told} images of class {name!r}, but {count} in the index"


def _differ(told: tuple[str, ...], known: tuple[str, ...]) -> str:
    if len(told) != len(known):
        return f"{len(told)}, not {len(known)}"
    label = next(i for i, (a, b) in enumerate(zip(told, known, strict=True)) if a != b)
    return f"number {label} is {told[label]!r}, not {known[label]!r}"


def _compare_written(card: Card, index: ShardIndex) -> Iterator[str]:
    if not card.shards:
        return
    images = np.bincount(index.shard, minlength=len(index.names)).tolist()
    known = dict(zip(index.names, zip(images, index.sizes, strict=True), strict=True))
    for name in sorted(known.keys() | card.shards.keys()):
        if name not in known:
            yield f"{name} is in it, but not in the index"
        elif name not in card.shards:
            yield f"{name} is in the index, but not in it"
        elif (told := card.shards[name])[:2] != known[name]:
            yield (
                f"{name} with {told.images} images in {told.bytes} bytes, but {known[name][0]} in "
                f"{known[name][1]} in the index"
            )


def compare_shards(index: ShardIndex, results: Mapping[str, Result]) -> Iterator[Finding]:
    """Shards that are missing, additional or under a wrong name, and classes without images.

    Args:
        index: of the set.
        results: of check_shard, for each shard that is there.
    """
    missing = [name for name in index.names if results.get(name, {"twin": "other"})["twin"]]
    for name, result in results.items():
        path, twin = index.root / name, result["twin"]
        if twin in missing:
            missing.remove(twin)
            text = f"{path}: was {twin} when it was indexed: give it that name again"
            yield Finding(ERROR, "renamed", name, None, text)
        elif twin:
            text = f"{path}: a copy of {twin}: remove it"
            yield Finding(ERROR, "additional", name, None, text)
        elif name not in index.names:
            text = (
                f"{path}: not in the index: move it away, or write the index anew with: "
                f"python -m data_tools.make_shards index {index.root}"
            )
            yield Finding(ERROR, "additional", name, None, text)
    for name in missing:
        instead = ", another has its name" if name in results else ""
        text = f"{index.root / name}: the shard is missing{instead}"
        yield Finding(ERROR, "missing", name, None, text)
    counts = np.bincount(index.label, minlength=len(index.classes))
    for label in np.flatnonzero(counts == 0).tolist():
        text = f"{index.root}: class {index.classes[label]!r}, label {label}, has no images"
        yield Finding(ERROR, "empty class", "", None, text)
