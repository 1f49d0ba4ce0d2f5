"""Opens images wherever they are: shards, a folder of pictures, arrays."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biggan_sn.data.looking import find_resolution
from biggan_sn.data.reader import Pixels, Reader
from biggan_sn.data.shards import INDEX_NAME, ShardIndex, load_index
from biggan_sn.data.stores import open_store
from biggan_sn.evaluation.images import Stored
from biggan_sn.run_folder import CHECKPOINTS

SUFFIXES = (".png", ".jpg", ".jpeg")
ARRAYS = (("images", "labels"), ("arr_0", "arr_1"))  # ours, and those of guided-diffusion
UNKNOWN = -1  # label of an image of which no class is known
SAMPLE = re.compile(r"class(\d+)_\d+\.png$")  # as `sampling.write` names them


def shard_images(index: ShardIndex, resolution: int, command: str = "", threads: int = 0) -> Stored:
    """The images of an index, in its order.

    Args:
        index: of the shards.
        resolution: side of the images, pixels.
        command: as in DataConfig.
        threads: that decode; as many as cores by default.
    """
    reader = Reader(index, resolution, open_store(index, command))

    def identity() -> dict[str, str]:
        crcs = hashlib.sha256(index.crc.tobytes()).hexdigest()
        return {"index": index.fingerprint, "images": crcs}

    labels = index.label.astype(np.int64)
    size = (resolution, resolution)
    return Stored(labels, tuple(index.classes), size, reader.read_into, identity, threads)


def holds_images(path: Path) -> bool:
    """Whether there are images at `path`, as far as names tell; a run's folder holds none."""
    if path.suffix == ".npz":
        return path.is_file()
    if not path.is_dir() or (path / CHECKPOINTS).is_dir():
        return False
    return (path / INDEX_NAME).is_file() or next(_pictures(path), None) is not None


def _pictures(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def open_images(path: Path) -> Stored:
    """The images at `path`: a folder of shards, a folder of PNGs and JPEGs (in one folder per
    class, or of no known class), or a .npz with arrays `images` or `arr_0` uint8 [N, H, W, 3] and,
    if classes are known, `labels` or `arr_1` [N].

    Raises:
        ValueError: there is nothing like that, or not all of one size.
    """
    if path.suffix == ".npz" and path.is_file():
        return _open_arrays(path)
    if (path / INDEX_NAME).is_file():
        index = load_index(path)
        side = find_resolution(index)
        if side is None:
            raise ValueError(f"{path}: none of its images can be read")
        return shard_images(index, side)
    if path.is_dir():
        return _open_folder(path)
    raise ValueError(f"{path}: no folder of shards or images, and no .npz")


def _open_folder(folder: Path) -> Stored:
    paths = sorted(_pictures(folder))
    if not paths:
        raise ValueError(f"{folder}: neither shards nor images there ({', '.join(SUFFIXES)})")
    labels, classes = _classes_of([path.relative_to(folder) for path in paths])
    with _opened(paths[0]) as first:
        size = (first.height, first.width)

    def read(number: int, pixels: Pixels) -> None:
        with _opened(paths[number]) as image:
            if (image.height, image.width) != size:
                raise ValueError(
                    f"{paths[number]}: {image.width}x{image.height} pixels, but {paths[0]} has "
                    f"{size[1]}x{size[0]}: all must be of one size"
                )
            try:
                pixels[:] = np.asarray(image.convert("RGB"))
            except (OSError, SyntaxError) as error:
                raise ValueError(f"{paths[number]}: cannot be decoded ({error})") from error

    def identity() -> dict[str, str]:
        digest = hashlib.sha256()
        for path in paths:
            digest.update(f"{path.relative_to(folder)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return {"images": digest.hexdigest()}

    return Stored(labels, classes, size, read, identity)


def _classes_of(paths: Sequence[Path]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and names of classes: as the first folder of each path, or the name of a sample of
    ours, says."""
    samples = [SAMPLE.match(path.name) for path in paths]
    if all(samples):
        labels = np.array([int(sample[1]) for sample in samples if sample])
        return labels, tuple(map(str, range(labels.max() + 1)))
    names = [path.parts[0] if len(path.parts) > 1 else "" for path in paths]
    classes = tuple(sorted(set(names) - {""}))
    numbers = {name: number for number, name in enumerate(classes)} | {"": UNKNOWN}
    return np.array([numbers[name] for name in names]), classes


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=("PNG", "JPEG"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened as a PNG or JPEG ({error})") from error


def _open_arrays(path: Path) -> Stored:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found = [pair for pair in ARRAYS if pair[0] in stored]
            if not found:
                others = ", ".join(stored)
                raise ValueError(f"no array is called images or arr_0, but {others}")
            images = stored[found[0][0]]
            labels = stored.get(found[0][1], np.full(len(images), UNKNOWN))
    except Exception as error:  # a damaged zip raises whatever its reader trips over
        raise ValueError(f"{path}: cannot be read ({error})") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise ValueError(
            f"{path}: images must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels must be one number for each image")
    classes = tuple(map(str, range(int(labels.max()) + 1)))

    def read(number: int, pixels: Pixels) -> None:
        pixels[:] = images[number]

    def identity() -> dict[str, str]:
        digest = hashlib.sha256(np.ascontiguousarray(images).tobytes())
        digest.update(labels.astype(np.int64).tobytes())
        return {"images": digest.hexdigest()}

    return Stored(labels.astype(np.int64), classes, images.shape[1:3], read, identity)
