"""Images in an order of their own: those that are stored, and those that a generator draws."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan_sn.data.reader import Pixels
from biggan_sn.evaluation.sampling import Sampling, draw
from biggan_sn.models.generator import Generator as Network

AHEAD = 2  # batches that are decoded while one is in use
PORTION = 16  # images that a thread decodes in one go

Batches = Generator[Tensor, None, None]


class Images(Protocol):
    """A set of images, numbered from 0.

    Attributes:
        labels: [N]; -1 where unknown.
        classes: their names; those of a generator's may be numbers only.
        size: height and width, pixels.
    """

    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    size: tuple[int, int]

    def batches(self, ranges: Iterable[range]) -> Batches:
        """For each range of numbers, these images: uint8 [n, 3, H, W].

        Raises:
            ValueError: one of them cannot be read.
        """
        ...

    def identity(self) -> dict[str, str]:
        """What they are, by hashes of their contents."""
        ...


class Stored:
    """Images that lie somewhere, decoded ahead by threads.

    Args:
        read: decodes the image of a number into pixels [H, W, 3]; safe in many threads.
        identity: hashes of the contents.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        classes: tuple[str, ...],
        size: tuple[int, int],
        read: Callable[[int, Pixels], None],
        identity: Callable[[], dict[str, str]],
        threads: int = 0,
    ) -> None:
        self.labels = labels
        self.classes = classes
        self.size = size
        self.identity = cache(identity)  # files are read for it
        self._read = read
        self._threads = threads or len(os.sched_getaffinity(0))

    def batches(self, ranges: Iterable[range]) -> Batches:
        """As Images has it."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        ahead: deque[_Pending] = deque()
        try:
            for numbers in ranges:
                ahead.append(self._start(pool, numbers))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().wait()
            while ahead:
                yield ahead.popleft().wait()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, numbers: range) -> "_Pending":
        pixels = np.empty((len(numbers), *self.size, 3), np.uint8)

        def decode(places: range) -> None:
            for place in places:
                self._read(numbers[place], pixels[place])

        places = range(len(numbers))
        parts = [pool.submit(decode, places[i : i + PORTION]) for i in places[::PORTION]]
        return _Pending(pixels, parts)


class _Pending(NamedTuple):
    pixels: Pixels
    parts: list[Future[None]]

    def wait(self) -> Tensor:
        for part in self.parts:
            part.result()
        return torch.from_numpy(self.pixels).permute(0, 3, 1, 2).contiguous()


class Drawn:
    """Samples of a generator: image i is of class i mod num_classes, so that all classes are there
    equally often, and is the same image whatever else is drawn.

    Args:
        generator: as `renew_statistics` leaves it.
        samples: how many.
        sampling: how.
        classes: their names.
    """

    def __init__(
        self, generator: Network, samples: int, sampling: Sampling, classes: Sequence[str] = ()
    ) -> None:
        self.labels = np.arange(samples) % generator.num_classes
        self.classes = tuple(classes) or tuple(map(str, range(generator.num_classes)))
        self.size = (generator.resolution, generator.resolution)
        self._generator = generator
        self._sampling = sampling

    def batches(self, ranges: Iterable[range]) -> Batches:
        """As Images has it."""
        for numbers in ranges:
            labels = torch.from_numpy(self.labels[numbers.start : numbers.stop])
            of_class = torch.tensor(numbers) // self._generator.num_classes
            yield torch.cat(list(draw(self._generator, labels, of_class, self._sampling)))

    def identity(self) -> dict[str, str]:
        """As Images has it: none but by name, for they are not kept."""
        return {"samples": str(len(self.labels)), "sampling": repr(self._sampling)}
