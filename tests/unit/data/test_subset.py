"""A part of a data set: which images it has, and that they are read under their new labels."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biggan_sn.config import DataConfig
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.data.order import Shuffled
from biggan_sn.data.shards import ShardError, ShardIndex, build_index, save_index
from biggan_sn.data.subset import choose
from tests.unit.data.streams import CPU, SIDE, as_images

NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="session")
def named(tmp_path_factory, write_shards, encode, pictures):
    """Twenty images of three classes with names."""
    folder = tmp_path_factory.mktemp("named")
    write_shards(folder, [encode(image) for image in pictures])
    index = build_index(folder, NAMES)
    save_index(index)
    return index


def imagined(labels, classes=None):
    """An index of images that nobody reads; an image's offset is its number."""
    labels = np.array(labels, np.int32)
    classes = classes or tuple(map(str, range(labels.max() + 1)))
    number = np.arange(len(labels))
    return ShardIndex(
        root="somewhere",
        names=("0.tar",),
        sizes=(1000,),
        classes=classes,
        shard=np.zeros(len(labels), np.int32),
        offset=number.astype(np.int64),
        size=(number + 1).astype(np.int32),
        label=labels,
        raw=number % 2 == 0,
        crc=number.astype(np.uint32),
        fingerprint="0123456789abcdef",
    )


# --------------------------------------------------------------------------------------- all of it


def test_nothing_asked_for_is_all(named):
    assert choose(named, (), 0) is named


# ----------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    "classes", [("owl",), ("owl", "cat"), ("cat", "owl"), ("dog", "owl", "cat"), NAMES]
)
def test_classes_are_numbered_in_the_order_asked_for(named, classes):
    part = choose(named, classes, 0)
    assert part.classes == classes
    wanted = [i for i, label in enumerate(named.label) if NAMES[label] in classes]
    assert len(part) == len(wanted)
    for name in ("shard", "offset", "size", "raw", "crc"):
        np.testing.assert_array_equal(getattr(part, name), getattr(named, name)[wanted])
        assert getattr(part, name).dtype == getattr(named, name).dtype
    assert part.label.dtype == np.int32
    for number in range(len(part)):
        assert classes[part.label[number]] == NAMES[named.label[wanted[number]]]
    assert named.label.tolist() == [number % 3 for number in range(20)]  # left as it was


def test_all_classes_in_another_order_is_another_data_set(named):
    one, other = choose(named, NAMES, 0), choose(named, NAMES[::-1], 0)
    assert len({named.fingerprint, one.fingerprint, other.fingerprint}) == 3
    assert other.label.tolist() == [2 - number % 3 for number in range(20)]


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (("cat", "dgo"), "data.classes: there is no class 'dgo'; did you mean 'dog'?"),
        (("Cat",), "data.classes: there is no class 'Cat'; did you mean 'cat'?"),
        (("zebra",), "data.classes: there is no class 'zebra'"),
        (("",), "data.classes: there is no class ''"),
        (("0",), "data.classes: there is no class '0'"),
    ],
)
def test_class_that_is_not_there(named, classes, reason):
    with pytest.raises(ShardError, match=re.escape(f"{named.root}: {reason}") + "$"):
        choose(named, classes, 0)


def test_class_asked_for_twice(named):
    with pytest.raises(ShardError, match=r"^data\.classes: 'cat' is there twice"):
        choose(named, ("cat", "owl", "cat"), 0)


def test_classes_without_an_image():
    index = imagined([0, 0, 2], ("cat", "ghost", "owl"))
    assert choose(index, ("cat", "ghost"), 0).label.tolist() == [0, 0]
    with pytest.raises(ShardError, match=r"^somewhere: data.classes: no image of .*ghost"):
        choose(index, ("ghost",), 0)


# ------------------------------------------------------------------------------------------ images

COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=6)  # images of each class


@settings(deadline=None, max_examples=150)
@given(counts=COUNTS, seed=st.integers(0, 99), data=st.data())
def test_each_class_gets_its_share(counts, seed, data):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    images = data.draw(st.integers(len(counts), len(labels)))
    index = imagined(labels)
    part = choose(index, (), images)
    assert len(part) == images
    assert (np.diff(part.offset) > 0).all()  # in the order they had, each once
    np.testing.assert_array_equal(part.label, labels[part.offset])
    np.testing.assert_array_equal(part.size, part.offset + 1)
    np.testing.assert_array_equal(part.crc, part.offset)
    taken, counts = np.bincount(part.label, minlength=len(counts)), np.array(counts)
    share = images * counts / len(labels)
    # One of every class comes first. So no class has one more than its share, and what that one
    # is too much, others lack: of a class, not more than its part of as many as there are classes.
    assert taken.min() >= 1
    assert (taken < share + 1).all()
    assert (taken > share - 1 - len(counts) * counts / len(labels)).all()


