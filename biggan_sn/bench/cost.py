"""What the control of spectra costs within a training step."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from biggan_sn.config import Config
from biggan_sn.data.loader import Batch
from biggan_sn.models.bound import estimate_bound
from biggan_sn.models.discriminator import Discriminator
from biggan_sn.nn.constraint import Constraint
from biggan_sn.nn.matrices import chain_of, matrix_layers
from biggan_sn.training.logs import Logs
from biggan_sn.training.monitor import HEAT_MAP_COLUMNS, measure
from biggan_sn.training.probe import Probe
from biggan_sn.training.records import SPECTRA
from biggan_sn.training.step import GANStep
from biggan_sn.training.watch import Watch
from biggan_sn.training.world import World

REPEATS = 5  # of each part; the median counts

Work = Callable[[], object]
Part = tuple[str, float, Work]  # its name, how often a step needs it, what it does


def cost_of_control(
    step: GANStep, config: Config, play: Callable[[], None], wait: Callable[[], None]
) -> dict[str, float]:
    """Seconds per step that each part takes, spread over the steps that it serves; 0 for what the
    config does not ask for. Passes are counted in the step at hand: with lazy penalties and double
    backward the weights cost somewhat more.

    Args:
        step: the networks and what holds them.
        config: its config.
        play: plays one step of it.
        wait: returns when the device has done all its work.

    Returns:
        weights: dividing by sigma in all forward passes, and its part of all backward passes.
        search: the top triplets of all weights, for normalisation, clamps, regularizers, monitor.
        clamp: of sigma_0, where no more values exceed than are known.
        vectors: u, v and sigma of each normalised weight from there, or by power iteration.
        regularizers: forward and backward.
        monitor: looking at the spectra and at the bound of D, writing and drawing them.
        watch: looking for signs of collapse: the probe, held-out images included, and the detector.
    """
    seconds: dict[str, float] = {}
    for name, times, work in _parts(step, config, play):
        spent = times * _seconds(work, wait) if times else 0.0
        seconds[name] = seconds.get(name, 0.0) + spent
    for name, every, look in (
        ("monitor", config.monitor.every, _monitor),
        ("watch", config.collapse.every, _watch),
    ):
        seconds[name] = look(step, config, wait) / every if every else 0.0
    return seconds


def _parts(step: GANStep, config: Config, play: Callable[[], None]) -> list[Part]:
    """What happens in every step."""
    parts = []
    for network, constraint, regularizer, named, updates in (
        (step.g.network, step.g_constraint, step.g_regularizer, config.regularizers.generator, 1),
        (
            step.d.network,
            step.d_constraint,
            step.d_regularizer,
            config.regularizers.discriminator,
            config.d_steps,
        ),
    ):
        parts += _weights(network, play)
        parts += _constraint(constraint, updates, config.lipschitz.power_iterations)
        regularizing = _regularizing(network, regularizer)
        parts.append(("regularizers", updates if named else 0, regularizing))
    return parts


def _seconds(work: Work, wait: Callable[[], None]) -> float:
    seconds = []
    for _ in range(REPEATS):
        wait()
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def _weights(network: nn.Module, play: Callable[[], None]) -> list[Part]:
    layers = [
        layer
        for layer in matrix_layers(network).values()
        if parametrize.is_parametrized(layer, "weight")
    ]

    def forward() -> list[Tensor]:
        return [chain_of(layer)() for layer in layers]

    def look() -> None:
        with torch.no_grad():
            forward()

    def forward_and_backward() -> None:
        network.requires_grad_(True)
        weights = forward()
        torch.autograd.backward(weights, [torch.ones_like(weight) for weight in weights])
        network.zero_grad(set_to_none=True)
        network.requires_grad_(False)

    passes = _count_passes(layers, play)
    return [("weights", passes[True], forward_and_backward), ("weights", passes[False], look)]


def _count_passes(layers: Sequence[nn.Module], play: Callable[[], None]) -> Counter[bool]:
    """How often a step makes the weights of these layers, with and without a gradient."""
    passes: Counter[bool] = Counter()

    def count(module: nn.Module, given: object, weight: Tensor) -> None:
        passes[weight.requires_grad] += 1

    hooks = [chain_of(layer).register_forward_hook(count) for layer in layers[:1]]
    with torch.compiler.set_stance("force_eager"):  # compiled passes would not see it
        play()
    for hook in hooks:
        hook.remove()
    return passes


def _constraint(constraint: Constraint, updates: int, iterations: int) -> list[Part]:
    return [
        ("search", updates if constraint.follows else 0, constraint.spectrum.refresh),
        ("clamp", updates if constraint.clamps else 0, constraint.clamp),
        ("vectors", updates, lambda: constraint.norms.follow(iterations)),
    ]


def _regularizing(network: nn.Module, regularizer: Callable[[nn.Module], Tensor | float]) -> Work:
    def work() -> None:
        network.requires_grad_(True)
        term = regularizer(network)
        if isinstance(term, Tensor):
            term.backward()
        network.zero_grad(set_to_none=True)
        network.requires_grad_(False)

    return work


def _forget(step: GANStep) -> None:
    """Spectra that nobody follows have to be searched when one looks."""
    for constraint in (step.g_constraint, step.d_constraint):
        if not constraint.follows:
            constraint.spectrum.moved()


class _Noise:
    """A stream of one batch of random images."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self._config = config
        self._device = device

    def batches(
        self, position: int, batch_size: int, rank: int, ranks: int, microbatch: int
    ) -> Iterator[Batch]:
        data = self._config.data
        shape = (microbatch, 3, data.resolution, data.resolution)
        labels = torch.randint(data.num_classes, (microbatch,), device=self._device)
        return repeat(Batch(torch.rand(shape, device=self._device), labels))

    def close(self) -> None:
        """Nothing to end."""


def _watch(step: GANStep, config: Config, wait: Callable[[], None]) -> float:
    """Seconds of one look for signs of collapse."""
    world = World(device=step.device)
    noise = _Noise(config, step.device)
    spectra = {"G": step.g_constraint.spectrum, "D": step.d_constraint.spectrum}
    probe = Probe(config, step, world, {"train": noise, "heldout": noise})
    watch = Watch(config, step, spectra, world, probe)
    watch.start(0)
    losses = {"d_loss": torch.ones((), device=step.device)}

    def look() -> None:
        _forget(step)
        watch.judge(watch.see(config.collapse.every, losses, measuring=False))

    look()
    return _seconds(look, wait)


def _monitor(step: GANStep, config: Config, wait: Callable[[], None]) -> float:
    """Seconds of one measurement late in a run, with its share of the drawing."""
    spectra = {"G": step.g_constraint.spectrum, "D": step.d_constraint.spectrum}
    discriminator = step.d.network
    assert isinstance(discriminator, Discriminator)
    images = config.logs.images
    drawn = min(1.0, config.monitor.every / images) if images else 0.0
    with tempfile.TemporaryDirectory() as folder:
        logs = Logs(Path(folder), 0, REPEATS, spectra)

        def look(draw: bool) -> None:
            _forget(step)
            logs.spectra(1, measure(spectra), estimate_bound(discriminator), draw)

        look(False)
        record = (Path(folder) / SPECTRA).read_text()
        (Path(folder) / SPECTRA).write_text(HEAT_MAP_COLUMNS * record)
        plain, whole = (_seconds(partial(look, draw), wait) for draw in (False, True))
        logs.close()
    return plain + drawn * max(0.0, whole - plain)
