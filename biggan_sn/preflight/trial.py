"""Real steps, on real images: what they take, of time and of memory."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from biggan_sn.checkpoint import Checkpoints
from biggan_sn.config import Config
from biggan_sn.data.loader import Batch, Loader
from biggan_sn.data.shards import ShardIndex
from biggan_sn.models.zoo import BUILDERS
from biggan_sn.nn.clock import EXCHANGES, mark, seconds_between
from biggan_sn.nn.norm import BatchNorm2d
from biggan_sn.training.build import build
from biggan_sn.training.saving import moments_of, tensors_of
from biggan_sn.training.step import GANStep
from biggan_sn.training.watch import Watch
from biggan_sn.training.world import World

TIMED = (0, 1)  # steps, after one to warm up
LOADING = 3.0  # seconds for which images are read as fast as they come


class TrialError(ValueError):
    """A step that cannot be played here."""


@dataclass(frozen=True)
class Timing:
    """What a step takes.

    Args:
        images: of one update, on each process.
        microbatches: passes in which D, or G, sees them; the mean of both.
        seconds: of a step, on the slowest process.
        work: of these, what it computes for itself.
        slowest: its rank.
        lag: how much more it computes than the mean, as a part of that.
    """

    images: int
    microbatches: float
    seconds: float
    work: float
    slowest: int
    lag: float


@dataclass(frozen=True)
class Trial:
    """What two steps told.

    Args:
        timings: of the config's batch, and of half of it where it can be halved.
        gradients: bytes of the gradients of G and of D.
        norms: batch norms of G that take sums over processes.
        memory: bytes, the peak of the process that needs most.
        loading: images per second that one process reads and decodes.
        checkpoint: bytes of one.
        writing: seconds that it takes to write.
    """

    timings: tuple[Timing, ...]
    gradients: dict[str, int]
    norms: int
    memory: int
    loading: float
    checkpoint: int
    writing: float


def run_trial(world: World, config: Config, index: ShardIndex, folder: Path) -> Trial:
    """Plays steps of the config, and of one with half its batch; all that is left of them is
    numbers. Every process must call it.

    Raises:
        TrialError: the networks do not fit in memory.
    """
    try:
        whole = _of_batch(world, config, index, folder)
        timings = whole.timings
        if half := _halved(config, world.ranks):
            play = build(half, world)
            timings += (_timing(world, play, half, index),)
            play.close()
    except torch.OutOfMemoryError as error:
        text = f"out of memory on {world.device}: {remedy(config, world.ranks)}"
        raise TrialError(text) from error
    return replace(whole, timings=timings)


def remedy(config: Config, ranks: int) -> str:
    """What to do where a step does not fit in memory."""
    sides = (f"{side}.microbatch {config.microbatch(side, ranks)}" for side in BUILDERS)
    return f"lower {' and '.join(sides)}, or say speed.recompute '[generator, discriminator]'"


def _of_batch(world: World, config: Config, index: ShardIndex, folder: Path) -> Trial:
    """What the batch of the config tells. Its networks are gone when others come."""
    play = build(config, world)
    timing = _timing(world, play, config, index)
    (memory,) = world.most(_peak(world.device))
    written, seconds = _checkpoint(world, config, play, folder)
    networks = {"G": play.g.network, "D": play.d.network}
    gradients = {n: sum(4 * p.numel() for p in net.parameters()) for n, net in networks.items()}
    norms = sum(_crosses_processes(module) for module in networks["G"].modules())
    play.close()
    loading = _loading(world, config, index)
    return Trial((timing,), gradients, norms, int(memory), loading, written, seconds)


def _crosses_processes(module: nn.Module) -> bool:
    """Whether this is a batch norm whose statistics are those of several processes."""
    sharing = module.sharing if isinstance(module, BatchNorm2d) else None
    return any(group is not None for _, group in (sharing or {}).values())


def _timing(world: World, play: GANStep, config: Config, index: ShardIndex) -> Timing:
    images = config.batch_size // world.ranks
    microbatches = {side: config.microbatch(side, world.ranks) for side in BUILDERS}
    passes = images // microbatches["discriminator"]
    with _batches(world, config, index, microbatches["discriminator"]) as reals:
        shares = [next(reals) for _ in range(config.d_steps * passes)]
    _play(world, play, 0, shares)  # to warm up
    times = [_play(world, play, step, shares) for step in TIMED]
    seconds, work = (in_the_long_run(config, *column) for column in zip(*times, strict=True))
    works = [row[0] for row in world.gather(work)]
    slowest = max(range(len(works)), key=works.__getitem__)
    lag = works[slowest] * len(works) / sum(works) - 1
    (longest,) = world.most(seconds)
    rounds = sum(images / microbatch for microbatch in microbatches.values()) / 2
    return Timing(images, rounds, longest, works[slowest], slowest, lag)


def _play(world: World, play: GANStep, step: int, shares: list[Batch]) -> tuple[float, float]:
    """Seconds of a step whose images are there, and those in which this process computed."""
    world.wait()
    EXCHANGES.read()
    EXCHANGES.on = True
    first = mark(world.device)
    with world.pulse.busy("playing a trial step"):
        play(step, iter(shares))
        whole = seconds_between(first, mark(world.device))
    EXCHANGES.on = False
    return whole, max(0.0, whole - EXCHANGES.read())


def penalised(config: Config, step: int) -> int:
    """How many of D's updates in a step are penalised."""
    updates = range(step * config.d_steps, (step + 1) * config.d_steps)
    return sum(update % config.penalty_every == 0 for update in updates) if config.penalties else 0


