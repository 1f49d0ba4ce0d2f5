"""How fast a training step is, alone or against another config in one interleaved run."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import torch

from biggan_sn.bench.cost import cost_of_control
from biggan_sn.bench.norms import worst_norm_error
from biggan_sn.config import Config
from biggan_sn.data.loader import Batch
from biggan_sn.training.build import build
from biggan_sn.training.pulse import Pulse
from biggan_sn.training.step import GANStep
from biggan_sn.training.world import World

WARM_UP = 3  # steps that are not timed


@dataclass
class Contender:
    """A config in the ring: its step, random images, and what each round gave."""

    config: Config
    step: GANStep
    reals: Iterator[Batch]
    pulse: Pulse
    wall: list[float]
    processor: list[float]
    norm_errors: list[float] = field(default_factory=list)
    played: int = 0

    def advance(self, steps: int) -> None:
        """Plays some steps."""
        for _ in range(steps):
            self.pulse.at(self.played)
            self.step(self.played, self.reals)
            self.played += 1

    def play(self, steps: int) -> None:
        """Plays some steps and notes the mean seconds of one."""
        device = self.step.device
        _synchronize(device)
        wall, processor = time.perf_counter(), time.process_time()
        self.advance(steps)
        _synchronize(device)
        self.wall.append((time.perf_counter() - wall) / steps)
        self.processor.append((time.process_time() - processor) / steps)


def compare(
    configs: Sequence[Config], world: World, rounds: int, steps: int, check_norms: bool = False
) -> list[dict[str, object]]:
    """Times a step of every config, `rounds` times `steps` of each in turn, on random images.

    Rounds alternate, so that what else a machine is doing falls on all alike. Returns one record
    per config; `speedup` is the first one's seconds over its own, the median over the rounds.
    With `check_norms` also `norm_error`: after each round, how far from 1 the norm of any weight
    was; the median over the rounds, and the most.
    """
    contenders = [_enter(config, world) for config in configs]
    for contender in contenders:
        contender.play(WARM_UP)
        contender.wall.clear()
        contender.processor.clear()
    for number in range(rounds):
        for contender in contenders if number % 2 == 0 else contenders[::-1]:
            contender.play(steps)
            if check_norms:
                world.pulse.at(contender.played, "checking norms")
                contender.norm_errors.append(worst_norm_error(contender.step))
    return [_record(contender, contenders[0]) for contender in contenders]


def _enter(config: Config, world: World) -> Contender:
    step = build(config, world)
    side, count = config.data.resolution, config.microbatch("discriminator", world.ranks)
    shape = (count, 3, side, side)
    images = torch.rand(shape, device=world.device).mul_(2).sub_(1)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(config.data.num_classes, (count,), device=world.device)
    return Contender(config, step, repeat(Batch(images, labels)), world.pulse, [], [])


def _record(contender: Contender, first: Contender) -> dict[str, object]:
    config, step = contender.config, contender.step
    seconds = statistics.median(contender.wall)
    ratios = [one / other for one, other in zip(first.wall, contender.wall, strict=True)]
    errors = contender.norm_errors
    machine = _machine(step.device)  # before anything else takes memory
    return {
        "sec_per_iter": seconds,
        "cpu_sec_per_iter": statistics.median(contender.processor),
        "images_per_s": config.d_steps * config.batch_size / seconds,
        "speedup": statistics.median(ratios),
        "speedup_range": [min(ratios), max(ratios)],
        "control_share": _shares(contender, seconds),
        **({"norm_error": [statistics.median(errors), max(errors)]} if errors else {}),
        "params_G": sum(p.numel() for p in step.g.network.parameters()),
        "params_D": sum(p.numel() for p in step.d.network.parameters()),
        **machine,
    }


def _shares(contender: Contender, seconds: float) -> dict[str, float]:
    """What part of a step the control of spectra takes, in all and by kind."""
    step = contender.step
    cost = cost_of_control(
        step,
        contender.config,
        lambda: contender.advance(1),
        lambda: _synchronize(step.device),
    )
    return {name: part / seconds for name, part in {"all": sum(cost.values()), **cost}.items()}


def _machine(device: torch.device) -> Mapping[str, object]:
    if device.type == "cuda":
        return {
            "device": torch.cuda.get_device_name(device),
            "torch": torch.__version__,
            "peak_mem_gib": torch.cuda.max_memory_allocated(device) / 2**30,
        }
    return {"device": "cpu", "torch": torch.__version__, "threads": torch.get_num_threads()}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
