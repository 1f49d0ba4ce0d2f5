"""Where bytes come from: files by the thousand, programs, and a real web server that misbehaves."""

import json
import os
import re
import socket
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from biggan_sn.data import stores
from biggan_sn.data.chunks import Chunks
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.data.order import Chunked
from biggan_sn.data.reader import DamagedError, Reader
from biggan_sn.data.shards import ShardError, build_index, load_index, save_index
from biggan_sn.data.stores import Command, Folder, Remote, open_store, scheme_of
from biggan_sn.training.pace import Pace
from biggan_sn.training.world import World
from tests.unit.data.streams import CPU, SIDE, config, same, take
from tests.unit.data.web import Web

NEVER: tuple[float, ...] = ()  # asks once
SOON = (0.02, 0.05, 0.1, 0.2, 0.4)


@pytest.fixture(scope="session")
def index(tmp_path_factory, write_shards, encode, pictures):
    """Twenty images in three shards."""
    return write_shards(tmp_path_factory.mktemp("stores"), [encode(image) for image in pictures])


@pytest.fixture
def fresh(tmp_path, write_shards, encode, pictures):
    """The same, for tests that spoil it."""
    return write_shards(tmp_path / "fresh", [encode(image) for image in pictures])


@pytest.fixture
def elsewhere(index, tmp_path):
    """(url) -> the index of the same shards at a URL, from a folder without any."""

    def elsewhere_(url):
        folder = tmp_path / "elsewhere"
        folder.mkdir(exist_ok=True)
        save_index(replace(index, root=folder, url=url))
        return load_index(folder)

    return elsewhere_


@pytest.fixture
def patience(monkeypatch):
    """(waits, silence) sets how long is waited."""

    def patience_(waits=SOON, silence=30.0):
        monkeypatch.setattr(stores, "PATIENCE", waits)
        monkeypatch.setattr(stores, "SILENCE", silence)

    return patience_


def read(index, image, side=SIDE, command=""):
    reader = Reader(index, side, open_store(index, command))
    pixels = np.full((side, side, 3), 77, np.uint8)
    try:
        reader.read_into(image, pixels)
    finally:
        reader.close()
    return pixels


# ---------------------------------------------------------------------------------------- a folder


@pytest.fixture
def many(tmp_path, tar_bytes):
    """Thirty shards of two tiny images each; every one is its own number, many times."""
    for shard in range(30):
        members = [
            (f"{n}.{kind}", content)
            for n in (0, 1)
            for kind, content in (("png", bytes([2 * shard + n]) * 100), ("cls", b"%d" % n))
        ]
        (tmp_path / f"{shard:02d}.tar").write_bytes(tar_bytes(members))
    return build_index(tmp_path)


FILES = Path("/proc/self/fd")


def open_files(folder):
    links = [link for link in FILES.iterdir() if link.is_symlink()]
    return sum(str(folder) in str(link.readlink()) for link in links)


linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@linux
@pytest.mark.parametrize("most", [1, 2, 7])
def test_few_files_many_threads(many, monkeypatch, most):
    monkeypatch.setattr(stores, "_most_open", lambda: most)
    folder = Folder(many)
    found = []

    def hammer(seed):
        for image in np.random.default_rng(seed).integers(0, 60, 1500).tolist():
            data = folder.read(many.shard[image], int(many.offset[image]), 100)
            if data != bytes([image]) * 100:
                found.append((image, data))

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(hammer, seed) for seed in range(8)]:
            done.result()
    assert found == []
    assert open_files(many.root) <= most
    folder.close()
    assert open_files(many.root) == 0


@linux
def test_a_file_let_go_of_lives_while_it_is_read(many, monkeypatch):
    # Between finding the descriptor and reading from it, others open a hundred files.
    monkeypatch.setattr(stores, "_most_open", lambda: 2)
    folder = Folder(many)
    pread = os.pread

    def later(number, size, start):
        for shard in range(1, 30):
            pread(folder._file(shard).number, 1, 0)
        return pread(number, size, start)

    monkeypatch.setattr(os, "pread", later)
    assert folder.read(0, int(many.offset[0]), 100) == bytes(100)
    folder.close()


@linux
def test_files_are_closed_with_the_store(many):
    before = len(list(FILES.iterdir()))
    for _ in range(3):
        folder = Folder(many)
        for shard in range(30):
            folder.read(shard, 0, 1)
        assert open_files(many.root) == 30
        folder.close()
    assert len(list(FILES.iterdir())) == before
    assert folder.read(3, 0, 4) == (many.root / "03.tar").read_bytes()[:4]  # opened again
    folder.close()


