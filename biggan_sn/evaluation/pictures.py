"""Pictures: grids of samples, strips of grids, sheets of rows with names, heat-maps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Pixels = NDArray[np.uint8]  # [H, W, 3]
GAP = 2
LARGE_ENOUGH = 64  # pixels of a picture that something is written beside
LONGEST = 30  # letters of a name
CAPTION, HEADING = 18, 26  # pixels for what stands below a picture, and above a block
INK = (20, 20, 20)
PAPER = (255, 255, 255)
ALARM = (220, 30, 30)
RAMP = np.array(  # dark blue to yellow: more is lighter, also in grey and to the colour-blind
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=float
)


def grid(images: Tensor, columns: int) -> Pixels:
    """Images uint8 [N, 3, H, W], laid out column by column: the first N / columns are the
    first column, so that samples drawn class after class show a class in each column."""
    pixels = images.permute(0, 2, 3, 1).numpy()
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, np.uint8)
    for number, image in enumerate(pixels):
        top = GAP + number % rows * (height + GAP)
        left = GAP + number // rows * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet


def strip(grids: Sequence[Pixels], titles: Sequence[str]) -> Pixels:
    """Pictures of one height side by side, each under its title."""
    font = ImageFont.load_default(16)
    bar, space = 26, 12
    widths = [
        max(picture.shape[1], round(font.getlength(title)) + 2)
        for picture, title in zip(grids, titles, strict=True)
    ]
    width = sum(widths) + space * (len(grids) - 1)
    sheet = Image.new("RGB", (width, grids[0].shape[0] + bar), PAPER)
    pen = ImageDraw.Draw(sheet)
    left = 0
    for picture, title, room in zip(grids, titles, widths, strict=True):
        pen.text((left + room / 2, bar / 2), title, INK, font, anchor="mm")
        sheet.paste(Image.fromarray(picture), (left + (room - picture.shape[1]) // 2, bar))
        left += room + space
    return np.asarray(sheet)


class Block(NamedTuple):
    """Pictures in rows, under one heading.

    Args:
        images: uint8 [rows, columns, 3, H, W].
        heading: above all of them.
        captions: below each, [rows][columns]; none by default.
    """

    images: Tensor
    heading: str = ""
    captions: Sequence[Sequence[str]] = ()


def sheet(blocks: Sequence[Block], left: Sequence[str], right: Sequence[str] = ()) -> Pixels:
    """Blocks of equally many rows and equally large pictures side by side; the rows are named at
    the left and, where there are names for it, at the right. Small pictures are enlarged by a
    whole factor: every pixel stays what it is."""
    font, space = ImageFont.load_default(13), 16
    times = -(-LARGE_ENOUGH // blocks[0].images.shape[-1])
    side = blocks[0].images.shape[-1] * times
    pitch = side + GAP + (CAPTION if any(block.captions for block in blocks) else 0)
    top = HEADING if any(block.heading for block in blocks) else GAP
    left, right = ([_short(name) for name in names] for names in (left, right))
    margins = [_room(names, font) for names in (left, right)]
    drawn = [_drawn(block, times, pitch) for block in blocks]
    rooms = [max(p.width, _room([b.heading], font)) for p, b in zip(drawn, blocks, strict=True)]
    width = sum(margins) + sum(rooms) + space * (len(blocks) - 1)
    paper = Image.new("RGB", (width, top + pitch * len(left)), PAPER)
    pen = ImageDraw.Draw(paper)
    x = margins[0]
    for picture, block, room in zip(drawn, blocks, rooms, strict=True):
        pen.text((x + room / 2, top / 2), block.heading, INK, font, anchor="mm")
        paper.paste(picture, (x + (room - picture.width) // 2, top))
        x += room + space
    edges = (left, margins[0] - 6, "rm"), (right, width - margins[1] + 6, "lm")
    for names, edge, anchor in edges:
        for row, name in enumerate(names):
            pen.text((edge, top + row * pitch + side / 2), name, INK, font, anchor=anchor)
    return np.asarray(paper)


def _drawn(block: Block, times: int, pitch: int) -> Image.Image:
    """The pictures of a block, enlarged, rows `pitch` pixels apart, with what stands below them."""
    images = block.images.repeat_interleave(times, 3).repeat_interleave(times, 4)
    rows, columns, _, _, side = images.shape
    paper = Image.new("RGB", (columns * (side + GAP) - GAP, rows * pitch), PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(11)
    for row, pictures in enumerate(images.permute(0, 1, 3, 4, 2).numpy()):
        for column, pixels in enumerate(pictures):
            x, y = column * (side + GAP), row * pitch
            paper.paste(Image.fromarray(pixels), (x, y))
            text = block.captions[row][column] if block.captions else ""
            low = y + side + CAPTION * 0.4  # nearer to this picture than to the next
            pen.text((x + side / 2, low), text, INK, font, anchor="mm")
    return paper


def _room(names: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    """Pixels for the longest of some names, and a little around it; none for none."""
    longest = max((font.getlength(name) for name in names), default=0)
    return round(longest) + 12 if longest else 0


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 2]}.."


def heat_map(
    values: NDArray[np.float64],
    rows: Sequence[str],
    title: str,
    first: int,
    last: int,
    marks: Sequence[int] = (),
) -> Pixels:
    """A matrix [rows, time] in colour, rows named on the left, the steps below, the scale above.
    Values that are not finite are red, and so is a line through each of the columns `marks`."""
    font = ImageFont.load_default(11)
    cell, left, top, bottom, scale = 13, 190, 34, 18, 160
    repeat = max(1, 420 // max(1, values.shape[1]))
    colours = np.repeat(np.repeat(_colour(values), cell, 0), repeat, 1)
    height, width = colours.shape[:2]
    sheet = Image.new("RGB", (left + max(width, scale + 150), top + height + bottom), PAPER)
    pen = ImageDraw.Draw(sheet)
    sheet.paste(Image.fromarray(colours), (left, top))
    for column in marks:
        middle = left + (column + 0.5) * repeat
        pen.line((middle, top - 3, middle, top + height + 3), ALARM, 2)
    for number, name in enumerate(rows):
        pen.text((left - 4, top + (number + 0.5) * cell), name[-34:], INK, font, anchor="rm")
    pen.text((4, 14), title, INK, font, anchor="lm")
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    ramp = np.repeat(_colour(np.linspace(0, 1, scale)[None]), 10, 0)
    sheet.paste(Image.fromarray(ramp), (left + 50, 9))
    pen.text((left + 46, 14), f"{low:.2f}", INK, font, anchor="rm")
    pen.text((left + 54 + scale, 14), f"{high:.2f}", INK, font, anchor="lm")
    pen.text((left, top + height + 9), f"step {first}", INK, font, anchor="lm")
    pen.text((left + max(width, 120), top + height + 9), str(last), INK, font, anchor="rm")
    return np.asarray(sheet)


def _colour(values: NDArray[np.float64]) -> Pixels:
    """[rows, time] -> [rows, time, 3], the range of the finite values spread over the ramp."""
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    spread = np.where(finite, values - low, 0.0) / max(high - low, 1e-12) * (len(RAMP) - 1)
    below = np.clip(spread.astype(int), 0, len(RAMP) - 2)
    part = (spread - below)[..., None]
    colours = RAMP[below] * (1 - part) + RAMP[below + 1] * part
    return np.where(finite[..., None], colours, ALARM).astype(np.uint8)
