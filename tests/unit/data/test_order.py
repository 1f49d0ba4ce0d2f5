"""Which image comes at which position: counts in closed form, and nothing but the position."""

import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from biggan_sn.data.order import Balanced, Chunked, Shuffled
from biggan_sn.positions import shares

FAR = 10**10


def one_by_one(order, positions):
    return np.concatenate([order(range(p, p + 1)) for p in positions])


# ---------------------------------------------------------------------------------------- shuffled


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 40), seed=st.integers(0, 99), start=st.integers(0, 200))
def test_order_is_a_permutation_of_every_epoch(size, seed, start):
    order = Shuffled(size, seed)
    images = order(range(size * 5))
    for epoch in range(5):
        assert sorted(images[epoch * size :][:size].tolist()) == list(range(size))
    # A function of the position, whatever was asked before and how much at once.
    for positions in (range(start, start + 3 * size), range(start, start + 1)):
        np.testing.assert_array_equal(
            Shuffled(size, seed)(positions), [order(range(p, p + 1))[0] for p in positions]
        )


def test_order_differs_by_epoch_and_seed():
    orders = [Shuffled(50, seed)(range(epoch * 50, (epoch + 1) * 50)) for seed in (0, 1, 10)
              for epoch in (0, 1, 2, 11)]  # fmt: skip
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)


def test_no_epoch_comes_again():
    every = {
        "shuffled": Shuffled(20, 0)(range(20 * 300)),
        "balanced": Balanced(np.arange(20), 0)(range(20 * 300)),
        "chunked": Chunked(40, 0, 2, 1)(range(40 * 300))[::2],
    }
    for name, images in every.items():
        assert len({tuple(epoch) for epoch in images.reshape(300, 20).tolist()}) == 300, name


# ---------------------------------------------------------------------------------------- balanced

LABELS = st.integers(1, 6).flatmap(  # every class has an image, and some have more
    lambda classes: st.lists(st.integers(0, classes - 1), max_size=20).map(
        lambda more: np.array([*more, *range(classes)])
    )
)


@settings(deadline=None, max_examples=100)
@given(labels=LABELS, seed=st.integers(0, 99), turn=st.integers(0, 50))
def test_balanced_takes_every_class_once_in_a_turn(labels, seed, turn):
    classes = labels.max() + 1
    images = Balanced(labels, seed)(range(turn * classes, (turn + 7) * classes))
    turns = np.sort(labels[images].reshape(7, classes), 1)
    np.testing.assert_array_equal(turns, np.tile(np.arange(classes), (7, 1)))


@settings(deadline=None, max_examples=100)
@given(labels=LABELS, seed=st.integers(0, 99), data=st.data())
def test_balanced_takes_every_image_of_a_class_equally_often(labels, seed, data):
    classes = labels.max() + 1
    label = data.draw(st.integers(0, classes - 1))
    members = np.flatnonzero(labels == label)
    first = data.draw(st.integers(0, 9)) * len(members)  # of the turns in which all come once
    images = Balanced(labels, seed)(range(first * classes, (first + len(members)) * classes))
    np.testing.assert_array_equal(np.sort(images[labels[images] == label]), members)


@settings(deadline=None, max_examples=60)
@given(labels=LABELS, seed=st.integers(0, 99), data=st.data())
def test_balanced_is_a_function_of_the_position(labels, seed, data):
    order = Balanced(labels, seed)
    whole = Balanced(labels, seed)(range(300))
    for _ in range(5):
        start = data.draw(st.integers(0, 299))
        stop = data.draw(st.integers(start + 1, 300))
        np.testing.assert_array_equal(order(range(start, stop)), whole[start:stop])
    np.testing.assert_array_equal(one_by_one(order, range(40)), whole[:40])


def test_balanced_far_away_at_once():
    labels = np.repeat(np.arange(1000), 20)
    start = time.perf_counter()
    images = Balanced(labels, 3)(range(FAR, FAR + 1000))
    assert time.perf_counter() - start < 2
    assert len(set(labels[images].tolist())) == 1000  # 1000 divides that position