def test_as_many_files_as_the_process_may_open(monkeypatch):
    limits = {"soft": (256, 8000), "none": (256, stores.resource.RLIM_INFINITY), "few": (8, 8)}
    for soft, hard in limits.values():
        asked = []
        monkeypatch.setattr(stores.resource, "getrlimit", lambda _, s=soft, h=hard: (s, h))
        monkeypatch.setattr(stores.resource, "setrlimit", lambda _, new, to=asked: to.append(new))
        most = stores._most_open()
        assert asked == [(stores.UNLIMITED if hard < 0 else hard, hard)]
        assert most == {8000: 1000, 8: 16}.get(hard, 8192)


def test_shard_deleted_under_a_run(fresh, pictures):
    reader = Reader(fresh, SIDE)
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    reader.read_into(8, pixels)
    path = Path(fresh.path(1))
    path.unlink()
    reader.read_into(9, pixels)  # it is open still
    np.testing.assert_array_equal(pixels, pictures[9])
    reader.close()
    with pytest.raises(ShardError, match=rf"^{re.escape(str(path))}: cannot be opened \(.*No such"):
        read(fresh, 9)


@pytest.mark.parametrize("chunk", [0, 4])
def test_shard_replaced_under_a_run(fresh, encode, pictures, tar_bytes, chunk):
    # As long as before, with other images in it: no image passes for another.
    path = Path(fresh.path(1))
    members = []
    for n in range(7, 14):
        members += [(f"{n:04d}.png", encode(pictures[20 - n])), (f"{n:04d}.cls", b"%d" % (n % 3))]
    other = tar_bytes(members)
    path.unlink()
    path.write_bytes((other + bytes(fresh.sizes[1]))[: fresh.sizes[1]])
    loader = Loader(load_index(fresh.root), config(fresh, chunk=chunk), 0, CPU)
    with pytest.raises(DamagedError, match=rf"^{re.escape(str(path))}, image at byte \d+: .*those"):
        for _ in loader.batches(0, 12, 0, 1, 12):
            pass
    loader.close()


@pytest.mark.parametrize("chunk", [0, 4])
def test_shard_cut_under_a_run(fresh, chunk):
    loader = Loader(fresh, config(fresh, chunk=chunk, prefetch=1), 0, CPU)
    batches = loader.batches(0, 12, 0, 1, 12)
    next(batches)
    os.truncate(fresh.path(1), fresh.offset[8])
    with pytest.raises(DamagedError, match=rf"^{re.escape(fresh.path(1))}, image at .* bytes are"):
        for _ in batches:
            pass
    loader.close()


def test_folder_in_place_of_a_shard(fresh):
    path = Path(fresh.path(1))
    path.unlink()
    path.mkdir()
    for chunk in (0, 4):
        loader = Loader(fresh, config(fresh, chunk=chunk), 0, CPU)
        with pytest.raises(ShardError, match=f"^{re.escape(str(path))}"):
            for _ in loader.batches(0, 12, 0, 1, 12):
                pass
        loader.close()


# --------------------------------------------------------------------------------------- a command

FETCHER = """
import json, pathlib, sys, time
folder, told, how, url, first, last = sys.argv[1:]
with open(told, "a") as file:
    file.write(json.dumps([url, first, last]) + "\\n")
data = (pathlib.Path(folder) / url.rpartition("/")[2]).read_bytes()
data = data[int(first) : int(last) + 1]
if how == "short":
    data = data[:-3]
if how == "long":
    data += b"..."
if how == "slow":
    time.sleep(20)
if how == "fails":
    sys.exit("first line\\nthe last \\x1b[31mline\\n\\n")
if how == "silent":
    sys.exit(3)
sys.stdout.buffer.write(data)
"""


@pytest.fixture
def fetcher(tmp_path, index):
    """(how) -> a command that reads the shards of `index`."""
    script = tmp_path / "a fetcher.py"
    script.write_text(FETCHER)

    def fetcher_(how="well"):
        words = [sys.executable, "-S", "-E", str(script), str(index.root), str(tmp_path / "told")]
        return " ".join(f"'{word}'" for word in [*words, how]) + " {url} {first} {last}"

    return fetcher_


def told(tmp_path):
    return [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]


