"""Scores samples of digits with a small network trained on the real ones: no download, seconds.

The recipe is deterministic: the same machine gives the same network and the same scores.
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
from biggan_sn.evaluation.diversity import diversity
from biggan_sn.evaluation.fidelity import frechet_distance
from biggan_sn.positions import integers, permutation

FEATURES = 64
EPOCHS = 12
BATCH = 50
PRESENT = 0.2  # of an equal share, for a class to count as present
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


@lru_cache(maxsize=1)
def real_scores() -> dict[str, float]:
    """What real digits reach: the accuracy of the network on held-out ones, FID of the training
    digits against them, and how different two held-out digits of one class are."""
    network = trained_network()
    train, held_out = (_tensors(digits) for digits in load_digits())
    features, logits = network(held_out[0])
    return {
        "accuracy": (logits.argmax(1) == held_out[1]).double().mean().item(),
        "fid": frechet_distance(network(train[0])[0], features),
        "diversity": diversity(*held_out),
    }


def score(images: Tensor, labels: Tensor) -> dict[str, float]:
    """Scores of samples [N, 3, 32, 32] in [-1, 1] that were asked to be of `labels` [N].

    accuracy: share the network takes for the class asked for. classes: how many classes it sees
    at least a fifth as often as if all were equal.
    fid: Frechet distance of its features to those of the held-out digits. fid_ratio: that, over
    the one of real training digits. variety: how different two samples of one class are, over the
    same of real ones.
    """
    network, real = trained_network(), real_scores()
    features, logits = network(images)
    seen = logits.argmax(1)
    counts = torch.bincount(seen, minlength=NUM_CLASSES)
    held_out = network(_tensors(load_digits()[1])[0])[0]
    fid = frechet_distance(features, held_out)
    return {
        "accuracy": (seen == labels).double().mean().item(),
        "classes": float((counts >= PRESENT * len(labels) / NUM_CLASSES).sum()),
        "fid": fid,
        "fid_ratio": fid / real["fid"],
        "variety": diversity(images, labels) / real["diversity"],
    }
