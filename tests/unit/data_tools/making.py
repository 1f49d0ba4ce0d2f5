"""What the tests of make_shards share: runs of it, and what they wrote, read by other means."""

import io
import re
import sys
import tarfile
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_tools.make_shards import main

# Ctrl-C ends it, also where the tests themselves run in the background.
PYTHON = ("env", "--default-signal=INT", sys.executable)

SIDE = 32
CLASSES = ("ant", "bee", "cow")


class Stored(NamedTuple):
    key: str
    extension: str
    image: bytes
    label: int


def plain(color, size=(SIDE, SIDE)):
    """An image of one colour (red, green, blue)."""
    return Image.new("RGB", size, color)


def file_of(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def add(tar, name, data, **facts):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for fact, value in facts.items():
        setattr(info, fact, value)
    tar.addfile(info, io.BytesIO(data))


def tar_of(members, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, data in members:
            add(tar, name, data)
    return out.getvalue()


def run(*arguments):
    return main([str(argument) for argument in arguments])


def make(source, path, out, *options):
    """In this process, which is quicker."""
    return run(source, path, out, "--resolution", SIDE, "--processes", 1, *options)


def stored(out):
    """Every sample of the shards of a folder, in order."""
    samples = []
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            names = {name: tar.extractfile(name).read() for name in tar.getnames()}
        for name, data in names.items():
            key, extension = name.split(".")
            if extension != "cls":
                samples.append(Stored(key, extension, data, int(names[f"{key}.cls"])))
    return samples


def pixels_of(sample):
    """uint8 [H, W, 3]."""
    if sample.extension == "rgb":
        side = round((len(sample.image) / 3) ** 0.5)
        return np.frombuffer(sample.image, np.uint8).reshape(side, side, 3)
    image = Image.open(io.BytesIO(sample.image))
    assert image.mode == "RGB"
    return np.asarray(image)


def refused(capsys, named, *arguments):
    """That these arguments give exit code 2 and one line of error that names `named`."""
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    assert printed.err.startswith("make_shards: error: ")
    assert re.search(named, printed.err), printed.err
    return printed.err


def files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def contents(folder):
    """Bytes of everything that is part of a data set."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_progress(said):
    """What a program said, but for how far it was, which it says where it takes long."""
    lines = said.splitlines(keepends=True)
    return "".join(line for line in lines if not re.match(r"\d+/\d+ images", line))
