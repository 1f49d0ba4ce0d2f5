"""From positions to batches: shuffled order, decode threads, augmentation on the device.

The order of epoch e is a permutation that depends on (seed, e) only, and sample p of the job is
entry p of the epochs laid end to end. So a position is all the state there is.
"""

import io
import os
import resource
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from biggan_sn.config import DataConfig
from biggan_sn.data.shards import ShardError, ShardIndex, load_index
from biggan_sn.positions import integers, permutation, shares

CHUNK = 32  # images of one decode task


@dataclass(frozen=True)
class Batch:
    """Images [N, 3, H, W] in [-1, 1] and their classes [N], on the device."""

    images: Tensor
    labels: Tensor


class Order:
    """The image at each position: the epochs, each a permutation of its own, end to end."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self._permute)

    def _permute(self, epoch: int) -> NDArray[np.int64]:
        return permutation(self.seed, f"epoch/{epoch}", self.size)

    def __call__(self, positions: range) -> NDArray[np.int64]:
        """Image numbers [len(positions)]."""
        where = np.arange(positions.start, positions.stop)
        epochs, places = where // self.size, where % self.size
        images = np.empty_like(where)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            images[chosen] = self._epoch(int(epoch))[places[chosen]]
        return images


class Reader:
    """Decodes images of the shards to uint8 [H, W, 3]; safe to call from many threads."""

    def __init__(self, index: ShardIndex, resolution: int) -> None:
        self.index = index
        self.resolution = resolution
        self._files: list[int] = []
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # all shards stay open
        for name in index.names:
            try:
                self._files.append(os.open(index.root / name, os.O_RDONLY))
            except OSError as error:
                self.close()
                raise ShardError(f"{index.root / name}: cannot be opened ({error})") from error

    def close(self) -> None:
        """Closes the shards."""
        for file in self._files:
            os.close(file)
        self._files = []

    def read_into(self, image: int, pixels: NDArray[np.uint8]) -> None:
        """Decodes one image into `pixels` [H, W, 3].

        Raises:
            ShardError: it cannot be read or decoded, or has another size.
        """
        index = self.index
        size = int(index.size[image])
        try:
            data = os.pread(self._files[index.shard[image]], size, int(index.offset[image]))
            if len(data) != size:
                raise ValueError(f"{len(data)} of {size} bytes are there")
            height, width = _check(data)
            if (height, width) == pixels.shape[:2]:
                pixels[:] = _decode(data)
        except Exception as error:  # Pillow raises whatever its parsers trip over
            raise ShardError(f"{index.where(image)}: cannot be decoded ({error})") from error
        if (height, width) != pixels.shape[:2]:
            raise ShardError(
                f"{index.where(image)}: {width}x{height} pixels, but data.resolution is "
                f"{self.resolution}"
            )


def _check(data: bytes) -> tuple[int, int]:
    """Height and width of JPEG or PNG bytes by their header, so that a damaged one cannot ask for
    all memory. Checks a PNG's checksums, which Pillow passes over when it decodes.
    """
    if simplejpeg.is_jpeg(data):
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        return height, width
    image = _open(data)
    image.verify()
    return image.height, image.width


def _decode(data: bytes) -> NDArray[np.uint8]:
    """JPEG or PNG bytes -> uint8 [H, W, 3]. Both decoders release the interpreter lock."""
    if simplejpeg.is_jpeg(data):
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB")
        return pixels
    image = _open(data)
    if image.mode.startswith("I"):  # Pillow would cut all above 255 off
        raise ValueError(f"16 bits of grey, mode {image.mode}")
    return np.asarray(image.convert("RGB"))


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))


class Loader:
    """Batches of one process, in order, decoded ahead by threads.

    Raises (while iterating):
        ShardError: an image that cannot be read.
    """

    def __init__(self, index: ShardIndex, config: DataConfig, seed: int, device: torch.device):
        self.config = config
        self.seed = seed
        self.device = device
        self.order = Order(len(index), seed)
        self.reader = Reader(index, config.resolution)
        self._labels = index.label
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="decode")

    def close(self) -> None:
        """Ends the threads and closes the shards."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.reader.close()

    def batches(
        self, position: int, batch_size: int, rank: int, ranks: int, microbatch: int
    ) -> Iterator[Batch]:
        """The microbatches of `rank` from `position` on, without end."""
        ahead: deque[_Pending] = deque()
        for share in shares(position, batch_size, rank, ranks, microbatch):
            ahead.append(self._start(share))
            if len(ahead) > self.config.prefetch:
                yield self._finish(ahead.popleft())

    def _start(self, positions: range) -> "_Pending":
        images = self.order(positions)
        side = self.config.resolution
        pinned = self.device.type == "cuda"
        pixels = torch.empty((len(images), side, side, 3), dtype=torch.uint8, pin_memory=pinned)
        target = pixels.numpy()

        def decode(chunk: NDArray[np.int64]) -> None:
            for slot in chunk:
                self.reader.read_into(int(images[slot]), target[slot])

        by_place = np.argsort(images)  # read forward through the files
        tasks = [
            self._pool.submit(decode, by_place[i : i + CHUNK]) for i in range(0, len(images), CHUNK)
        ]
        return _Pending(positions, pixels, torch.from_numpy(self._labels[images]), tasks)

    def _finish(self, pending: "_Pending") -> Batch:
        for task in pending.tasks:
            task.result()
        pixels = pending.pixels.to(self.device, non_blocking=True)
        labels = pending.labels.to(self.device, non_blocking=True)
        images = normalize(pixels.permute(0, 3, 1, 2))
        return Batch(self._augment(images, pending.positions), labels)

    def _augment(self, images: Tensor, positions: range) -> Tensor:
        """Flip and shift, by numbers that belong to the position."""
        if self.config.flip:
            flips = torch.from_numpy(integers(self.seed, "flip", positions, 1, 2)[:, 0] == 1)
            flips = flips.to(self.device, non_blocking=True)
            images = torch.where(flips[:, None, None, None], images.flip(3), images)
        if (most := self.config.shift) > 0:
            offsets = integers(self.seed, "shift", positions, 2, 2 * most + 1) - most
            images = shift(images, torch.from_numpy(offsets).to(self.device, non_blocking=True))
        return images


