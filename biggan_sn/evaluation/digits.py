"""A small network that knows the digits, trained on the real ones: no download, seconds.

The recipe is deterministic: the same machine gives the same network and the same features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan_sn.data.digits import NUM_CLASSES, Digits, load_digits
from biggan_sn.data.loader import normalize, shift
from biggan_sn.positions import integers, permutation

FEATURES = 64
EPOCHS = 12
BATCH = 50
SHIFT = 2  # pixels; so that the features do not hang on the exact place of a digit


class DigitsNetwork(nn.Module):
    """Strided convolutions and two linear maps: images -> features [N, 64], logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 64)
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in pairwise(widths)
        )
        self.features = nn.Linear(widths[-1] * 16, FEATURES)
        self.logits = nn.Linear(FEATURES, NUM_CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images [N, 3, 32, 32] in [-1, 1]."""
        h = images.mean(1, keepdim=True)
        for conv in self.convs:
            h = conv(h)
        features = F.relu(self.features(h.flatten(1)))
        return features, self.logits(features)


@lru_cache(maxsize=1)
@torch.enable_grad()
def trained_network() -> DigitsNetwork:
    """The network, trained on the digits that are not held out."""
    images, labels = _tensors(load_digits()[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DigitsNetwork()
    with _one_thread():
        _train(network, images, labels)
    return network.eval().requires_grad_(False)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over several threads round otherwise, and every machine has another number of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(network: DigitsNetwork, images: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for epoch in range(EPOCHS):
        order = torch.from_numpy(permutation(epoch, "digits order", len(labels)))
        moves = integers(epoch, "digits shifts", range(len(labels)), 2, 2 * SHIFT + 1) - SHIFT
        moved = shift(images, torch.from_numpy(moves))
        for chosen in order.split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(network(moved[chosen])[1], labels[chosen]).backward()
            optimizer.step()


def _tensors(digits: Digits) -> tuple[Tensor, Tensor]:
    images = normalize(torch.from_numpy(digits.images).permute(0, 3, 1, 2))
    return images, torch.from_numpy(digits.labels)
