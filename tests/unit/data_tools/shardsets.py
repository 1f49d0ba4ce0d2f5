"""Small data sets made by hand, with tarfile alone: what a check should find is known."""

import io
import json
import re
import tarfile

import numpy as np
from PIL import Image

from biggan_sn.data.shards import build_index, save_index
from data_tools.verify_shards import main

SIDE = 32
CLASSES = ("ant", "bee", "cow")
BLOCK = 512


def noise(number, side=SIDE):
    """uint8 [side, side, 3], another for each number."""
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)


def file_of(pixels, form="JPEG", **options):
    """An image file's bytes."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def samples_of(first, count):
    """(key, extension, image, label) of so many images, JPEG and PNG in turn."""
    made = []
    for number in range(first, first + count):
        form = "PNG" if number % 2 else "JPEG"
        extension = {"PNG": "png", "JPEG": "jpg"}[form]
        made.append((f"{number:04d}", extension, file_of(noise(number), form), number % 3))
    return made


def write_tar(path, samples):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, extension, image, label in samples:
            for name, data in ((f"{key}.{extension}", image), (f"{key}.cls", b"%d" % label)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_set(folder, *shards, classes=CLASSES):
    """Shards 000000.tar and so on of lists of samples, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, samples in enumerate(shards):
        write_tar(folder / f"{number:06d}.tar", samples)
    save_index(build_index(folder, classes))
    return folder


def check(folder, *options):
    """Exit code of a check in this process, and what it wrote as JSON."""
    out = folder.parent / f"{folder.name}.json"
    words = [str(folder), "--json", str(out), "--processes", "1", *map(str, options)]
    code = main(words)
    return code, json.loads(out.read_text())


def found_in(report):
    """What was found, in short: {(kind, shard, byte)}."""
    found = [(row["kind"], row["shard"], row["byte"]) for row in report["found"]]
    assert len(found) == len(set(found))
    return set(found)


def member(path, name):
    """Where a member of a tar is: its header and its content, and how long that is."""
    with tarfile.open(path) as tar:
        info = tar.getmember(name)
    return info.offset, info.offset_data, info.size


def flip(path, byte, bit=0):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def refused(capsys, named, *words):
    """That these arguments give exit code 2 and one line of error that names `named`."""
    assert main([str(word) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"verify_shards: error: .*{named}.*\n", printed.err), printed.err