def test_balanced_differs_by_seed_turn_and_epoch():
    labels = np.repeat(np.arange(20), 20)
    images = {seed: Balanced(labels, seed)(range(20 * 40)).reshape(40, 20) for seed in (0, 1, 10)}
    turns = [tuple(labels[turn].tolist()) for found in images.values() for turn in found]
    assert len(set(turns)) == len(turns) == 120  # the orders of the classes
    epochs = [  # the orders of the images of one class, of another, and by another seed
        tuple((found[first : first + 20][labels[found[first : first + 20]] == label] % 20).tolist())
        for found in images.values()
        for first in (0, 20)
        for label in (0, 1, 11)
    ]
    assert len(set(epochs)) == len(epochs) == 18


# ----------------------------------------------------------------------------------------- chunked


@st.composite
def chunked(draw, most=30):
    size, length = draw(st.integers(1, 60)), draw(st.integers(1, 12))
    return Chunked(size, draw(st.integers(0, 99)), length, draw(st.integers(1, most)))


def epoch_of(order, epoch):
    """The images of all chunks of an epoch, in the order in which they are taken."""
    chunks = -(-order.size // order.length)
    numbers = range(epoch * chunks, (epoch + 1) * chunks)
    return np.concatenate([order.images(number, 0) for number in numbers])


@settings(deadline=None, max_examples=100)
@given(order=chunked(), epoch=st.integers(0, 20))
def test_chunks_of_an_epoch_hold_every_image_once(order, epoch):
    assume(order.length <= order.size)
    counts = np.bincount(epoch_of(order, epoch), minlength=order.size)
    twice = -order.size % order.length  # what the last chunk borrows from the first
    assert (counts == 1).sum() == order.size - twice
    assert (counts == 2).sum() == twice < order.length


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 9), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_a_chunk_longer_than_all_there_is_goes_round(size, seed, epoch):
    order = Chunked(size, seed, 10, 3)
    counts = np.bincount(epoch_of(order, epoch), minlength=size)
    assert counts.sum() == 10 and counts.min() == 10 // size and counts.max() == -(-10 // size)


