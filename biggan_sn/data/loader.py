"""From pixels in memory to batches on the device, and whether a data set fits a config."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan_sn.config import DataConfig
from biggan_sn.data.damage import Careful
from biggan_sn.data.decoding import Decoded, Decoder
from biggan_sn.data.reader import Reader
from biggan_sn.data.shards import ShardError, ShardIndex, load_index
from biggan_sn.data.stores import open_store
from biggan_sn.data.subset import choose
from biggan_sn.positions import integers

LOOKS = 8  # shards that are looked into before a run, if they are far away


@dataclass(frozen=True)
class Batch:
    """Images [N, 3, H, W] in [-1, 1] and their classes [N], on the device."""

    images: Tensor
    labels: Tensor


class Loader:
    """Batches of one process, in order, decoded ahead by threads.

    Args:
        index: of the shards.
        config: how they are read.
        seed: of the order and of what is done to the images.
        device: where the batches go.

    Raises:
        ShardError: the shards lie where nothing can be read from; while iterating: an image that
            cannot be read.
    """

    def __init__(
        self, index: ShardIndex, config: DataConfig, seed: int, device: torch.device
    ) -> None:
        self.config = config
        self.seed = seed
        self.device = device
        self._decoder = Decoder(index, config, seed, device.type == "cuda")
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def close(self) -> None:
        """Ends the threads and closes the shards."""
        self._decoder.close()

    def batches(
        self, position: int, batch_size: int, rank: int, ranks: int, microbatch: int
    ) -> Iterator[Batch]:
        """The microbatches of `rank` from `position` on, without end."""
        decoded = self._decoder.decoded(position, batch_size, rank, ranks, microbatch)
        return map(self._beside if self._stream else self._on_device, decoded)

    def _beside(self, decoded: Decoded) -> Batch:
        """A batch that a GPU takes in while it works off what it was told before."""
        assert self._stream is not None
        with torch.cuda.stream(self._stream):
            batch = self._on_device(decoded)
        using = torch.cuda.current_stream(self.device)
        using.wait_stream(self._stream)
        for tensor in (batch.images, batch.labels):
            tensor.record_stream(using)  # its memory is not free before that work is done
        return batch

    def _on_device(self, decoded: Decoded) -> Batch:
        pixels = send(decoded.pixels, self.device)
        labels = send(decoded.labels, self.device)
        images = normalize(pixels.permute(0, 3, 1, 2))
        return Batch(self._augment(images, decoded.positions), labels)

    def _augment(self, images: Tensor, positions: range) -> Tensor:
        """Flip and shift, by numbers that belong to the position."""
        if self.config.flip:
            flips = torch.from_numpy(integers(self.seed, "flip", positions, 1, 2)[:, 0] == 1)
            flips = send(flips, self.device)
            images = torch.where(flips[:, None, None, None], images.flip(3), images)
        if (most := self.config.shift) > 0:
            offsets = integers(self.seed, "shift", positions, 2, 2 * most + 1) - most
            images = shift(images, send(torch.from_numpy(offsets), self.device))
        return images


def send(x: Tensor, device: torch.device) -> Tensor:
    """`x` on the device. A GPU copies it by itself, from pinned memory: from any other the program
    would first wait until all work that it was told is done."""
    if device.type == "cuda":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


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
    """The index of data.path, or of the part of it that is asked for, checked against the config
    before anything long starts.

    Raises:
        ShardError: shards that are missing or changed, another number of classes than the config
            has, images of another size, or a way to read them that does not go with them.
    """
    if not config.path:
        raise ShardError("data.path is empty: name the folder of the shards")
    index = choose(load_index(Path(config.path)), config.classes, config.images)
    if len(index.classes) != config.num_classes:
        raise ShardError(
            f"{index.root}: {len(index.classes)} classes there, but data.num_classes is "
            f"{config.num_classes}: give --data.num_classes {len(index.classes)}"
        )
    _check_order(index, config)
    reader = Reader(index, config.resolution, open_store(index, config.command))
    careful = Careful(reader, config.damaged, config.damaged_share)
    pixels = np.empty((config.resolution, config.resolution, 3), np.uint8)
    try:
        for image in _looked_at(index).tolist():
            careful.read_into(image, pixels)
    finally:
        reader.close()
    return index


def _check_order(index: ShardIndex, config: DataConfig) -> None:
    if index.url and not config.chunk:
        raise ShardError(
            f"{index.root}: its shards are at {index.url}, where single images are slow to fetch: "
            "set data.chunk, to 16 or 64 for example"
        )
    if config.balanced and config.chunk:
        raise ShardError("data.balanced takes images from everywhere, and does not go with chunks")
    counts = np.bincount(index.label, minlength=len(index.classes))
    if config.balanced and not counts.all():
        name = index.classes[int(counts.argmin())]
        raise ShardError(f"{index.root}: class {name!r} has no image to be balanced with")


def _looked_at(index: ShardIndex) -> NDArray[np.int64]:
    """The first image of each shard; where shards are far away, of a few."""
    first = np.unique(index.shard, return_index=True)[1]
    if index.url and len(first) > LOOKS:
        return first[np.linspace(0, len(first) - 1, LOOKS).astype(int)]
    return first
