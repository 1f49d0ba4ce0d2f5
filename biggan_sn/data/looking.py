"""How large the images of a data set are."""

import io
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from PIL import Image

from biggan_sn.data.shards import ShardError, ShardIndex
from biggan_sn.data.stores import Store, open_store
from biggan_sn.positions import permutation

LOOKS = 9  # images


def find_resolution(index: ShardIndex, command: str = "") -> int | None:
    """The side that most of some images have, pixels; None if not one of all can be read.

    Some, and not the first: that one may be wrong.

    Args:
        index: of the images.
        command: as in DataConfig.

    Raises:
        ShardError: they are not square.
    """
    store = open_store(index, command)
    sizes = Counter(islice(_sizes(index, store), LOOKS))
    store.close()
    if not sizes:
        return None
    (width, height), _ = sizes.most_common(1)[0]
    if width != height:
        raise ShardError(
            f"{index.root}: images of {width}x{height} pixels, but only square ones can be "
            "trained on: make shards of them with make_shards"
        )
    return width


def _sizes(index: ShardIndex, store: Store) -> Iterator[tuple[int, int]]:
    """Width and height of those that can be read, in a random order."""
    for image in permutation(0, "looks", len(index)).tolist():
        place = int(index.shard[image]), int(index.offset[image]), int(index.size[image])
        try:
            yield picture_size(store.read(*place), bool(index.raw[image]))
        except (OSError, ValueError):
            continue


def picture_size(data: bytes, raw: bool) -> tuple[int, int]:
    """Width and height of an encoded image, pixels.

    Raises:
        ValueError, OSError: it is none.
    """
    if raw:
        side = round((len(data) / 3) ** 0.5)
        if not side or 3 * side * side != len(data):
            raise ValueError(f"{len(data)} bytes are no square image")
        return side, side
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return image.size
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
