"""Chunks of images: the bytes of single reads, each fetched once, let go of in time."""

import re
import threading
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biggan_sn.data.chunks import NEAR, Chunks, ranges
from biggan_sn.data.loader import Loader
from biggan_sn.data.order import Chunked
from biggan_sn.data.shards import ShardError, build_index, save_index
from biggan_sn.data.stores import Folder
from biggan_sn.data.subset import choose
from biggan_sn.positions import shares
from tests.unit.data.stalls import Broken, Hanging, Watched
from tests.unit.data.streams import CPU, as_images, config, same, take


@pytest.fixture(scope="session")
def index(tmp_path_factory, write_shards, encode, pictures):
    """Twenty images in three shards."""
    return write_shards(tmp_path_factory.mktemp("chunks"), [encode(image) for image in pictures])


@pytest.fixture(scope="session")
def gaps(tmp_path_factory, tar_bytes):
    """Images of a few bytes with much or little between them, in two shards, and their bytes."""
    folder = tmp_path_factory.mktemp("gaps")
    contents = [bytes([n]) * (n % 5 + 1) for n in range(24)]
    for shard in (0, 1):
        members = []
        for number in range(12 * shard, 12 * shard + 12):
            between = {0: 0, 1: NEAR - 3072, 2: NEAR + 1}[number % 3]
            members += [
                (f"{number:02d}.png", contents[number]),
                (f"{number:02d}.txt", bytes(between)),
                (f"{number:02d}.cls", b"%d" % (number % 2)),
            ]
        (folder / f"{shard}.tar").write_bytes(tar_bytes(members))
    index = build_index(folder)
    save_index(index)
    return index, contents


def got(asked):
    """The bytes of what was asked for, by position."""
    return [bytes(chunk.result(10)[place]) for chunk, place in asked]


def singly(index, images):
    """The same, each image by a read of its own."""
    folder = Folder(index)
    columns = zip(index.shard[images], index.offset[images], index.size[images], strict=True)
    data = [folder.read(int(shard), int(offset), int(size)) for shard, offset, size in columns]
    folder.close()
    return data


# ------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("length", [1, 3, 7, 20, 50])
@pytest.mark.parametrize("batch_size", [1, 4, 9])
def test_bytes_are_those_of_single_reads(gaps, length, batch_size):
    index, contents = gaps
    order = Chunked(len(index), 3, length, batch_size)
    chunks = Chunks(index, order, Folder(index), 3)
    positions = range(3 * batch_size * length)
    found = [data for p in positions for data in got(chunks.ask(range(p, p + 1)))]
    chunks.close()
    assert found == [contents[image] for image in order(positions)]
    assert set(found) <= set(singly(index, np.arange(len(index))))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 50), length=st.integers(1, 30), holes=st.integers(0, 10), data=st.data())
def test_parts_with_holes(gaps, seed, length, holes, data):
    # Of a part of a data set, what lies between two images is left unread, or is no image's.
    whole, contents = gaps
    part = choose(whole, (), len(whole) - holes)
    order = Chunked(len(part), seed, length, 3)
    start = data.draw(st.integers(0, 100))
    chunks = Chunks(part, order, Folder(part), 2)
    positions = range(start, start + 3 * length + 7)
    found = got(chunks.ask(positions))
    chunks.close()
    of = {(s, o): c for s, o, c in zip(whole.shard, whole.offset, contents, strict=True)}
    assert found == [of[part.shard[i], part.offset[i]] for i in order(positions)]


@settings(deadline=None, max_examples=100)
@given(first=st.integers(0, 23), length=st.integers(1, 60))
def test_ranges_cover_every_image_once(gaps, first, length):
    index, _ = gaps
    images = (first + np.arange(length)) % len(index)
    cuts = ranges(index, images)
    assert [i for a, b in cuts for i in range(a, b)] == list(range(length))
    for a, b in cuts:
        some = images[a:b]
        assert len(set(index.shard[some])) == 1
        assert (np.diff(some) == 1).all()
        between = index.offset[some][1:] - (index.offset[some] + index.size[some])[:-1]
        assert (between <= NEAR).all()
    for (a, b), (c, _) in pairwise(cuts):
        before, after = images[b - 1], images[c]
        far = index.offset[after] - index.offset[before] - index.size[before] > NEAR
        assert b == c and a < b
        assert far or index.shard[before] != index.shard[after] or after < before