@settings(deadline=None, max_examples=60)
@given(
    classes=st.integers(1, 6),
    each=st.integers(1, 20),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_classes_of_one_size_get_as_many_within_one(classes, each, seed, data):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), each))
    images = data.draw(st.integers(classes, len(labels)))
    taken = np.bincount(choose(imagined(labels), (), images).label, minlength=classes)
    assert set(taken.tolist()) <= {images // classes, -(-images // classes)}


@settings(deadline=None, max_examples=60)
@given(counts=COUNTS, seed=st.integers(0, 99))
def test_fewer_are_among_more(counts, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    index = imagined(labels)
    before: set[int] = set()
    for images in range(len(counts), len(labels) + 1):
        now = set(choose(index, (), images).offset.tolist())
        assert len(now - before) == len(now) - len(before) and before <= now
        before = now
    assert before == set(range(len(labels)))


def test_images_are_taken_from_everywhere():
    # Not the first of each class: shards are often written in an order.
    part = choose(imagined(np.repeat(np.arange(2), 500)), (), 200)
    for label in (0, 1):
        places = part.offset[part.label == label] % 500
        assert abs(places.mean() - 250) < 4 * 500 / 12**0.5 / 100**0.5
        assert places.min() < 50 and places.max() > 450


def test_fingerprints_of_parts_differ():
    index = imagined(np.arange(60) % 3, NAMES)
    asked = [((), 0), ((), 30), ((), 31), (NAMES, 0), (NAMES[:2], 0), (NAMES[1::-1], 0),
             (NAMES[:2], 30), (NAMES[1:], 0)]  # fmt: skip
    found = [choose(index, *part).fingerprint for part in asked]
    assert len(set(found)) == len(found)
    assert found == [choose(index, *part).fingerprint for part in asked]
    assert all(re.fullmatch("[0-9a-f]{16}", fingerprint) for fingerprint in found)


@pytest.mark.parametrize("images", [1, 2, 21, 10**9])
def test_too_few_or_too_many_images(named, images):
    reason = "data.images must be between 3, one of each class, and 20, all there are"
    with pytest.raises(ShardError, match=re.escape(f"{named.root}: {reason}")):
        choose(named, (), images)


def test_classes_and_images_together(named):
    part = choose(named, ("owl", "cat"), 6)
    assert np.bincount(part.label).tolist() == [3, 3]
    assert set(part.offset.tolist()) < set(choose(named, ("owl", "cat"), 0).offset.tolist())
    with pytest.raises(
        ShardError, match="between 2, one of each class, and 13, all there are, got 14"
    ):
        choose(named, ("owl", "cat"), 14)  # of 6 owls and 7 cats


# -------------------------------------------------------------------------------------- end to end


@pytest.mark.parametrize("chunk", [0, 4])
def test_batches_are_of_the_chosen_under_their_new_labels(named, pictures, chunk):
    asked = {"classes": ("owl", "cat"), "images": 9, "chunk": chunk}
    config = DataConfig(str(named.root), SIDE, num_classes=2, **asked)
    part = open_dataset(config)
    loader = Loader(part, config, 5, CPU)
    batches = loader.batches(0, 9, 0, 1, 9)
    found = [next(batches) for _ in range(2 * max(1, chunk))]
    loader.close()
    label = {picture.tobytes(): number % 3 for number, picture in enumerate(pictures)}
    seen = set()
    for batch in found:
        pixels = batch.images.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        for image, told in zip(pixels.numpy(), batch.labels.tolist(), strict=True):
            assert NAMES[label[image.tobytes()]] == ("owl", "cat")[told]
            seen.add(image.tobytes())
    assert len(seen) == 9
    if not chunk:  # the same pictures by the order and the places in the part
        places = {(s, o): i for i, (s, o) in enumerate(zip(named.shard, named.offset, strict=True))}
        chosen = [places[place] for place in zip(part.shard, part.offset, strict=True)]
        expected = as_images(pictures[np.array(chosen)[Shuffled(9, 5)(range(9))]])
        torch.testing.assert_close(found[0].images, expected)


def test_part_does_not_depend_on_the_seed(named):
    config = DataConfig(str(named.root), SIDE, num_classes=3, images=10)
    part = open_dataset(config)
    assert part.fingerprint == choose(named, (), 10).fingerprint

    def pixels(seed):
        loader = Loader(part, config, seed, CPU)
        images = next(loader.batches(0, 10, 0, 1, 10)).images
        loader.close()
        return {image.numpy().tobytes() for image in images}, images

    (one, first), (other, second) = pixels(0), pixels(1)
    assert one == other and not torch.equal(first, second)


def test_number_of_classes_is_that_of_the_part(named):
    with pytest.raises(ShardError, match=r"2 classes there, but data\.num_classes is 3"):
        open_dataset(DataConfig(str(named.root), SIDE, num_classes=3, classes=("owl", "cat")))
