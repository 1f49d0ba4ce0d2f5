"""Which form of each resampling convolution is the fastest on this machine."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from biggan_sn.bench.peak import wait
from biggan_sn.config import Config
from biggan_sn.models.discriminator import Discriminator
from biggan_sn.models.generator import Generator
from biggan_sn.models.zoo import BUILDERS
from biggan_sn.nn.layers import lay_out
from biggan_sn.nn.precision import autocast, chosen
from biggan_sn.nn.resample import ResamplingConv2d

# Images that a network sees in most passes, in microbatches of its player: D real and fake at once.
BATCHES = {"generator": 1, "discriminator": 2}


def time_layers(
    config: Config, device: torch.device, ranks: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """One record per layer: milliseconds of a pass forward and backward in each of its forms, the
    median of interleaved rounds, and the fastest."""
    precision = chosen(config.precision, device)
    for side, build in BUILDERS.items():
        images = BATCHES[side] * config.microbatch(side, ranks)
        with torch.device("meta"):
            network = build(config)
        for name, layer in network.named_modules():
            if isinstance(layer, ResamplingConv2d):
                shape = _input_shape(network, name, layer, images)
                seconds = _race(layer, shape, precision, device, rounds)
                yield {
                    "network": side,
                    "layer": name,
                    "resampling": layer.resampling,
                    "kernel_size": layer.kernel_size[0],
                    "out_channels": layer.out_channels,
                    "input": list(shape),
                    "ms": {form: 1e3 * spent for form, spent in seconds.items()},
                    "fastest": min(seconds, key=seconds.__getitem__),
                }


def table_of(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The fastest form of each layer by network: what speed.forms reads."""
    table: dict[str, dict[str, str]] = {side: {} for side in BUILDERS}
    for record in records:
        table[record["network"]][record["layer"]] = record["fastest"]
    return table


def _input_shape(
    network: Generator | Discriminator, name: str, layer: ResamplingConv2d, images: int
) -> tuple[int, int, int, int]:
    """A convolution of one pixel is said to see the smaller image, any other one the larger."""
    small = network.sides()[name] // (1 if layer.kernel_size == (1, 1) else 2)
    side = small if layer.resampling == "double" else 2 * small
    return images, layer.in_channels, side, side


def _race(
    layer: ResamplingConv2d,
    shape: tuple[int, int, int, int],
    precision: str,
    device: torch.device,
    rounds: int,
) -> dict[str, float]:
    channels, size = (layer.in_channels, layer.out_channels), layer.kernel_size[0]
    with torch.device(device):
        contender = lay_out(ResamplingConv2d(layer.resampling, *channels, size))
        images = torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_()
    spent: dict[str, list[float]] = {form: [] for form in contender.forms}
    for number in range(rounds + 1):
        for form in list(spent)[:: 1 if number % 2 else -1]:
            contender.form = form
            seconds = _pass(contender, images, precision)
            if number:  # the first is for warming up
                spent[form].append(seconds)
    return {form: statistics.median(seconds) for form, seconds in spent.items()}


def _pass(layer: ResamplingConv2d, images: Tensor, precision: str) -> float:
    wait(images.device)
    start = time.perf_counter()
    with autocast(images.device.type, precision):
        out = layer(images)
    torch.autograd.grad(out, [images, *layer.parameters()], torch.ones_like(out))
    wait(images.device)
    return time.perf_counter() - start