@settings(deadline=None, max_examples=100)
@given(order=chunked())
def test_each_place_of_a_batch_walks_through_a_chunk(order):
    batch, length = order.batch_size, order.length
    images = order(range(3 * length * batch)).reshape(3, length, batch)
    np.testing.assert_array_equal(images[:, 1:], (images[:, :-1] + 1) % order.size)
    # All chunks are taken before any comes again: they are numbered as they are taken.
    numbers, places = order.chunks(range(3 * length * batch))
    walks = numbers.reshape(3, length, batch)
    np.testing.assert_array_equal(walks[:, 0].ravel(), np.arange(3 * batch))
    np.testing.assert_array_equal(walks, walks[:, :1].repeat(length, 1))
    np.testing.assert_array_equal(places, np.arange(3 * length * batch) // batch % length)


@settings(deadline=None, max_examples=100)
@given(order=chunked(), start=st.integers(0, 500), count=st.integers(1, 40))
def test_images_are_those_of_their_chunks(order, start, count):
    positions = range(start, start + count)
    numbers, places = order.chunks(positions)
    for image, chunk, place in zip(order(positions), numbers, places, strict=True):
        assert order.images(chunk, place)[0] == image
        rest = order.images(chunk, 0)[place:]
        np.testing.assert_array_equal(order.images(chunk, place), rest)
        assert len(rest) == order.length - place


@settings(deadline=None, max_examples=60)
@given(order=chunked(), data=st.data())
def test_chunked_is_a_function_of_the_position(order, data):
    whole = Chunked(order.size, order.seed, order.length, order.batch_size)(range(400))
    for _ in range(5):
        start = data.draw(st.integers(0, 399))
        stop = data.draw(st.integers(start + 1, 400))
        np.testing.assert_array_equal(order(range(start, stop)), whole[start:stop])
    np.testing.assert_array_equal(one_by_one(order, range(40)), whole[:40])


@settings(deadline=None, max_examples=100)
@given(
    ranks=st.integers(1, 5),
    microbatch=st.integers(1, 4),
    rounds=st.integers(1, 3),
    length=st.integers(1, 5),
    start=st.integers(0, 40),
)
def test_no_chunk_is_read_by_two_processes(ranks, microbatch, rounds, length, start):
    batch = ranks * microbatch * rounds
    order = Chunked(50, 0, length, batch)
    read = []
    for rank in range(ranks):
        share = shares(start, batch, rank, ranks, microbatch)
        positions = [next(share) for _ in range(rounds * length * 3)]
        read.append({int(n) for some in positions for n in order.chunks(some)[0]})
    assert sum(map(len, read)) == len(set.union(*read))


def test_chunks_of_a_small_set():
    # Fewer images than places: several chunks of one batch come from different epochs.
    order = Chunked(5, 0, 2, 12)
    images = order(range(12 * 20))
    assert set(images[:12].tolist()) <= set(range(5))
    counts = np.bincount(images, minlength=5)
    # 120 chunks are 40 epochs of 3, in each of which one image comes twice.
    assert counts.sum() == 240 and counts.min() >= 40


def test_chunked_differs_by_epoch_and_seed():
    def starts(seed, epoch):
        order = Chunked(1000, seed, 10, 8)
        return [int(order.images(n, 0)[0]) for n in range(epoch * 100, (epoch + 1) * 100)]

    epochs = [starts(seed, epoch) for seed in (0, 1, 10) for epoch in (0, 1, 2, 11)]
    orders = {tuple((s - min(e)) // 10 for s in e) for e in epochs}
    assert len(orders) == len(epochs)
    # Cut at other places as well: images that are neighbours in one are not in another.
    assert len({start % 10 for epoch in epochs for start in epoch}) > 3


def test_chunked_far_away_at_once():
    start = time.perf_counter()
    order = Chunked(1_000_000, 3, 64, 256)
    images = order(range(FAR, FAR + 256))
    assert time.perf_counter() - start < 2
    # Positions beyond 2**31, and it is still the walk of a place.
    np.testing.assert_array_equal(
        order(range(FAR // 256 // 64 * 256 * 64, FAR // 256 // 64 * 256 * 64 + 257))[[0, 256]],
        order.images(FAR // 256 // 64 * 256, 0)[:2],
    )
    assert len(set(images.tolist())) > 250


# ---------------------------------------------------------------------- what looks of training see


def looked_at_before_training(training, looks, every, batch_size, images):
    """Looks of which an image was in no batch before: after step (k + 1) * every comes look k.
    Each step is one batch here; training takes more, never fewer."""
    early = []
    for look in range(len(training) // batch_size // every):
        seen = set(training[: (look + 1) * every * batch_size].tolist())
        if not set(looks[look * images : (look + 1) * images].tolist()) <= seen:
            early.append(look)
    return early


@settings(deadline=None, max_examples=100)
@given(
    size=st.integers(1, 300),
    seed=st.integers(0, 9),
    length=st.integers(1, 8),
    batch=st.integers(1, 16),
    every=st.integers(1, 3),
    data=st.data(),
)
def test_looks_see_images_of_training_only(size, seed, length, batch, every, data):
    # training/probe.py asks a stream of its own, in which a batch is a look.
    images = data.draw(st.integers(1, batch))
    count = 20 * batch * every
    for of in (lambda _: Shuffled(size, seed), lambda b: Chunked(size, seed, length, b)):
        training, looks = of(batch)(range(count)), of(images)(range(count))
        assert looked_at_before_training(training, looks, every, batch, images) == []


@pytest.mark.parametrize("every", [1, 4])
def test_looks_larger_than_a_batch_see_others(every):
    # What the test above would find: the chunks of places that a batch of training has not.
    training, looks = (Chunked(1000, 0, 8, b)(range(4 * 40)) for b in (4, 8))
    assert looked_at_before_training(training, looks, every, 4, 8) != []