def test_ranges_end_with_a_shard(gaps):
    # Even where the next image, of another shard, lies just behind by its offset.
    index, _ = gaps
    assert index.shard[[3, 16]].tolist() == [0, 1]
    offset = index.offset.copy()
    offset[16] = offset[3] + index.size[3] + 1
    assert ranges(replace(index, offset=offset), np.array([3, 16])) == [(0, 1), (1, 2)]


def test_ranges_by_hand(gaps):
    index, _ = gaps
    # After image 2, 5, 8 ... lies more than is read along; 12 is in another shard; 0 follows 23.
    cuts = ranges(index, np.arange(8, 26) % 24)
    assert cuts == [(0, 1), (1, 4), (4, 7), (7, 10), (10, 13), (13, 16), (16, 18)]
    # (8), (9 10 11), (12 13 14), (15 16 17), (18 19 20), (21 22 23), (0 1)
    assert ranges(index, np.array([7])) == [(0, 1)]


@pytest.mark.parametrize(
    ("between", "cut"), [(0, False), (NEAR, False), (NEAR + 1, True), (-1, True)]
)
def test_how_near_is_near(gaps, between, cut):
    index, _ = gaps
    offset = index.offset.copy()
    offset[4] = offset[3] + index.size[3] + between
    cuts = ranges(replace(index, offset=offset), np.array([3, 4]))
    assert cuts == ([(0, 1), (1, 2)] if cut else [(0, 2)])


# --------------------------------------------------------------------------------- once, and let go


def held(chunks):
    return len(chunks._held)


