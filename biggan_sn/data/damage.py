"""What happens where an image cannot be read."""

import sys
from collections.abc import Callable, Iterator
from threading import Lock

import numpy as np

from biggan_sn.data.reader import DamagedError, Pixels, Reader
from biggan_sn.tables import lookup


class Careful:
    """A reader that may put another image of the same class in the place of one that is damaged:
    the next one by number that is not. So no label is wrong, and all processes do the same.

    Args:
        reader: what reads.
        policy: a row of POLICIES.
        share: most of the images, as a part of all, that may be skipped.

    Raises:
        ValueError: there is no such policy.
    """

    def __init__(self, reader: Reader, policy: str, share: float) -> None:
        most = lookup(POLICIES, policy, "policy for damaged images")
        self._reader = reader
        self._most = most(share, len(reader.index))
        self._skipped: set[int] = set()
        self._lock = Lock()

    def read_into(self, image: int, pixels: Pixels, data: memoryview | None = None) -> None:
        """Decodes an image, or the one that stands in for it, into `pixels` [H, W, 3].

        Args:
            image: its number.
            pixels: where to.
            data: its bytes, where they are there already.

        Raises:
            ShardError: it cannot be read, and must not be skipped.
        """
        try:
            if data is None:
                self._reader.read_into(image, pixels)
            else:
                self._reader.decode_into(image, data, pixels)
        except DamagedError as error:
            self._skip(image, error)
            self._stand_in(image, error, pixels)

    def _stand_in(self, image: int, error: DamagedError, pixels: Pixels) -> None:
        for other in self._others(image):
            try:
                return self._reader.read_into(other, pixels)
            except DamagedError as another:
                self._skip(other, another)
        raise DamagedError(f"{error}; nor can any other image of its class be read") from error

    def _others(self, image: int) -> Iterator[int]:
        """The images of its class that follow, then those before it."""
        labels = self._reader.index.label
        alike = np.flatnonzero(labels == labels[image])
        place = int(np.searchsorted(alike, image))
        yield from np.roll(alike, -place)[1:].tolist()

    def _skip(self, image: int, error: DamagedError) -> None:
        """Says so the first time; raises if it is not to be skipped, or one too many."""
        with self._lock:
            if image in self._skipped:
                return
            if len(self._skipped) >= self._most:
                many = f"; {self._most} others were skipped" if self._most else ""
                raise DamagedError(f"{error}{many} (data.damaged, data.damaged_share)") from error
            self._skipped.add(image)
            count = len(self._skipped)
        sys.stderr.write(
            f"biggan-sn: {error}: another image of its class takes its place "
            f"({count} skipped of at most {self._most})\n"
        )


# How many images of so many may be skipped, by the share that is allowed
POLICIES: dict[str, Callable[[float, int], int]] = {
    "fail": lambda share, images: 0,
    "skip": lambda share, images: int(share * images),
}
