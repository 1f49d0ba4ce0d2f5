"""Whether sums over all processes are right, and how fast."""

import time
from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist

from biggan_sn.preflight.findings import FAILS, NOTE, OK, Finding, size
from biggan_sn.training.world import World

PERIOD = 251  # of the numbers summed: prime, and small enough for 65 thousand ranks in fp32
ROUNDS = 7  # the median counts


@dataclass(frozen=True)
class Exchange:
    """How long an all-reduce takes: latency + 2 (n - 1) / n x bytes / bandwidth.

    Args:
        ranks: processes that took part.
        latency: seconds for one number.
        bandwidth: bytes per second of the bus, as nccl-tests has it.
    """

    ranks: int
    latency: float
    bandwidth: float


def measure_exchange(world: World, largest: int) -> tuple[Finding, Exchange | None]:
    """Sums over all processes. Every process must call it.

    Args:
        world: the processes.
        largest: bytes of the largest sum of a step.
    """
    if world.ranks == 1:
        return Finding("exchange", NOTE, "one process: nothing to exchange, nothing measured"), None
    wrong = [row[0] for row in world.gather(float(_wrong(world, largest)))]
    if any(wrong):
        ranks = ", ".join(str(rank) for rank, count in enumerate(wrong) if count)
        text = f"an all-reduce of {size(largest)} came out wrong on rank {ranks}: hardware or NCCL"
        return Finding("exchange", FAILS, text), None
    latency = _seconds(world, 4)
    seconds = max(_seconds(world, largest) - latency, 1e-9)
    bandwidth = 2 * (world.ranks - 1) / world.ranks * largest / seconds
    text = (
        f"all-reduce of {size(largest)} right on all ranks: {size(bandwidth)}/s on the bus, "
        f"latency {latency * 1e6:.0f} us"
    )
    return Finding("exchange", OK, text), Exchange(world.ranks, latency, bandwidth)


def _wrong(world: World, amount: int) -> int:
    """How many numbers of a sum over all ranks are not what they must be; fp32 holds them all."""
    numbers = torch.arange(amount // 4, device=world.device) % PERIOD
    mine = ((numbers + world.rank) % PERIOD).float()
    dist.all_reduce(mine)
    expected = torch.zeros(PERIOD, device=world.device)
    for rank in range(world.ranks):
        expected += (torch.arange(PERIOD, device=world.device) + rank) % PERIOD
    return int((mine != expected[numbers]).sum())


def _seconds(world: World, amount: int) -> float:
    """The median over some rounds, of the process that took longest."""
    numbers = torch.zeros(max(1, amount // 4), device=world.device)
    seconds = []
    for _ in range(ROUNDS):
        world.wait()
        _finish(world)
        start = time.perf_counter()
        dist.all_reduce(numbers)
        _finish(world)
        seconds.append(time.perf_counter() - start)
    (longest,) = world.most(median(seconds))
    return longest


def _finish(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
