"""Positions, and all that follows from them.

Every sample a run handles, real or drawn, has a position: an integer that counts from 0 over the
whole job. Which process handles it, which image it is and which random numbers it gets are pure
functions of (seed, position), so a run can be stopped anywhere and go on with any number of
processes and any size of microbatch, and no generator state is ever stored.

The random words come from Philox4x64 (Salmon et al. 2011), a counter-based generator: the counter
is the position, the key a hash of the seed and of the purpose.
"""

import hashlib
from collections.abc import Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
_WORDS_PER_COUNT = 4  # Philox4x64 makes four words of each counter value


def shares(start: int, batch_size: int, rank: int, ranks: int, microbatch: int) -> Iterator[range]:
    """The positions that `rank` handles, microbatch by microbatch, without end.

    Batch s covers positions start + [s * batch_size, (s + 1) * batch_size). It is played in
    rounds of ranks * microbatch positions, of which each rank takes one slice: so what meets in
    one batch norm over all replicas does not depend on how many of them share a round.
    """
    together = ranks * microbatch
    assert batch_size % together == 0
    for first in count(start + rank * microbatch, together):
        yield range(first, first + microbatch)


def words(seed: int, purpose: str, positions: range, width: int) -> Words:
    """Random 64-bit words [len(positions), width] that depend on (seed, purpose, position) only.

    Numbers of different meaning need different purposes: with one, they would go together.
    """
    counts = -(-width // _WORDS_PER_COUNT)
    key = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    philox = np.random.Philox(
        key=np.frombuffer(key, dtype=np.uint64), counter=positions.start * counts
    )
    drawn = counts * _WORDS_PER_COUNT
    raw = np.asarray(philox.random_raw(len(positions) * drawn), dtype=np.uint64)
    return raw.reshape(len(positions), drawn)[:, :width]


def uniform(seed: int, purpose: str, positions: range, width: int) -> NDArray[np.float64]:
    """Uniform numbers [len(positions), width] in the open interval (0, 1), 52 bits each."""
    # One bit fewer than a float64 holds, so that adding a half is exact: rounded, it gave 1.
    whole = (words(seed, purpose, positions, width) >> np.uint64(12)).astype(np.float64)
    return (whole + 0.5) * 2.0**-52


def integers(seed: int, purpose: str, positions: range, width: int, end: int) -> NDArray[np.int64]:
    """Uniform integers [len(positions), width] in [0, end)."""
    return (uniform(seed, purpose, positions, width) * end).astype(np.int64)


def permutation(seed: int, purpose: str, size: int) -> NDArray[np.int64]:
    """A random order of range(size): the sort of one word per element, alike in every numpy."""
    keys = words(seed, purpose, range(size), 1)[:, 0]
    return np.argsort(keys, kind="stable").astype(np.int64)
