"""The index of shards: what it finds in good ones, and that no damage passes in silence."""

import gzip
import hashlib
import io
import json
import pickle
import re
import struct
import tarfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from biggan_sn.data.reader import Reader
from biggan_sn.data.shards import (
    CARD_NAME,
    INDEX_NAME,
    ShardError,
    build_index,
    load_index,
    save_index,
    scan_shard,
    stored_classes,
)
from tests.unit.data.tampering import header, member, padded, record

BLOCK = 512
LABELS = (3, 0, 3, 1, 12, 0)  # of the six samples in the shard "noise.tar" below
NAMES = [f"{number:04d}.{kind}" for number in range(len(LABELS)) for kind in ("png", "cls")]


@pytest.fixture(scope="session")
def members(encode, noise):
    """Six samples, their labels after their images and before in turn."""
    found = []
    for number, label in enumerate(LABELS):
        sample = [
            (f"{number:04d}.png", encode(noise[number])),
            (f"{number:04d}.cls", str(label).encode()),
        ]
        found += sample if number % 2 else sample[::-1]
    return found


@pytest.fixture(scope="session")
def good(tar_bytes, members):
    return tar_bytes(members)


def place(data, name):
    """Where a member is in a tar: its header, its content, and its end with padding."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        member = tar.getmember(name)
    end = member.offset_data + -(-member.size // BLOCK) * BLOCK
    return member.offset, member.offset_data, end


def write(folder, data, name="noise.tar"):
    path = folder / name
    path.write_bytes(data)
    return path


def refused(path, reason=""):
    """That a shard is refused by its scan and by the index of its folder, both naming it."""
    message = rf"^{re.escape(str(path))}: .*{reason}"
    with pytest.raises(ShardError, match=message) as caught:
        scan_shard(path)
    with pytest.raises(ShardError, match=message):
        build_index(path.parent)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ------------------------------------------------------------------------------------ good shards


def test_index_finds_every_sample(tmp_path, good, members):
    write(tmp_path, good)
    index = build_index(tmp_path)
    contents = dict(members)
    assert len(index) == len(LABELS)
    assert index.label.tolist() == list(LABELS)
    for number, (offset, size) in enumerate(zip(index.offset, index.size, strict=True)):
        assert good[offset : offset + size] == contents[f"{number:04d}.png"]
    assert index.names == ("noise.tar",) and index.sizes == (len(good),)
    assert index.classes == tuple(map(str, range(13)))  # by default, the numbers
    assert index.where(1) == f"{tmp_path / 'noise.tar'}, image at byte {index.offset[1]}"


def test_index_of_several_shards_is_sorted_by_name(tmp_path, tar_bytes):
    for name, label in (("b.tar", b"1"), ("a.tar", b"0"), ("10.tar", b"2")):
        write(tmp_path, tar_bytes([("x.jpg", b"image"), ("x.cls", label)]), name)
    (tmp_path / "notes.txt").write_text("not a shard")
    index = build_index(tmp_path, ("cat", "dog", "owl"))
    assert index.names == ("10.tar", "a.tar", "b.tar")
    assert index.shard.tolist() == [0, 1, 2]
    assert index.label.tolist() == [2, 0, 1]
    assert index.classes == ("cat", "dog", "owl")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_of_other_tools(tmp_path, tar_bytes, form):
    # Folders, long names, keys in folders, other members of a sample, labels with a newline.
    folder = tarfile.TarInfo("train")
    folder.type = tarfile.DIRTYPE
    long = "train/" + 30 * "n0144" + "/ünï"
    members = [
        ("train", folder),
        (f"{long}.JPEG", b"one"),
        (f"{long}.json", b"{}"),
        (f"{long}.cls", b"1\n"),
        ("train/b.cls", b" 0 "),
        ("train/b.seg.png", b"mask"),
        ("train/b.PNG", b"two"),
    ]
    if form == tarfile.USTAR_FORMAT:
        members = members[:1] + members[4:] + [("c.jpeg", b"one"), ("c.CLS", b"1")]
    data = tar_bytes(members, form)
    path = write(tmp_path, data)
    found = [(data[offset : offset + size], label) for offset, size, label, *_ in scan_shard(path)]
    assert sorted(found) == [(b"one", 1), (b"two", 0)]


def test_index_is_loaded_as_it_was_saved(tmp_path, good):
    write(tmp_path, good)
    classes = tuple(f"class {i}" for i in range(13))
    built = build_index(tmp_path, classes)
    assert save_index(built) == tmp_path / INDEX_NAME
    loaded = load_index(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX_NAME, "noise.tar"]
    for name in ("shard", "offset", "size", "label", "raw", "crc"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(built, name))
        assert getattr(loaded, name).dtype == getattr(built, name).dtype
    for name in ("root", "names", "sizes", "classes", "fingerprint"):
        assert getattr(loaded, name) == getattr(built, name)


def test_fingerprint_tells_data_apart(tmp_path, good, tar_bytes, members):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    write(one, good), write(two, good)
    assert build_index(one).fingerprint == build_index(two).fingerprint
    write(two, tar_bytes([(n, b"2" if n == "0003.cls" else c) for n, c in members]))
    assert build_index(one).fingerprint != build_index(two).fingerprint
    write(two, good, "other.tar"), (two / "noise.tar").unlink()
    assert build_index(one).fingerprint != build_index(two).fingerprint


# --------------------------------------------------------------------------------- damaged shards


def test_cut_at_any_place(tmp_path, good):
    end = place(good, "0005.cls")[2]
    headers = {at for name in NAMES for at in place(good, name)[:2]}
    for length in sorted({*range(0, end, 131), *headers, end, end + 1023}):
        refused(write(tmp_path, good[:length]))
    # Nothing is lost with the padding after the two blocks of zeros that end a tar.
    path = write(tmp_path, good)
    whole = scan_shard(path)
    assert scan_shard(write(tmp_path, good[: end + 1024])) == whole


def test_cut_at_a_sample_and_closed_by_zeros_is_not_seen(tmp_path, good):
    # Such a tar is whole by all that tar knows. It is the size in the index that tells.
    write(tmp_path, good)
    save_index(build_index(tmp_path))
    cut = good[: place(good, "0003.png")[0]] + bytes(1024)
    assert len(scan_shard(write(tmp_path, cut))) == 3
    with pytest.raises(ShardError, match=r"noise\.tar: \d+ bytes, but \d+ when it was indexed"):
        load_index(tmp_path)


@pytest.mark.parametrize("name", ["0002.cls", "0002.png", "0003.png", "0003.cls", "0005.cls"])
def test_bad_header_in_the_middle(tmp_path, good, name):
    start = place(good, name)[0]
    damaged = bytearray(good)
    damaged[start + 4] ^= 1
    refused(write(tmp_path, damaged), f"damaged or cut off at byte {start}")


def test_bad_first_header(tmp_path, good):
    refused(write(tmp_path, b"x" + good[1:]), "not a readable tar")


@pytest.mark.parametrize("name", ["0002.cls", "0002.png", "0003.png"])
def test_zeros_over_a_header(tmp_path, good, name):
    start = place(good, name)[0]
    refused(write(tmp_path, good[:start] + bytes(4096) + good[start + 4096 :]), "damaged or cut")


def test_zeros_in_an_image_are_seen_when_it_is_decoded(tmp_path, good):
    start = place(good, "0003.png")[1]
    write(tmp_path, good[: start + 512] + bytes(2048) + good[start + 2560 :])
    reader = Reader(build_index(tmp_path), 32)
    pixels = np.zeros((32, 32, 3), np.uint8)
    for image in (0, 1, 2, 4, 5):
        reader.read_into(image, pixels)
    with pytest.raises(ShardError, match=rf"noise\.tar, image at byte {start}: cannot be decoded"):
        reader.read_into(3, pixels)
    reader.close()


def test_long_tail_of_zeros(tmp_path, tar_bytes, members):
    # What a crash leaves of a file whose length reached the disk before its data: a tar that ends
    # too early and looks whole, for the image is the last member of its sample.
    long = tar_bytes([(f"{copy}{name}", data) for copy in range(3) for name, data in members])
    start = place(long, "00002.png")[1]
    refused(write(tmp_path, long[: start + 1024] + bytes(len(long) - start - 1024)), "damaged")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a readable tar"),
        (b"garbage" * 1000, "not a readable tar"),
        (bytes(1024), "no images in it"),
        (bytes(100_000), "damaged"),
    ],
    ids=["empty", "garbage", "end of archive only", "zeros"],
)
def test_no_tar_at_all(tmp_path, data, reason):
    refused(write(tmp_path, data), reason)


def test_compressed_tar(tmp_path, good):
    refused(write(tmp_path, gzip.compress(good)), "not a readable tar")


def test_folder_in_the_place_of_a_shard(tmp_path):
    (tmp_path / "noise.tar").mkdir()
    refused(tmp_path / "noise.tar", "not a readable tar")


IMAGE, LABEL = ("a.jpg", b"image"), ("a.cls", b"0")
OTHER = [("b.jpg", b"image"), ("b.cls", b"1")]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([IMAGE, *OTHER], "sample 'a' has no .cls member"),
        ([*OTHER, IMAGE], "sample 'a' has no .cls member"),
        ([LABEL, *OTHER], "sample 'a' has no image"),
        ([("a.json", b"{}"), LABEL, *OTHER], "sample 'a' has no image"),
        ([IMAGE, *OTHER, LABEL], "sample 'a' has no .cls member"),
        ([IMAGE, LABEL, *OTHER, IMAGE, LABEL], "the members of 'a' are not side by side"),
        ([IMAGE, LABEL, *OTHER, ("a.json", b"")], "the members of 'a' are not side by side"),
        ([IMAGE, ("a.png", b"image"), LABEL, *OTHER], "sample 'a' has two images"),
        ([IMAGE, LABEL, IMAGE, LABEL, *OTHER], "sample 'a' has two images"),
        ([IMAGE, LABEL, ("a.CLS", b"1"), *OTHER], "sample 'a' has two labels"),
        ([IMAGE, ("a.cls", b"cat"), *OTHER], "'a.cls' holds no class number: b'cat'"),
        ([IMAGE, ("a.cls", b""), *OTHER], "'a.cls' holds no class number: b''"),
        ([IMAGE, ("a.cls", b"-1"), *OTHER], "'a.cls' holds no class number"),
        ([IMAGE, ("a.cls", b"1.0"), *OTHER], "'a.cls' holds no class number"),
        ([IMAGE, ("a.cls", b"1 2"), *OTHER], "'a.cls' holds no class number"),
        ([IMAGE, ("a.cls", "\u0663".encode()), *OTHER], "'a.cls' holds no class number"),
        ([IMAGE, ("a.cls", 32 * b"0" + b"7"), *OTHER], "'a.cls' holds no class number"),
        ([IMAGE, ("a.cls", b"1" + 40 * b"0"), *OTHER], "'a.cls' holds no class number"),
        ([IMAGE, ("a.cls", b"99999999999999999999"), *OTHER], "label 9+ is out of range"),
        ([IMAGE, ("a.cls", b"2000000000"), *OTHER], "label 2000000000 is out of range"),
        ([("noextension", b""), *OTHER], "'noextension' is not named key.extension"),
        ([(".jpg", b""), *OTHER], "'.jpg' is not named key.extension"),
    ],
)
def test_samples_that_are_none(tmp_path, tar_bytes, wrong, reason):
    refused(write(tmp_path, tar_bytes(wrong)), reason)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices(tmp_path, tar_bytes, kind):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, "/etc/passwd"
    data = tar_bytes([("a.jpg", info), LABEL, *OTHER])
    refused(write(tmp_path, data), "'a.jpg' is not a regular file")


@pytest.mark.parametrize(
    "sparse",
    [
        header(b"a.jpg", 5, b"S", at_386=b"%011o\0" * 2 % (0, 5), at_483=b"%011o\0" % 9),
        member(b"pax", record(b"GNU.sparse.map", b"0,5"), b"x") + header(b"a.jpg", 5),
    ],
    ids=["old", "pax"],
)
def test_files_with_holes(tmp_path, tar_bytes, sparse):
    # Their bytes do not lie in the tar as they are in the file.
    rest = tar_bytes([LABEL, *OTHER])
    refused(write(tmp_path, sparse + padded(b"image") + rest), "'a.jpg' is not a regular file")


def test_the_folder_is_part_of_a_key(tmp_path, tar_bytes):
    one, other = [("x/a.jpg", b"one"), ("x/a.cls", b"1")], [("y/a.cls", b"2"), ("y/a.jpg", b"two")]
    path = write(tmp_path, data := tar_bytes(one + other))
    found = [(data[row.offset :][: row.size], row.label) for row in scan_shard(path)]
    assert found == [(b"one", 1), (b"two", 2)]
    refused(write(tmp_path, tar_bytes([one[0], other[0]])), "sample 'x/a' has no .cls member")


@pytest.mark.parametrize("size", [-1, -1024, 2**40, 2**62, 2**70])
@pytest.mark.parametrize(("name", "start"), [("a.jpg", 0), ("a.cls", 1024)])
def test_impossible_size_in_a_header(tmp_path, tar_bytes, size, name, start):
    # As base-256 numbers with a checksum that is right: tarfile would go backwards, or read all.
    data = bytearray(tar_bytes([IMAGE, LABEL, *OTHER]))
    header = data[start : start + BLOCK]
    header[124:136] = (size % 256**12).to_bytes(12, "big")
    header[124] = 0xFF if size < 0 else 0x80
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[start : start + BLOCK] = header
    refused(write(tmp_path, data), f"'{name}' is cut off")


def test_nonsense_in_an_extended_header(tmp_path, tar_bytes):
    info = tarfile.TarInfo()
    info.pax_headers = {"GNU.sparse.size": "big"}
    data = tar_bytes([("a.jpg", info), LABEL, *OTHER], tarfile.PAX_FORMAT)
    refused(write(tmp_path, data), "not a readable tar")


# --------------------------------------------------------------------------- labels and the folder


def test_label_out_of_range(tmp_path, good):
    path = write(tmp_path, good)
    with pytest.raises(ShardError, match=f"^{path}: label 12 is out of range for 12 classes"):
        build_index(tmp_path, tuple("abcdefghijkl"))


def test_only_one_label(tmp_path, tar_bytes):
    write(tmp_path, tar_bytes([IMAGE, LABEL, ("b.jpg", b"x"), ("b.cls", b"0")]))
    with pytest.raises(ShardError, match=f"^{tmp_path}: all 2 images have one label, 0"):
        build_index(tmp_path)


@pytest.mark.parametrize("function", [build_index, load_index])
def test_no_folder(tmp_path, function):
    with pytest.raises(ShardError, match=f"^{tmp_path / 'nothing'}: no "):
        function(tmp_path / "nothing")


def test_no_shards(tmp_path):
    with pytest.raises(ShardError, match=f"^{tmp_path}: no .tar shards"):
        build_index(tmp_path)


def test_no_index(tmp_path, good):
    write(tmp_path, good)
    remedy = f"make_shards index {tmp_path}$"
    with pytest.raises(ShardError, match=f"^{tmp_path / INDEX_NAME}: no index; .*{remedy}"):
        load_index(tmp_path)
    part = tmp_path / "train"
    part.mkdir()
    (part / INDEX_NAME).touch()
    with pytest.raises(ShardError, match=f"^{tmp_path / INDEX_NAME}: no index; {part} has one$"):
        load_index(tmp_path)


@pytest.fixture
def indexed(tmp_path, tar_bytes, members):
    """A folder of two shards and their index."""
    write(tmp_path, tar_bytes(members[:6]), "0.tar")
    write(tmp_path, tar_bytes(members[6:]), "1.tar")
    save_index(build_index(tmp_path))
    load_index(tmp_path)
    return tmp_path


def index_refused(folder, name, reason=""):
    message = rf"^{re.escape(str(folder / name))}: .*{reason}"
    with pytest.raises(ShardError, match=message) as caught:
        load_index(folder)
    return caught.value


def test_shard_missing_after_indexing(indexed):
    (indexed / "1.tar").unlink()
    index_refused(indexed, "1.tar", "the shard is missing")


def test_shard_longer_or_shorter_than_indexed(indexed):
    data = (indexed / "1.tar").read_bytes()
    for changed in (data[:-512], data + bytes(512), b""):
        (indexed / "1.tar").write_bytes(changed)
        index_refused(indexed, "1.tar", f"{len(changed)} bytes, but {len(data)}")


def test_shard_that_came_later(indexed, good):
    write(indexed, good, "2.tar")
    index_refused(indexed, "2.tar", "not in the index")


class Intruder:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def as_npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def as_npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_index_is_never_unpickled(indexed, tmp_path):
    intruder = Intruder(tmp_path / "intruded")
    arrays = dict(np.load(indexed / INDEX_NAME))
    objects = np.array([intruder], dtype=object)
    poisons = [pickle.dumps(intruder), as_npy(objects)]
    poisons += [as_npz(**{**arrays, name: objects}) for name in arrays]
    for poison in poisons:
        (indexed / INDEX_NAME).write_bytes(poison)
        index_refused(indexed, INDEX_NAME, "not a readable index")
        assert not intruder.path.exists()
    pickle.loads(pickle.dumps(intruder)).close()
    assert intruder.path.exists()  # it would have


def test_index_of_another_kind(indexed):
    arrays = dict(np.load(indexed / INDEX_NAME))
    meta = json.loads(arrays["meta"].tobytes())
    few = {name: array[:-1] for name, array in arrays.items() if name != "meta"}

    def with_meta(**new):
        text = json.dumps({**meta, **new}).encode()
        return as_npz(**{**arrays, "meta": np.frombuffer(text, np.uint8)})

    damages = [
        b"",
        b"garbage",
        (indexed / INDEX_NAME).read_bytes()[:-20],
        (indexed / INDEX_NAME).read_bytes()[:100],
        as_npy(np.arange(4)),
        as_npz(nothing=np.arange(4)),
        as_npz(**{**arrays, "meta": np.frombuffer(b"[1]", np.uint8)}),
        as_npz(**{**arrays, "meta": np.frombuffer(b"{", np.uint8)}),
        as_npz(**{**arrays, "label": arrays["label"][::-1].copy()}),
        as_npz(**{**arrays, "label": arrays["label"] + 5}),
        as_npz(**{**arrays, "offset": arrays["offset"] + 512}),
        as_npz(**{**arrays, **few}),
        with_meta(names=["1.tar", "0.tar"]),
        with_meta(names=["0.tar"]),
        with_meta(sizes=[0, 0]),
        with_meta(fingerprint=None),
    ]
    for damage in damages:
        (indexed / INDEX_NAME).write_bytes(damage)
        index_refused(indexed, INDEX_NAME, "not a readable index.*make_shards index")
    (indexed / INDEX_NAME).write_bytes(with_meta(version=99))
    index_refused(indexed, INDEX_NAME, "index version 99, not 2")


# --------------------------------------------------------------------------- what an index holds


def test_raw_images(tmp_path, tar_bytes, noise):
    members = []
    for number, image in enumerate(noise[:4]):
        members += [(f"{number}.rgb", image.tobytes()), (f"{number}.cls", b"%d" % (number % 2))]
    write(tmp_path, tar_bytes(members))
    index = build_index(tmp_path)
    assert index.raw.tolist() == [True] * 4 and index.size.tolist() == [32 * 32 * 3] * 4
    reader, pixels = Reader(index, 32), np.zeros((32, 32, 3), np.uint8)
    for number in range(4):
        reader.read_into(number, pixels)
        np.testing.assert_array_equal(pixels, noise[number])
    reader.close()


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (16 * 16 * 3, "16x16 pixels, but data.resolution is 32"),
        (64 * 64 * 3, "64x64 pixels, but data.resolution is 32"),
        (32 * 32 * 3 - 1, "3071 bytes are no square image"),
        (32 * 32, "1024 bytes are no square image"),
    ],
)
def test_raw_images_of_another_size(tmp_path, tar_bytes, size, reason):
    write(tmp_path, tar_bytes([("a.rgb", bytes(size)), LABEL, *OTHER]))
    reader = Reader(build_index(tmp_path), 32)
    with pytest.raises(ShardError, match=rf"noise\.tar, image at byte 512: .*{reason}"):
        reader.read_into(0, np.zeros((32, 32, 3), np.uint8))
    reader.close()


def test_raw_is_what_is_named_so(tmp_path, good, tar_bytes, encode, noise):
    # Not by what is in it: pixels may begin like a JPEG does.
    image = noise[0].copy()
    image[0, 0] = (0xFF, 0xD8, 0xFF)
    members = [("a.RGB", image.tobytes()), LABEL, ("b.png", encode(image)), ("b.cls", b"1")]
    write(tmp_path, tar_bytes(members))
    index = build_index(tmp_path)
    assert index.raw.tolist() == [True, False]
    reader, pixels = Reader(index, 32), np.zeros((32, 32, 3), np.uint8)
    for number in (0, 1):
        reader.read_into(number, pixels)
        np.testing.assert_array_equal(pixels, image)
    reader.close()


def test_checksums_are_those_of_zip(tmp_path, good, members):
    write(tmp_path, good)
    contents = dict(members)
    index = build_index(tmp_path)
    expected = [zlib.crc32(contents[f"{number:04d}.png"]) for number in range(len(LABELS))]
    assert index.crc.tolist() == expected
    assert max(expected) >= 2**31, "also one that needs all 32 bits"


def test_one_bit_of_an_image_is_seen_whatever_its_decoder_says(tmp_path, good, tar_bytes, encode):
    image = encode(np.full((32, 32, 3), 200, np.uint8), "JPEG")
    data = tar_bytes([("a.jpg", image), LABEL, *OTHER])
    path = write(tmp_path, data)
    index = build_index(tmp_path)
    reader, pixels = Reader(index, 32), np.zeros((32, 32, 3), np.uint8)
    reader.read_into(0, pixels)
    for bit in range(0, 8 * len(image), 97):
        damaged = bytearray(data)
        damaged[512 + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match="its bytes are not those that were indexed"):
            reader.read_into(0, pixels)
    reader.close()


def test_columns_are_small(tmp_path, good):
    write(tmp_path, good)
    save_index(build_index(tmp_path))
    for index in (build_index(tmp_path), load_index(tmp_path)):
        found = {
            n: getattr(index, n).dtype for n in ("shard", "size", "label", "offset", "crc", "raw")
        }
        assert found == {"shard": np.int32, "size": np.int32, "label": np.int32,
                         "offset": np.int64, "crc": np.uint32, "raw": np.bool_}  # fmt: skip


def test_images_of_more_than_the_column_holds(tmp_path):
    # 2 GiB that are a hole in the file.
    path = tmp_path / "large.tar"
    with path.open("wb") as file:
        file.write(header(b"a.jpg", 2**31))
        file.truncate(512 + 2**31 + 4096)
    refused(path, "'a.jpg' is too large for an image")


def fingerprint_of_version_1(folder, found):
    """As it was before there were checksums: of names, lengths and four columns of int64."""
    names = sorted(path.name for path in folder.glob("*.tar"))
    sizes = [(folder / name).stat().st_size for name in names]
    digest = hashlib.sha256(json.dumps([names, sizes]).encode())
    for column in zip(*found, strict=True):
        digest.update(struct.pack(f"<{len(column)}q", *column))
    return digest.hexdigest()[:16]


def test_fingerprint_is_that_of_older_indices(indexed, members):
    # A run that began with one goes on, for it looks at its fingerprint.
    found = []
    for shard, some in enumerate((members[:6], members[6:])):
        data = (indexed / f"{shard}.tar").read_bytes()
        for name, content in some:
            if name.endswith(".png"):
                label = LABELS[int(name[:4])]
                found.append((shard, place(data, name)[1], len(content), label))
    expected = fingerprint_of_version_1(indexed, found)
    assert build_index(indexed).fingerprint == load_index(indexed).fingerprint == expected


def test_fingerprint_as_version_1_wrote_it(tmp_path, tar_bytes):
    write(tmp_path, tar_bytes([IMAGE, LABEL, *OTHER]), "0.tar")
    write(tmp_path, tar_bytes(OTHER), "1.tar")
    assert build_index(tmp_path).fingerprint == "e121e624cb24b932"


def test_fingerprint_is_of_the_data_not_of_its_place(indexed):
    here = build_index(indexed, tuple("abcdefghijklm"))
    assert here.fingerprint == load_index(indexed).fingerprint
    save_index(replace(here, url="https://elsewhere/data/"))
    there = load_index(indexed)
    assert there.fingerprint == here.fingerprint and there.url == "https://elsewhere/data/"


def test_index_of_shards_at_a_url(indexed, tmp_path):
    folder = tmp_path / "no shards"
    folder.mkdir()
    here = load_index(indexed)
    save_index(replace(here, root=folder, url="s3://bucket/a/"))
    there = load_index(folder)
    assert there.path(1) == "s3://bucket/a/1.tar"
    assert there.where(0) == f"s3://bucket/a/0.tar, image at byte {here.offset[0]}"
    assert here.path(1) == str(indexed / "1.tar")


def test_index_older_than_this(indexed):
    arrays = dict(np.load(indexed / INDEX_NAME))
    meta = json.loads(arrays.pop("meta").tobytes()) | {"version": 1}
    del arrays["raw"], arrays["crc"], meta["url"]
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    (indexed / INDEX_NAME).write_bytes(as_npz(meta=text, **arrays))
    index_refused(indexed, INDEX_NAME, "index version 1, not 2; write it with: .*make_shards index")


@pytest.mark.parametrize(
    ("card", "classes"),
    [
        ('{"classes": ["cat", "dog", "owl"]}', ("cat", "dog", "owl")),
        ('{"classes": ["0", "1", "2"]}', ()),
        ('{"classes": ["1", "0"]}', ("1", "0")),
        ('{"classes": [5, 6]}', ("5", "6")),
        ('{"classes": []}', ()),
        ('{"classes": 3}', ("index",)),
        ('{"classes": null}', ("index",)),
        ('{"classes": "cat"}', ("index",)),
        ('{"classes": {"cat": 0}}', ("index",)),
        ("{}", ("index",)),
        ("[]", ("index",)),
        ("{", ("index",)),
        ("", ("index",)),
        (None, ("index",)),
    ],
)
def test_names_of_classes_are_on_the_card_or_in_the_index(indexed, card, classes):
    named = tuple(f"class {number}" for number in range(13))
    save_index(build_index(indexed, named))
    if card is not None:
        (indexed / CARD_NAME).write_text(card)
    assert stored_classes(indexed) == (named if classes == ("index",) else classes)


def test_no_names_of_classes(indexed, tmp_path):
    assert stored_classes(indexed) == ()  # numbers
    (indexed / INDEX_NAME).write_bytes(b"garbage")
    assert stored_classes(indexed) == ()
    assert stored_classes(tmp_path / "nowhere") == ()
    (indexed / CARD_NAME).write_bytes(b"\xff\xfe{")
    assert stored_classes(indexed) == ()


def resealed(indexed, change):
    """The index after a change that its fingerprint goes with."""
    arrays = dict(np.load(indexed / INDEX_NAME))
    meta = json.loads(arrays.pop("meta").tobytes())
    change(meta, arrays)
    digest = hashlib.sha256(json.dumps([meta["names"], meta["sizes"]]).encode())
    for name in ("shard", "offset", "size", "label"):
        digest.update(arrays[name].astype(np.int64).tobytes())
    meta["fingerprint"] = digest.hexdigest()[:16]
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    (indexed / INDEX_NAME).write_bytes(as_npz(meta=text, **arrays))


def put(column, value):
    def change(meta, arrays):
        arrays[column] = arrays[column].copy()
        arrays[column][2] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda meta, arrays: None, None),
        (
            lambda meta, arrays: meta.update(names=["../0.tar", "1.tar"]),
            "'../0.tar' is not the name",
        ),
        (lambda meta, arrays: meta.update(names=["/0.tar", "1.tar"]), "'/0.tar' is not the name"),
        (lambda meta, arrays: meta.update(names=["0.tar", "1.npz"]), "'1.npz' is not the name"),
        (lambda meta, arrays: meta.update(names=["0.tar"]), "2 sizes of 1 shards"),
        (lambda meta, arrays: meta.update(names=["0.tar"], sizes=[10**6]), "nowhere, or of no"),
        (lambda meta, arrays: meta.update(sizes=[*meta["sizes"], 1]), "3 sizes of 2 shards"),
        (lambda meta, arrays: meta.update(names=["\n.tar", "1.tar"]), "'\\n.tar' is not the name"),
        (lambda meta, arrays: meta.update(url="http://a"), "'http://a' is not the URL of a folder"),
        (lambda meta, arrays: meta.update(sizes=[1, 1]), "behind the end of its shard"),
        (lambda meta, arrays: meta.update(classes=["a", "b"]), "nowhere, or of no class"),
        (put("shard", 2), "nowhere, or of no class"),
        (put("shard", -1), "nowhere, or of no class"),
        (put("label", 13), "nowhere, or of no class"),
        (put("label", -1), "nowhere, or of no class"),
        (put("size", -1), "nowhere, or of no class"),
        (put("offset", -1), "nowhere, or of no class"),
        (put("size", 2**31 - 1), "behind the end of its shard"),
        (put("offset", 2**40), "behind the end of its shard"),
        (put("offset", 2**63 - 1), "behind the end of its shard"),
        (lambda meta, arrays: arrays.update(crc=arrays["crc"][:-1]), "do not fit together"),
        (lambda meta, arrays: arrays.update(raw=arrays["raw"].astype(np.uint8)), "do not fit"),
        (lambda meta, arrays: arrays.update(label=arrays["label"].astype(np.int64)), "do not fit"),
        (lambda meta, arrays: arrays.update(shard=arrays["shard"].astype(">i4")), "do not fit"),
        (
            lambda meta, arrays: arrays.update({n: a[:, None] for n, a in arrays.items()}),
            "do not fit",
        ),
        (lambda meta, arrays: arrays.update({n: a[:0] for n, a in arrays.items()}), "zero-size"),
    ],
)
def test_index_that_points_elsewhere(indexed, change, reason):
    resealed(indexed, change)
    if reason is None:
        load_index(indexed)
    else:
        index_refused(indexed, INDEX_NAME, f"not a readable index .*{re.escape(reason)}")


def test_an_image_may_end_with_its_shard(indexed):
    # The last byte of a shard is a byte of it.
    size = (indexed / "1.tar").stat().st_size

    def change(meta, arrays):
        arrays["offset"] = arrays["offset"].copy()
        arrays["offset"][-1] = size - arrays["size"][-1]

    resealed(indexed, change)
    load_index(indexed)


# -------------------------------------------------------------------------------------- at random


@st.composite
def damages(draw, length):
    """A function from a tar's bytes to damaged ones."""
    at, size = draw(st.integers(0, length - 1)), draw(st.integers(1, 3000))
    changes = draw(st.lists(st.tuples(st.integers(0, length - 1), st.integers(0, 255)), max_size=9))

    def change(data):
        data = bytearray(data)
        for where, value in [(at, size % 256), *changes]:
            data[where] = value
        return bytes(data)

    block = at // BLOCK * BLOCK
    kinds = {
        "change": change,
        "cut": lambda data: data[:at],
        "zero": lambda data: data[:at] + bytes(size) + data[at + size :],
        "lose": lambda data: data[:at] + data[at + size :],
        "lose a block": lambda data: data[:block] + data[block + BLOCK :],
        "double a block": lambda data: data[: block + BLOCK] + data[block:],
    }
    return kinds[draw(st.sampled_from(sorted(kinds)))]


