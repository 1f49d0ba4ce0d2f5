"""All checks, in the order in which it is cheapest to find something wrong."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from biggan_sn.checkpoint import Checkpoints
from biggan_sn.config import Config
from biggan_sn.data.loader import open_dataset
from biggan_sn.models.zoo import build_discriminator, build_generator
from biggan_sn.preflight.exchange import measure_exchange
from biggan_sn.preflight.findings import FAILS, NOTE, OK, Finding
from biggan_sn.preflight.memory import check_memory, check_tensors
from biggan_sn.preflight.nodes import (
    Facts,
    check_clocks,
    check_devices,
    check_versions,
    facts_of_all,
)
from biggan_sn.preflight.scale import Model
from biggan_sn.preflight.scores import check_scores
from biggan_sn.preflight.source import check_source
from biggan_sn.preflight.storage import check_folder, check_room, check_shards, most_kept
from biggan_sn.preflight.trial import Trial, run_trial
from biggan_sn.run_folder import CHECKPOINTS
from biggan_sn.training.world import World

LAGGING = 0.1  # part by which a process may be slower than the mean
ALONE = "scale: start it on two processes or more, best on two nodes, to know what exchanges take"


@dataclass
class Report:
    """What was found.

    Args:
        findings: in order.
        forecast: of the run, by name; empty where no step was played.
        scale: lines of the model's tables.
    """

    findings: list[Finding] = field(default_factory=list)
    forecast: dict[str, float] = field(default_factory=dict)
    scale: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.verdict != FAILS for finding in self.findings)


def preflight(world: World, config: Config, folder: Path, say: Callable[[str], None]) -> Report:
    """Looks at everything that a run would meet. Every process must call it.

    Args:
        world: the processes.
        config: of the run.
        folder: of the run.
        say: takes each line as soon as it is known; called on the leading process.

    Raises:
        TrialError: the networks do not fit in memory.
    """
    facts = facts_of_all(world)
    report = Report()

    def note(finding: Finding) -> None:
        report.findings.append(finding)
        world.pulse.at(0, f"past the check of {finding.what}")
        if world.leads:
            say(finding.line())

    for finding in _without_steps(world, config, folder, facts):
        note(finding)
    if report.passed:
        exchange, measured = measure_exchange(world, _largest_sum(config))
        note(exchange)
    if report.passed:
        trial = run_trial(world, config, open_dataset(config.data), folder)
        for finding in _with_steps(world, config, folder, facts, trial):
            note(finding)
        report.forecast = _forecast(trial, config)
        report.scale = Model(config, trial, measured).table() if measured else [ALONE]
    return report


def _without_steps(
    world: World, config: Config, folder: Path, facts: list[Facts]
) -> Iterator[Finding]:
    hosts = [fact.host for fact in facts]
    yield check_versions(facts)
    yield check_devices(facts)
    yield check_clocks(world, facts)
    yield check_folder(world, folder, hosts)
    shards = check_shards(world, config.data, hosts)
    yield shards
    if config.finetune.source and shards.verdict == OK and not _goes_on(folder):
        yield check_source(world, config, hosts)
    if config.evaluation.every:
        yield check_scores(world, config, hosts)
    yield check_tensors(world, config, facts)


def _goes_on(folder: Path) -> bool:
    return Checkpoints(folder / CHECKPOINTS).newest() is not None


def _with_steps(
    world: World, config: Config, folder: Path, facts: list[Facts], trial: Trial
) -> Iterator[Finding]:
    yield _steps(trial, facts)
    yield check_memory(trial, facts)
    yield _data(trial, config)
    yield check_room(world, folder, trial, config)


def _largest_sum(config: Config) -> int:
    """Bytes of the gradients of the larger network."""
    with torch.device("meta"):
        networks = (build_generator(config), build_discriminator(config))
    return max(sum(4 * p.numel() for p in network.parameters()) for network in networks)


def _steps(trial: Trial, facts: list[Facts]) -> Finding:
    timing = trial.timings[0]
    others = 1 - timing.work / timing.seconds
    text = f"{1e3 * timing.seconds:.0f} ms each, {others:.0%} of it in exchanges"
    if timing.lag > LAGGING:
        where = f"rank {timing.slowest} on {facts[timing.slowest].host}"
        return Finding("steps", NOTE, f"{text}; {where} takes {timing.lag:.0%} more than the mean")
    return Finding("steps", OK, text)


def _data(trial: Trial, config: Config) -> Finding:
    timing = trial.timings[0]
    needed = config.d_steps * timing.images / timing.seconds
    text = f"{trial.loading:.0f} images/s read and decoded by each process, {needed:.3g} needed"
    if trial.loading < needed:
        return Finding("data", NOTE, f"{text}: the GPUs will wait; more data.threads may help")
    return Finding("data", OK, text)


def _forecast(trial: Trial, config: Config) -> dict[str, float]:
    """Without evaluations, sample grids and looks at spectra."""
    timing = trial.timings[0]
    data = config.d_steps * timing.images / trial.loading
    seconds = max(timing.seconds, data)
    return {
        "seconds_per_step": seconds,
        "images_per_second": config.d_steps * config.batch_size / seconds,
        "hours": config.steps * seconds / 3600,
        "checkpoint_gigabytes": trial.checkpoint / 1e9,
        "disk_gigabytes": trial.checkpoint * most_kept(config.checkpoint, config.steps) / 1e9,
        "peak_memory_gigabytes": trial.memory / 1e9,
    }
