"""Images that are wrong themselves, or are there twice, in one set or in two."""

import pytest

from biggan_sn.data.shards import load_index
from tests.unit.data_tools.shardsets import (
    BLOCK,
    CLASSES,
    check,
    file_of,
    flip,
    found_in,
    noise,
    samples_of,
    write_set,
)

FIRST, SECOND = "000000.tar", "000001.tar"


# ------------------------------------------------------------------------------------ wrong images


def set_with(folder, *images):
    """A good set, and more images (file, extension, label) in a shard of their own. Returns the
    folder and where the additional images are."""
    more = [(f"x{number}", *image) for number, image in enumerate(images)]
    extra = [(key, extension, image, label) for key, image, extension, label in more]
    write_set(folder, samples_of(0, 6), extra)
    index = load_index(folder)
    return folder, index.offset[index.shard == 1].tolist()


@pytest.mark.parametrize(
    ("image", "extension", "text"),
    [
        (b"no image", "png", "cannot be decoded"),
        (file_of(noise(50))[:-300], "jpg", "cannot be decoded"),
        (file_of(noise(50), "PNG")[:-30], "png", "cannot be decoded"),
        (file_of(noise(50, 16)), "jpg", "16x16 pixels, not 32x32"),
        (file_of(noise(50)[:20], "PNG"), "png", "32x20 pixels, not 32x32"),
        (noise(50, 16).tobytes(), "rgb", "16x16 pixels, not 32x32"),
        (noise(50).tobytes()[:-1], "rgb", "cannot be decoded"),
    ],
)
def test_images_that_were_wrong_when_they_were_indexed(tmp_path, image, extension, text):
    fine = (file_of(noise(60)), "jpg", 0)
    folder, starts = set_with(tmp_path / "set", fine, (image, extension, 1), (*fine[:2], 0))
    report = check(folder)[1]
    errors = [row for row in report["found"] if row["level"] == "error"]
    assert [(row["kind"], row["byte"]) for row in errors] == [("image", starts[1])]
    assert text in errors[0]["text"]
    assert check(folder, "--no_pixels")[0] == 0  # which does not look at them


def test_raw_images(tmp_path):
    folder, _ = set_with(tmp_path / "set", (noise(50).tobytes(), "rgb", 0))
    assert check(folder)[0] == 0


PNG, SMALLER = file_of(noise(50), "PNG"), file_of(noise(50), "PNG", compress_level=0)


@pytest.mark.parametrize(
    ("images", "kind", "told"),
    [
        ([(PNG, 1), (PNG, 1)], "same file", "in class 'bee'"),
        ([(PNG, 1), (PNG, 2)], "same file", "in classes 'bee', 'cow', so labels disagree"),
        ([(PNG, 0), (SMALLER, 0)], "same pixels", "in class 'ant'"),
        ([(PNG, 0), (SMALLER, 2)], "same pixels", "in classes 'ant', 'cow'"),
        ([(PNG, 1), (PNG, 1), (PNG, 0)], "same file", " and 1 more, in classes"),
    ],
)
def test_duplicates(tmp_path, images, kind, told):
    assert PNG != SMALLER
    files = [(image, "png", label) for image, label in images]
    folder, starts = set_with(tmp_path / "set", *files)
    code, report = check(folder)
    assert code == 0
    [row] = report["found"]
    assert (row["kind"], row["level"], row["byte"]) == (kind, "warning", starts[0])
    other = starts[-1]  # the first that has another label, if one has
    assert f"as {folder / SECOND}, image at byte {other}" in row["text"]
    assert told in row["text"]
    seen = found_in(check(folder, "--no_pixels")[1])
    assert seen == ({(kind, SECOND, starts[0])} if kind == "same file" else set())


def test_many_duplicates_of_many_images(tmp_path):
    files = [(file_of(noise(n % 5 + 50), "PNG"), "png", n % 3) for n in range(0, 60, 3)]
    folder, starts = set_with(tmp_path / "set", *files)
    found = found_in(check(folder)[1])
    assert found == {("same file", SECOND, start) for start in starts[:5]}


def test_a_class_without_images(tmp_path):
    folder = write_set(tmp_path / "set", samples_of(0, 6), classes=(*CLASSES, "dog"))
    code, report = check(folder)
    assert code == 2
    assert found_in(report) == {("empty class", "", None)}
    assert "class 'dog', label 3, has no images" in report["found"][0]["text"]
    assert report["counts"] == [2, 2, 2, 0]


def test_the_screen_shows_some(tmp_path, capsys):
    wrong = [(b"no image %d" % number, "png", 0) for number in range(30)]
    folder, _ = set_with(tmp_path / "set", *wrong)
    assert check(folder)[1]["errors"] == 30
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 20
    assert lines[20] == "... and 10 more; --json OUT lists all of them"


def set_of(tmp_path):
    return write_set(tmp_path / "set", samples_of(0, 4), samples_of(4, 4))


# ------------------------------------------------------------------------------------ --against


def test_sets_that_share_nothing(tmp_path):
    other = write_set(tmp_path / "other", samples_of(200, 5))
    assert check(set_of(tmp_path), "--against", other)[0] == 0


@pytest.mark.parametrize("form", ["file", "pixels"])
def test_sets_that_share_an_image(tmp_path, form):
    image = file_of(noise(5), "PNG", compress_level=6 if form == "file" else 0)
    twice = [(key, "png", image, label) for key, label in (("x", 0), ("y", 0))]
    other = write_set(tmp_path / "other", samples_of(200, 5), twice)
    good = set_of(tmp_path)
    code, report = check(good, "--against", other)
    byte = int(load_index(good).offset[5])
    assert (code, found_in(report)) == (2, {("shared", SECOND, byte)})
    place = f"{other / SECOND}, image at byte {load_index(other).offset[5]}"
    assert report["found"][0]["text"].endswith(f": the same {form} as {place}")
    assert check(other, "--against", good)[1]["errors"] == 2
    without = found_in(check(good, "--against", other, "--no_pixels")[1])
    assert without == ({("shared", SECOND, byte)} if form == "file" else set())


def test_images_that_cannot_be_read_are_not_the_same(tmp_path):
    wrong = ("x", "png", b"no image", 0)
    good = write_set(tmp_path / "set", samples_of(0, 4), [wrong, *samples_of(4, 2)])
    other = write_set(tmp_path / "other", samples_of(200, 5), [wrong, *samples_of(300, 2)])
    rows = check(good, "--against", other)[1]["found"]
    assert [row["kind"] for row in rows] == ["image", "image"]


def test_errors_come_before_warnings(tmp_path):
    twice = [(key, "png", PNG, 0) for key in ("x", "y")]
    good = write_set(tmp_path / "set", samples_of(0, 4), twice)
    other = write_set(tmp_path / "other", samples_of(200, 5), twice[:1])
    rows = check(good, "--against", other)[1]["found"]
    assert [row["kind"] for row in rows] == ["shared", "shared", "same file"]


def test_damage_in_the_other_set(tmp_path):
    other = write_set(tmp_path / "other", samples_of(200, 5))
    flip(other / FIRST, BLOCK + 9)
    report = check(set_of(tmp_path), "--against", other)[1]
    assert found_in(report) == {("image", FIRST, BLOCK)}
    assert report["found"][0]["text"].startswith(str(other / FIRST))
