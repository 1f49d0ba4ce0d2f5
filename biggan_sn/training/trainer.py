"""Carries a run on from its newest checkpoint, and keeps it going until its end."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from biggan_sn.checkpoint import (
    CheckpointError,
    Checkpoints,
    load_network,
    load_state,
    load_tensors,
)
from biggan_sn.config import Config
from biggan_sn.config_io import to_dict
from biggan_sn.data.loader import Batch, Loader, open_dataset
from biggan_sn.evaluation.pictures import grid
from biggan_sn.evaluation.sampling import Sampling, draw_classes
from biggan_sn.evaluation.scorers import evaluate
from biggan_sn.models.bound import estimate_bound
from biggan_sn.models.discriminator import Discriminator
from biggan_sn.training.build import build, training_latents
from biggan_sn.training.logs import Logs, mean_over_ranks
from biggan_sn.training.monitor import measure
from biggan_sn.training.rollback import roll_back
from biggan_sn.training.world import World

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


INTEGERS = ("step", "position", "attempt")


class DivergenceError(RuntimeError):
    """The losses are not finite any more."""


class Trainer:
    """One run in one folder. Its state is its tensors and three integers: `step`, the updates of G
    done, `position`, the images D has been handed, and `attempt`, how often it was rolled back.

    Args:
        config: the run.
        folder: everything the run writes goes there; a checkpoint found there is carried on.
        world: this process's place in the job.

    Raises:
        ValueError: the data, the config or the checkpoint do not fit.
    """

    def __init__(self, config: Config, folder: Path, world: World) -> None:
        self.config = config
        self.folder = folder
        self.world = world
        self.index = open_dataset(config.data)
        self.play = build(config, world)
        self.networks = {"G": self.play.g.network, "D": self.play.d.network}
        self.spectra = {
            "G": self.play.g_constraint.spectrum,
            "D": self.play.d_constraint.spectrum,
        }
        keep = config.checkpoint
        self.checkpoints = Checkpoints(folder / "checkpoints", keep.keep, keep.keep_best)
        self.step = 0
        self.position = 0
        self.attempt = 0
        self._stop = False
        self.resumed = self.checkpoints.newest()
        if self.resumed:
            self._restore(self.resumed)
        if not world.agree(self.step):
            raise CheckpointError(
                f"{folder}: the processes do not find the same checkpoint there; "
                "it must be a folder that all nodes share"
            )

    def run(self) -> bool:
        """Trains to the end; True if it got there, False if it was told to stop before.

        Raises:
            ValueError: an image cannot be read.
            DivergenceError: the losses are not finite any more.
        """
        with self._stopping_on_signals():
            while True:
                try:
                    self._play_on()
                    return self.step == self.config.steps
                except DivergenceError as error:
                    if not self._go_back(str(error)):
                        raise

    def _play_on(self) -> None:
        """From here to the end, or to where it was told to stop."""
        loader = Loader(self.index, self.config.data, self.config.seed, self.world.device)
        logs = None
        if self.world.leads:
            logs = Logs(self.folder, self.step, self.config.steps, self.spectra)
        reals = loader.batches(
            self.position,
            self.config.batch_size,
            self.world.rank,
            self.world.ranks,
            self.play.d.microbatch,
        )
        try:
            self._greet(logs)
            self._loop(reals, logs)
        finally:
            loader.close()
            if logs:
                logs.close()

    def _go_back(self, reason: str) -> bool:
        """To an earlier checkpoint, where the config and what there is allow it. All processes
        come here together, for they share the losses that are not finite."""
        there = self.checkpoints.all()
        if self.attempt >= self.config.collapse.rollbacks or not there:
            return False
        # The newest came to nothing before: the trouble may be in it already.
        again = self.resumed == there[-1] and self.attempt > 0 and len(there) > 1
        target = there[-2] if again else there[-1]
        self.world.wait()  # until all have looked
        if self.world.leads:
            step = int(target.name.removeprefix("step_"))
            roll_back(self.folder, step, reason, (self.step, self.position))
        self.world.wait()
        self.resumed = target
        self._restore(target)
        return True

    def _loop(self, reals: Iterator[Batch], logs: Logs | None) -> None:
        images_per_step = self.config.d_steps * self.config.batch_size
        clock, last = time.monotonic(), self.step
        while self.step < self.config.steps:
            scalars = self.play(self.step, reals)
            self.step += 1
            self.position += images_per_step
            stopping = self._told_to_stop()
            logging = self._due(self.config.logs.every)
            saving = stopping or any(
                self._due(section.every)
                for section in (self.config.checkpoint, self.config.evaluation)
            )
            if logging or saving:
                means = self._finite(scalars)
            if logging:
                speed = images_per_step * (self.step - last) / (time.monotonic() - clock)
                if logs:
                    logs.scalars(self.step, means, speed)
                clock, last = time.monotonic(), self.step
            self._look(logs)
            score = self._evaluate(logs)
            if saving:
                self._save(score)
            if stopping:
                return

    def _due(self, every: int) -> bool:
        """At every `every`-th step and at the last; never if `every` is 0."""
        return every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    def _told_to_stop(self) -> bool:
        """Whether any process was. Many processes ask one another only when they log, for asking
        makes the host wait for the device."""
        if self.world.ranks > 1 and not self._due(self.config.logs.every):
            return False
        return self.world.any(self._stop)

    def _greet(self, logs: Logs | None) -> None:
        if logs is None:
            return
        sizes = {
            name: sum(p.numel() for p in network.parameters()) / 1e6
            for name, network in self.networks.items()
        }
        begin = f"goes on from {self.resumed.name}" if self.resumed else "starts"
        begin += f", attempt {self.attempt}" if self.attempt else ""
        logs.say(
            f"{self.folder} {begin}: "
            f"{len(self.index)} images of {len(self.index.classes)} classes, "
            f"G {sizes['G']:.2f}M and D {sizes['D']:.2f}M parameters, "
            f"{self.world.ranks} x {self.world.device.type}, {self.config.precision}"
        )

    def _finite(self, scalars: dict[str, Tensor]) -> dict[str, float]:
        """The means over all ranks. Raises DivergenceError, on every rank, rather than let a lost
        run go on and save over its last good checkpoint."""
        means = mean_over_ranks(scalars, self.world.ranks)
        if lost := [name for name, value in means.items() if not math.isfinite(value)]:
            newest = self.checkpoints.newest()
            raise DivergenceError(
                f"{lost[0]} is {means[lost[0]]} at step {self.step}: the run diverged and stops; "
                f"its newest checkpoint is {newest.name if newest else 'none'}. Lower learning "
                "rates, or constraints on both networks, may help"
            )
        return means

    def _look(self, logs: Logs | None) -> None:
        """Spectra and sample grids. Spectra that nobody follows are searched now, by all ranks."""
        if self._due(self.config.monitor.every):
            sigmas = measure(self.spectra)
            if logs:
                discriminator = self.networks["D"]
                assert isinstance(discriminator, Discriminator)
                bound = estimate_bound(discriminator)
                growth, draw = self.config.monitor.alarm_growth, self._due(self.config.logs.images)
                logs.spectra(self.step, sigmas, bound, growth, draw)
        if logs and self._due(self.config.logs.images):
            classes = range(min(self.config.logs.columns, self.config.data.num_classes))
            images, _ = draw_classes(
                self.play.ema.generator(), classes, self.config.logs.rows, Sampling()
            )
            logs.picture(self.step, "samples", grid(images, len(classes)))

    def _evaluate(self, logs: Logs | None) -> float | None:
        """The FID of the average now, if one is due. Other ranks only learn that one was."""
        if not self._due(self.config.evaluation.every):
            return None
        if logs is None:
            return 0.0
        section = self.config.evaluation
        scores = evaluate(self.play.ema.generator(), section.scorer, section.samples, Sampling())
        logs.scores(self.step, scores)
        return scores["fid"] if math.isfinite(scores["fid"]) else math.inf

    def _save(self, score: float | None) -> None:
        if self.world.leads:
            tensors = {
                "generator": self.play.g.network.state_dict(),
                "discriminator": self.play.d.network.state_dict(),
                "ema": self.play.ema.settled().state_dict(),
                "generator_optimizer": self.play.g.state(),
                "discriminator_optimizer": self.play.d.state(),
                "spectra": {
                    f"{network}/{name}": tensor
                    for network, spectrum in self.spectra.items()
                    for name, tensor in spectrum.state().items()
                },
            }
            self.checkpoints.save(self.step, tensors, self._state(), score)
        self.world.wait()

    def _state(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "attempt": self.attempt,
            "config": to_dict(self.config),
            "classes": self.index.classes,
            "data": self.index.fingerprint,
        }

    def _restore(self, path: Path) -> None:
        state = load_state(path)
        step, position, attempt = (_whole_number(path, state, name) for name in INTEGERS)
        data = state.get("data")
        if data != self.index.fingerprint:
            raise CheckpointError(
                f"{path}: the run was trained on other shards than those of {self.index.root}"
            )
        if step > self.config.steps:
            raise CheckpointError(f"{path} is past the end: steps is {self.config.steps}")
        load_network(self.play.g.network, path, "generator")
        load_network(self.play.d.network, path, "discriminator")
        load_network(self.play.ema.network, path, "ema")
        for name, load in (
            ("generator_optimizer", self.play.g.load_state),
            ("discriminator_optimizer", self.play.d.load_state),
            ("spectra", self._load_spectra),
        ):
            tensors = load_tensors(path, name)
            try:
                load(tensors)
            except ValueError as error:
                raise CheckpointError(f"{path / name}.safetensors: {error}") from error
        self.step, self.position, self.attempt = step, position, attempt
        self.play.latents = training_latents(self.config, attempt)

    def _load_spectra(self, state: dict[str, Tensor]) -> None:
        for network, spectrum in self.spectra.items():
            mine = {n: t for n, t in state.items() if n.startswith(f"{network}/")}
            spectrum.load_state({n.removeprefix(f"{network}/"): t for n, t in mine.items()})

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the step at hand, with a checkpoint."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop = True

        before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _whole_number(path: Path, state: dict[str, Any], name: str) -> int:
    number = state.get(name)
    if not isinstance(number, int):
        raise CheckpointError(f"{path}: its state lacks the {name}")
    return number
