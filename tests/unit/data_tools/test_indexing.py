"""The index of shards that others have written: the same, wherever they lie."""

from dataclasses import replace

import numpy as np
import pytest

from biggan_sn.data import stores
from biggan_sn.data.shards import INDEX_NAME, ShardError, build_index, load_index, save_index
from data_tools.indexing import BLOCK, expand, index_folder, index_url
from data_tools.make_shards import main, write_shards
from tests.unit.data.web import Web

CLASSES = ("cat", "dog", "owl")
COLUMNS = ("shard", "offset", "size", "label", "raw", "crc")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(stores, "PATIENCE", (0.01, 0.01, 0.01))


@pytest.fixture
def local(tmp_path):
    """Five shards of raw noise, with their index and dataset.json."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 32 * 32 * 3), np.uint8)
    samples = [(image.tobytes(), "rgb", number % 3) for number, image in enumerate(noise)]
    write_shards(samples, 40, tmp_path / "local", 8, CLASSES)
    return load_index(tmp_path / "local")


def assert_same(index, other, url=""):
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(index, name), getattr(other, name))
    assert (index.names, index.sizes, index.classes) == (other.names, other.sizes, other.classes)
    assert index.fingerprint == other.fingerprint
    assert index.url == url


@pytest.mark.parametrize("processes", [1, 2])
def test_a_folder(local, processes):
    (local.root / INDEX_NAME).unlink()
    index_folder(local.root, processes)
    assert_same(load_index(local.root), local)
    assert not list(local.root.glob(".*"))


def test_a_folder_with_a_damaged_shard(local):
    path = local.root / "000003.tar"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ShardError, match=f"^{path}: "):
        index_folder(local.root, 1)
    path.write_bytes((local.root / "000002.tar").read_bytes())
    assert len(index_folder(local.root, 1)) == 40  # another journal: the shards are others


@pytest.mark.parametrize("processes", [1, 2])
def test_shards_at_a_url_are_read_through(local, tmp_path, processes):
    with Web(local.root) as web:
        index_url(tmp_path / "far", f"{web.url}{{000004..000000}}.tar", processes)
        found = load_index(tmp_path / "far")
        assert_same(found, replace(local, classes=("0", "1", "2")), web.url)
        assert not list((tmp_path / "far").glob(".*"))
        # Each once through, by large pieces
        ranges = [ask for ask in web.asked if ask[1] is not None]
        assert len(ranges) == sum(-(-size // BLOCK) for size in local.sizes)


def test_names_of_the_classes_come_from_a_card_that_is_there(local, tmp_path):
    far = tmp_path / "far"
    far.mkdir()
    (far / "dataset.json").write_bytes((local.root / "dataset.json").read_bytes())
    with Web(local.root) as web:
        assert index_url(far, f"{web.url}{{000000..000004}}.tar", 1).classes == CLASSES


def test_an_index_at_a_url_is_taken(local, tmp_path):
    with Web(local.root) as web:
        index_url(tmp_path / "far", web.url, 1)
        assert_same(load_index(tmp_path / "far"), local, web.url)
        assert (tmp_path / "far" / "dataset.json").exists()
        assert {path for path, *_ in web.asked} == {"index.npz", "dataset.json"}


def test_a_place_without_an_index(local, tmp_path):
    (local.root / INDEX_NAME).unlink()
    remedy = r"name the shards, as in http://.*/train-\{000000\.\.000146\}\.tar"
    with (
        Web(local.root) as web,
        pytest.raises(ShardError, match=f"^{web.url}index.npz: .*{remedy}"),
    ):
        index_url(tmp_path / "far", web.url, 1)


def test_an_index_of_another_kind_is_refused(local, tmp_path):
    save_index(replace(local, names=tuple(f"../{name}" for name in local.names)))
    with Web(local.root) as web, pytest.raises(ShardError, match="not a readable index"):
        index_url(tmp_path / "far", web.url, 1)


def test_a_damaged_shard_at_a_url_is_named_and_the_others_are_kept(local, tmp_path):
    path = local.root / "000003.tar"
    good = path.read_bytes()
    path.write_bytes(good[:1024] + bytes(512) + good[1536:])  # the second header
    far = tmp_path / "far"
    with Web(local.root) as web:
        url = f"{web.url}{{000000..000004}}.tar"
        with pytest.raises(ShardError, match=f"^{web.url}000003.tar: "):
            index_url(far, url, 1)
        assert not (far / INDEX_NAME).exists()
        path.write_bytes(good)
        web.asked.clear()
        assert_same(index_url(far, url, 1), replace(local, classes=("0", "1", "2")), web.url)
        assert {p for p, first, _ in web.asked if first is not None} == {"000003.tar", "000004.tar"}


def test_connections_that_drop(local, tmp_path):
    def drop(number, answer):
        return replace_sent(answer, number) if number % 3 == 0 else answer

    def replace_sent(answer, number):
        return replace(answer, sent=len(answer.body) // 2)

    with Web(local.root, drop) as web:
        index_url(tmp_path / "far", web.url[:-1] + "/{000000..000004}.tar", 1)
        assert_same(load_index(tmp_path / "far"), replace(local, classes=("0", "1", "2")), web.url)


def test_no_server(tmp_path):
    with pytest.raises(ShardError, match=r"^http://127.0.0.1:9/0.tar: cannot be read"):
        index_url(tmp_path / "far", "http://127.0.0.1:9/{0..1}.tar", 1)


def test_a_folder_with_shards_of_its_own(local):
    before = (local.root / INDEX_NAME).read_bytes()
    with pytest.raises(ShardError, match="has shards of its own"):
        index_url(local.root, "http://127.0.0.1:9/", 1)
    assert (local.root / INDEX_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://host/{a,b}/0.tar", "must lie in one place"),
        ("http://host/{0..3}.zip", "'0.zip' is no .tar"),
        ("http://host/shards", "ends with a slash"),
        ("file:///etc/{0..1}.tar", "not a URL of a kind"),
        ("pipe:cat {0..1}.tar", "not a URL of a kind|no .tar"),
        ("simplecache::http://host/{0..1}.tar", "not a URL of a kind"),
    ],
)
def test_urls_that_are_refused(tmp_path, url, reason):
    with pytest.raises(ShardError, match=reason):
        index_url(tmp_path / "far", url, 1)


def test_expand():
    assert expand("s3://b/t-{8..11}.tar") == (
        "s3://b/",
        ("t-10.tar", "t-11.tar", "t-8.tar", "t-9.tar"),
    )
    assert expand("http://h/one.tar") == ("http://h/", ("one.tar",))


def test_as_a_command(local, tmp_path, capsys):
    with Web(local.root) as web:
        assert main(["index", str(tmp_path / "far"), "--url", web.url]) == 0
        assert "40 images of 3 classes (13 to 14 each) in 5 shards" in capsys.readouterr().out
        assert main(["index", str(tmp_path / "no"), "--url", web.url + "nothing/"]) == 2
        assert capsys.readouterr().err.startswith("make_shards: error: ")
    (local.root / INDEX_NAME).unlink()
    assert main(["index", str(local.root), "--processes", "1"]) == 0
    assert_same(load_index(local.root), build_index(local.root, CLASSES))