def test_a_command_reads_ranges(tmp_path, elsewhere, fetcher, pictures):
    far = elsewhere("s3://bucket/a/")
    np.testing.assert_array_equal(read(far, 8, command=fetcher()), pictures[8])
    last = far.offset[8] + far.size[8] - 1
    assert told(tmp_path) == [["s3://bucket/a/0007.tar", str(far.offset[8]), str(last)]]


def test_training_by_a_command(index, elsewhere, fetcher):
    far = elsewhere("gs://bucket/")
    assert same(take(far, 2, chunk=7, command=fetcher()), take(index, 2, chunk=7))


def test_a_command_is_no_shell(tmp_path, elsewhere, fetcher, monkeypatch, patience):
    patience(NEVER)
    monkeypatch.chdir(tmp_path)
    nasty = "https://h/$(touch a);touch b|`touch c`&&touch d>e -x '\"*~ {first}/"
    far = elsewhere(nasty)
    far = replace(far, names=("-rf $HOME;touch f.tar", *far.names[1:]))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ShardError):
        read(far, 0, command=fetcher())
    ((url, first, _),) = told(tmp_path)
    assert url == nasty + quote(far.names[0])  # one word, to the letter
    assert first == str(far.offset[0])
    assert sorted({path.name for path in tmp_path.iterdir()} - {"told"}) == before


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("short", r"\d+ bytes came instead of \d+"),
        ("long", r"\d+ bytes came instead of \d+"),
        ("fails", r"ended with 1: the last"),
        ("silent", r"ended with 3: nothing said"),
        ("slow", r"took longer than"),
    ],
)
def test_a_command_that_fails(elsewhere, fetcher, patience, how, reason):
    far = elsewhere("s3://bucket/")
    patience((0.01,), silence=1.0 if how == "slow" else 30.0)
    start = time.perf_counter()
    with pytest.raises(ShardError, match=rf"^s3://bucket/0007.tar: cannot be read \(.*{reason}"):
        read(far, 8, command=fetcher(how))
    assert time.perf_counter() - start < 10


def test_a_command_is_tried_again(tmp_path, elsewhere, fetcher, patience):
    patience((0.01,) * 3)
    with pytest.raises(ShardError):
        read(elsewhere("s3://bucket/"), 8, command=fetcher("short"))
    assert len(told(tmp_path)) == 4


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("no_such_program_here {url}", "no_such_program_here"),
        ("/no/such/program {url}", "/no/such/program"),
        ("   ", "data.command"),
        ("cat 'x {url}", "data.command"),
    ],
)
def test_a_command_that_is_none(elsewhere, patience, command, reason):
    # Known before anything is read; the shard is not blamed.
    patience(NEVER)
    with pytest.raises(ShardError, match=reason) as caught:
        open_store(elsewhere("s3://bucket/"), command)
    assert "0000.tar" not in str(caught.value)


def test_a_command_that_is_removed_under_a_run(tmp_path, elsewhere, patience):
    patience(NEVER)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    store = open_store(elsewhere("s3://bucket/"), f"{program} {{url}}")
    program.unlink()
    with pytest.raises(ShardError, match=rf"cannot be read \({program}.*not there") as caught:
        store.read(0, 0, 4)
    assert str(caught.value).startswith("s3://bucket/0000.tar: ")


def test_a_command_is_closed_with_the_store(elsewhere, fetcher, patience):
    patience((30.0,) * 5)
    store = Command(elsewhere("s3://bucket/"), fetcher("silent"))
    failed = []

    def ask():
        with pytest.raises(ShardError):
            store.read(0, 0, 4)
        failed.append(time.perf_counter())

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.5)
    store.close()
    thread.join(5)
    assert failed


# ----------------------------------------------------------------------------------------- schemes


@pytest.mark.parametrize("url", [
    "file:///etc/", "file://localhost/etc/", "/etc/", "etc/", "pipe:cat /etc/", "pipe://cat/",
    "memory://x/", "local://x/", "simplecache::http://h/", "filecache::s3://b/", "zip://a::http://h/",
    "ssh://h/", "ftp://h/", "sftp://h/", "dask://h/", "git://h/", "github://h/", "reference://x/",
    "data://x/", "HTTP://h/", "Http://h/", "S3://b/", " http://h/", "http:/h/", "http:h/", "://h/",
    "http/", "None/",
])  # fmt: skip
def test_urls_that_are_refused(url, elsewhere):
    refusal = f"^{re.escape(url)}: not a URL of a kind that is read"
    with pytest.raises(ShardError, match=refusal):
        scheme_of(url)
    far = elsewhere(url)  # an index may say so; nothing is opened
    for command in ("", "cat {url}"):
        with pytest.raises(ShardError, match=refusal):
            open_store(far, command)
    with pytest.raises(ShardError, match=refusal):
        stores.filesystem(url)


