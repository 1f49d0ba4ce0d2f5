"""Stores that do what one is told to expect of disks and networks."""

import threading
from collections import Counter

from biggan_sn.data.shards import ShardError
from biggan_sn.data.stores import Folder


class Watched:
    """The bytes of a folder, and what of them was asked for: [(shard, start, size)]."""

    def __init__(self, index):
        self.asked = []
        self.closed = False
        self._folder = Folder(index)

    def read(self, shard, start, size):
        self.asked.append((shard, start, size))
        return self._folder.read(shard, start, size)

    def close(self):
        self.closed = True
        self._folder.close()

    def times(self):
        """How often each byte range was read."""
        return Counter(self.asked)


class Broken:
    """Fails for one shard as told."""

    def __init__(self, index, shard, error):
        self._folder, self._shard, self._error = Folder(index), shard, error

    def read(self, shard, start, size):
        if shard == self._shard:
            raise self._error
        return self._folder.read(shard, start, size)

    def close(self):
        self._folder.close()


class Hanging:
    """Gives nothing until it is closed, as Remote does while it waits to ask again."""

    def __init__(self):
        self.waiting = threading.Semaphore(0)
        self._closed = threading.Event()

    def read(self, shard, start, size):
        self.waiting.release()
        self._closed.wait(30)
        raise ShardError(f"{shard}: closed")

    def close(self):
        self._closed.set()
