"""ImageNet's tars: every image under its own label, and no damage that goes unseen."""

import io
import pickle
import tarfile

import numpy as np
import pytest

from biggan_sn.data.shards import load_index
from data_tools.archives import open_imagenet
from tests.unit.data_tools.making import (
    SIDE,
    add,
    file_of,
    files,
    make,
    pixels_of,
    plain,
    refused,
    run,
    stored,
    tar_of,
)

WNIDS = ("n02102040", "n01440764", "n03000684")  # not in their order, as in the real one


def picture(wnid, number):
    return file_of(plain((100 * sorted(WNIDS).index(wnid), 50 * number, 0), (60, 40)))


def inner(wnid, numbers=range(3)):
    return tar_of([(f"{wnid}_{number}.JPEG", picture(wnid, number)) for number in numbers])


@pytest.fixture
def train(tmp_path):
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(tar_of([(f"{wnid}.tar", inner(wnid)) for wnid in WNIDS]))
    return path


def colors(out):
    """Label and colour of every image."""
    return sorted((s.label, *pixels_of(s)[0, 0].tolist()) for s in stored(out))


def test_tar_of_tars(train, tmp_path):
    out = tmp_path / "out"
    assert make("imagenet", train, out, "--format", "png") == 0
    assert load_index(out).classes == tuple(sorted(WNIDS))
    assert colors(out) == [(k, 100 * k, 50 * n, 0) for k in range(3) for n in range(3)]
    assert files(tmp_path) == [train.name, "out"]  # nothing was unpacked


def test_every_image_is_a_piece_of_the_file(train):
    source = pickle.loads(pickle.dumps(open_imagenet(train, None)))
    names = []
    for image in range(9):
        names.append(source.name(image))
        wnid, number = names[-1].rpartition("/")[2].removesuffix(".JPEG").split("_")
        assert source.read(image) == picture(wnid, int(number))
        assert source.classes[source.labels[image]] == wnid
    assert names[0] == f"{train}: n01440764.tar/n01440764_0.JPEG" and len(set(names)) == 9


def flat(tmp_path, names):
    path = tmp_path / "ILSVRC2012_img_val.tar"
    path.write_bytes(tar_of([(name, picture(WNIDS[i % 3], i % 2)) for i, name in enumerate(names)]))
    table = tmp_path / "labels.csv"
    table.write_text("".join(f"{name.rpartition('/')[2]},{WNIDS[i % 3]}\n"
                             for i, name in enumerate(names)))  # fmt: skip
    return path, table


@pytest.mark.parametrize("folder", ["", "./", "val/", "../../../", "/etc/"])
def test_flat_tar_with_a_table(tmp_path, folder):
    # Names that lead elsewhere are names only: nothing is unpacked.
    path, table = flat(tmp_path, [f"{folder}ILSVRC2012_val_{n:08d}.JPEG" for n in range(6)])
    out = tmp_path / "out"
    assert make("imagenet", path, out, "--labels", table, "--format", "png") == 0
    assert load_index(out).classes == tuple(sorted(WNIDS))
    assert colors(out) == [(k, 100 * k, 50 * n, 0) for k in range(3) for n in range(2)]


def test_hostile_names_in_tars_of_tars(tmp_path):
    path = tmp_path / "train.tar"
    bad = tar_of([("../../x.JPEG", picture(WNIDS[0], 0)), ("/etc/y.JPEG", picture(WNIDS[0], 1))])
    path.write_bytes(tar_of([("../../a.tar", bad), ("/b.tar", inner(WNIDS[1]))]))
    assert make("imagenet", path, tmp_path / "out") == 0
    assert load_index(tmp_path / "out").classes == ("a", "b")
    assert files(tmp_path) == ["out", "train.tar"]


def test_table_of_other_images(tmp_path, capsys):
    path, table = flat(tmp_path, ["a.JPEG", "b.JPEG", "c.JPEG"])
    table.write_text("a,cat\nb,dog\n")
    refused(capsys, f"{table}: 1 images are not in it", "imagenet", path, tmp_path / "out",
            "--resolution", SIDE, "--labels", table)  # fmt: skip
    refused(capsys, "no_table.csv", "imagenet", path, tmp_path / "out", "--resolution", SIDE,
            "--labels", tmp_path / "no_table.csv")  # fmt: skip


def test_flat_tar_without_a_table(tmp_path, capsys):
    path, _ = flat(tmp_path, ["a.JPEG", "b.JPEG", "c.JPEG"])
    refused(capsys, f"{path}: 'a.JPEG' is not a tar .*--labels", "imagenet", path,
            tmp_path / "out", "--resolution", SIDE)  # fmt: skip


def cut_in_the_middle(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def cut_between_members(path):
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset])


