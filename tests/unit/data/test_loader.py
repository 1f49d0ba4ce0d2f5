"""From positions to batches: the decoders, the augmentations and their errors."""

import io
import re
import threading
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biggan_sn.config import DataConfig
from biggan_sn.data.loader import Loader, normalize, open_dataset, send, shift, to_pixels
from biggan_sn.data.order import Balanced, Shuffled
from biggan_sn.data.reader import Reader
from biggan_sn.data.shards import ShardError, save_index
from tests.unit.data.streams import CPU, SIDE, as_images, config, take


@pytest.fixture(scope="session")
def index(tmp_path_factory, write_shards, encode, pictures):
    return write_shards(tmp_path_factory.mktemp("data"), [encode(image) for image in pictures])


# ----------------------------------------------------------------------------------------- batches


def test_batches_are_the_images_of_the_order(index, pictures):
    images, labels = take(index, 4, seed=5)
    numbers = Shuffled(20, 5)(range(48))
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, as_images(pictures[numbers]))
    assert labels.tolist() == (numbers % 3).tolist()


@pytest.mark.parametrize(
    ("ranks", "microbatch", "threads", "prefetch"),
    [(1, 1, 1, 1), (1, 4, 3, 2), (2, 6, 2, 4), (2, 3, 1, 1), (3, 2, 2, 7), (4, 3, 2, 1)],
)
def test_batches_are_alike_however_they_are_cut(index, ranks, microbatch, threads, prefetch):
    whole = take(index, 4, flip=True, shift=2)
    cut = take(index, 4, ranks=ranks, microbatch=microbatch, threads=threads, prefetch=prefetch,
               flip=True, shift=2)  # fmt: skip
    assert torch.equal(cut[0], whole[0])
    assert torch.equal(cut[1], whole[1])


@pytest.mark.parametrize("start", [12, 13, 20, 36, 20 * 10**6 + 5])
def test_starting_anywhere_is_having_come_there(index, start):
    # Epochs are of 20 images, so most of these batches lie across a boundary.
    if start < 100:
        came = [part[start:] for part in take(index, 6, flip=True, shift=2)]
        count = len(came[1]) // 12
    else:
        came = [part[12:] for part in take(index, 4, start=start - 12, flip=True, shift=2)]
        count = 3
    started = take(index, count, start=start, flip=True, shift=2)
    for one, other in zip(came, started, strict=True):
        assert torch.equal(one[: 12 * count], other)


def test_balanced_batches(index, pictures):
    labels = np.arange(20) % 3
    whole = take(index, 10, seed=5, balanced=True)
    numbers = Balanced(labels, 5)(range(120))
    torch.testing.assert_close(whole[0], as_images(pictures[numbers]))
    assert whole[1].tolist() == labels[numbers].tolist()
    assert torch.equal(whole[1].reshape(-1, 3).sort(1).values, torch.arange(3).expand(40, 3))
    cut = take(index, 8, start=24, ranks=3, microbatch=2, seed=5, balanced=True)
    assert torch.equal(cut[0], whole[0][24:]) and torch.equal(cut[1], whole[1][24:])


@pytest.mark.parametrize("chunk", [0, 4])
def test_streams_of_other_sizes_from_one_loader(index, chunk):
    # The memory of one is no memory for the other.
    loader = Loader(index, config(index, chunk=chunk), 0, CPU)
    wide, narrow = loader.batches(0, 12, 0, 1, 12), loader.batches(0, 12, 0, 1, 4)
    expected = take(index, 4, chunk=chunk)[0]
    for number in range(4):
        assert torch.equal(next(wide).images, expected[12 * number :][:12])
        parts = [next(narrow).images for _ in range(3)]
        assert torch.equal(torch.cat(parts), expected[12 * number :][:12])
    loader.close()


def test_many_threads_read_as_one(tmp_path, write_shards, encode):
    # Chunks of 32 images are decoded at once; every one must land in its own slot.
    files = np.random.default_rng(0).integers(0, 256, (100, SIDE, SIDE, 3), np.uint8)
    index = write_shards(tmp_path / "many", [encode(image) for image in files])
    images, _ = take(index, 2, batch_size=100, microbatch=100, threads=4)
    numbers = Shuffled(100, 0)(range(200))
    torch.testing.assert_close(images, as_images(files[numbers]))


