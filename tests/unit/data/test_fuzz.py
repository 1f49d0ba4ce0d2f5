"""Shards and indices that damage or malice has changed: never a wrong label or pixel, never an
error without the file's name, nothing written, started or unpickled."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biggan_sn.data.chunks import Chunks
from biggan_sn.data.order import Chunked
from biggan_sn.data.reader import Reader
from biggan_sn.data.shards import (
    INDEX_NAME,
    ShardError,
    build_index,
    load_index,
    save_index,
    scan_shard,
)
from biggan_sn.data.stores import open_store
from tests.unit.data.tampering import (
    BLOCK,
    END,
    by_gnu,
    by_pax,
    header,
    member,
    padded,
    record,
    watched,
)

SIDE = 32
LABELS = (2, 0, 1, 1, 2, 0, 0, 1, 2)


def always(examples):
    """So many examples, the same ones every time."""
    return settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
    )


def refusal(function, *names):
    """None if the function went well, or else what it said: one line that begins with a name."""
    try:
        function()
    except ShardError as error:
        message = str(error)
        assert message.startswith(names), message
        assert len(message.splitlines()) == 1, message
        return message
    return None


def tree(folder):
    return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))


# ---------------------------------------------------------------- (a) damaged after it was indexed


@pytest.fixture(scope="module")
def whole(tmp_path_factory, encode, noise):
    """A folder with one shard of PNG, JPEG and raw images, its bytes, and their pixels."""
    folder = tmp_path_factory.mktemp("whole")
    data, kinds = b"", {"png": "PNG", "jpg": "JPEG", "rgb": None}
    for number, (image, label) in enumerate(zip(noise, LABELS, strict=False)):
        extension, form = list(kinds.items())[number % 3]
        file = encode(image, form) if form else image.tobytes()
        sample = [member(b"%03d.%b" % (number, extension.encode()), file)]
        sample += [member(b"%03d.cls" % number, b"%d" % label)]
        data += b"".join(sample if number % 2 else sample[::-1])
    data += END
    path = folder / "0.tar"
    path.write_bytes(data)
    index = build_index(folder)
    save_index(index)
    assert index.label.tolist() == list(LABELS)
    reader, pixels = Reader(index, SIDE), np.zeros((len(LABELS), SIDE, SIDE, 3), np.uint8)
    for image, room in enumerate(pixels):
        reader.read_into(image, room)
    reader.close()
    np.testing.assert_array_equal(pixels[[0, 2, 3, 5, 6, 8]], noise[[0, 2, 3, 5, 6, 8]])
    return index, data, pixels


@st.composite
def damages(draw, length):
    """A function from bytes to damaged ones of the same length."""
    places = st.integers(0, length - 1)
    kind = draw(
        st.sampled_from(["bits", "bytes", "zeros", "cut", "lose", "double", "move", "junk"])
    )
    at, to, size = draw(places), draw(places), draw(st.integers(1, 6000))
    flips = draw(st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=8))
    tail = draw(st.sampled_from([b"\0", b"\xff", b"tail"]))
    block, far = at // BLOCK * BLOCK, to // BLOCK * BLOCK

    def change(data):
        data = bytearray(data)
        for where, value in flips:
            data[where] ^= 1 << value % 8 if kind == "bits" else value
        return bytes(data)

    changes = {
        "bits": change,
        "bytes": change,
        "zeros": lambda data: data[:at] + bytes(size) + data[at + size :],
        "cut": lambda data: data[:at],
        "lose": lambda data: data[:block] + data[block + size // BLOCK * BLOCK + BLOCK :],
        "double": lambda data: data[: block + BLOCK] + data[block:],
        "move": lambda data: data[:far] + data[block : block + size] + data[far + size :],
        "junk": lambda data: data[:at] + (tail * size)[:size] + data[at + size :],
    }

    def damaged(data):
        data = changes[kind](data)
        return (data + tail * length)[:length]

    return damaged


def single(index):
    """Reads images one by one."""
    return Reader(index, SIDE)


class InChunks:
    """Reads images as parts of chunks."""

    def __init__(self, index):
        self._reader = Reader(index, SIDE)
        self._order = Chunked(len(index), 0, 4, 3)
        self._chunks = Chunks(index, self._order, self._reader.store, 1)
        asked = self._chunks.ask(range(8 * 3))
        self._asked = dict(zip(self._order(range(8 * 3)).tolist(), asked, strict=True))

    def read_into(self, image, pixels):
        chunk, place = self._asked[image]
        self._reader.decode_into(image, chunk.result()[place], pixels)

    def close(self):
        self._chunks.close()


def test_shards_that_are_damaged_after_they_were_indexed(whole):
    index, data, pixels = whole
    path, found = Path(index.path(0)), Counter()

    @always(500)
    @given(damage=damages(len(data)), chunked=st.booleans())
    def property_(damage, chunked):
        found["examples"] += 1
        path.write_bytes(damaged := damage(data))
        reader = (InChunks if chunked else single)(load_index(index.root))
        for image in range(len(index)):
            room = np.full((SIDE, SIDE, 3), 77, np.uint8)
            where = index.where(image) + ": "
            try:
                said = refusal(lambda i=image, to=room: reader.read_into(i, to), where)
            except KeyError:  # an image that these chunks did not have
                assert chunked
                continue
            start, size = int(index.offset[image]), int(index.size[image])
            same = damaged[start : start + size] == data[start : start + size]
            assert (said is None) == same  # what is as it was, is read; all else is refused
            if same:
                np.testing.assert_array_equal(room, pixels[image])
            found["read" if same else "refused"] += 1
        reader.close()

    try:
        property_()
    finally:
        path.write_bytes(data)
    assert found["examples"] >= 500
    assert found["read"] > 1000 and found["refused"] > 500


# ------------------------------------------------------------------ (b) forged before it is indexed


class Intruder:
    """Makes a file when it is unpickled, and another by a shell."""

    def __reduce__(self):
        return os.system, ("touch intruded",)


PICKLE = pickle.dumps(Intruder())
ARRAY = io.BytesIO()
np.save(ARRAY, np.array([Intruder()], dtype=object))
POISON = {b"pkl": PICKLE, b"pyd": PICKLE, b"pth": PICKLE, b"pickle": PICKLE, b"pt": PICKLE,
          b"npy": ARRAY.getvalue(), b"ten": PICKLE, b"json": b"{", b"py": b"raise SystemExit",
          b"txt": b"\0", b"seg.png": b"mask"}  # fmt: skip

KEYS = st.one_of(
    st.sampled_from([
        b"a", b"b", b"a/b", b"../a", b"../../outside/a", b"/absolute/a", b"//a", b"./a", b"a/../b",
        b"..", b"a\0b", b"a\nb", b"a\r\nb", b"a b", b"|touch x", b"$(touch x)", b"`touch x`",
        b"a;touch x", b"pipe:touch x", b"file:///etc/passwd", b"http://127.0.0.1/", b"-rf",
        b"~root", "ü".encode(), "\u202egnp".encode(), "\u2028".encode(), b"\xff\xfe", b"#?%2e",
        b"\xed\xa0\x80", b"C:\\a", b"\\\\host\\a", b"con", b"", b".", b" ", b"{a}", b"%s%n",
        b"\x1b[2J", b"\x7f", b"x" * 99, b"x" * 300, b"d/" * 120 + b"a", b"__key__", b"__url__",
    ]),
    st.binary(min_size=1, max_size=20),
    st.text(min_size=1, max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.integers(0, 9).map(lambda n: b"%03d" % n),
)  # fmt: skip
ODD = st.sampled_from(["no"] * 16 + ["missing", "twice", "label"])
NAMING = st.sampled_from(["plain", "plain", "gnu", "pax", "prefix"])


def named(how, name, data, kind=b"0"):
    """A member whose name is stored in one of the ways of tar."""
    if how == "gnu":
        return by_gnu(name) + member(name, data, kind)
    if how == "pax":
        return by_pax(name) + member(b"pax", data, kind)
    if how == "prefix":
        return member(name, data, kind, at_257=b"ustar\x0000", at_345=b"over/there")
    return member(name, data, kind)


@st.composite
def samples(draw):
    """An image and its label, and perhaps a poison; now and then one is missing or doubled."""
    key, label = draw(KEYS), draw(st.integers(0, 4))
    if draw(ODD) != "twice":
        key += b"%06d" % draw(st.integers(0, 10**6))
    image = draw(st.sampled_from([b"jpg", b"png", b"rgb", b"JPEG", b"pNg"]))
    parts = [(image, draw(st.binary(max_size=600))), (b"cls", b"%d" % label)]
    if draw(st.booleans()):
        parts = parts[::-1]
    if draw(st.booleans()):
        poison = draw(st.sampled_from(sorted(POISON)))
        parts.insert(draw(st.integers(0, 2)), (poison, POISON[poison]))
    odd = draw(ODD)
    if odd == "missing":
        parts = parts[:-1]
    if odd == "twice":
        parts = parts + parts[:1]
    if odd == "label":
        wrong = draw(
            st.sampled_from([b"", b"-1", b"1e9", b"1\n2", b"9" * 40, b"\xb2", b"0x1", b"1_0"])
        )
        parts = [(b"cls", wrong) if kind == b"cls" else (kind, data) for kind, data in parts]
    how = draw(NAMING)
    return b"".join(named(how, key + b"." + kind, data) for kind, data in parts)


@st.composite
def strangers(draw):
    """What has no place in a shard."""
    key, link = draw(KEYS), draw(KEYS)
    name = key + draw(st.sampled_from([b".jpg", b".cls", b".pkl", b"", b"/"]))
    kind = draw(st.sampled_from([b"1", b"2", b"3", b"4", b"5", b"5", b"5", b"6", b"7", b"D", b"M",
                                 b"V", b"N", b"Z", b"\0", b"A", b"\xff"]))  # fmt: skip
    return draw(st.sampled_from([
        member(name, b"", kind, link=link),
        member(name, PICKLE, kind, link=link),
        named("pax", name, b"", kind),
        member(b"K", link + b"\0", b"K") + member(name, b"", b"2"),
    ]))  # fmt: skip


SIZES = st.sampled_from(
    [-1, -512, -(2**40), 2**31, 2**33, 2**40, 2**50, 2**62, 2**63, 2**80, 10**6]
)


@st.composite
def lies(draw):
    """Headers that say what is not so."""
    key, size = draw(KEYS), draw(SIZES)
    records = draw(st.lists(st.sampled_from([
        record(b"size", b"1"), record(b"size", b"-1"), record(b"size", b"%d" % size),
        record(b"size", b"9" * 30), record(b"size", b"1.5"), record(b"size", b"nan"),
        record(b"path", b"../x.jpg"), record(b"path", b""), record(b"path", b"a\0b.jpg"),
        record(b"linkpath", b"/etc/passwd"), record(b"hdrcharset", b"BINARY"),
        record(b"hdrcharset", b"\xff"), record(b"mtime", b"nan"), record(b"mtime", b"1e999"),
        record(b"GNU.sparse.map", b"0,1,2"), record(b"GNU.sparse.map", b"x"),
        record(b"GNU.sparse.size", b"5"), record(b"GNU.sparse.realsize", b"5000"),
        record(b"GNU.sparse.name", b"../y.jpg"), record(b"GNU.sparse.numblocks", b"9"),
        record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0"),
        b"0 a=b\n", b"5 a=b\n", b"999999 a=b\n", b"-5 a=b\n", b"99999999999999999999 a=b\n",
        b"\xff", b"3 =\n", b"12 path=\n",
    ]), max_size=4))  # fmt: skip
    texts = [b"99999999999", b"00000000 12\0", b"-0000000001\0", b"abc", b"\x80" + b"\xff" * 11]
    size_text = draw(st.sampled_from([*texts, b"\xff" * 12, b"\0" * 12]))
    return draw(st.sampled_from([
        header(key + b".jpg", size),
        header(key + b".cls", size) + padded(b"1"),
        header(key + b".jpg", size_text) + padded(b"image"),
        member(b"pax", b"".join(records), b"x"),
        member(b"pax", b"".join(records), b"g"),
        header(b"pax", size, b"x"),
        header(b"L", size, b"L") + padded(b"x.jpg\0"),
        header(b"K", size, b"K"),
        header(key + b"/", size, b"5"),
        header(key + b".jpg", 0, b"S", at_482=b"\1"),
        header(key + b".jpg", 512, b"S", at_482=b"\1", at_386=b"7" * 24) + bytes(1024),
        header(key + b".jpg", 5, b"S", at_483=number_text(size)) + padded(b"image"),
        by_gnu(b"a.jpg") * draw(st.sampled_from([2, 30, 1500])),
        member(b"x", b"", b"x") * 1500,
        header(key + b".jpg", 10)[:300],
        b"\0" * 512,
        b"\xff" * 512,
    ]))  # fmt: skip


def number_text(size):
    return b"%011o\0" % (abs(size) % 8**11)


@st.composite
def tars(draw):
    """Mostly samples, among which is something else, and an end that may be none."""
    parts = draw(st.lists(samples(), max_size=3))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(parts)))
        parts.insert(at, draw(st.one_of(strangers(), lies())))
    if draw(st.booleans()):  # so that there are two classes, and an order of names
        parts += [member(b"y.png", b"yes") + member(b"y.cls", b"0")]
        parts += [member(b"z.cls", b"1") + member(b"z.rgb", b"no")]
    end = draw(
        st.sampled_from([END] * 8 + [b"", bytes(512), bytes(10240), bytes(20000), b"x" * 1024])
    )
    return b"".join(parts) + end


def label_of(data, offset, size):
    """By tarfile, which was not asked in this way: the label of the image at a place."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [m for m in tar if not m.isdir()]
        image, = (m for m in members if (m.offset_data, m.size) == (offset, size)
                  and not m.name.lower().endswith(".cls"))  # fmt: skip
        assert image.isreg() and not image.issparse()
        folder, slash, file = image.name.rpartition("/")
        key = folder + slash + file.partition(".")[0] + "."
        label, = (m for m in members if m.name.lower() == (key + "cls").lower()
                  and m.name.startswith(key))  # fmt: skip
        return int(data[label.offset_data : label.offset_data + label.size])


