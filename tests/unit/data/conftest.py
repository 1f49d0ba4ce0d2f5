"""Small images and tars, made by hand: what the readers should find is known."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image


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
