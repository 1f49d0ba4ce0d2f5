"""From bytes of shards to pixels."""

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from zlib_ng.zlib_ng import crc32

from biggan_sn.data.shards import ShardIndex
from biggan_sn.data.stores import Folder, Store
from biggan_sn.data.tars import ShardError

JPEG = b"\xff\xd8\xff"  # how such a file begins

Pixels = NDArray[np.uint8]


class DamagedError(ShardError):
    """An image that cannot be read, is not what it was, or cannot be decoded."""


class Reader:
    """Decodes images of the shards to uint8 [H, W, 3]; safe to call from many threads.

    Args:
        index: of the shards.
        resolution: side of the images, pixels.
        store: where their bytes come from; by default the folder of the index.
    """

    def __init__(self, index: ShardIndex, resolution: int, store: Store | None = None) -> None:
        self.index = index
        self.resolution = resolution
        self.store = store or Folder(index)

    def close(self) -> None:
        """Gives back what the store holds open."""
        self.store.close()

    def read_into(self, image: int, pixels: Pixels) -> None:
        """Decodes one image into `pixels` [H, W, 3].

        Raises:
            ShardError: its shard cannot be opened, or it has another size.
            DamagedError: it cannot be read or decoded.
        """
        index = self.index
        size = int(index.size[image])
        try:
            data = self.store.read(int(index.shard[image]), int(index.offset[image]), size)
        except OSError as error:
            raise DamagedError(f"{index.where(image)}: cannot be read ({error})") from error
        self.decode_into(image, data, pixels)

    def decode_into(self, image: int, data: bytes | memoryview, pixels: Pixels) -> None:
        """Decodes the bytes of one image into `pixels` [H, W, 3].

        Raises:
            ShardError: it has another size.
            DamagedError: they are not those of the index, or cannot be decoded.
        """
        index = self.index
        try:
            if crc32(data) != index.crc[image]:
                raise ValueError(_difference(data, int(index.size[image])))
            found = _decode(data, bool(index.raw[image]), pixels)
        except Exception as error:  # Pillow raises whatever its parsers trip over
            raise DamagedError(f"{index.where(image)}: cannot be decoded ({error})") from error
        if found != pixels.shape[:2]:
            height, width = found
            raise ShardError(
                f"{index.where(image)}: {width}x{height} pixels, but data.resolution is "
                f"{self.resolution}"
            )


def _difference(data: bytes | memoryview, size: int) -> str:
    if len(data) != size:
        return f"{len(data)} of {size} bytes are there"
    return "its bytes are not those that were indexed"


def _decode(data: bytes | memoryview, raw: bool, pixels: Pixels) -> tuple[int, int]:
    """Decodes into `pixels` [H, W, 3] if the image has this size. Returns its height and width:
    they are known before any memory is taken for it, so that a wrong header cannot ask for all.
    """
    if raw:
        return _copy(data, pixels)
    if data[:3] == JPEG:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) == pixels.shape[:2]:
            # A larger buffer than needed would be filled in part without a word.
            simplejpeg.decode_jpeg(data, "RGB", buffer=pixels)
        return height, width
    return _decode_png(bytes(data), pixels)


def _copy(data: bytes | memoryview, pixels: Pixels) -> tuple[int, int]:
    if len(data) != pixels.size:
        side = round((len(data) / 3) ** 0.5)
        if 3 * side * side != len(data):
            raise ValueError(f"{len(data)} bytes are no square image")
        return side, side
    pixels[:] = np.frombuffer(data, np.uint8).reshape(pixels.shape)
    height, width, _ = pixels.shape
    return height, width


def _decode_png(data: bytes, pixels: Pixels) -> tuple[int, int]:
    """Checks the checksums as well, which Pillow passes over when it decodes."""
    checked = _open(data)
    checked.verify()
    if (checked.height, checked.width) == pixels.shape[:2]:
        image = _open(data)
        if image.mode.startswith("I"):  # Pillow would cut all above 255 off
            raise ValueError(f"16 bits of grey, mode {image.mode}")
        pixels[:] = np.asarray(image.convert("RGB"))
    return checked.height, checked.width


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=("PNG",))
    except UnidentifiedImageError as error:
        raise ValueError("neither a JPEG nor a PNG") from error