def look_at(folder):
    """All that is done with shards: indexed, saved, loaded, read, read by chunks."""
    index = build_index(folder)
    save_index(index)
    index = load_index(folder)
    reader = Reader(index, 1, open_store(index))
    for image in range(len(index)):
        refusal(lambda i=image: reader.read_into(i, np.zeros((1, 1, 3), np.uint8)), str(folder))
    order = Chunked(len(index), 0, 2, 2)
    chunks = Chunks(index, order, reader.store, 1)
    for (chunk, place), image in zip(chunks.ask(range(4)), order(range(4)), strict=True):
        assert len(chunk.result()[place]) == index.size[image]
    chunks.close()
    return index


def test_tars_that_are_forged(tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "within" / "shards"
    folder.mkdir(parents=True)
    path, found = folder / "0.tar", Counter()
    monkeypatch.chdir(folder)
    path.write_bytes(member(b"y.png", b"y") + member(b"y.cls", b"0")
                     + member(b"z.png", b"z") + member(b"z.cls", b"1") + END)  # fmt: skip
    look_at(folder)  # what is imported on the way is there

    @always(600)
    @given(data=tars())
    def property_(data):
        found["examples"] += 1
        path.write_bytes(data)
        (folder / INDEX_NAME).unlink(missing_ok=True)
        rows = []
        with watched() as done:
            said = refusal(lambda: rows.extend(scan_shard(path)), f"{path}: ")
            refusal(lambda: look_at(folder), str(path), f"{folder}: all ")
        index, unfinished = folder / INDEX_NAME, folder / f".{INDEX_NAME}.tmp"
        written = [(event, what) for event, what in done if str(unfinished) not in what]
        assert written == []
        assert {path for path, _ in tree(tmp_path)} <= {str(index), str(path), *above}
        found["refused" if said else "read"] += 1
        for row in rows:
            assert 0 <= row.offset <= row.offset + row.size <= len(data)
            assert row.label == label_of(data, row.offset, row.size)

    above = {str(p) for p in (tmp_path / "deep", tmp_path / "deep" / "within", folder)}
    property_()
    assert found["examples"] >= 600
    assert found["read"] > 60 and found["refused"] > 60


def test_the_watch_sees():
    # What the test above relies on.
    with watched() as done:
        subprocess.run(["true"], check=True)
        pickle.loads(pickle.dumps(Path))
        Path(os.devnull).write_text("")
        os.close(os.open(os.devnull, os.O_WRONLY))
        Path(os.devnull).read_text()
    events = [event for event, _ in done]
    assert "subprocess.Popen" in events and "pickle.find_class" in events
    assert events.count("open") == 2


@pytest.mark.parametrize("content", [
    member(b"x", b"", b"x") * 1500, by_gnu(b"a.jpg") * 1500,  # a header of a header of ...
    header(b"L", 2**50, b"L"), header(b"x", 2**62, b"x"),  # names of a petabyte
    header(b"a.jpg", 0, b"S", at_482=b"\1"),  # a map of holes that ends with the file
], ids=["pax", "gnu", "long", "longer", "holes"])  # fmt: skip
def test_what_tarfile_trips_over_is_refused_by_name(tmp_path, content):
    (tmp_path / "0.tar").write_bytes(content)
    assert refusal(lambda: scan_shard(tmp_path / "0.tar"), f"{tmp_path}/0.tar: not a readable tar")


def test_names_with_newlines_are_told_in_one_line(tmp_path):
    for wrong in (b"x", b"9" * 20):
        data = member(b"a\nb.jpg", b"image") + member(b"a\nb.cls", wrong) + END
        (tmp_path / "0.tar").write_bytes(data)
        assert refusal(lambda: scan_shard(tmp_path / "0.tar"), f"{tmp_path}/0.tar: ")


# ------------------------------------------------------------------------------- (c) a forged index


def seal(meta, arrays):
    """The fingerprint that goes with them: whoever forges an index can work it out."""
    digest = hashlib.sha256(json.dumps([meta["names"], meta["sizes"]]).encode())
    for name in ("shard", "offset", "size", "label"):
        digest.update(arrays[name].astype(np.int64).tobytes())
    return digest.hexdigest()[:16]


def forge(folder, meta, arrays):
    if "fingerprint" in meta:
        with suppress(KeyError, ValueError, TypeError):  # else it keeps the one it had
            meta = {**meta, "fingerprint": seal(meta, arrays)}
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with (folder / INDEX_NAME).open("wb") as file:
        np.savez(file, meta=text, **arrays)


NAMES = ["../0.tar", "/etc/0.tar", "a/0.tar", "..", ".", "", "0.tar/", "0.tar\0", "\n.tar", "x.tar",
         "0.npz", "~/0.tar", "./0.tar", 7, None, ["0.tar"], "0.tar", "\ud800.tar"]  # fmt: skip
URLS = ["file:///etc/", "pipe:touch intruded", "memory://a/", "simplecache::http://a/",
        "HTTP://a/", "/etc/", "ssh://a/", "local:///etc/", "|touch intruded", None, 5,
        [], {"a": 1}, "\n"]  # fmt: skip
EXTREMES = [-1, -(2**31), 2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**63), 100, 3, 512, 0]
DTYPES = ["int8", "int16", "int32", "int64", ">i4", ">i8", "uint8", "uint32", "uint64", "float32",
          "float64", "complex64", "bool", "S8", "U8", "M8[s]", "V4"]  # fmt: skip
