"""Damaged images: which one stands in, how many may be, and what is said."""

import re
import threading
from collections import Counter

import numpy as np
import pytest
import torch

from biggan_sn.data.damage import POLICIES, Careful
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.data.order import Chunked, Shuffled
from biggan_sn.data.reader import DamagedError, Reader
from biggan_sn.data.shards import ShardError
from tests.unit.data.streams import CPU, SIDE, as_images, config, same, take

SKIP = {"damaged": "skip", "damaged_share": 0.5}  # ten of twenty


@pytest.fixture
def index(tmp_path, write_shards, encode, pictures):
    """Twenty images, of classes 0 1 2 0 1 2 ..., in shards of seven."""
    return write_shards(tmp_path / "data", [encode(image) for image in pictures])


def spoil(index, *images):
    """Changes a byte of each image in its shard."""
    for image in images:
        with open(index.path(index.shard[image]), "r+b") as file:  # noqa: PTH123
            file.seek(int(index.offset[image]) + 60)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 4]))


def careful(index, policy="skip", share=0.5):
    return Careful(Reader(index, SIDE), policy, share)


def read(reader, image):
    pixels = np.full((SIDE, SIDE, 3), 77, np.uint8)
    reader.read_into(image, pixels)
    return pixels


# --------------------------------------------------------------------------------------- policies


def test_damage_ends_a_run_by_default(index):
    spoil(index, 9)
    where = re.escape(index.where(9))
    for share in (0.0, 0.9):
        with pytest.raises(DamagedError, match=f"^{where}: cannot be decoded .*data.damaged"):
            read(careful(index, "fail", share), 9)
    with pytest.raises(DamagedError, match=f"^{where}"):
        take(index, 2)