@pytest.mark.parametrize("url", ["", "http", "None", "http\n://h/", "\x00http://h/"])
def test_what_is_no_url(url):
    with pytest.raises(ShardError, match="not a URL"):
        scheme_of(url)


@pytest.mark.parametrize("url", ["http://h", "http://h/a", "http://h/\n", "http://h/\n/", "None"])
def test_an_index_whose_url_is_no_folder(elsewhere, tmp_path, url):
    # Names are put behind it: without a slash, the shard 0.tar would be asked for as a0.tar.
    path = re.escape(str(tmp_path / "elsewhere" / "index.npz"))
    reason = re.escape(f"{url!r} is not the URL of a folder")
    with pytest.raises(ShardError, match=f"^{path}: not a readable index .{reason}"):
        elsewhere(url)


@pytest.mark.parametrize("scheme", stores.SCHEMES)
def test_urls_that_are_allowed(scheme, elsewhere):
    assert scheme_of(f"{scheme}://host/folder/") == scheme
    far = elsewhere(f"{scheme}://host/folder/")
    library = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub"}.get(scheme)
    if library and not find_spec(library):
        with pytest.raises(ShardError, match=f"^{far.url}: cannot be read .*{library}"):
            open_store(far)
    elif not library:  # the others may ask for keys here
        open_store(far).close()


def test_a_chain_behind_a_url_is_a_path_there(index, elsewhere, patience):
    patience(NEVER)
    with Web(index.root) as web:
        far = elsewhere(web.url + "::file:///etc/")
        with pytest.raises(ShardError, match="it is not there"):
            read(far, 0)
        assert [path for path, *_ in web.asked] == ["::file:///etc/0000.tar"]


# ------------------------------------------------------------------------------------ a web server


def spoiled(every, **changes):
    """Every so many answers are changed."""
    return lambda number, answer: replace(answer, **changes) if number % every == 0 else answer


def test_a_web_server_gives_ranges(index, elsewhere, pictures):
    with Web(index.root) as web:
        far = elsewhere(web.url)
        for image in (0, 8, 19):
            np.testing.assert_array_equal(read(far, image), pictures[image])
        last = int(far.offset[8] + far.size[8]) - 1
        assert web.asked[1] == ("0007.tar", far.offset[8], last)
        opened = open_dataset(config(far, chunk=4))
        assert opened.fingerprint == index.fingerprint and opened.url == web.url