COLUMNS = ("shard", "offset", "size", "label", "raw", "crc")


@st.composite
def forgeries(draw):
    """A function that changes (meta, arrays) in place."""
    kinds = ["names", "url", "cell", "cell", "dtype", "length", "shape", "sizes", "classes"]
    kind = draw(st.sampled_from([*kinds, "missing", "version", "poison"]))
    name, column = draw(st.sampled_from(NAMES)), draw(st.sampled_from(COLUMNS))
    url, value = draw(st.sampled_from(URLS)), draw(st.sampled_from(EXTREMES))
    at, dtype = draw(st.integers(0, len(LABELS) - 1)), draw(st.sampled_from(DTYPES))
    few, more = draw(st.booleans()), draw(st.booleans())

    def cell(meta, arrays):
        arrays[column][at] = np.array(value).astype(arrays[column].dtype)
        if more and column == "offset":
            arrays["offset"][at] = 2**63 - 1 - value % 100

    def length(meta, arrays):
        for one in COLUMNS if more else (column,):
            arrays[one] = arrays[one][: 0 if few else at]

    def sizes(meta, arrays):
        lengths = [[], [1], [0], [-1], ["big"], [10**9, 10**9], [None], [1.5], [1e999], [[1]], 7,
                   [2**70], ["99999999"], [True], [10**9]]  # fmt: skip
        meta["sizes"] = lengths[(at * 7 + few) % len(lengths)]

    def classes(meta, arrays):
        meta["classes"] = [[], ["a"], 3, None, "abc", [1, 2, 3], {"a": 1}, [[], [], []]][at % 8]

    changes = {
        "names": lambda meta, arrays: meta.update(names=[name] * (2 if few else 1)),
        "url": lambda meta, arrays: meta.update(url=url),
        "cell": cell,
        "dtype": lambda meta, arrays: arrays.update({column: retyped(arrays[column], dtype)}),
        "length": length,
        "shape": lambda meta, arrays: arrays.update(
            {column: arrays[column].reshape([(3, 3), (9, 1), (1, 9)][at % 3])}
        ),
        "sizes": sizes,
        "classes": classes,
        "missing": lambda meta, arrays: meta.pop(sorted(meta)[at % len(meta)]),
        "version": lambda meta, arrays: meta.update(version=[1, 3, "2", None, 2.0, True][at % 6]),
        "poison": lambda meta, arrays: arrays.update({column: np.array([Intruder()], object)}),
    }
    return kind, changes[kind]