def test_good_images_are_what_they_are(index, pictures):
    spoil(index, 9)
    for policy in POLICIES:
        reader = careful(index, policy)
        for image in set(range(20)) - {9}:
            np.testing.assert_array_equal(read(reader, image), pictures[image])


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("skipp", "unknown policy for damaged images 'skipp'; did you mean 'skip'?"),
        ("Fail", "unknown policy for damaged images 'Fail'; did you mean 'fail'?"),
        ("", "unknown policy for damaged images ''"),
    ],
)
def test_unknown_policy(index, policy, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        careful(index, policy)
    with pytest.raises(ValueError, match=re.escape(reason)):
        open_dataset(config(index, damaged=policy))
    with pytest.raises(ValueError, match=re.escape(reason)):
        Loader(index, config(index, damaged=policy), 0, CPU)


@pytest.mark.parametrize(
    ("share", "images", "most"),
    [(0.0, 1000, 0), (0.001, 999, 0), (0.001, 1000, 1), (0.001, 1_281_167, 1281), (0.5, 20, 10)],
)
def test_how_many_may_be_skipped(share, images, most):
    assert POLICIES["skip"](share, images) == most
    assert POLICIES["fail"](share, images) == 0


# --------------------------------------------------------------------------------------- stand-ins


@pytest.mark.parametrize(
    ("damaged", "stand_in"),
    [
        ([9], 12),  # the next of its class by number
        ([9, 12], 15),
        ([9, 12, 15, 18], 0),  # goes round
        ([9, 12, 15, 18, 0, 3], 6),  # the one before it comes last
        ([9, 10, 11, 13], 12),  # others of other classes do not matter
        ([18], 0),
        ([19], 1),
    ],
)
def test_the_next_good_image_of_the_class_stands_in(index, pictures, damaged, stand_in):
    spoil(index, *damaged)
    np.testing.assert_array_equal(read(careful(index), damaged[0]), pictures[stand_in])
    # Whatever was read before: no state decides.
    reader = careful(index)
    for image in [*range(20), damaged[0]]:
        found = read(reader, image)
    np.testing.assert_array_equal(found, pictures[stand_in])


def test_a_class_of_which_none_is_good(index):
    spoil(index, *range(1, 20, 3))
    reader = careful(index)
    for image in (1, 19):
        where = re.escape(index.where(image))
        with pytest.raises(DamagedError, match=f"^{where}: .*nor can any other image of its class"):
            read(reader, image)
    read(reader, 2), read(reader, 0)  # others go on


def test_what_the_index_does_not_fit_is_no_damage(index, tmp_path, write_shards, encode, pictures):
    # A shard that is gone, or images of another size: not one image among many.
    files = [encode(image) for image in pictures]
    files[9] = encode(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ShardError, match="64x64 pixels"):
        read(careful(write_shards(tmp_path / "mixed", files)), 9)
    index.root.joinpath("0007.tar").unlink()
    with pytest.raises(ShardError, match="cannot be opened"):
        read(careful(index), 9)


def test_an_image_that_is_read_in_part_leaves_nothing(tmp_path, write_shards, encode, pictures):
    # A JPEG is decoded in place, line by line, until it breaks off. It was indexed like that.
    files = [encode(pictures[0])] * 20
    jpeg = encode(pictures[1], "JPEG", quality=90)
    files[3] = jpeg[: len(jpeg) // 2] + b"\xff\xd9"
    reader = careful(write_shards(tmp_path / "half", files))
    np.testing.assert_array_equal(read(reader, 3), pictures[0])


# ----------------------------------------------------------------------------------- what is said


def test_each_image_is_spoken_of_once(index, capsys):
    spoil(index, 9, 12, 4)
    reader = careful(index)
    for _ in range(3):
        for image in range(20):
            read(reader, image)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for number, (line, image) in enumerate(zip(lines, (4, 9, 12), strict=True), 1):
        assert line.startswith(f"biggan-sn: {index.where(image)}: cannot be decoded (")
        assert line.endswith(
            f"another image of its class takes its place ({number} skipped of at most 10)"
        )


def test_the_cap_counts_images_not_reads(index, capsys):
    spoil(index, 9, 12, 4)
    reader = careful(index, share=0.1)  # two of twenty
    for _ in range(5):
        read(reader, 9)  # and 12, which would stand in
    where = re.escape(index.where(4))
    for _ in range(2):
        with pytest.raises(DamagedError, match=f"^{where}: .*2 others were skipped") as caught:
            read(reader, 4)
    assert "data.damaged_share" in str(caught.value) and "\n" not in str(caught.value)
    read(reader, 9), read(reader, 12)  # these may be
    assert capsys.readouterr().err.count("\n") == 2


def test_stand_ins_count_as_well(index):
    spoil(index, 9, 12)
    with pytest.raises(DamagedError, match=f"^{re.escape(index.where(12))}: .*1 others"):
        read(careful(index, share=0.05), 9)


def test_many_threads_count_as_one(index, capsys, pictures):
    damaged = [0, 4, 5, 9, 13, 17]
    spoil(index, *damaged)
    reader, found, wrong = careful(index, share=0.3), {}, []

    def work(seed):
        for image in np.random.default_rng(seed).permutation(20).tolist() * 5:
            pixels = read(reader, image)
            if not (found.setdefault(image, pixels) == pixels).all():
                wrong.append(image)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(found) == 20
    said = Counter(re.findall(r"image at byte \d+", capsys.readouterr().err))
    assert len(said) <= 6 and sum(said.values()) == 6  # two shards may have equal offsets
    for image in set(range(20)) - set(damaged):
        np.testing.assert_array_equal(found[image], pictures[image])


# ------------------------------------------------------------------------------------- in training


@pytest.mark.parametrize("chunk", [0, 4])
def test_labels_are_never_wrong(index, pictures, chunk):
    spoil(index, 9, 12, 4, 19)
    images, labels = take(index, 8, chunk=chunk, **SKIP)
    order = Chunked(20, 0, chunk, 12) if chunk else Shuffled(20, 0)
    numbers = order(range(8 * 12))
    stands_for = np.arange(20)
    stands_for[[9, 12, 4, 19]] = [15, 15, 7, 1]
    assert labels.tolist() == (numbers % 3).tolist() == (stands_for[numbers] % 3).tolist()
    torch.testing.assert_close(images, as_images(pictures[stands_for[numbers]]))


@pytest.mark.parametrize("chunk", [0, 4])
@pytest.mark.parametrize(
    ("ranks", "microbatch", "threads"), [(1, 4, 3), (2, 3, 1), (3, 4, 2), (4, 3, 2)]
)
def test_all_processes_do_the_same(index, chunk, ranks, microbatch, threads):
    spoil(index, 9, 12, 4, 19)
    whole = take(index, 8, chunk=chunk, flip=True, **SKIP)
    cut = take(index, 8, ranks=ranks, microbatch=microbatch, threads=threads, chunk=chunk,
               flip=True, **SKIP)  # fmt: skip
    assert same(cut, whole)
    later = take(index, 5, start=36, ranks=ranks, microbatch=microbatch, chunk=chunk, flip=True,
                 **SKIP)  # fmt: skip
    assert same(later, [part[36:] for part in whole])


def test_a_damaged_first_image_of_a_shard_does_not_keep_a_run_from_starting(index):
    spoil(index, 7)
    with pytest.raises(DamagedError, match=re.escape(index.where(7))):
        open_dataset(config(index))
    assert len(open_dataset(config(index, **SKIP))) == 20