def test_threads_end_with_the_loader(index):
    def decoding():
        return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]

    before = len(decoding())
    loader = Loader(index, config(index, threads=2), 0, CPU)
    next(loader.batches(0, 12, 0, 1, 12))
    assert len(decoding()) > before
    loader.close()
    assert len(decoding()) == before


# ----------------------------------------------------------------------------------- augmentations


def test_all_values_survive_normalization():
    values = torch.arange(256, dtype=torch.uint8)
    normal = normalize(values)
    assert normal.dtype == torch.float32
    assert (normal[0], normal[255]) == (-1, 1)
    assert (normal.diff() > 0).all()
    assert torch.equal(to_pixels(normal), values)
    assert values.tolist() == list(range(256))  # left as it was


def test_to_pixels_rounds_and_clips():
    images = torch.tensor([-7.0, -1.004, 0.0, 0.0039, 0.0079, 1.004, 7.0])
    assert to_pixels(images).tolist() == [0, 0, 128, 128, 129, 255, 255]
    assert to_pixels(torch.tensor([1.0], dtype=torch.bfloat16)).tolist() == [255]


def slow_shift(image, down, right):
    """One image [C, H, W], pixel by pixel."""
    _, height, width = image.shape
    moved = torch.empty_like(image)
    for row in range(height):
        for column in range(width):
            source_row = min(max(row - down, 0), height - 1)
            source_column = min(max(column - right, 0), width - 1)
            moved[:, row, column] = image[:, source_row, source_column]
    return moved