def retyped(array, dtype):
    with np.errstate(all="ignore"):
        try:
            return array.astype(dtype)
        except TypeError:
            return array.view(np.uint8)


def test_indices_that_are_forged(whole, tmp_path, monkeypatch):
    index, data, pixels = whole
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0.tar").write_bytes(data)
    with np.load(index.root / INDEX_NAME) as stored:
        good = {name: stored[name] for name in stored.files}
    meta = json.loads(good.pop("meta").tobytes())
    found = Counter()

    def use():
        opened = load_index(tmp_path)
        store = open_store(opened)
        assert opened.url == "" and store
        reader = Reader(opened, SIDE, store)
        offsets = index.offset.tolist()
        try:
            for image in range(len(opened)):
                room = np.zeros((SIDE, SIDE, 3), np.uint8)
                said = refusal(
                    lambda i=image, to=room: reader.read_into(i, to),
                    f"{tmp_path}/0.tar, image at byte ",
                )
                if said:
                    found["damaged"] += 1
                    continue
                origin = offsets.index(int(opened.offset[image]))  # one of its images, whole
                np.testing.assert_array_equal(room, pixels[origin])
        finally:
            reader.close()

    @always(400)
    @given(forgery=forgeries(), again=st.none() | forgeries())
    def property_(forgery, again):
        found["examples"] += 1
        told, arrays = json.loads(json.dumps(meta)), {n: a.copy() for n, a in good.items()}
        try:
            for _, change in (forgery, *([again] if again else [])):
                change(told, arrays)
        except (IndexError, ValueError, KeyError, TypeError):
            return  # two that do not go together
        forge(tmp_path, told, arrays)
        with watched() as done:
            url = f"{told.get('url')}: "
            said = refusal(use, f"{tmp_path}/{INDEX_NAME}: ", f"{tmp_path}/", f"{tmp_path}: ", url)
        assert [event for event in done if "intruded" in event[1] or event[0] != "open"] == []
        assert {path.name for path in tmp_path.iterdir()} == {"0.tar", INDEX_NAME}
        found["refused" if said else "used"] += 1
        found[forgery[0]] += not said and not again

    property_()
    assert found["examples"] >= 400
    assert found["refused"] > 250
    # What passes does no harm: a label within the classes, other names of classes.
    assert {kind for kind in found if found[kind] > 0} <= {
        "examples", "refused", "used", "damaged", "cell", "classes", "sizes", "names", "dtype",
        "length", "version",
    }  # fmt: skip


