"""From folders of images to shards and their index."""

import io
import re
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from biggan_sn.data.digits import load_digits
from biggan_sn.data.reader import Reader
from biggan_sn.data.shards import ShardError, load_index
from biggan_sn.positions import permutation
from data_tools.make_shards import find_images, main, write_shards

SIDE = 32
CLASSES = ("ant", "bee", "cow")


def plain(color, size=(SIDE, SIDE)):
    """An image of one colour (red, green, blue)."""
    return Image.new("RGB", size, color)


@pytest.fixture
def tree(tmp_path):
    """images/<class>/: four, five and six images; the class is in red, the number in green."""
    root = tmp_path / "images"
    for label, name in enumerate(CLASSES):
        (root / name / "more").mkdir(parents=True)
        for number in range(4 + label):
            folder = root / name / ("more" if number == 3 else "")
            color = (100 * label, 40 * number, 0)
            plain(color).save(folder / f"{number}.{'PNG' if number % 2 else 'jpeg'}")
    (root / "notes.txt").write_text("not a class")
    (root / "ant" / "notes.txt").write_text("not an image")
    return root


def run(*arguments):
    return main([str(argument) for argument in arguments])


def made(tree, out, *options):
    assert run("folder", tree, out, "--resolution", SIDE, *options) == 0
    return load_index(out)


def pictures(index):
    """All images uint8 [N, 32, 32, 3], in the shards' order."""
    reader = Reader(index, SIDE)
    pixels = np.zeros((len(index), SIDE, SIDE, 3), np.uint8)
    for number, picture in enumerate(pixels):
        reader.read_into(number, picture)
    reader.close()
    return pixels


def refused(capsys, named, *arguments):
    """That these arguments give exit code 2 and one line of error that names `named`."""
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("make_shards: error: ")
    assert re.search(named, printed.err), printed.err
    return printed.err


def files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# ---------------------------------------------------------------------------------------- folder


@pytest.mark.parametrize("form", ["jpg", "png"])
def test_folder_becomes_shards(tree, tmp_path, capsys, form):
    index = made(tree, tmp_path / "out", "--per_shard", "6", "--format", form)
    line = "15 images of 3 classes (4 to 6 each) in 3 shards"
    assert line in capsys.readouterr().out
    assert files(tmp_path / "out") == ["000000.tar", "000001.tar", "000002.tar", "index.npz"]
    assert index.classes == CLASSES
    assert np.bincount(index.shard).tolist() == [6, 6, 3]
    assert np.bincount(index.label).tolist() == [4, 5, 6]
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        assert {name.split(".")[1] for name in tar.getnames()} == {form, "cls"}
    colors = pictures(index).mean((1, 2))
    assert abs(colors[:, 0] - 100 * index.label).max() < 3  # every image with its own label
    found = sorted((label, round(green / 40)) for label, green in zip(index.label, colors[:, 1],
                                                                      strict=True))  # fmt: skip
    assert found == [(label, number) for label in range(3) for number in range(4 + label)]


def test_images_are_mixed_over_the_shards(tree, tmp_path):
    # In the order of the folders the first shard would hold one class.
    index = made(tree, tmp_path / "out")
    assert (np.diff(index.label) < 0).any()
    expected = np.repeat([0, 1, 2], [4, 5, 6])[permutation(0, "shards", 15)]
    assert index.label.tolist() == expected.tolist()


def test_the_same_images_give_the_same_bytes(tree, tmp_path):
    made(tree, tmp_path / "one", "--per_shard", "6")
    copied = tmp_path / "copy"
    shutil.copytree(tree, copied)
    for path in copied.rglob("*"):
        path.touch()  # another time, another place
    made(copied, tmp_path / "two", "--per_shard", "6")
    for name in ("000000.tar", "000001.tar", "000002.tar"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert load_index(tmp_path / "one").fingerprint == load_index(tmp_path / "two").fingerprint


def one_image(tree, tmp_path, image, name="special.png", **options):
    """What an image becomes: uint8 [32, 32, 3]. It is the only one of a class of its own."""
    (tree / "zoo").mkdir()
    image.save(tree / "zoo" / name, **options)
    index = made(tree, tmp_path / "out", "--format", "png")
    return pictures(index)[index.label == 3][0]


@pytest.mark.parametrize("upright", [True, False])
def test_the_middle_of_a_long_image_is_taken(tree, tmp_path, upright):
    stripes = np.repeat(np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8), 64, 0)
    image = np.repeat(stripes[:, None], 64, 1)  # [192, 64, 3]: three squares
    image = image if upright else image.swapaxes(0, 1)
    taken = one_image(tree, tmp_path, Image.fromarray(image))
    assert (taken == (0, 255, 0)).all()


