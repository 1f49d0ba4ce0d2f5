"""Batches of several processes, put together, and what they should hold."""

import numpy as np
import torch

from biggan_sn.config import DataConfig
from biggan_sn.data.loader import Loader

SIDE = 32
CPU = torch.device("cpu")


def config(index, **options):
    return DataConfig(str(index.root), SIDE, num_classes=len(index.classes), **options)


def take(index, count, start=0, batch_size=12, ranks=1, microbatch=12, seed=0, **options):
    """The first `count` global batches from `start` on: images [N, 3, H, W], labels [N]."""
    loaders = [Loader(index, config(index, **options), seed, CPU) for _ in range(ranks)]
    try:
        streams = [
            loader.batches(start, batch_size, rank, ranks, microbatch)
            for rank, loader in enumerate(loaders)
        ]
        rounds = batch_size // (ranks * microbatch)
        batches = [next(stream) for _ in range(count * rounds) for stream in streams]
    finally:
        for loader in loaders:
            loader.close()
    assert {len(batch.labels) for batch in batches} == {microbatch}
    return torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])


def same(one, other):
    """Whether two takings are alike to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def as_images(pixels):
    """uint8 [N, H, W, 3] -> what a batch should hold."""
    return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
