"""Carries a run on from its newest checkpoint, and keeps it going until its end."""

import gc
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

from biggan_sn.checkpoint import CheckpointError, Checkpoints, load_state
from biggan_sn.collapse.detector import Alarm
from biggan_sn.config import Config
from biggan_sn.config_io import after_rollbacks, changes
from biggan_sn.data.loader import Batch, Loader, open_dataset
from biggan_sn.evaluation.pictures import grid
from biggan_sn.evaluation.sampling import Sampling, draw_classes
from biggan_sn.models.bound import estimate_bound
from biggan_sn.models.discriminator import Discriminator
from biggan_sn.nn.precision import chosen
from biggan_sn.run_folder import CHECKPOINTS
from biggan_sn.training.heritage import begin
from biggan_sn.training.logs import Logs
from biggan_sn.training.pace import Pace
from biggan_sn.training.rollback import CONSEQUENCES, CollapseError, roll_back, way_back
from biggan_sn.training.saving import (
    UNSEEN,
    Writer,
    integers_of,
    moments_of,
    norm_batches,
    restore,
    state_of,
    tensors_of,
)
from biggan_sn.training.scoring import Scoring
from biggan_sn.training.stopping import AnyProcess, Stopping
from biggan_sn.training.watch import Seen, Watch
from biggan_sn.training.world import World


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
        keep = config.checkpoint
        self.checkpoints = Checkpoints(
            folder / CHECKPOINTS, keep.keep, keep.keep_best, keep.every, keep.keep_spaced
        )
        self.scoring = Scoring(config, self.index.classes, world)
        self.stopping = Stopping(folder, world.leads)
        self._news = ""  # what the next attempt is to say first
        self._set_up(self.checkpoints.newest())

    def _set_up(self, checkpoint: Path | None) -> None:
        """Both players and all around them, fresh or as a checkpoint has them."""
        self.resumed = checkpoint
        self._joined_before = self._norm_batch()
        self.step, self.position, self.attempt = 0, 0, 0
        if checkpoint:
            state = load_state(checkpoint)
            self.step, self.position, self.attempt = integers_of(checkpoint, state)
            self._check(checkpoint, state)
        config = after_rollbacks(self.config, self.attempt)
        classes, goes_on = self.index.classes, checkpoint is not None
        self.play, self._begins = begin(config, self.world, self.attempt, classes, goes_on)
        self.networks = {"G": self.play.g.network, "D": self.play.d.network}
        self.spectra = {
            "G": self.play.g_constraint.spectrum,
            "D": self.play.d_constraint.spectrum,
        }
        self.watch = Watch(config, self.play, self.spectra, self.world)
        if checkpoint:
            restore(checkpoint, self.play, self.spectra, self.watch.detector)
        if not self.world.agree(self.step, self.position, self.attempt):
            raise CheckpointError(
                f"{self.folder}: the processes do not find the same checkpoint there; "
                "it must be a folder that all nodes share"
            )

    def run(self) -> bool:
        """Trains to the end; True if it got there, False if it was told to stop before.

        Raises:
            ValueError: an image cannot be read.
            CollapseError: the run collapsed, and cannot or must not go back.
            OSError: a checkpoint cannot be written.
        """
        with self.stopping:
            while True:
                try:
                    self._play_on()
                    return self.stopping.end(self.step, self.step == self.config.steps)
                except CollapseError as error:
                    self.writer.wait()  # to go back to it, it must be there
                    if not self._go_back(error):
                        raise self._farewell(error) from error

    def _play_on(self) -> None:
        """From here to the end, or to where it was told to stop."""
        loader = Loader(self.index, self.config.data, self.config.seed, self.world.device)
        self.writer = Writer(self.checkpoints, self.world.pulse.undisturbed)
        logs = None
        if self.world.leads:
            logs = Logs(self.folder, self.step, self.config.steps, self.spectra, self.attempt)
        reals = loader.batches(
            self.position,
            self.config.batch_size,
            self.world.rank,
            self.world.ranks,
            self.play.d.microbatch,
        )
        try:
            self.scoring.start()
            self.watch.start(self.step)
            self._greet(logs)
            if not self.resumed:
                self._save(None)
                self.writer.wait()  # a disk that is full says so now, and there is a way back
            self._loop(reals, logs)
            self.world.pulse.at(self.step, "saving")
            self.writer.wait()
            self.world.wait()  # none has ended well where another has not
        finally:
            loader.close()
            self.writer.close()
            self.watch.close()
            if logs:
                logs.close()

    def _go_back(self, error: CollapseError) -> bool:
        """To an earlier checkpoint, where the config and what there is allow it. All processes
        come here together; the leading one says where to."""
        if error.action != "rollback" or self.attempt >= self.config.collapse.rollbacks:
            return False
        target = way_back(self.folder, self.step, error.since) if self.world.leads else None
        (step,) = self.world.most(-1 if target is None else target)
        if step < 0:
            return False
        if self.world.leads:
            done = roll_back(self.folder, int(step), str(error), (self.step, self.position))
            times = f"rollback {done.attempt} of at most {self.config.collapse.rollbacks}"
            self._news = f"{times}, from step {done.given_up} to {done.step}: {error}"
        self.world.wait()
        self._begin_anew(int(step))
        return True

    def catch_up(self) -> None:
        """Looks again how far the run is: before this job had it to itself, another may have gone
        on with it. Every process must call it; it waits for all."""
        newest = self.checkpoints.newest() if self.world.leads else None
        found = integers_of(newest, load_state(newest)) if newest else (0, 0, 0)
        there = [int(number) for number in self.world.most(*found)]
        if there != [self.step, self.position, self.attempt]:
            self._begin_anew(there[0])

    def _begin_anew(self, step: int) -> None:
        """From the checkpoint of this step."""
        self.play.close()
        del self.play, self.networks, self.spectra, self.watch  # before there are two of each
        gc.collect()
        self._set_up(self.checkpoints.path_of(step))

    def _farewell(self, error: CollapseError) -> CollapseError:
        """The error again, with what a person may do now."""
        if not self.world.leads:
            return CollapseError(f"{error}; it says what to do", error.action, error.since)
        there = way_back(self.folder, self.step, error.since)
        advice = "it has no checkpoint"
        if there is not None:
            advice = f"to go back: biggan-sn rollback {quote(str(self.folder))} --to {there}"
        times = f" after {self.attempt} rollbacks" if self.attempt else ""
        message = (
            f"{error}: the run collapsed{times} and stops; {advice}. Lower learning rates, or "
            "constraints on both networks, may help"
        )
        return CollapseError(message, error.action, error.since)

    def _loop(self, reals: Iterator[Batch], logs: Logs | None) -> None:
        images_per_step = self.config.d_steps * self.config.batch_size
        pace = Pace(self.world, images_per_step, self.step)
        reals = pace.timed(reals)
        any_process = AnyProcess(self.world)
        while self.step < self.config.steps:
            self.world.pulse.at(self.step)
            with pace.step(measured=self._due(self.config.logs.every, ahead=1)):
                scalars = self.play(self.step, reals)
            self.step += 1
            self.position += images_per_step
            stopping = any_process(self.stopping.asked() or self.writer.failed())
            logging = self._due(self.config.logs.every)
            saving = self._saving() or stopping
            measuring = self._due(self.config.monitor.every)
            drawing = self._due(self.config.logs.images)
            if not (logging or saving or measuring or drawing or self.watch.due(self.step)):
                continue
            seen = self.watch.see(self.step, scalars, measuring)
            if lost := self.watch.lost(seen):  # all processes see the same, and nobody saves it
                self._act([lost], logs)
            if logging:
                speed = pace.report(self.step)
                if logs:
                    rates = {"g_lr": self.play.g.rate, "d_lr": self.play.d.rate}
                    logs.scalars(self.step, seen.losses, speed, seen.probed | rates)
            self._show(seen, logs, measuring, drawing)
            score = self._score(logs)
            self._act(self._judge(seen, score, logs), logs)
            if saving:
                with pace.saving():
                    self._save(score)
            if stopping:
                return

    def _saving(self) -> bool:
        sections = (self.config.checkpoint, self.config.evaluation)
        return any(self._due(section.every) for section in sections)

    def _due(self, every: int, ahead: int = 0) -> bool:
        """At every `every`-th step and at the last, or so many steps before; never if it is 0."""
        step = self.step + ahead
        return every > 0 and (step % every == 0 or step == self.config.steps)

    def _greet(self, logs: Logs | None) -> None:
        if logs is None:
            return
        sizes = {
            name: sum(p.numel() for p in network.parameters()) / 1e6
            for name, network in self.networks.items()
        }
        begin = f"goes on from {self.resumed.name}" if self.resumed else "starts"
        begin += f", attempt {self.attempt}" if self.attempt else ""
        if self._news:
            logs.decision(self.step, self._news)
            self._news = ""
        logs.say(
            f"{self.folder} {begin}: "
            f"{len(self.index)} images of {len(self.index.classes)} classes, "
            f"G {sizes['G']:.2f}M and D {sizes['D']:.2f}M parameters, "
            f"{self.world.ranks} x {self.world.device.type}, {self.world.engine}, "
            f"{chosen(self.config.precision, self.world.device)}"
        )
        for note in self._notes():
            logs.say(note)

    def _notes(self) -> Iterator[str]:
        """What it begins with, and in what this part of the run differs from the part before."""
        yield from self._begins
        now, before = self._norm_batch(), self._joined_before
        if now != before:
            numbers = " and ".join(f"{before[side]} -> {now[side]} ({side})" for side in now)
            yield (
                f"statistics over images join other numbers of them than before: {numbers}; other "
                "microbatches or model.norm_batch keep the run as it was"
            )
        if changed := changes(self.config, after_rollbacks(self.config, self.attempt)):
            yield f"changed by the rollback: {'; '.join(changed)}"

    def _act(self, alarms: list[Alarm], logs: Logs | None) -> None:
        """Writes alarms down, and does what they ask for. Every process must call it.

        Raises:
            CollapseError: on every process, if an alarm is to have consequences.
        """
        if logs:
            for alarm in alarms:
                logs.alarm({"attempt": self.attempt, **asdict(alarm)})
        grave = [alarm for alarm in alarms if alarm.action in CONSEQUENCES]
        here = max((CONSEQUENCES.index(alarm.action) for alarm in grave), default=-1)
        (worst,) = self.world.most(here)
        if worst >= 0:
            reason = "; ".join(alarm.reason for alarm in grave) or "the first process saw why"
            since = min((alarm.since for alarm in grave), default=-1)
            raise CollapseError(f"step {self.step}: {reason}", CONSEQUENCES[int(worst)], since)

    def _judge(self, seen: Seen, score: float | None, logs: Logs | None) -> list[Alarm]:
        """The alarms of this step; on the leading process, which alone knows the score."""
        if logs is None:
            return []
        alarms = self.watch.judge(seen) if self.watch.due(self.step) else []
        if score is not None and self.watch.heeds(self.step, self.config.evaluation.every):
            alarms += self.watch.judge_score(self.step, score)
        logs.signs(self.step, self.watch.detector.levels)
        return alarms

    def _show(self, seen: Seen, logs: Logs | None, measuring: bool, drawing: bool) -> None:
        """Spectra and sample grids."""
        if logs and measuring:
            discriminator = self.networks["D"]
            assert isinstance(discriminator, Discriminator)
            logs.spectra(self.step, seen.weights, estimate_bound(discriminator), drawing)
        if logs and drawing:
            classes = range(min(self.config.logs.columns, self.config.data.num_classes))
            images, _ = draw_classes(
                self.play.ema.generator(), classes, self.config.logs.rows, Sampling()
            )
            logs.picture(self.step, "samples", grid(images, len(classes)))

    def _score(self, logs: Logs | None) -> float | None:
        """The FID now, if it is due, on the leading process. Every process must call it."""
        due = self._due(self.config.evaluation.every)
        return self.scoring(self.step, self.play.ema, logs) if due else None

    def _save(self, score: float | None) -> None:
        moments = moments_of(self.play)
        if self.world.leads:
            tensors = tensors_of(self.play, self.spectra, self.watch.detector) | moments
            self.writer.save(self.step, tensors, self._state(), score)

    def _state(self) -> dict[str, Any]:
        return state_of(
            self.config,
            self.world.ranks,
            self.position,
            self.attempt,
            self.watch.detector.shown(),
            self.index.classes,
            self.index.fingerprint,
        )

    def _norm_batch(self) -> dict[str, int]:
        return norm_batches(self.config, self.world.ranks)

    def _check(self, path: Path, state: dict[str, Any]) -> None:
        """Raises CheckpointError unless this run can go on from a checkpoint with this state."""
        if state.get("data") not in (self.index.fingerprint, UNSEEN):
            raise CheckpointError(
                f"{path}: the run was trained on other shards than those of {self.index.root}"
            )
        if self.step > self.config.steps:
            raise CheckpointError(
                f"{path} is past the end: steps is {self.config.steps}; to go on needs more --steps"
            )
        self._joined_before = state.get("norm_batch", self._norm_batch())
