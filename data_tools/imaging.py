"""One image of whatever kind -> a square of uint8 pixels -> the bytes of a shard's member.

An image is turned upright, put on white where it is transparent, made 8 bits of red, green and
blue, cut or padded square, and reduced by area: each output pixel is the mean over the area that
it covers, pixels at the border of this area with the share of them that lies inside.
"""

import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]  # [H, W, 3]
Whole = NDArray[np.unsignedinteger[Any]]

# Among those that Pillow reads are also programs (PostScript), which it would start.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
ORIENTATION = 0x0112  # the tag of EXIF
STRIP = 1 << 25  # values that are summed at once; their sums take up to 8 times as many bytes


class UnreadableError(ValueError):
    """An image that cannot be taken; the message says why."""


class Picture(NamedTuple):
    """What became of an image.

    Args:
        pixels: uint8 [R, R, 3].
        animated: it has several frames, of which this is the first.
        enlarged: it has fewer pixels than were asked for.
    """

    pixels: Pixels
    animated: bool
    enlarged: bool


def square_picture(image: bytes | Pixels, resolution: int, fit: str) -> Picture:
    """An image file, or pixels [H, W, 3], as a square of `resolution` pixels.

    Args:
        image: what a source gave.
        resolution: R, the side of the square.
        fit: a row of FITS.

    Raises:
        UnreadableError: it is damaged, too large, or of a kind that has no known colours.
    """
    pixels, animated = decode(image) if isinstance(image, bytes) else (image, False)
    row = FITS[fit]
    enlarged = row.side(pixels.shape[:2]) < resolution
    return Picture(row.place(pixels, resolution), animated, enlarged)


def decode(file: bytes) -> tuple[Pixels, bool]:
    """The pixels [H, W, 3] of an image file, and whether it has more frames than this first one.

    Raises:
        UnreadableError: see square_picture.
    """
    try:
        # Pillow warns of large images, and of tags that we do not read.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(file), formats=FORMATS) as opened,
        ):
            animated = bool(getattr(opened, "is_animated", False))
            opened.load()
            return np.asarray(_rgb(_upright(opened))), animated
    except UnidentifiedImageError as error:
        raise UnreadableError(f"none of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow raises whatever its parsers trip over
        raise UnreadableError(str(error) or type(error).__name__) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged tags do not make a picture useless
        turn = None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if image.mode.startswith(("I", "F")):  # 32 bits or real numbers: what is white there?
        raise UnreadableError(f"the range of its values is unknown, mode {image.mode}")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16 bits of grey scaled to 8, what is transparent white: 65535 becomes 255."""
    levels = np.asarray(image).astype(np.uint32)
    grey = ((levels + 128) // 257).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[levels == clear] = 255
    return Image.fromarray(grey)


def _cut(pixels: Pixels, resolution: int) -> Pixels:
    """The middle, as wide as the short side."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return scaled(pixels[top : top + side, left : left + side], resolution, resolution)


def _pad(pixels: Pixels, resolution: int) -> Pixels:
    """The whole image in the middle of a white square."""
    scale = resolution / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    out = np.full((resolution, resolution, 3), 255, np.uint8)
    top, left = (resolution - height) // 2, (resolution - width) // 2
    out[top : top + height, left : left + width] = scaled(pixels, height, width)
    return out


def scaled(pixels: Pixels, height: int, width: int) -> Pixels:
    """Pixels of another size, uint8 [height, width, 3]: an axis that has too many is reduced by
    area, one that has too few is enlarged by bicubic interpolation."""
    grown = max(height, pixels.shape[0]), max(width, pixels.shape[1])
    if grown != pixels.shape[:2]:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.asarray(image.resize(grown[::-1], Image.Resampling.BICUBIC))
    return area_means(pixels, height, width)


def area_means(pixels: Pixels, height: int, width: int) -> Pixels:
    """Means over the cells of a grid of height x width laid over the image, rounded once.

    Args:
        pixels: uint8 [H, W, 3].
        height: of the result, H or less.
        width: of the result, W or less.
    """
    area = pixels.shape[0] * pixels.shape[1]
    # Sums may go round past the end of the type: the differences that are taken of them are
    # right nevertheless, as these fit in.
    kind = np.uint32 if 256 * area < 2**32 else np.uint64
    strips = np.array_split(pixels, -(-pixels.size // STRIP), axis=1)
    rows = np.concatenate([_sums(strip, height, kind) for strip in strips], axis=1)
    both = _sums(rows.swapaxes(0, 1), width, kind).swapaxes(0, 1)
    return ((both + kind(area // 2)) // kind(area)).astype(np.uint8)


def _sums(values: Whole, parts: int, kind: type[np.uint32] | type[np.uint64]) -> Whole:
    """Sums over each of `parts` equal parts of the first axis, times `parts`: whole numbers.

    The sum up to a place between two pixels is the sum of the pixels before it and the share of
    the next one, so a part's sum is the difference of two.
    """
    total = np.zeros((len(values) + 1, *values.shape[1:]), kind)
    np.cumsum(values, axis=0, dtype=kind, out=total[1:])
    whole, share = np.divmod(np.arange(parts + 1) * len(values), parts)
    following: Any = values[np.minimum(whole, len(values) - 1)]
    up_to_edges = total[whole] * kind(parts) + share.astype(kind)[:, None, None] * following
    return np.diff(up_to_edges, axis=0)


def _jpeg(pixels: Pixels, quality: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def _png(pixels: Pixels, quality: int) -> bytes:
    del quality
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def _raw(pixels: Pixels, quality: int) -> bytes:
    del quality
    return pixels.tobytes()


class Fit(NamedTuple):
    """How an image becomes square.

    Args:
        side: of (height, width), the one that becomes R.
        place: (pixels [H, W, 3], R) -> pixels [R, R, 3].
    """

    side: Callable[[tuple[int, ...]], int]
    place: Callable[[Pixels, int], Pixels]


class Encoding(NamedTuple):
    """How pixels are stored.

    Args:
        extension: of the member of a shard.
        encode: (pixels [R, R, 3], quality 1 to 100) -> bytes.
    """

    extension: str
    encode: Callable[[Pixels, int], bytes]


FITS = {"short": Fit(min, _cut), "long": Fit(max, _pad)}

ENCODINGS = {
    "jpg": Encoding("jpg", _jpeg),  # 4:4:4
    "png": Encoding("png", _png),
    "raw": Encoding("rgb", _raw),  # R * R * 3 bytes: rows, columns, colours
}

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