def test_a_small_image_is_enlarged(tree, tmp_path):
    taken = one_image(tree, tmp_path, plain((10, 200, 30), (8, 12)))
    assert abs(taken.astype(int) - (10, 200, 30)).max() <= 1


def test_a_large_image_is_averaged(tree, tmp_path):
    # Single pixels in black and white: anything but an average over areas would alias.
    checks = np.indices((128, 128)).sum(0) % 2 * np.uint8(255)
    taken = one_image(tree, tmp_path, Image.fromarray(np.uint8(checks)))
    assert abs(taken.astype(float) - 127.5).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_turned_by_their_camera_come_out_upright(tree, tmp_path, orientation):
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:16, :16] = 255, 0, 0  # red above left
    pixels[:16, 16:] = 0, 255, 0  # green above right
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(turned))
    taken = one_image(tree, tmp_path, image, exif=exif)
    np.testing.assert_array_equal(taken, pixels)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK"])
def test_images_of_every_mode(tree, tmp_path, mode):
    name = "special.tif" if mode == "CMYK" else "special.png"
    taken = one_image(tree, tmp_path, plain((255, 255, 255)).convert(mode), name)
    assert (taken == 255).all()


# ---------------------------------------------------------------------------------- wrong folders


def test_no_folder(tmp_path, capsys):
    out = tmp_path / "out"
    refused(capsys, f"{tmp_path}/nowhere: no such folder",
            "folder", tmp_path / "nowhere", out, "--resolution", SIDE)  # fmt: skip
    assert not out.exists()


def test_one_class(tree, tmp_path, capsys):
    out = tmp_path / "out"
    refused(capsys, f"{tree}/ant: .*more.*one level off", "folder", tree / "ant", out,
            "--resolution", SIDE)  # fmt: skip
    assert not out.exists()


def test_images_without_classes(tree, tmp_path, capsys):
    refused(capsys, f"{tree}/bee/more: .*no folder", "folder", tree / "bee" / "more",
            tmp_path / "out", "--resolution", SIDE)  # fmt: skip


def test_empty_class(tree, tmp_path, capsys):
    (tree / "dog").mkdir()
    (tree / "dog" / "notes.txt").write_text("no image")
    refused(capsys, f"{tree}/dog: no images", "folder", tree, tmp_path / "out",
            "--resolution", SIDE)  # fmt: skip
    assert not (tmp_path / "out").exists()


def unreadable(kind):
    out = io.BytesIO()
    Image.effect_noise((40, 40), 80).save(out, "PNG")
    whole = out.getvalue()
    grey = io.BytesIO()
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(grey, "PNG")
    return {
        "empty": b"",
        "text": b"not an image",
        "cut": whole[: len(whole) // 2],
        "broken chunk": whole[:-60] + bytes(60),
        "16 bits": grey.getvalue(),
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "broken chunk", "16 bits"])
@pytest.mark.parametrize("last", [True, False])
def test_unreadable_image(tree, tmp_path, capsys, kind, last):
    """It is named, and no shard is left: the whole ones before it would pass for the data set."""
    images, _ = find_images(tree)
    bad, _ = images[permutation(0, "shards", 15)[-1 if last else 4]]
    bad.write_bytes(unreadable(kind))
    out = tmp_path / "out"
    refused(capsys, f"{bad}: not a readable image", "folder", tree, out, "--resolution", SIDE,
            "--per_shard", 2)  # fmt: skip
    assert files(out) == []
    assert run("index", out) == 2
    # Once it is put right, nothing has to be removed first.
    plain((0, 0, 0)).save(bad)
    assert len(made(tree, out, "--per_shard", "2")) == 15


def test_no_shard_has_its_name_before_all_are_written(tmp_path):
    # For a kill cannot be tidied up after.
    out = tmp_path / "out"

    def samples():
        for number in range(6):
            assert [name for name in files(out) if not name.endswith(".tmp")] == []
            yield b"image", "png", number % 2

    out.mkdir()
    for name in ("000000.tar.tmp", "000009.tar.tmp"):  # a killed run left these
        (out / name).write_bytes(b"half")
    write_shards(samples(), 6, out, 2, ("a", "b"))
    assert files(out) == ["000000.tar", "000001.tar", "000002.tar", "index.npz"]


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def samples():
        yield b"image", "png", 0
        yield b"image", "png", 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(samples(), 9, tmp_path / "out", 1, ("a", "b"))
    assert files(tmp_path / "out") == []