def test_shift_against_single_pixels():
    images = torch.randn(9, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    offsets = torch.tensor(
        [(0, 0), (1, 0), (0, 1), (-1, 0), (0, -1), (2, -3), (-4, 6), (4, 4), (-9, 9)]
    )
    expected = [slow_shift(i, *o) for i, o in zip(images, offsets.tolist(), strict=True)]
    assert torch.equal(shift(images, offsets), torch.stack(expected))
    assert shift(images, offsets).shape == images.shape
    # Down and right are positive: a dot in the corner moves into the image.
    dot = torch.zeros(1, 1, 4, 4)
    dot[0, 0, 1, 1] = 1
    assert shift(dot, torch.tensor([[1, 2]])).nonzero().tolist() == [[0, 0, 2, 3]]


def test_flips_are_half_and_belong_to_the_position(index):
    count = 100
    plain, _ = take(index, count)
    flipped, _ = take(index, count, flip=True)
    kept = (flipped == plain).flatten(1).all(1)
    mirrored = (flipped == plain.flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    # 1200 flips: four deviations are 69. No batch and no epoch is of one kind, and the same
    # image is not always drawn alike.
    assert abs(int(mirrored.sum()) - 600) < 69
    numbers = Shuffled(20, 0)(range(12 * count))
    for image in range(20):
        assert 0 < mirrored[numbers == image].float().mean() < 1
    other, _ = take(index, count, flip=True, start=12)
    assert torch.equal(other[:-12], flipped[12:])
    assert not torch.equal(take(index, 4, seed=1, flip=True)[0], flipped[:48])


def test_shifts_are_uniform_and_belong_to_the_position(index):
    count, most = 60, 1
    plain, _ = take(index, count)
    moved, _ = take(index, count, shift=most)
    found = torch.full((12 * count,), -1)
    kinds = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    for kind, offsets in enumerate(kinds):
        candidates = shift(plain, torch.tensor([offsets]).expand(len(plain), 2))
        found[(candidates == moved).flatten(1).all(1)] = kind
    counts = torch.bincount(found, minlength=9)  # fails if an image is none of the nine
    assert ((counts - 80) ** 2 / 80).sum() < 8 + 4 * 16**0.5  # chi square of 8 degrees


# ---------------------------------------------------------------------------------------- decoders


def smooth(channels):
    """A soft picture uint8 [32, 32, channels] with colours of all kinds."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    waves = [rows * 8, columns * 8, 255 - rows * 4 - columns * 4, (rows + columns) * 2]
    return np.stack(waves[:channels], 2).astype(np.uint8)


def read(tmp_path, write_shards, file, side=SIDE):
    """What the reader makes of one image file."""
    index = write_shards(tmp_path / "one", [file, file])
    reader = Reader(index, side)
    pixels = np.full((side, side, 3), 77, np.uint8)
    try:
        reader.read_into(1, pixels)
    finally:
        reader.close()
    return pixels


def by_pillow(file):
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


def saved(image, form, **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"quality": 90, "subsampling": 0},
        {"quality": 75, "subsampling": 1},
        {"quality": 95, "progressive": True},
        {"quality": 95, "keep_rgb": True},
    ],
    ids=str,
)
def test_jpegs_are_decoded_as_by_pillow(tmp_path, write_shards, options):
    file = saved(Image.fromarray(smooth(3)), "JPEG", **options)
    decoded = read(tmp_path, write_shards, file)
    # Both are libjpeg-turbo with its exact settings; their builds may round apart.
    assert abs(decoded - by_pillow(file)).max() <= 1
    assert abs(decoded - smooth(3).astype(int)).mean() < 6


def test_grey_jpeg(tmp_path, write_shards):
    file = saved(Image.fromarray(smooth(3)[:, :, 2]), "JPEG", quality=95)
    decoded = read(tmp_path, write_shards, file)
    assert abs(decoded - by_pillow(file)).max() <= 1
    assert (decoded == decoded[:, :, :1]).all()


def cmyk_jpeg(kind):
    file = saved(Image.frombytes("CMYK", (SIDE, SIDE), smooth(4).tobytes()), "JPEG", quality=95)
    marker = file.index(b"\xff\xee")  # "Adobe", whose last byte is the colour transform
    if kind == "plain":
        return file[:marker] + file[marker + 16 :]
    return file[: marker + 15] + {"adobe": b"\0", "ycck": b"\2"}[kind] + file[marker + 16 :]


@pytest.mark.parametrize("kind", ["plain", "adobe", "ycck"])
def test_cmyk_jpegs(tmp_path, write_shards, kind):
    # Photoshop writes such files, inverted; read without care they come out as negatives.
    file = cmyk_jpeg(kind)
    assert simplejpeg.decode_jpeg_header(file)[2] == ("YCCK" if kind == "ycck" else "CMYK")
    assert abs(read(tmp_path, write_shards, file) - by_pillow(file)).max() <= 3


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA"])
def test_pngs_of_every_mode(tmp_path, write_shards, mode):
    image = Image.fromarray(smooth(3)).convert(mode)
    decoded = read(tmp_path, write_shards, saved(image, "PNG"))
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_png_of_16_bits(tmp_path, write_shards):
    # Pillow would make everything above 255 of 65535 white.
    grey = np.linspace(0, 65535, SIDE**2).astype(np.uint16).reshape(SIDE, SIDE)
    with pytest.raises(ShardError, match=r"cannot be decoded \(16 bits"):
        read(tmp_path, write_shards, saved(Image.fromarray(grey), "PNG"))


def test_jpeg_with_something_behind(tmp_path, write_shards):
    file = saved(Image.fromarray(smooth(3)), "JPEG", quality=90)
    decoded = read(tmp_path, write_shards, file + b"camera notes")
    np.testing.assert_array_equal(decoded, read(tmp_path, write_shards, file))


# ------------------------------------------------------------------------------------------ errors


def bad_files(encode, pictures):
    """Name -> an image file that cannot be read as 32 x 32 pixels, and why."""
    jpeg, png = encode(pictures[0], "JPEG", quality=95), encode(pictures[0])
    random = np.random.default_rng(0).bytes(600)
    jpeg_size = jpeg.index(b"\xff\xc0") + 5
    png_data = png.index(b"IDAT") + 40
    return {
        "wide": (encode(pictures[0][:16]), "32x16 pixels, but data.resolution is 32"),
        "large": (encode(np.zeros((64, 64, 3), np.uint8), "JPEG"), "64x64 pixels"),
        "garbage": (random, "cannot be decoded"),
        "empty": (b"", "cannot be decoded"),
        "cut jpeg": (jpeg[:-300] + random[:300], "cannot be decoded"),
        "zeros in jpeg": (jpeg[:700] + bytes(len(jpeg) - 702) + b"\xff\xd9", "cannot be decoded"),
        "cut png": (png[:-300], "cannot be decoded"),
        "garbage in png": (png[:png_data] + random + png[png_data + 600 :], "cannot be decoded"),
        "one bit in png": (
            png[:png_data] + bytes([png[png_data] ^ 1]) + png[png_data + 1 :],
            "cannot be decoded",
        ),
        "webp": (encode(pictures[0], "WEBP"), "cannot be decoded"),
        # Headers that ask for gigabytes
        "giant jpeg": (
            jpeg[:jpeg_size] + b"\xff\xdc\xff\xdc" + jpeg[jpeg_size + 4 :],
            "65500x65500 pixels",
        ),
        "giant png": (png[:16] + b"\0\1\0\0\0\1\0\0" + png[24:], "cannot be decoded"),
    }


BAD = ["wide", "large", "garbage", "empty", "cut jpeg", "zeros in jpeg", "cut png",
       "garbage in png", "one bit in png", "webp", "giant jpeg", "giant png"]  # fmt: skip


def test_every_bad_file_is_tried(encode, pictures):
    assert sorted(bad_files(encode, pictures)) == sorted(BAD)


@pytest.mark.parametrize("name", BAD)
def test_bad_image_stops_the_batches_by_name(tmp_path, write_shards, encode, pictures, name):
    file, reason = bad_files(encode, pictures)[name]
    files = [encode(image) for image in pictures]
    files[9] = file
    index = write_shards(tmp_path / "bad", files)
    place = re.escape(f"{tmp_path / 'bad' / '0007.tar'}, image at byte {index.offset[9]}: ")
    where = Shuffled(20, 0)(range(20)).tolist().index(9)
    loader = Loader(index, config(index, prefetch=1), 0, CPU)
    batches = loader.batches(0, 2, 0, 1, 2)
    assert len(list(islice(batches, where // 2))) == where // 2  # those before it are good
    with pytest.raises(ShardError, match=f"^{place}.*{reason}") as caught:
        next(batches)
    assert len(str(caught.value).splitlines()) == 1
    loader.close()


def test_shard_that_shrinks_under_a_run(tmp_path, write_shards, encode, pictures):
    index = write_shards(tmp_path / "bad", [encode(image) for image in pictures])
    reader = Reader(index, SIDE)
    with (tmp_path / "bad" / "0007.tar").open("r+b") as file:
        file.truncate(index.offset[9] + 100)
    with pytest.raises(ShardError, match=rf"0007\.tar, image .*100 of {index.size[9]} bytes"):
        reader.read_into(9, np.zeros((SIDE, SIDE, 3), np.uint8))
    reader.close()


def test_every_wrong_bit_of_a_png(tmp_path, write_shards):
    """Pillow passes over some of them and gives other pixels; the checksums do not."""
    file = saved(Image.fromarray(smooth(3)), "PNG")
    silent = 0
    for number in range(8 * len(file)):
        damaged = bytearray(file)
        damaged[number // 8] ^= 1 << number % 8
        try:
            if (by_pillow(damaged) == smooth(3)).all():
                continue
        except Exception:  # seen by Pillow
            continue
        silent += 1
        with pytest.raises(ShardError, match="cannot be decoded"):
            read(tmp_path, write_shards, bytes(damaged))
    assert silent > 0


@settings(deadline=None, max_examples=200)
@given(data=st.data(), form=st.sampled_from(("PNG", "JPEG")))
def test_random_damage_to_an_image(tmp_path_factory, write_shards, encode, data, form):
    """A JPEG has no checksum, so what is decoded may be wrong, but it is an image or an error."""
    file = bytearray(encode(smooth(3), form))
    places = st.tuples(st.integers(0, len(file) - 1), st.integers(0, 255))
    for where, value in data.draw(st.lists(places, min_size=1, max_size=6)):
        file[where] = value
    try:
        pixels = read(tmp_path_factory.getbasetemp(), write_shards, bytes(file))
    except ShardError:
        return
    if form == "PNG":
        np.testing.assert_array_equal(pixels, smooth(3))


# ------------------------------------------------------------------------------------ open_dataset


def test_open_dataset(index):
    opened = open_dataset(config(index))
    assert opened.fingerprint == index.fingerprint
    assert opened.label.tolist() == [number % 3 for number in range(20)]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"path": ""}, "data.path is empty"),
        ({"num_classes": 4}, "{root}: 3 classes there, but data.num_classes is 4"),
        ({"resolution": 64}, "{root}/0000.tar, image .* 32x32 pixels, but data.resolution is 64"),
        ({"path": "{root}/nowhere"}, "{root}/nowhere: no such folder"),
        ({"path": "{root}/0000.tar"}, "{root}/0000.tar: no such folder"),
    ],
)
def test_open_dataset_that_does_not_fit(index, changed, reason):
    values = {"path": "{root}", "resolution": SIDE, "num_classes": 3, **changed}
    values["path"] = values["path"].format(root=index.root)
    with pytest.raises(ShardError, match="^" + reason.format(root=index.root)):
        open_dataset(DataConfig(**values))


def test_orders_that_do_not_go_together(index):
    reason = r"^data\.balanced takes images from everywhere, and does not go with chunks"
    with pytest.raises(ShardError, match=reason):
        open_dataset(config(index, balanced=True, chunk=4))
    for options in ({"balanced": True}, {"chunk": 4}):
        assert len(open_dataset(config(index, **options))) == 20


def test_balance_wants_an_image_of_every_class(index):
    named = replace(index, classes=("cat", "dog", "owl", "yak"))
    try:
        save_index(named)
        with pytest.raises(ShardError, match=f"^{index.root}: class 'yak' has no image"):
            open_dataset(config(named, balanced=True))
        assert len(open_dataset(config(named))) == 20
    finally:
        save_index(index)


def test_open_dataset_looks_into_every_shard(tmp_path, write_shards, encode, pictures):
    files = [encode(image) for image in pictures]
    files[14] = encode(np.zeros((64, 64, 3), np.uint8))  # the first of the third shard
    index = write_shards(tmp_path / "mixed", files)
    with pytest.raises(ShardError, match=r"0014\.tar, image at byte .*: 64x64 pixels"):
        open_dataset(config(index))


def test_shard_that_cannot_be_opened(tmp_path, write_shards, encode, pictures):
    index = write_shards(tmp_path / "gone", [encode(image) for image in pictures])
    (tmp_path / "gone" / "0007.tar").unlink()
    reader = Reader(index, SIDE)
    with pytest.raises(ShardError, match=rf"^{tmp_path}/gone/0007.tar: cannot be opened"):
        reader.read_into(9, np.zeros((SIDE, SIDE, 3), np.uint8))


@pytest.mark.gpu
def test_a_gpu_takes_images_in_while_it_computes(index):
    """They are the images of the CPU, and there before earlier work is done."""
    wanted = take(index, 3, flip=True, shift=2)
    device = torch.device("cuda")
    loader = Loader(index, config(index, flip=True, shift=2), 0, device)
    batches = loader.batches(0, 12, 0, 1, 12)
    found = [next(batches)]
    matrix = torch.randn(8192, 8192, device=device)
    torch.cuda.synchronize()
    for _ in range(100):
        matrix @ matrix
    done = torch.cuda.Event()
    done.record()
    found.append(next(batches))
    loader._stream.synchronize()
    assert not done.query(), "the copy waited for the products"
    found.append(next(batches))
    loader.close()
    for one, other in zip(found, wanted[0].split(12), strict=True):
        torch.testing.assert_close(one.images.cpu(), other)
    assert torch.equal(torch.cat([batch.labels for batch in found]).cpu(), wanted[1])


@pytest.mark.gpu
def test_sending_does_not_wait_for_the_gpu():
    matrix = torch.randn(8192, 8192, device="cuda")
    send(torch.zeros(256, 128), matrix.device)
    torch.cuda.synchronize()
    for _ in range(100):
        matrix @ matrix
    done = torch.cuda.Event()
    done.record()
    sent = send(torch.arange(256), matrix.device)
    assert not done.query(), "the program waited for the products"
    assert torch.equal(sent.cpu(), torch.arange(256))
