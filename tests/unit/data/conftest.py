"""Small images and tars, made by hand: what the readers should find is known."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from biggan_sn.data.shards import build_index, save_index
from tests.unit.data.streams import SIDE


@pytest.fixture(scope="session")
def encode():
    """(pixels uint8 [H, W] or [H, W, 3], format, **options) -> an image file's bytes."""

    def encode_(pixels, form="PNG", **options):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, form, **options)
        return out.getvalue()

    return encode_


@pytest.fixture(scope="session")
def tar_bytes():
    """[(name, bytes or TarInfo)] -> a tar file's bytes."""

    def tar_bytes_(members, form=tarfile.USTAR_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name, content in members:
                info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
                data = b"" if info is content else content
                info.name, info.size = name, len(data)
                tar.addfile(info, io.BytesIO(data))
        return out.getvalue()

    return tar_bytes_


@pytest.fixture(scope="session")
def noise():
    """Ten noise images uint8 [10, 32, 32, 3]: no two alike, and too busy to compress."""
    return np.random.default_rng(3).integers(0, 256, (10, 32, 32, 3), np.uint8)


@pytest.fixture(scope="session")
def write_shards(tar_bytes):
    """(folder, image files) -> their index; sample i has label i % 3, seven to a shard."""

    def write_shards_(folder, files):
        folder.mkdir(exist_ok=True)
        for first in range(0, len(files), 7):
            members = []
            for number in range(first, min(first + 7, len(files))):
                members.append((f"{number:04d}.png", files[number]))
                members.append((f"{number:04d}.cls", str(number % 3).encode()))
            (folder / f"{first:04d}.tar").write_bytes(tar_bytes(members))
        index = build_index(folder)
        save_index(index)
        return index

    return write_shards_


@pytest.fixture(scope="session")
def pictures():
    """Twenty images uint8 [20, 32, 32, 3], no two alike and none like its mirror image."""
    return np.random.default_rng(8).integers(0, 256, (20, SIDE, SIDE, 3), np.uint8)