@dataclass(frozen=True)
class _Pending:
    positions: range
    pixels: Tensor
    labels: Tensor
    tasks: list[Future[None]]


def normalize(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> [-1, 1] in torch's default type, fp32."""
    return pixels.to(torch.get_default_dtype()).div_(127.5).sub_(1.0)


def to_pixels(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8 0..255, rounded: the inverse of `normalize`."""
    return images.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Moves each image by its offsets [N, 2] (down, right; pixels); border pixels repeat."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device)[None] - offsets[:, :1]
    columns = torch.arange(width, device=images.device)[None] - offsets[:, 1:]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    numbers = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[numbers, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def open_dataset(config: DataConfig) -> ShardIndex:
    """The index of data.path, checked against the config before anything long starts.

    Raises:
        ShardError: shards that are missing or changed, another number of classes than the config
            has, or images of another size.
    """
    if not config.path:
        raise ShardError("data.path is empty: name the folder of the shards")
    index = load_index(Path(config.path))
    if len(index.classes) != config.num_classes:
        raise ShardError(
            f"{index.root}: {len(index.classes)} classes there, but data.num_classes is "
            f"{config.num_classes}"
        )
    reader = Reader(index, config.resolution)
    try:
        for image in np.unique(index.shard, return_index=True)[1]:  # the first of each shard
            pixels = np.empty((config.resolution, config.resolution, 3), np.uint8)
            reader.read_into(int(image), pixels)
    finally:
        reader.close()
    return index
