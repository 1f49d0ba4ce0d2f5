"""Folders, Kaggle's folders and tables of labels."""

import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from biggan_sn.data.shards import load_index
from data_tools.sources import (
    check_classes,
    find_images,
    labels_of,
    open_folder,
    open_kaggle,
    passed_over,
)
from tests.unit.data_tools.making import (
    CLASSES,
    SIDE,
    files,
    make,
    pixels_of,
    plain,
    refused,
    run,
    stored,
)

WNIDS = ("n01440764", "n02102040", "n03000684")


def test_folder_is_read_by_label(tree):
    source = pickle.loads(pickle.dumps(open_folder(tree)))  # as it goes to a process
    assert source.classes == CLASSES
    assert np.bincount(source.labels).tolist() == [4, 5, 6]
    for image, label in enumerate(source.labels):
        assert source.name(image).startswith(f"{tree}/{CLASSES[label]}/")
        with open(source.name(image), "rb") as file:  # noqa: PTH123
            assert file.read() == source.read(image)


def test_folders_that_programs_leave_are_no_classes(tree):
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (tree / name).mkdir()
        plain((0, 0, 0)).save(tree / name / "image.png")
    assert find_images(tree)[1] == CLASSES


def test_digest_is_of_names_sizes_and_labels(tree):
    before = open_folder(tree).digest()
    assert open_folder(tree).digest() == before
    image = tree / "ant" / "0.jpeg"
    changes = [
        lambda: image.write_bytes(image.read_bytes() + b"."),
        lambda: image.rename(image.with_name("00.jpeg")),
        lambda: (tree / "ant" / "1.PNG").rename(tree / "bee" / "11.PNG"),
        lambda: (tree / "ant").rename(tree / "anT"),
    ]
    seen = {before}
    for change in changes:
        change()
        seen.add(open_folder(tree).digest())
    assert len(seen) == 5
    source = open_folder(tree)
    assert replace(source, labels=source.labels[::-1]).digest() != source.digest()


def test_no_class_is_empty(tree):
    source = open_folder(tree)
    check_classes(source, tree)
    with pytest.raises(ValueError, match=f"{tree}: no images of class bee"):
        check_classes(replace(source, labels=np.where(source.labels == 1, 0, 2)), tree)


def test_image_that_vanishes_is_left_out(tree, tmp_path, capsys, monkeypatch):
    source = open_folder(tree)
    gone = tree / "ant" / "0.jpeg"
    gone.unlink()
    monkeypatch.setattr("data_tools.make_shards.open_folder", lambda path: source)
    refused(capsys, f"{gone}: not a readable image .*No such file", "folder", tree,
            tmp_path / "out", "--resolution", SIDE, "--processes", 1)  # fmt: skip


# ----------------------------------------------------------------------------------------- kaggle


def color_of(wnid, number):
    return (100 * WNIDS.index(wnid), 50 * number, 0)