@pytest.mark.parametrize("ranks", [1, 3])
def test_training_with_every_third_connection_dropped(index, elsewhere, patience, ranks):
    patience()
    local = take(index, 10, chunk=5, flip=True)
    with Web(index.root, spoiled(3, sent=700)) as web:
        far = elsewhere(web.url)
        assert same(take(far, 10, ranks=ranks, microbatch=12 // ranks, chunk=5, flip=True), local)
        assert len(web.asked) > 24  # chunks


BAD_NOW_AND_THEN = {
    "dropped at once": {"sent": 0},
    "busy": {"status": 503},
    "broken": {"status": 500, "body": b"sorry"},
    "forbidden": {"status": 403, "body": b"slow down"},
    "fewer": {"body": b"few"},
    "an empty answer": {"body": b""},
    "more": {"body": bytes(100_000)},
    "promises more": {"promised": 10**6},
    "nothing for long": {"before": 2.0},
    "a page in its place": {"status": 200, "body": b"<html>please log in</html>"},
}


@pytest.mark.parametrize("kind", BAD_NOW_AND_THEN)
def test_training_goes_on_where_a_server_fails_now_and_then(index, elsewhere, patience, kind):
    patience(silence=0.5 if "before" in BAD_NOW_AND_THEN[kind] else 30.0)
    local = take(index, 4, chunk=4)
    with Web(index.root, spoiled(4, **BAD_NOW_AND_THEN[kind])) as web:
        assert same(take(elsewhere(web.url), 4, chunk=4), local)


def test_a_slow_server_is_waited_for(index, elsewhere, patience):
    # Never silent for long, though the whole takes longer than that.
    patience((0.01,), silence=1.0)
    with Web(index.root, spoiled(1, piece=2048, between=0.2)) as web:
        start = time.perf_counter()
        assert same(take(elsewhere(web.url), 1, chunk=4, connections=12), take(index, 1, chunk=4))
        assert time.perf_counter() - start > 1.0


def test_names_that_are_no_urls(index, tmp_path):
    """A # or ? ends a path, and %41 is an A, unless they are written otherwise."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for number, name in enumerate(index.names):
        data = (index.root / name).read_bytes()
        (folder / f"{number} #?%41.tar").write_bytes(data)
    local = build_index(folder)
    with Web(folder) as web:
        save_index(replace(local, root=tmp_path, url=web.url))
        far = load_index(tmp_path)
        np.testing.assert_array_equal(read(far, 8), read(local, 8))


def test_a_limit_that_cannot_be_asked_for(monkeypatch):
    def refuse(*_):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(stores.resource, "getrlimit", lambda _: (256, 8000))
    monkeypatch.setattr(stores.resource, "setrlimit", refuse)
    assert stores._most_open() == 32


BAD_FOR_GOOD = {
    "drops": ({"sent": 10}, "cannot be read"),
    "busy": ({"status": 503}, r"cannot be read \(503"),
    "missing": ({"status": 404}, r"cannot be read \(it is not there\)"),
    "fewer": ({"body": b"few"}, r"3 bytes came instead of \d+"),
    "more": ({"body": bytes(100_000)}, r"100000 bytes came instead of \d+"),
    "silent": ({"before": 3.0}, "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_FOR_GOOD)
def test_a_server_that_fails_for_good_is_named(index, elsewhere, patience, kind):
    patience((0.01,) * 2, silence=0.15 if kind == "silent" else 30.0)
    changes, reason = BAD_FOR_GOOD[kind]
    with Web(index.root, spoiled(1, **changes)) as web:
        far = elsewhere(web.url)
        start = time.perf_counter()
        for share in (0.0, 0.9):  # nor is an image skipped, that may be as good as any
            with pytest.raises(ShardError, match=rf"^{web.url}\d+\.tar: .*{reason}") as caught:
                take(far, 1, chunk=4, damaged="skip", damaged_share=share)
            assert not isinstance(caught.value, DamagedError)
            assert len(str(caught.value).splitlines()) == 1
        assert time.perf_counter() - start < 10
        assert len(web.asked) > 1


def test_what_is_missing_is_asked_for_once(index, elsewhere):
    # As it is: half a minute of waiting would not bring it.
    with Web(index.root, spoiled(1, status=404)) as web:
        start = time.perf_counter()
        with pytest.raises(ShardError, match="it is not there"):
            read(elsewhere(web.url), 0)
        assert time.perf_counter() - start < 5
        assert len(web.asked) == 1


def test_a_server_that_knows_no_ranges(index, elsewhere, patience):
    patience((0.01,))
    with Web(index.root, lambda _, a: replace(a, status=200, body=a.whole)) as web:
        reason = rf"^{web.url}0000.tar: .*{index.sizes[0]} bytes came instead of {index.size[0]}"
        with pytest.raises(ShardError, match=reason):
            read(elsewhere(web.url), 0)


WRONG = {
    "zeros": lambda body, whole: bytes(len(body)),
    "one bit": lambda body, whole: body[:-1] + bytes([body[-1] ^ 1]),
    "another range": lambda body, whole: (whole + whole)[512 : 512 + len(body)],
    "turned around": lambda body, whole: body[::-1],
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("chunk", [1, 4])
def test_wrong_bytes_are_never_pixels(index, elsewhere, patience, kind, chunk):
    patience((0.01,))
    spoil = WRONG[kind]
    with Web(index.root, lambda n, a: replace(a, body=spoil(a.body, a.whole)) if n > 3 else a) as w:
        loader = Loader(elsewhere(w.url), config(index, chunk=chunk, prefetch=1), 0, CPU)
        local = take(index, 8, chunk=chunk)[0].split(12)
        came = []
        with pytest.raises(DamagedError, match=rf"^{w.url}\d+.tar, image at byte \d+: .*indexed"):
            came.extend(batch.images for batch in loader.batches(0, 12, 0, 1, 12))
        loader.close()
        assert all((a == b).all() for a, b in zip(came, local, strict=False))


def test_a_server_that_goes_away_and_comes_back(index, elsewhere, patience):
    patience((0.1,) * 30)
    with Web(index.root) as web:
        loader = Loader(elsewhere(web.url), config(index, chunk=4, prefetch=1), 0, CPU)
        batches = loader.batches(0, 12, 0, 1, 12)
        came = [next(batches) for _ in range(2)]
        web.away()
        threading.Timer(0.6, web.back).start()
        came += [next(batches) for _ in range(8)]
        loader.close()
        for one, other in zip(came, take(index, 10, chunk=4)[0].split(12), strict=True):
            assert (one.images == other).all()


def test_a_server_that_goes_away_for_good(index, elsewhere, patience):
    patience((0.02,) * 4)
    with Web(index.root) as web:
        loader = Loader(elsewhere(web.url), config(index, chunk=4, prefetch=1), 0, CPU)
        batches = loader.batches(0, 12, 0, 1, 12)
        next(batches)
        web.away()
        with pytest.raises(ShardError, match=rf"^{web.url}\d+\.tar: cannot be read \(.*onnect"):
            deque(batches, maxlen=0)
        loader.close()


def test_a_host_that_does_not_answer(elsewhere, patience):
    # As behind a firewall: nothing comes back, not even a refusal.
    patience(NEVER, silence=0.5)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = []
        for _ in range(3):  # its queue is full
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
            waiting.append(client)
        far = elsewhere(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        start = time.perf_counter()
        with pytest.raises(ShardError, match=rf"^{far.url}0000.tar: cannot be read"):
            read(far, 0)
        assert time.perf_counter() - start < 5
        for client in waiting:
            client.close()


@pytest.mark.parametrize("how", ["silent", "busy"])
def test_closing_while_a_server_keeps_one_waiting(index, elsewhere, patience, how):
    patience((30.0,) * 5, silence=1.0)
    changes = {"silent": {"before": 5.0}, "busy": {"status": 503}}[how]
    with Web(index.root, spoiled(1, **changes)) as web:
        far = elsewhere(web.url)
        chunks = Chunks(far, Chunked(len(far), 0, 4, 12), Remote(far), 3)
        (chunk, _), *_ = chunks.ask(range(12))
        while not web.asked:
            time.sleep(0.01)
        start = time.perf_counter()
        chunks.close()
        assert time.perf_counter() - start < 3  # no longer than a server may be silent
        with pytest.raises(ShardError, match=f"^{web.url}"):
            chunk.result(0)


def test_remote_shards_want_chunks(index, elsewhere):
    with Web(index.root) as web:
        far = elsewhere(web.url)
        with pytest.raises(ShardError, match=r"single images are slow to fetch: set data\.chunk"):
            open_dataset(config(far))
        assert web.asked == []


def test_a_look_into_a_few_of_many_shards(many, elsewhere, tmp_path, monkeypatch, encode, noise):
    # Thirty shards, of which those far away are not all looked into.
    asked = []
    monkeypatch.setattr("biggan_sn.data.loader.Careful.read_into", lambda _, i, p: asked.append(i))
    folder = tmp_path / "far"
    folder.mkdir()
    save_index(replace(many, root=folder, url="http://127.0.0.1:9/"))
    open_dataset(config(load_index(folder), chunk=2))
    assert len(asked) == 8 and {asked[0], asked[-1]} == {0, 58}
    asked.clear()
    save_index(many)
    open_dataset(config(load_index(many.root)))
    assert asked == list(range(0, 60, 2))


# -------------------------------------------------------------------------------- what it costs


def test_waiting_for_a_server_is_told_as_such(index, elsewhere, patience):
    """data_wait of training/pace.py: milliseconds per step that training stood still for images."""
    patience()

    def data_wait(before):
        with Web(index.root, spoiled(1, before=before)) as web:
            far = elsewhere(web.url)
            loader = Loader(far, config(far, chunk=1, connections=12, prefetch=1), 0, CPU)
            pace = Pace(World(), images_per_step=12, step=0)
            batches = pace.timed(loader.batches(0, 12, 0, 1, 12))
            next(batches)
            pace.report(1)
            for _ in range(4):  # each step wants twelve chunks that take as long as one
                next(batches)
            speed = pace.report(5)
            loader.close()
        return speed.data_wait

    slow = data_wait(0.8)
    assert slow > 400  # ms per step, of 800: one batch is fetched ahead of its use
    assert data_wait(0.0) < slow / 2
