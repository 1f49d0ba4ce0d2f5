"""HTML from plain functions. What is not of type Html is text, and is escaped on its way in."""

import html
import io
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import NewType

import numpy as np
from PIL import Image

from biggan_sn.evaluation.pictures import Pixels

Html = NewType("Html", str)
Attributes = Mapping[str, object]

NOTHING = Html("")
LONGEST = 2000  # pixels of a side; a page of larger pictures would be too heavy to send
SMALL = 480  # pixels of a picture that is shown at twice its size, each pixel as a square


def text(value: object) -> Html:
    """Anything, as what a reader sees of it."""
    return Html(html.escape(str(value), quote=True))


def element(tag: str, content: Html = NOTHING, attributes: Attributes | None = None) -> Html:
    """An element with what is in it. Attributes are text; one that is True stands alone, and one
    that is False is left out."""
    return Html(f"{_opening(tag, attributes)}{content}</{tag}>")


def void(tag: str, attributes: Attributes) -> Html:
    """An element that can hold nothing, such as img."""
    return _opening(tag, attributes)


def _opening(tag: str, attributes: Attributes | None) -> Html:
    words = [tag]
    for name, value in (attributes or {}).items():
        if value is not False:
            words.append(name if value is True else f'{name}="{text(value)}"')
    return Html(f"<{' '.join(words)}>")


def join(parts: Iterable[Html], between: str = "\n") -> Html:
    """One after another."""
    return Html(text(between).join(parts))


def paragraph(words: object, kind: str = "note") -> Html:
    """A paragraph of plain text; `kind` is its class."""
    return element("p", text(words), {"class": kind})


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Html]]) -> Html:
    """A table that can be moved sideways where it is too wide. The first cell of a row names it."""
    cells = [element("th", text(name), {"scope": "col"}) for name in head]
    lines = [element("tr", join(cells, ""))]
    body = []
    for first, *rest in rows:
        named = element("th", first, {"scope": "row"})
        body.append(element("tr", join([named, *(element("td", cell) for cell in rest)], "")))
    inside = [
        element("caption", text(caption)),
        element("thead", join(lines)),
        element("tbody", join(body)),
    ]
    return sideways(element("table", join(inside)), caption)


def sideways(content: Html, name: str) -> Html:
    """Something wide that can be moved sideways, by keys too."""
    attributes = {"class": "sideways", "role": "region", "aria-label": name, "tabindex": 0}
    return element("div", content, attributes)


def png_of(pixels: Pixels) -> bytes:
    """A picture as the bytes of a PNG."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


def pixels_of(contents: bytes) -> Pixels:
    """The picture in a file, at most LONGEST pixels wide and high.

    Raises:
        ValueError: it is none that can be read.
    """
    try:
        with Image.open(io.BytesIO(contents)) as picture:
            picture.thumbnail((LONGEST, LONGEST))
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises all these
        raise ValueError(f"not a picture that can be read: {error}") from error


def picture(pixels: Pixels, alt: str, kind: str = "") -> Html:
    """A picture that is part of the page; small ones at twice their size."""
    height, width = pixels.shape[:2]
    twice = width < SMALL and not kind
    data = b64encode(png_of(pixels)).decode()
    attributes = {
        "src": f"data:image/png;base64,{data}",
        "alt": alt,
        "width": width * (1 + twice),
        "height": height * (1 + twice),
        "class": kind or ("square" if twice else False),
        "decoding": "async",
    }
    return void("img", attributes)