@pytest.mark.parametrize(("ranks", "microbatch"), [(1, 12), (1, 4), (2, 3), (3, 4)])
@pytest.mark.parametrize("start", [0, 24, 5 * 12])
def test_each_chunk_is_fetched_once_and_let_go(index, ranks, microbatch, start):
    batch_size, length = 12, 4
    order = Chunked(len(index), 0, length, batch_size)
    own = batch_size // ranks
    for rank in range(ranks):
        store = Watched(index)
        chunks = Chunks(index, order, store, 2)
        fetched, calls = [], chunks._fetch
        chunks._fetch = lambda number, place, calls=calls, fetched=fetched: (
            fetched.append((number, place)) or calls(number, place)
        )
        share = shares(start, batch_size, rank, ranks, microbatch)
        wanted = set()
        for batch in range(start // batch_size, 20):
            now = set()
            for _ in range(own // microbatch):
                positions = next(share)
                got(chunks.ask(positions))
                now |= set(order.chunks(positions)[0].tolist())
            # The chunks of its own places, but after their last image; and of some, the next ones.
            place = batch % length
            after = {n + batch_size for n in now if place >= n % batch_size % length}
            assert set(chunks._held) == (now if place < length - 1 else set()) | after
            wanted |= now | after
        chunks.close()
        numbers = [number for number, _ in fetched]
        assert set(numbers) <= wanted and len(set(numbers)) == len(numbers), "each once"
        assert set(numbers) >= wanted - after  # some of the last had not begun
        first = start // batch_size % length
        late = [place for _, place in fetched if place]
        assert late == ([first] * own if first else []), "in the middle only where it began"
        assert store.closed


def test_next_chunks_are_begun_one_by_one(index):
    # Not all at once where the walks end: a network is asked for as much at any time.
    order = Chunked(len(index), 0, 4, 12)
    chunks = Chunks(index, order, Folder(index), 2)
    begun = []
    for batch in range(20):
        before = set(chunks._held)
        chunks.ask(range(12 * batch, 12 * batch + 12))
        begun.append(len(set(chunks._held) - before))
    chunks.close()
    assert begun[0] == 12 + 3 and begun[1:] == [3] * 19


def test_what_was_let_go_is_forgotten(index):
    # The bytes go with the last that holds them: nothing here remembers a chunk that was read.
    import gc
    import weakref

    order = Chunked(len(index), 0, 2, 3)
    chunks = Chunks(index, order, Folder(index), 2)
    asked = chunks.ask(range(6))  # two batches: the whole walk of three places
    futures = [weakref.ref(chunk) for chunk, _ in asked]
    got(asked)
    del asked
    time.sleep(0.05)  # the thread that fetched lets go as well
    gc.collect()
    assert [future() for future in futures] == [None] * 6
    chunks.close()


def test_memory_of_a_loader_is_bounded(index, monkeypatch):
    """What is alive at once: the chunks of the places, the next ones, and those of the batches
    ahead."""
    alive, most = set(), []
    fetch = Chunks._fetch

    class Bytes(dict):
        def __del__(self):
            alive.discard(id(self))

    def counted(self, number, place):
        data = Bytes(fetch(self, number, place))
        alive.add(id(data))
        return data

    monkeypatch.setattr(Chunks, "_fetch", counted)
    loader = Loader(index, config(index, chunk=3, prefetch=2), 0, CPU)
    for number, _ in enumerate(loader.batches(0, 8, 0, 1, 8)):
        most.append(len(alive))
        if number == 40:
            break
    loader.close()
    # Eight places, as many that come next; the two batches ahead and the one in hand may hold eight
    # of the walk before. Each of two threads may hold a batch that it is done with, until it runs
    # again: seen on a busy machine. Forty batches used a hundred chunks.
    assert 8 <= max(most) <= 24 + 2 * 8


@pytest.mark.parametrize("place", [1, 3, 5])
def test_in_the_middle_of_a_chunk_the_rest_is_read(index, place):
    # The sixth place of a batch, which begins with the next chunk at its last image only.
    order = Chunked(len(index), 0, 7, 8)
    whole, rest = Watched(index), Watched(index)
    images = order.images(6, place)
    for store, start in ((whole, 6), (rest, 6 + 8 * place)):
        chunks = Chunks(index, order, store, 1)
        got(chunks.ask(range(start, start + 1)))
        chunks.close()
    assert sum(size for *_, size in rest.asked) < sum(size for *_, size in whole.asked)
    assert len(rest.asked) == len(ranges(index, images))
    shard, start, _ = rest.asked[0]
    assert (shard, start) == (index.shard[images[0]], index.offset[images[0]])


def test_images_side_by_side_are_one_read(index):
    order = Chunked(7, 0, 7, 3)  # of the first shard
    store = Watched(index)
    chunks = Chunks(index, order, store, 1)
    got(chunks.ask(range(2, 3)))
    chunks.close()
    first = int(order.images(2, 0)[0])
    assert len(store.asked) == (1 if first == 0 else 2)
    for shard, start, size in store.asked:
        assert shard == 0 and start in index.offset[:7] and start + size <= index.sizes[0]


def test_as_many_at_a_time_as_told(index):
    running, most, lock = 0, 0, threading.Lock()

    class Slow(Watched):
        def read(self, shard, start, size):
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.02)
            with lock:
                running -= 1
            return super().read(shard, start, size)

    chunks = Chunks(index, Chunked(20, 0, 2, 12), Slow(index), 3)
    got(chunks.ask(range(12)))
    chunks.close()
    assert most == 3


# ------------------------------------------------------------------------------------------ errors


def use(monkeypatch, store):
    monkeypatch.setattr("biggan_sn.data.decoding.open_store", lambda index, command: store)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_of_a_store_comes_by_name(index, monkeypatch, threads):
    name = index.path(1)
    use(monkeypatch, Broken(index, 1, ShardError(f"{name}: cannot be read (gone)")))
    loader = Loader(index, config(index, chunk=4, threads=threads), 0, CPU)
    with pytest.raises(ShardError, match=f"^{re.escape(name)}: cannot be read"):
        for _ in loader.batches(0, 12, 0, 1, 12):
            pass
    loader.close()


def test_a_disk_that_fails_is_named_and_the_image(index, monkeypatch):
    # What a disk says of a bad block names no file.
    use(monkeypatch, Broken(index, 1, OSError(5, "Input/output error")))
    loader = Loader(index, config(index, chunk=4), 0, CPU)
    with pytest.raises(ShardError, match=rf"^{re.escape(index.path(1))}, image .*Input/output"):
        for _ in loader.batches(0, 12, 0, 1, 12):
            pass
    loader.close()


def test_a_bad_block_costs_the_images_on_it(index, monkeypatch, capsys):
    """As without chunks: others of its class take their places, and of no other image."""
    bad = 9

    class Disk(Watched):
        def read(self, shard, start, size):
            if shard == index.shard[bad] and start <= index.offset[bad] < start + size:
                raise OSError(5, "Input/output error")
            return super().read(shard, start, size)

    good = take(index, 8, chunk=4)
    use(monkeypatch, Disk(index))
    found = take(index, 8, chunk=4, damaged="skip", damaged_share=0.1)
    numbers = Chunked(20, 0, 4, 12)(range(8 * 12))
    assert torch.equal(found[1], good[1])
    assert torch.equal(found[0][numbers != bad], good[0][numbers != bad])
    stand_in = found[0][numbers == bad]
    assert len(stand_in) and not (stand_in == good[0][numbers == bad]).flatten(1).all(1).any()
    assert capsys.readouterr().err.count("\n") == 1


def test_closing_while_fetches_hang(index, monkeypatch):
    store = Hanging()
    use(monkeypatch, store)
    loader = Loader(index, config(index, chunk=4, connections=2), 0, CPU)
    reading = threading.Thread(target=lambda: swallow(loader.batches(0, 12, 0, 1, 12)))
    reading.start()
    for _ in range(2):  # all connections hang, and ten chunks wait for one
        assert store.waiting.acquire(timeout=10)
    start = time.perf_counter()
    loader.close()
    assert time.perf_counter() - start < 3
    reading.join(10)
    assert not reading.is_alive()
    assert not fetching()


def swallow(batches):
    try:
        next(batches)
    except BaseException:
        return


def fetching():
    return [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


def test_closing_at_once(index):
    loader = Loader(index, config(index, chunk=4), 0, CPU)
    loader.close()
    loader = Loader(index, config(index, chunk=4), 0, CPU)
    next(loader.batches(0, 12, 0, 1, 12))
    loader.close()
    assert not fetching()


def test_batches_that_are_dropped_hold_nothing(index):
    # As where a run is rolled back and the looks start anew on the same stream.
    loader = Loader(index, config(index, chunk=4, connections=3), 0, CPU)
    batches = loader.batches(0, 12, 0, 1, 12)
    expected = [next(batches).images for _ in range(5)]
    for _ in range(6):
        batches = loader.batches(0, 12, 0, 1, 12)
        for images in expected:
            assert torch.equal(next(batches).images, images)
    time.sleep(0.05)
    assert len(fetching()) <= 3
    assert sum(held(chunks) for chunks in loader._decoder._chunks) <= 24
    loader.close()
    assert not fetching()


def test_two_streams_of_one_loader(index):
    loader = Loader(index, config(index, chunk=4), 0, CPU)
    one, other = loader.batches(0, 12, 0, 1, 12), loader.batches(48, 12, 0, 1, 12)
    first = [next(one).images for _ in range(2)]
    del one
    later = [next(other).images for _ in range(2)]
    loader.close()
    assert torch.equal(torch.cat(first), take(index, 2, chunk=4)[0])
    assert torch.equal(torch.cat(later), take(index, 2, start=48, chunk=4)[0])


# ----------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_batches_are_the_images_of_the_order(index, pictures, chunk):
    images, labels = take(index, 9, seed=5, chunk=chunk)
    numbers = Chunked(20, 5, chunk, 12)(range(9 * 12))
    torch.testing.assert_close(images, as_images(pictures[numbers]))
    assert labels.tolist() == (numbers % 3).tolist()


@pytest.mark.parametrize(
    ("ranks", "microbatch", "threads", "prefetch", "connections"),
    [(1, 1, 1, 1, 1), (1, 4, 3, 2, 8), (2, 6, 2, 4, 2), (2, 3, 1, 1, 1), (3, 2, 2, 7, 3),
     (4, 3, 2, 1, 5)],
)  # fmt: skip
def test_batches_are_alike_however_they_are_cut(
    index, ranks, microbatch, threads, prefetch, connections
):
    whole = take(index, 10, chunk=4, flip=True, shift=2)
    cut = take(index, 10, ranks=ranks, microbatch=microbatch, threads=threads, prefetch=prefetch,
               connections=connections, chunk=4, flip=True, shift=2)  # fmt: skip
    assert same(cut, whole)


@pytest.mark.parametrize("start", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("ranks", [1, 3])
def test_starting_anywhere_is_having_come_there(index, start, ranks):
    came = [part[start * 12 :] for part in take(index, 12, chunk=5, flip=True, shift=2)]
    started = take(index, 12 - start, start=start * 12, ranks=ranks, microbatch=12 // ranks,
                   chunk=5, flip=True, shift=2)  # fmt: skip
    assert same(started, came)


def test_starting_within_a_batch(index):
    came = [part[5:-7] for part in take(index, 5, chunk=3)]
    assert same(take(index, 4, start=5, chunk=3), came)


def test_starting_far_away(index):
    start = 12 * 10**9
    came = [part[12:] for part in take(index, 4, start=start - 12, chunk=3)]
    assert same(take(index, 3, start=start, chunk=3), came)
