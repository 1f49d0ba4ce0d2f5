"""dataset_stats with an extractor that is quick, or slow enough to be stopped:

python -m tests.unit.data_tools.features SECONDS_PER_BATCH SAVE_EVERY ARGUMENTS
"""

import re
import sys
import time

import torch

from biggan_sn.evaluation import reference
from biggan_sn.evaluation.extractors import EXTRACTORS, Extractor
from data_tools import dataset_stats
from tests.unit.data_tools.shardsets import file_of, noise, write_set

DIM = 5
IMAGES = 30
BATCH = 4


def colours(images):
    """[N, 5]: of each image a few of its colours, bent so that nothing is Gaussian."""
    flat = images.flatten(1)[:, :: images[0].numel() // DIM][:, :DIM]
    return (flat / 255).sin() + flat[:, :1] / 1000


def row(seconds):
    """A row of EXTRACTORS that takes its time; its two logits are its first two features."""

    def extract(images):
        time.sleep(seconds)
        found = colours(images)
        return found, found[:, :2]

    return lambda weights, device: Extractor("colours", extract, DIM, 2, "none")


def noise_set(folder):
    """Thirty PNGs of noise in two shards."""
    samples = [
        (f"{n:04d}", "png", file_of(noise(n), "PNG"), [0, 1, 0, 2, 0][n % 5]) for n in range(IMAGES)
    ]
    return write_set(folder, samples[:13], samples[13:])


def run(folder, out, *options):
    words = [folder, "--out", out, "--extractor", "colours", "--batch", BATCH, *options]
    return dataset_stats.main([str(word) for word in words])


def refused(capsys, named, folder, out, *options):
    """That these arguments give exit code 2 and one line of error that names `named`."""
    assert run(folder, out, *options) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"dataset_stats: error: .*{named}.*\n", printed.err), printed.err


if __name__ == "__main__":
    torch.set_num_threads(1)
    EXTRACTORS["colours"] = row(float(sys.argv[1]))
    reference.SAVE_EVERY = float(sys.argv[2])
    raise SystemExit(dataset_stats.main(sys.argv[3:]))
