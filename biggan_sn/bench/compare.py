"""How fast a training step is, alone or against another config in one interleaved run."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from biggan_sn.bench.cost import cost_of_control
from biggan_sn.bench.counts import count
from biggan_sn.bench.norms import worst_norm_error
from biggan_sn.bench.peak import peak_flops, wait
from biggan_sn.bench.phases import break_down
from biggan_sn.bench.plays import PLAYS, Played
from biggan_sn.config import Config
from biggan_sn.data.loader import Batch
from biggan_sn.files import write_whole
from biggan_sn.nn.precision import chosen
from biggan_sn.progress import Advance
from biggan_sn.tables import lookup
from biggan_sn.training.build import build
from biggan_sn.training.environment import describe
from biggan_sn.training.pulse import Pulse
from biggan_sn.training.step import GANStep
from biggan_sn.training.world import World

WARM_UP = 3  # steps that are not timed


@dataclass
class Contender:
    """A config in the ring: what of its step is played, random images, and what each round gave."""

    config: Config
    step: GANStep
    played: Played
    reals: Iterator[Batch]
    pulse: Pulse
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    norm_errors: list[float] = field(default_factory=list)
    number: int = 0

    def advance(self, steps: int) -> None:
        """Plays some steps."""
        for _ in range(steps):
            self.pulse.at(self.number)
            self.played(self.number, self.reals)
            self.number += 1

    def play(self, steps: int) -> None:
        """Plays some steps and notes the mean seconds of one."""
        device = self.step.device
        wait(device)
        wall, processor = time.perf_counter(), time.process_time()
        self.advance(steps)
        wait(device)
        self.wall.append((time.perf_counter() - wall) / steps)
        self.processor.append((time.process_time() - processor) / steps)


def compare(
    configs: Sequence[Config],
    world: World,
    rounds: int,
    steps: int,
    check_norms: bool = False,
    mode: str = "step",
    profile: Path | None = None,
    advance: Advance = lambda count: None,
) -> list[dict[str, object]]:
    """Times a step of every config, or what else of it PLAYS has, `rounds` times `steps` of each in
    turn, on random images.

    Rounds alternate, so that what else a machine is doing falls on all alike. Returns one record
    per config; `speedup` is the first one's seconds over its own, the median over the rounds.
    With `check_norms` also `norm_error`: after each round, how far from 1 the norm of any weight
    was; the median over the rounds, and the most. With `profile` the operations of one more round
    of the first config go to that file, those that took longest above. `advance` is called with the
    number of steps since the last call; there are WARM_UP and `rounds` times `steps` of each.
    """
    contenders = [_enter(config, world, mode) for config in configs]
    for contender in contenders:
        contender.play(WARM_UP)
        advance(WARM_UP)
        contender.wall.clear()
        contender.processor.clear()
    for number in range(rounds):
        for contender in contenders if number % 2 == 0 else contenders[::-1]:
            contender.play(steps)
            advance(steps)
            if check_norms:
                world.pulse.at(contender.number, "checking norms")
                contender.norm_errors.append(worst_norm_error(contender.step))
    environment = describe(world)
    if profile:
        write_whole(profile, _profiled(contenders[0], steps).encode())
    return [
        {"mode": mode, **_record(contender, contenders[0], world, mode), **environment}
        for contender in contenders
    ]


def _profiled(contender: Contender, steps: int) -> str:
    """A table of operations, and on a GPU of kernels."""
    device = contender.step.device
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with torch.profiler.profile(activities=activities) as profiled:
        contender.advance(steps)
        wait(device)
    longest = f"self_{device.type}_time_total"
    return str(profiled.key_averages().table(sort_by=longest, row_limit=60))


def _enter(config: Config, world: World, mode: str) -> Contender:
    step = build(config, world)
    side, images_here = config.data.resolution, config.microbatch("discriminator", world.ranks)
    shape = (images_here, 3, side, side)
    images = torch.rand(shape, device=world.device).mul_(2).sub_(1)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(config.data.num_classes, (images_here,), device=world.device)
    played = lookup(PLAYS, mode, "mode").ready(step)
    return Contender(config, step, played, repeat(Batch(images, labels)), world.pulse)


def _record(contender: Contender, first: Contender, world: World, mode: str) -> dict[str, object]:
    config = contender.config
    seconds = statistics.median(contender.wall)
    ratios = [one / other for one, other in zip(first.wall, contender.wall, strict=True)]
    errors = contender.norm_errors
    memory = _memory(world.device)  # before anything else takes some
    return {
        "sec_per_iter": seconds,
        "sec_range": [min(contender.wall), max(contender.wall)],
        "cpu_sec_per_iter": statistics.median(contender.processor),
        "images_per_s": PLAYS[mode].images(config) / seconds,
        "speedup": statistics.median(ratios),
        "speedup_range": [min(ratios), max(ratios)],
        **({"norm_error": [statistics.median(errors), max(errors)]} if errors else {}),
        **_utilization(config, world, mode, seconds),
        **(_parts(contender) if PLAYS[mode].divided else {}),
        **(_control(contender, seconds) if PLAYS[mode].whole else {}),
        **memory,
    }


def _utilization(config: Config, world: World, mode: str, seconds: float) -> dict[str, Any]:
    """The counts, and which part of what the device can do they are: MFU by the usual form of the
    networks, HFU by what is executed."""
    counts = asdict(count(config, mode, world.ranks))
    precision = chosen(config.precision, world.device)
    peak = peak_flops(world.device, precision)
    return counts | {
        "precision": precision,
        "peak_flops": peak,
        "mfu": counts["model_flops_per_iter"] / seconds / peak,
        "hfu": counts["hw_flops_per_iter"] / seconds / peak,
    }


def _parts(contender: Contender) -> dict[str, Any]:
    """Milliseconds of one step by phase."""
    play = partial(contender.played, contender.number)
    phases = break_down(contender.step, play, contender.reals)
    return {"breakdown_ms": {name: 1e3 * spent for name, spent in phases.items()}}


def _control(contender: Contender, seconds: float) -> dict[str, Any]:
    """What part of a step the control of spectra takes, in all and by kind."""
    step, device = contender.step, contender.step.device
    cost = cost_of_control(
        step, contender.config, lambda: contender.advance(1), lambda: wait(device)
    )
    shares = {"all": sum(cost.values()), **cost}
    return {"control_share": {name: part / seconds for name, part in shares.items()}}


def _memory(device: torch.device) -> Mapping[str, object]:
    if device.type == "cuda":
        return {"peak_mem_gib": torch.cuda.max_memory_allocated(device) / 2**30}
    return {"threads": torch.get_num_threads()}
