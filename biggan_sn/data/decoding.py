"""From positions to pixels in memory, ahead of their use, by threads.

Threads are enough, and processes in their place half as fast: reading and decoding release the
interpreter's lock, and what they decode lies at once where the device can copy it from.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from biggan_sn.config import DataConfig
from biggan_sn.data.chunks import Chunks
from biggan_sn.data.damage import Careful
from biggan_sn.data.order import Balanced, Chunked, Order, Shuffled
from biggan_sn.data.reader import Reader
from biggan_sn.data.shards import ShardIndex
from biggan_sn.data.stores import open_store
from biggan_sn.positions import shares

PORTION = 32  # images of one decode task


class Decoded(NamedTuple):
    """Positions, their images uint8 [N, H, W, 3] and their classes [N]. The images are good until
    the next are asked for."""

    positions: range
    pixels: Tensor
    labels: Tensor


class _Pending(NamedTuple):
    decoded: Decoded
    tasks: list[Future[None]]


class Decoder:
    """Decodes the images of one process, in order.

    Args:
        index: of the shards.
        config: how they are read.
        seed: of the order.
        pinned: whether the images go to memory that a CUDA device copies from by itself.

    Raises:
        ShardError: the shards lie where nothing can be read from; while iterating: an image that
            cannot be read.
    """

    def __init__(self, index: ShardIndex, config: DataConfig, seed: int, pinned: bool) -> None:
        self._index = index
        self._config = config
        self._seed = seed
        self._pinned = pinned
        self._reader = Reader(index, config.resolution, open_store(index, config.command))
        self._careful = Careful(self._reader, config.damaged, config.damaged_share)
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="decode")
        self._chunks: list[Chunks] = []
        self._spare: list[Tensor] = []

    def close(self) -> None:
        """Ends the threads and closes the shards."""
        for chunks in self._chunks:
            chunks.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    def decoded(
        self, position: int, batch_size: int, rank: int, ranks: int, microbatch: int
    ) -> Iterator[Decoded]:
        """The microbatches of `rank` from `position` on, without end."""
        order, chunks = self._source(batch_size)
        try:
            yield from self._ahead(
                self._start(share, order, chunks)
                for share in shares(position, batch_size, rank, ranks, microbatch)
            )
        finally:
            if chunks:
                chunks.drop()

    def _ahead(self, started: Iterator[_Pending]) -> Iterator[Decoded]:
        ahead: deque[_Pending] = deque()
        for pending in started:
            ahead.append(pending)
            if len(ahead) <= self._config.prefetch:
                continue
            first = ahead.popleft()
            for task in first.tasks:
                task.result()
            yield first.decoded
            if not self._pinned:  # torch itself keeps pinned memory until it has been copied
                self._spare.append(first.decoded.pixels)

    def _source(self, batch_size: int) -> tuple[Order, Chunks | None]:
        """Which images come, and what fetches their bytes if they come in chunks."""
        index, config, seed = self._index, self._config, self._seed
        if config.chunk:
            order = Chunked(len(index), seed, config.chunk, batch_size)
            chunks = Chunks(index, order, self._reader.store, config.connections)
            self._chunks.append(chunks)
            return order, chunks
        if config.balanced:
            return Balanced(index.label, seed), None
        return Shuffled(len(index), seed), None

    def _start(self, positions: range, order: Order, chunks: Chunks | None) -> _Pending:
        images = order(positions)
        asked = chunks.ask(positions) if chunks else []
        pixels = self._room(len(images))
        target, numbers = pixels.numpy(), images.tolist()

        def decode(slots: list[int]) -> None:
            for slot in slots:
                data = None
                if asked:
                    chunk, place = asked[slot]
                    data = chunk.result().get(place)
                self._careful.read_into(numbers[slot], target[slot], data)

        slots = np.argsort(images).tolist()  # read forward through the files
        portions = [slots[i : i + PORTION] for i in range(0, len(slots), PORTION)]
        labels = torch.from_numpy(self._index.label[images].astype(np.int64))
        tasks = [self._pool.submit(decode, portion) for portion in portions]
        return _Pending(Decoded(positions, pixels, labels), tasks)

    def _room(self, images: int) -> Tensor:
        """Memory that was used before, if there is some: new memory costs a tenth of decoding."""
        if self._spare and len(self._spare[-1]) == images:
            return self._spare.pop()
        shape = (images, self._config.resolution, self._config.resolution, 3)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self._pinned)
