"""dataset.json, the card of a data set: what it is, and the SHA-256 of every shard."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from biggan_sn.data.shards import CARD_NAME, ShardError, ShardIndex
from biggan_sn.files import whole_file

VERSION = 1


class Written(NamedTuple):
    """A shard as it was written."""

    images: int
    bytes: int
    sha256: str


class Card(NamedTuple):
    """What a dataset.json says.

    Args:
        told: all of it.
        images: how many there are.
        resolution: their side, pixels; None if it does not say.
        classes, counts: name of each class, and how many images it has.
        shards: by name; none if it does not say.
    """

    told: dict[str, Any]
    images: int
    resolution: int | None
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    shards: dict[str, Written]


def read_card(folder: Path) -> Card | None:
    """The card of a folder of shards; None if there is none.

    Raises:
        ShardError: it cannot be read, or is not one of make_shards.
    """
    path = folder / CARD_NAME
    if not path.exists():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["version"] != VERSION:
            raise ValueError(f"version {told['version']}, not {VERSION}")
        return Card(
            told,
            int(told["images"]),
            int(told["resolution"]) if "resolution" in told else None,
            tuple(map(str, told["classes"])),
            tuple(map(int, told["counts"])),
            {name: _written(row) for name, row in told.get("shards", {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ShardError(
            f"{path}: not a description that make_shards or --record has written ({why}): "
            "bring the right one back, or move it away"
        ) from error


def _written(row: Mapping[str, Any]) -> Written:
    return Written(int(row["images"]), int(row["bytes"]), str(row["sha256"]).lower())


def write_card(
    index: ShardIndex, card: Card | None, resolution: int, sha256: Mapping[str, str]
) -> None:
    """Adds the hashes of the shards to the card of an index, or writes one.

    Args:
        index: of the shards.
        card: what is there.
        resolution: side of the images, pixels.
        sha256: of each shard, by name.
    """
    images = np.bincount(index.shard, minlength=len(index.names)).tolist()
    shards = {
        name: Written(count, size, sha256[name])._asdict()
        for name, count, size in zip(index.names, images, index.sizes, strict=True)
    }
    # Of shards that others made, that is as far as is known here.
    about: dict[str, str | int] = {"source": "shards", "resolution": resolution}
    told = card.told if card else describe(about, index, 0)
    text = json.dumps({**told, "shards": shards}, indent=2) + "\n"
    with whole_file(index.root / CARD_NAME) as file:
        file.write(text.encode())


def describe(about: Mapping[str, str | int], index: ShardIndex, left_out: int) -> dict[str, Any]:
    """What a card says but for the shards: where the images come from and how they were made, how
    many there are, how many were left out, and the classes."""
    return {
        "version": VERSION,
        **about,
        "images": len(index),
        "left_out": left_out,
        "classes": list(index.classes),
        "counts": np.bincount(index.label, minlength=len(index.classes)).tolist(),
    }