def test_an_index_of_more_sizes_than_shards(whole, tmp_path):
    index, data, _ = whole
    (tmp_path / "0.tar").write_bytes(data)
    with np.load(index.root / INDEX_NAME) as stored:
        arrays = {name: stored[name] for name in COLUMNS}
        meta = json.loads(stored["meta"].tobytes())
    forge(tmp_path, {**meta, "sizes": [*meta["sizes"], 5]}, arrays)
    assert refusal(lambda: load_index(tmp_path), str(tmp_path / INDEX_NAME))


def test_an_offset_so_far_that_its_end_is_negative(whole, tmp_path):
    index, data, _ = whole
    (tmp_path / "0.tar").write_bytes(data)
    with np.load(index.root / INDEX_NAME) as stored:
        arrays = {name: stored[name].copy() for name in COLUMNS}
        meta = json.loads(stored["meta"].tobytes())
    arrays["offset"][2] = 2**63 - 5
    forge(tmp_path, meta, arrays)
    assert refusal(lambda: load_index(tmp_path), str(tmp_path / INDEX_NAME))


def test_threads_reading_a_damaged_shard(whole):
    """As many at once: no error of one is another's."""
    index, data, pixels = whole
    path = Path(index.path(0))
    start = int(index.offset[4])
    try:
        path.write_bytes(data[:start] + bytes(100) + data[start + 100 :])
        reader = Reader(index, SIDE)

        def read(image):
            room = np.zeros((SIDE, SIDE, 3), np.uint8)
            said = refusal(lambda: reader.read_into(image, room), index.where(image))
            return bool(said) == (image == 4) and (bool(said) or (room == pixels[image]).all())

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(read, [*range(len(index))] * 40))
        reader.close()
    finally:
        path.write_bytes(data)
