"""The bytes of whole chunks of images, each fetched at one go before it is needed."""

from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from biggan_sn.data.order import Chunked
from biggan_sn.data.shards import ShardIndex
from biggan_sn.data.stores import Store

NEAR = 16 * 1024  # bytes between two images that are read along rather than skipped

Bytes = dict[int, memoryview]  # of the images of a chunk, by their places there


class Chunks:
    """Fetches chunks as places of them are asked for, and lets go of each after its last place.
    What is held are the chunks that the places of one process walk through, and for half of them
    the ones that come after: these begin to be fetched one by one, not all when they are needed.

    Args:
        index: of the shards.
        order: that of the images.
        store: where their bytes come from.
        connections: how many chunks are fetched at the same time.
    """

    def __init__(self, index: ShardIndex, order: Chunked, store: Store, connections: int) -> None:
        self._index = index
        self._order = order
        self._store = store
        self._held: dict[int, Future[Bytes]] = {}
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="fetch")

    def ask(self, positions: range) -> list[tuple[Future[Bytes], int]]:
        """Of each position, its chunk, once it is there, and its place there; one that the chunk
        lacks has to be read by itself. Positions must come in order."""
        asked = []
        for number, place in np.stack(self._order.chunks(positions), 1).tolist():
            asked.append((self._begun(number, place), place))
            if place >= self._order.early(number):
                self._begun(number + self._order.batch_size, 0)
            if place == self._order.length - 1:
                del self._held[number]
        return asked

    def _begun(self, number: int, place: int) -> Future[Bytes]:
        if number not in self._held:
            self._held[number] = self._pool.submit(self._fetch, number, place)
        return self._held[number]

    def _fetch(self, number: int, place: int) -> Bytes:
        """The images of a chunk from `place` on."""
        images = self._order.images(number, place)
        held: Bytes = {}
        for first, last in ranges(self._index, images):
            held |= self._read(images[first:last], place + first)
        return held

    def _read(self, images: NDArray[np.int64], place: int) -> Bytes:
        """Images that lie near one another in one shard; none where the disk fails on one of
        them, for then each has to be read by itself, and its error names it."""
        index = self._index
        offsets, sizes = index.offset[images], index.size[images]
        start, end = int(offsets[0]), int(offsets[-1] + sizes[-1])
        try:
            data = memoryview(self._store.read(int(index.shard[images[0]]), start, end - start))
        except OSError:
            return {}
        spans = zip((offsets - start).tolist(), sizes.tolist(), strict=True)
        return {place + i: data[at : at + size] for i, (at, size) in enumerate(spans)}

    def drop(self) -> None:
        """Fetches no more and lets go of all, without waiting for what is on its way."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._held.clear()

    def close(self) -> None:
        """Ends the threads."""
        self._store.close()
        self._pool.shutdown(wait=True, cancel_futures=True)


def ranges(index: ShardIndex, images: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cuts [0, len(images)) where the next image lies in another shard, before the last one, or
    far behind it."""
    shard, start = index.shard[images], index.offset[images]
    end = start + index.size[images]
    gap = start[1:] - end[:-1]
    apart = (shard[1:] != shard[:-1]) | (gap < 0) | (gap > NEAR)
    cuts = [0, *(np.flatnonzero(apart) + 1).tolist(), len(images)]
    return list(pairwise(cuts))