def has_forged_header(good, damaged):
    """Whether tar reads a header there that is none of the good one's, with a right checksum."""
    with tarfile.open(fileobj=io.BytesIO(good)) as tar:
        known = {good[member.offset :][:BLOCK] for member in tar}
    with tarfile.open(fileobj=io.BytesIO(damaged)) as tar:
        return any(damaged[member.offset :][:BLOCK] not in known for member in tar)


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_random_damage_is_seen_or_does_no_harm(tmp_path_factory, good, noise, data):
    """What a tar lets one detect: its headers carry checksums and follow one another without a
    gap, and a PNG carries checksums of its own. A label has neither: another digit in its place
    is another label, and only that is passed over here. Of changes within one header whose sum
    cancels out (one in hundreds of the double ones), those that matter are not seen either."""
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    damaged = data.draw(damages(len(good)))(good)
    path = write(folder, damaged, "damaged.tar")
    rows, message = unless_refused(lambda: scan_shard(path))
    if rows is None:
        assert message.startswith(f"{path}: ")
        return
    try:
        assert len(rows) == len(LABELS)
        for number, (_, _, label, *_) in enumerate(rows):
            start = place(good, f"{number:04d}.cls")[1]
            text = damaged[start : start + len(str(LABELS[number]))]
            assert label in {LABELS[number], int(text) if text.strip().isdigit() else None}
        if len({row.label for row in rows}) > 1:
            same_pixels_or_refused(folder, path, noise)
    except AssertionError:
        assume(not has_forged_header(good, damaged))
        raise


def same_pixels_or_refused(folder, path, noise):
    reader = Reader(build_index(folder), 32)
    for number, picture in enumerate(noise[: len(LABELS)]):
        pixels = np.zeros_like(picture)
        _, message = unless_refused(lambda i=number, to=pixels: reader.read_into(i, to))
        if message is None:
            np.testing.assert_array_equal(pixels, picture)
        else:
            assert message.startswith(f"{path}, image at byte ")
    reader.close()


def unless_refused(function):
    """What the function gives and None, or None and the message of its ShardError."""
    try:
        return function(), None
    except ShardError as error:
        return None, str(error)


def test_a_shard_whose_name_cannot_be_shown(tmp_path, good):
    write(tmp_path, good, "a\nb.tar")
    with pytest.raises(ShardError, match=r"'a\\nb.tar' cannot be the name of a shard: rename it"):
        build_index(tmp_path)