def cut_between_members_of_a_member(path):
    """The inner tar says nothing of its length but by its end."""
    content = inner(WNIDS[1])
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        short = content[: tar.getmembers()[-1].offset]
    path.write_bytes(tar_of([("a.tar", inner(WNIDS[0])), ("b.tar", short)]))


def damage_header(path):
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        content[tar.getmembers()[1].offset + 150] ^= 1
    path.write_bytes(content)


def damage_inner_header(path):
    content = bytearray(inner(WNIDS[1]))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        content[tar.getmembers()[1].offset + 150] ^= 1
    path.write_bytes(tar_of([("a.tar", inner(WNIDS[0])), ("b.tar", bytes(content))]))


def damage_first_inner_header(path):
    content = b"?" + inner(WNIDS[1])[1:]
    path.write_bytes(tar_of([("a.tar", inner(WNIDS[0])), ("b.tar", content)]))


def member_beyond_its_tar(path):
    """The last image of an inner tar claims bytes of the next one."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        add(tar, "x.JPEG", picture(WNIDS[1], 0))
    info = tarfile.TarInfo("y.JPEG")
    info.size = 30_000
    short = out.getvalue()[:1024] + info.tobuf() + bytes(1024)
    path.write_bytes(tar_of([("a.tar", short), ("b.tar", inner(WNIDS[0], range(90)))]))


DAMAGES = [cut_in_the_middle, cut_between_members, cut_between_members_of_a_member, damage_header,
           damage_inner_header, damage_first_inner_header, member_beyond_its_tar]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tars_are_named(train, tmp_path, capsys, damage):
    damage(train)
    refused(capsys, f"{train}: .*(damaged|cut off|not a readable tar)", "imagenet", train,
            tmp_path / "out", "--resolution", SIDE)  # fmt: skip
    assert files(tmp_path / "out") == []


def test_an_image_that_reaches_into_the_next_tar(train, tmp_path, capsys):
    member_beyond_its_tar(train)
    refused(capsys, f"{train}: a.tar: 'y.JPEG' is cut off", "imagenet", train, tmp_path / "out",
            "--resolution", SIDE)  # fmt: skip


@pytest.mark.parametrize(("members", "named"), [
    ([("a.tar", b"text" * 300), ("b.tar", None)], "a.tar"),
    ([("a.tar", tar_of([("notes.txt", b"")])), ("b.tar", None)], "a.tar: no images in it"),
    ([("a.tar", None), ("x/a.tar", None)], "two tars of one class"),
    ([("a.tar", None)], "two classes at the least, but has a"),
    ([("a.tar", None), ("notes.txt", b"")], "'notes.txt' is not a tar of one class"),
    ([], "two classes at the least, but has none"),
])  # fmt: skip
def test_what_is_not_imagenet(tmp_path, capsys, members, named):
    path = tmp_path / "train.tar"
    path.write_bytes(tar_of([(name, data or inner(WNIDS[0])) for name, data in members]))
    refused(capsys, f"{path}: .*{named}", "imagenet", path, tmp_path / "out", "--resolution", SIDE)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices(tmp_path, capsys, kind):
    path = tmp_path / "train.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "a.tar", inner(WNIDS[0]))
        add(tar, "b.tar", b"", type=kind, linkname="/etc/passwd")
    refused(capsys, "'b.tar' is not a regular file", "imagenet", path, tmp_path / "out",
            "--resolution", SIDE)  # fmt: skip


def test_no_tar(tmp_path, capsys):
    for content, named in ((None, "no such file"), (b"", "tar"), (b"text" * 999, "tar")):
        path = tmp_path / "train.tar"
        if content is not None:
            path.write_bytes(content)
        refused(capsys, f"{path}: .*{named}", "imagenet", path, tmp_path / "out",
                "--resolution", SIDE)  # fmt: skip


def test_tar_that_shrinks_under_the_work(train, tmp_path, monkeypatch, capsys):
    source = open_imagenet(train, None)
    cut_in_the_middle(train)
    monkeypatch.setattr("data_tools.make_shards.open_imagenet", lambda path, table: source)
    refused(capsys, "not a readable image", "imagenet", train, tmp_path / "out", "--resolution",
            SIDE, "--processes", 1)  # fmt: skip


def test_digest_is_of_names_places_and_labels(tmp_path):
    path, table = flat(tmp_path, ["a.JPEG", "b.JPEG", "c.JPEG"])
    first = open_imagenet(path, table).digest()
    assert open_imagenet(path, table).digest() == first
    table.write_text(f"a,{WNIDS[1]}\nb,{WNIDS[0]}\nc,{WNIDS[2]}\n")
    assert open_imagenet(path, table).digest() != first
    assert np.bincount(open_imagenet(path, table).labels).tolist() == [1, 1, 1]
    assert run("imagenet", path, tmp_path / "out", "--resolution", SIDE) == 2
