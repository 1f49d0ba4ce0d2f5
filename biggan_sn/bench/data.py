"""How fast images are read and decoded, in turns with the pipeline that most would write."""

import io
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from biggan_sn.config import Config, DataConfig
from biggan_sn.data.decoding import Decoder
from biggan_sn.data.loader import open_dataset
from biggan_sn.data.reader import JPEG
from biggan_sn.data.shards import ShardIndex, build_index, save_index
from biggan_sn.data.stores import open_store
from biggan_sn.positions import integers

IMAGES = 4096  # that are made where no shards are given
BATCH = 256
QUALITY = 90  # of the JPEGs that are made
PIPELINE = "webdataset, PIL, transforms"


@dataclass
class Contender:
    """One way to read.

    Args:
        read: reads about so many images; returns how many it was.
        processor, wall: images per second, of each round.
    """

    read: Callable[[int], int]
    processor: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def round(self, images: int) -> None:
        """Reads, and notes how fast: by seconds of all processors, and by the clock."""
        processor, wall = time.process_time(), time.perf_counter()
        count = self.read(images)
        self.processor.append(count / (time.process_time() - processor))
        self.wall.append(count / (time.perf_counter() - wall))


def time_reading(config: Config, rounds: int, images: int) -> Iterator[dict[str, object]]:
    """One record for the shards of the config, or, where it names none, one each for JPEGs and
    for raw images that are made of the two photographs in scikit-learn.

    In each round all contenders read `images` images, one after another: this package's decoder,
    webdataset with what most would put behind it (without torchvision that is left out, and said),
    and the decoder's library alone, on one image after another that are in memory already.
    """
    torch.set_num_threads(1)  # to share single images out over threads only costs
    if config.data.path:
        yield _race(open_dataset(config.data), config.data, rounds, images)
        return
    for extension in ("jpg", "rgb"):
        with made(config.data.resolution, extension) as index:
            classes = len(index.classes)
            data = replace(config.data, path=str(index.root), num_classes=classes)
            yield {"made_of": extension} | _race(index, data, rounds, images)


def _race(index: ShardIndex, config: DataConfig, rounds: int, images: int) -> dict[str, object]:
    contenders = {"biggan_sn": Contender(lambda count: _decode(index, config, count))}
    left_out = {}
    if not index.url and not index.raw.any():
        if reason := _no_torchvision():
            left_out[PIPELINE] = reason
        else:
            contenders[PIPELINE] = Contender(lambda count: _pipeline(index, count))
    encoded = _in_memory(index, config)
    if all(data[:3] == JPEG for data in encoded):
        contenders["decoding alone"] = Contender(lambda count: _bare(encoded, config, count))
    for number in range(rounds + 1):
        for contender in list(contenders.values())[:: 1 if number % 2 else -1]:
            contender.round(images if number else BATCH)  # the first to warm up
    first = contenders["biggan_sn"]
    return {
        "resolution": config.resolution,
        "bytes": float(index.size.mean()),
        "threads": config.threads,
        **{name: _record(first, contender) for name, contender in contenders.items()},
        **({"left_out": left_out} if left_out else {}),
    }


def _record(first: Contender, contender: Contender) -> dict[str, object]:
    """Images per second and core, and by the clock; how many times as fast the first is per core,
    the median of the rounds and the range."""
    processor, wall = contender.processor[1:], contender.wall[1:]
    ratios = [a / b for a, b in zip(first.processor[1:], processor, strict=True)]
    record: dict[str, object] = {
        "per_core": statistics.median(processor),
        "best_per_core": max(processor),
        "by_the_clock": statistics.median(wall),
    }
    if contender is not first:
        record |= {"times": statistics.median(ratios), "range": [min(ratios), max(ratios)]}
    return record


def _decode(index: ShardIndex, config: DataConfig, images: int) -> int:
    """By this package's decoder, up to where a batch would go to the device."""
    decoder = Decoder(index, replace(config, prefetch=2), 0, torch.cuda.is_available())
    batches = -(-images // BATCH)
    for _ in islice(decoder.decoded(0, BATCH, 0, 1, BATCH), batches):
        pass
    decoder.close()
    return (batches + 2) * BATCH  # with those decoded ahead; closing waits for them


def _bare(encoded: list[bytes], config: DataConfig, images: int) -> int:
    pixels = np.empty((BATCH, config.resolution, config.resolution, 3), np.uint8)
    for number in range(images):
        data = encoded[number % len(encoded)]
        simplejpeg.decode_jpeg(data, "RGB", buffer=pixels[number % BATCH])
    return images


def _in_memory(index: ShardIndex, config: DataConfig) -> list[bytes]:
    store = open_store(index, config.command)
    chosen = np.linspace(0, len(index) - 1, min(len(index), 8 * BATCH)).astype(int)
    spans = (index.shard[chosen], index.offset[chosen], index.size[chosen])
    data = [store.read(*map(int, span)) for span in zip(*spans, strict=True)]
    store.close()
    return data


def _pipeline(index: ShardIndex, images: int) -> int:
    """What the tutorials of webdataset and torchvision would have one write."""
    import webdataset
    from torchvision import transforms  # type: ignore[import-untyped,unused-ignore]

    transform = transforms.Compose(
        [
            lambda data: Image.open(io.BytesIO(data)).convert("RGB"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    urls = [index.path(shard) for shard in range(len(index.names))]
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=None)
        .shuffle(1000)
        .to_tuple("jpg;jpeg;png", "cls")
        .map_tuple(transform, int)
        .batched(BATCH)
        .repeat()
    )
    batches = -(-images // BATCH)
    count = 0
    for batch in islice(webdataset.WebLoader(dataset, batch_size=None, num_workers=0), batches):
        count += len(batch[0])
    return count


def _no_torchvision() -> str:
    """Why there is no torchvision here; empty where there is."""
    try:
        import torchvision  # type: ignore[import-untyped,unused-ignore]  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # or it is of another torch
        return str(error).partition("\n")[0]
    return ""


@contextmanager
def made(resolution: int, extension: str) -> Iterator[ShardIndex]:
    """Shards of random crops of the two photographs, in a folder that is gone afterwards.

    Args:
        resolution: side of the images, pixels.
        extension: jpg, or rgb for raw ones.
    """
    import webdataset

    encode = ENCODINGS[extension]
    with TemporaryDirectory() as name:
        root = Path(name)
        pictures = _crops(resolution)
        for shard in range(4):
            path = root / f"{shard:06d}.tar"
            with path.open("wb") as file, webdataset.TarWriter(file, mtime=0) as tar:
                for number in range(shard * IMAGES // 4, (shard + 1) * IMAGES // 4):
                    sample: dict[str, Any] = {"__key__": f"{number:08d}"}
                    sample[extension] = encode(next(pictures))
                    tar.write(sample | {"cls": str(number % 10).encode()})
        index = build_index(root)
        save_index(index)
        yield index


def _crops(resolution: int) -> Iterator[Image.Image]:
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    for side, left, top in integers(0, "crops", range(IMAGES), 3, 1 << 20):
        picture = pictures[side % len(pictures)]
        width, height = picture.size
        length = 160 + side % (height - 160)
        x, y = left % (width - length + 1), top % (height - length + 1)
        box = (int(x), int(y), int(x + length), int(y + length))
        yield picture.resize((resolution, resolution), Image.Resampling.BOX, box)


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


ENCODINGS: dict[str, Callable[[Image.Image], bytes]] = {
    "jpg": _jpeg,
    "rgb": lambda image: np.asarray(image).tobytes(),
}