def test_shards_are_not_overwritten(tree, tmp_path, capsys):
    out = tmp_path / "out"
    made(tree, out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    refused(capsys, f"{out}: 1 shards are there already", "folder", tree, out, "--resolution", SIDE)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_out_is_a_file(tree, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    refused(capsys, f"{tmp_path}/out", "folder", tree, tmp_path / "out", "--resolution", SIDE)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(("option", "value"), [("--quality", 0), ("--quality", 101),
                                               ("--per_shard", 0)])  # fmt: skip
def test_wrong_numbers(tree, tmp_path, capsys, option, value):
    refused(capsys, f"{option} must be .*got {value}", "folder", tree, tmp_path / "out",
            "--resolution", SIDE, option, value)  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["folder", "a", "b"], "--resolution"),
        (["folder", "a", "b", "--resolution", "100"], "100"),
        (["tiles", "a"], "tiles"),
        ([], "COMMAND"),
    ],
)
def test_wrong_command_lines(capsys, arguments, named):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


# ------------------------------------------------------------------------------- digits and index


def test_digits(tmp_path, capsys):
    assert run("digits", tmp_path / "digits") == 0
    printed = capsys.readouterr().out
    assert "1400 images of 10 classes" in printed and "397 images of 10 classes" in printed
    for name, digits in zip(("train", "heldout"), load_digits(), strict=True):
        index = load_index(tmp_path / "digits" / name)
        assert len(index) == {"train": 1400, "heldout": 397}[name]
        assert index.classes == tuple("0123456789")
        assert index.label.tolist() == digits.labels.tolist()
        if name == "heldout":
            np.testing.assert_array_equal(pictures(index), digits.images)
    train, heldout = load_digits()
    known = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in known for image in heldout.images)


def foreign_shard(path, labels):
    """As other tools write them: long member order, JPEG names, labels with newlines."""
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels):
            picture = io.BytesIO()
            plain((label, 0, 0)).save(picture, "JPEG")
            for extension, data in (("JPEG", picture.getvalue()), ("json", b"{}"),
                                    ("cls", b"%d\n" % label)):  # fmt: skip
                info = tarfile.TarInfo(f"train/{path.stem}-{number}.{extension}")
                info.size, info.mtime = len(data), 1.7e9
                tar.addfile(info, io.BytesIO(data))


def test_index_on_foreign_shards(tmp_path, capsys):
    foreign_shard(tmp_path / "b.tar", [4, 0])
    foreign_shard(tmp_path / "a.tar", [1, 2, 3])
    before = (tmp_path / "a.tar").read_bytes()
    assert run("index", tmp_path) == 0
    assert "5 images of 5 classes (1 to 1 each) in 2 shards" in capsys.readouterr().out
    index = load_index(tmp_path)
    assert index.label.tolist() == [1, 2, 3, 4, 0]
    assert index.classes == tuple("01234")
    assert pictures(index).shape == (5, SIDE, SIDE, 3)
    assert (tmp_path / "a.tar").read_bytes() == before


def test_index_again_after_a_change(tmp_path):
    foreign_shard(tmp_path / "a.tar", [0, 1])
    assert run("index", tmp_path) == 0
    foreign_shard(tmp_path / "a.tar", range(40))
    with pytest.raises(ShardError):
        load_index(tmp_path)
    assert run("index", tmp_path) == 0
    assert len(load_index(tmp_path)) == 40


@pytest.mark.parametrize("damage", ["cut", "none", "one label"])
def test_index_on_what_are_no_shards(tmp_path, capsys, damage):
    shard = tmp_path / "a.tar"
    if damage != "none":
        foreign_shard(shard, [0, 0] if damage == "one label" else [0, 1])
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-9216])
    named = shard if damage == "cut" else tmp_path
    refused(capsys, f"error: {named}: ", "index", tmp_path)
    assert "index.npz" not in files(tmp_path)


def test_indexing_again_keeps_the_names_of_the_classes(tree, tmp_path):
    out = tmp_path / "out"
    made(tree, out)
    assert run("index", out) == 0
    assert load_index(out).classes == CLASSES
    (out / "index.npz").unlink()
    assert run("index", out) == 0
    assert load_index(out).classes == ("0", "1", "2")


def test_folders_that_programs_leave_are_no_classes(tree):
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (tree / name).mkdir()
        plain((0, 0, 0)).save(tree / name / "image.png")
    assert find_images(tree)[1] == CLASSES


def test_what_is_transparent_becomes_white(tmp_path):
    for name, alpha in (("clear", 0), ("opaque", 255)):
        (tmp_path / name).mkdir()
        Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, alpha)).save(tmp_path / name / "image.png")
    index = made(tmp_path, tmp_path / "out", "--format", "png")
    for picture, label in zip(pictures(index), index.label, strict=True):
        assert (picture == ((255, 255, 255), (255, 0, 0))[label]).all()