def in_the_long_run(config: Config, first: float, second: float) -> float:
    """The mean of what a step takes, of what those in TIMED took. With lazy penalties the first has
    them and the second may not; a step has `d_steps / penalty_every` of them in the mean."""
    most, least = (penalised(config, step) for step in TIMED)
    if most == least:
        return (first + second) / 2
    each = (first - second) / (most - least)
    return second + each * (config.d_steps / config.penalty_every - least)


@contextmanager
def _batches(
    world: World, config: Config, index: ShardIndex, microbatch: int
) -> Iterator[Iterator[Batch]]:
    loader = Loader(index, config.data, config.seed, world.device)
    try:
        yield loader.batches(0, config.batch_size, world.rank, world.ranks, microbatch)
    finally:
        loader.close()


def _halved(config: Config, ranks: int) -> Config | None:
    """The config with half the images in each pass, where that is possible."""
    sides = {side: config.microbatch(side, ranks) for side in BUILDERS}
    if any(images % 2 for images in sides.values()) or config.model.norm_batch:
        return None
    players = {side: replace(getattr(config, side), microbatch=n // 2) for side, n in sides.items()}
    return replace(config, batch_size=config.batch_size // 2, **players)


def _peak(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _loading(world: World, config: Config, index: ShardIndex) -> float:
    """Images per second of the process that reads slowest, while all read."""
    count = 0
    with _batches(world, config, index, config.microbatch("discriminator", world.ranks)) as reals:
        next(reals)
        world.wait()
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < LOADING:
            count += len(next(reals).labels)
    return -world.most(-count / elapsed)[0]


def _checkpoint(world: World, config: Config, play: GANStep, folder: Path) -> tuple[int, float]:
    """Bytes of a checkpoint, and seconds to write it. Every process must call it."""
    moments = moments_of(play)
    written, seconds = 0, 0.0
    if world.leads:
        spectra = {"G": play.g_constraint.spectrum, "D": play.d_constraint.spectrum}
        watch = Watch(config, play, spectra, world)
        tensors = tensors_of(play, spectra, watch.detector) | moments
        with TemporaryDirectory(dir=folder, prefix=".preflight-") as place:
            start = time.perf_counter()
            path = Checkpoints(Path(place)).save(0, tensors, {})
            seconds = time.perf_counter() - start
            written = sum(file.stat().st_size for file in path.iterdir())
    total, longest = world.most(written, seconds)
    return int(total), longest