@pytest.fixture
def kaggle(tmp_path):
    """The folder of the download: three classes, three images each to train, two each to test."""
    root = tmp_path / "imagenet-object-localization-challenge"
    data = root / "ILSVRC" / "Data" / "CLS-LOC"
    for wnid in WNIDS:
        (data / "train" / wnid).mkdir(parents=True)
        for number in range(3):
            path = data / "train" / wnid / f"{wnid}_{number}.JPEG"
            plain(color_of(wnid, number), (70, 50)).save(path, "JPEG", quality=100)
    (data / "val").mkdir()
    lines = ["ImageId,PredictionString"]
    for number, wnid in enumerate(reversed(WNIDS * 2)):
        name = f"ILSVRC2012_val_{number:08d}"
        plain(color_of(wnid, 0), (70, 50)).save(data / "val" / f"{name}.JPEG", "JPEG", quality=100)
        lines.append(f"{name},{wnid} 85 1 499 272 {wnid} 1 2 3 4 ")
    (root / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("path", [".", "..", "ILSVRC"])
def test_kaggle(kaggle, tmp_path, split, path):
    out = tmp_path / "out"
    assert make("kaggle", kaggle / path, out, "--split", split, "--format", "png") == 0
    assert load_index(out).classes == WNIDS
    found = sorted((s.label, *pixels_of(s)[0, 0].round(-1).tolist()) for s in stored(out))
    expected = {
        "train": [(label, 100 * label, 50 * n, 0) for label in range(3) for n in range(3)],
        "val": [(label, 100 * label, 0, 0) for label in range(3) for _ in range(2)],
    }[split]
    assert found == expected


def test_kaggle_val_alone(kaggle):
    train = kaggle / "ILSVRC" / "Data" / "CLS-LOC" / "train"
    train.rename(kaggle / "elsewhere")
    assert open_kaggle(kaggle, "val").classes == WNIDS
    with pytest.raises(ValueError, match=rf"{train}: no such folder"):
        open_kaggle(kaggle, "train")


def test_kaggle_of_other_classes(kaggle, tmp_path, capsys):
    (kaggle / "ILSVRC" / "Data" / "CLS-LOC" / "train" / "n09999999").mkdir()
    refused(capsys, "LOC_val_solution.csv: not the classes of .*: n09999999", "kaggle", kaggle,
            tmp_path / "out", "--resolution", SIDE, "--split", "val")  # fmt: skip
    assert files(tmp_path / "out") == []


def test_what_lies_beside_kaggles_is_not_taken_for_it(kaggle):
    (kaggle / "other").mkdir()
    with pytest.raises(ValueError, match="not the folder of Kaggle"):
        open_kaggle(kaggle / "other", "train")


def test_what_is_not_kaggles(tree, tmp_path, capsys):
    for path, named in ((tree, "not the folder of Kaggle"), (tmp_path / "no", "no such folder")):
        refused(capsys, f"{path}: {named}", "kaggle", path, tmp_path / "out", "--resolution", SIDE)


def test_kaggle_without_its_table(kaggle, tmp_path, capsys):
    (kaggle / "LOC_val_solution.csv").unlink()
    assert run("kaggle", kaggle, tmp_path / "out", "--resolution", SIDE, "--split", "val") == 2
    assert "LOC_val_solution.csv" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("text", [
    "a.JPEG,dog\nb.JPEG,cat\n", "a,dog\nb,cat", "name,class\r\na,dog\r\n\r\nb.JPEG,cat 1 2\r\n",
    "\ufeffImageId,label\nb,cat\na,dog\n",
])  # fmt: skip
def test_tables(tmp_path, text):
    (tmp_path / "labels.csv").write_text(text)
    assert labels_of(["a.JPEG", "b.JPEG"], tmp_path / "labels.csv") == ([1, 0], ("cat", "dog"))


@pytest.mark.parametrize(("text", "named"), [
    ("a,dog\n", "1 images are not in it, 'b.JPEG'"),
    ("a,dog\nb,cat\nc,cow\n", "1 of its images are missing, 'c'"),
    ("a,dog\nb,cat\na,dog\n", "line 3 names 'a' again"),
    ("a,dog\nb\n", "line 2 is not name,class: 'b'"),
    ("a,dog\nb,\n", "line 2"), (",dog\n", "line 1"), ("a,dog,1\nb,cat,2\n", "line 1"),
    ("", "2 images are not in it"),
    ("a,\udcff\n", "not a table"),
])  # fmt: skip
def test_wrong_tables(tmp_path, text, named):
    table = tmp_path / "labels.csv"
    table.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"{table}: .*{named}"):
        labels_of(["a.JPEG", "b.JPEG"], table)


def test_two_images_of_one_name(tmp_path):
    (tmp_path / "labels.csv").write_text("a,dog\nb,cat\n")
    with pytest.raises(ValueError, match="two images are called 'a'"):
        labels_of(["a.JPEG", "a.png", "b.png"], tmp_path / "labels.csv")


def test_what_is_passed_over_is_said(tree, capsys, tmp_path):
    for path in tree.rglob("*.txt"):  # which the tree has for other tests
        path.unlink()
    assert passed_over(tree) == ""
    image = find_images(tree)[0][0][0]
    first = tree / image.relative_to(tree).parts[0]
    for name in ("a.heic", "b.HEIC", "c"):
        shutil.copy(image, first / name)
    shutil.copy(image, tree / image.name)
    (first / ".hidden").mkdir()
    shutil.copy(image, first / ".hidden" / "d.heic")
    told = "2 .heic, 1 beside the folders of classes, 1 without a suffix"
    assert passed_over(tree) == f"{tree}: files passed over, for their names or places: {told}"
    assert make("folder", tree, tmp_path / "out") == 0
    assert told in capsys.readouterr().out
