"""The quick look at a run, as on a login node: from the ends of its records, without torch, and
without touching anything. `health` looks deeper."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from biggan_sn.run_folder import (
    CHECKPOINTS,
    CONFIG,
    JOURNAL,
    STATE_NAME,
    STOPPED,
    step_of,
    whole_checkpoints,
)
from biggan_sn.training.holder import Holder, find_holder
from biggan_sn.training.records import (
    COLLAPSE,
    SCALARS,
    SPECTRA,
    Record,
    newest_lines,
    standing,
)

LOOK_BACK = 1 << 23  # bytes at the end of a record in which the newest of its kind is looked for
SILENT = 3600.0  # seconds after which a run that writes nothing is not taken to be on its way
SCORE = "evaluation/"  # begins the name of what an evaluation found
BEGUN = (CONFIG, SCALARS, JOURNAL)  # one of them is there as soon as a run has begun
NETWORKS = ("G", "D")  # as measurements call them
WRITTEN = (*BEGUN, SPECTRA, COLLAPSE, STOPPED, CHECKPOINTS)
REMAINING = re.compile(rb"step +\d+/\d+ .* images/s  ETA (\d+):(\d\d):(\d\d) ")  # in the journal

AT_WORK, STOPPED_HERE, FINISHED, NO_JOB = "at work", "stopped", "finished", "no job yet"
ENDED, SILENT_NOW, ON_ITS_WAY = "ended without a word", "silent", "on its way"


@dataclass(frozen=True)
class Checkpoint:
    """The newest whole one.

    Args:
        step: of it.
        age: seconds since it was written.
    """

    step: int
    age: float


@dataclass(frozen=True)
class Worst:
    """The weight with the largest sigma_0, or one that is not finite.

    Args:
        step: of the measurement.
        layer: network and name.
        sigma: sigma_0 of the raw weight.
    """

    step: int
    layer: str
    sigma: float


@dataclass(frozen=True)
class Status:
    """A run at this moment. What is not known is None.

    Args:
        run: its folder.
        state: at work, stopped, finished, no job yet, ended without a word; or, where its process
            cannot be seen from here, on its way or silent, by when it wrote last.
        holder: the process that took the run's lock last.
        silent: seconds since the run wrote something.
        step: the last that was logged, or that a checkpoint is of.
        steps: where it will end.
        images_per_second: over all processes, when last logged.
        remaining: seconds to the end, as its log said last.
        checkpoint: the newest.
        worst: the weight to look at first.
        scores: the newest, by name; with their step.
        alarms: how many there were.
        standing: how many of them no rollback gave up.
        newest_alarm: its step, channel, reason and action.
        rollbacks: how many there were.
    """

    run: Path
    state: str
    holder: Holder | None
    silent: float
    step: int
    steps: int | None
    images_per_second: float | None
    remaining: float | None
    checkpoint: Checkpoint | None
    worst: Worst | None
    scores: Record | None
    alarms: int
    standing: int
    newest_alarm: Record | None
    rollbacks: int

    def record(self) -> Record:
        """All of it as JSON can hold it: what is not finite is None."""
        finite: Record = json.loads(
            json.dumps(asdict(self), default=str), parse_constant=lambda name: None
        )
        return finite


def is_run(folder: Path) -> bool:
    """Whether a run has begun there."""
    return any((folder / name).is_file() for name in BEGUN)


def read_status(run: Path, now: float) -> Status:
    """How the run in a folder is at the time `now`, in seconds since 1970.

    Raises:
        ValueError: there is no run.
    """
    if not is_run(run):
        raise ValueError(f"{run}: not the folder of a run; it has no {', '.join(BEGUN)}")
    logged = _newest(run / SCALARS) or {"step": 0}
    checkpoint = _newest_checkpoint(run, now)
    events = [record for record in _records(run / COLLAPSE) if "event" in record][::-1]
    alarms = [event for event in events if event["event"] == "alarm"]
    status = Status(
        run=run,
        state="",
        holder=find_holder(run),
        silent=max(0.0, now - _last_sign(run)),
        step=max(logged["step"], checkpoint.step if checkpoint else 0),
        steps=_steps(run),
        images_per_second=_images_per_second(run),
        remaining=_remaining(run),
        checkpoint=checkpoint,
        worst=_worst(run),
        scores=_scores(run),
        alarms=len(alarms),
        standing=len(standing(events)),
        newest_alarm=_told(alarms[-1]) if alarms else None,
        rollbacks=len(events) - len(alarms),
    )
    return replace(status, state=_state(status))


def _state(status: Status) -> str:
    """The first that holds, from what is certain to what is not."""
    holder = status.holder
    holding = {
        AT_WORK: holder is not None and holder.at_work is True,
        STOPPED_HERE: (status.run / STOPPED).exists(),
        FINISHED: status.steps is not None and status.step >= status.steps,
        NO_JOB: holder is None,
        ENDED: holder is not None and holder.at_work is False,
        SILENT_NOW: status.silent > SILENT,
        ON_ITS_WAY: True,
    }
    return next(state for state, holds in holding.items() if holds)


def _records(path: Path, holding: str = "") -> Iterator[Record]:
    """Steps and events near the end of a file whose line holds this text, the newest first. What
    cannot be read is passed over, as what a full disk left."""
    for line in newest_lines(path, LOOK_BACK):
        if holding.encode() not in line:  # to parse all lines would take long
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and type(record.get("step", record.get("to"))) is int:
            yield record


def _newest(path: Path, holding: str = "") -> Record | None:
    return next(_records(path, holding), None)


def _last_sign(run: Path) -> float:
    """When something was written last."""
    there = [run / name for name in WRITTEN if (run / name).exists()]
    return max(path.stat().st_mtime for path in there)


def _newest_checkpoint(run: Path, now: float) -> Checkpoint | None:
    for path in reversed(whole_checkpoints(run / CHECKPOINTS)):
        try:
            return Checkpoint(step_of(path), max(0.0, now - (path / STATE_NAME).stat().st_mtime))
        except OSError:  # dropped meanwhile
            continue
    return None


def _steps(run: Path) -> int | None:
    try:
        found: Any = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))["steps"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError):
        return None
    return found if type(found) is int else None


def _images_per_second(run: Path) -> float | None:
    speed = (_newest(run / SCALARS, '"speed"') or {}).get("speed")
    return _number(speed.get("images_per_second")) if isinstance(speed, dict) else None


def _remaining(run: Path) -> float | None:
    """As the log has it, which counts evaluations in."""
    for line in newest_lines(run / JOURNAL, LOOK_BACK):
        if found := REMAINING.match(line):
            hours, minutes, seconds = map(int, found.groups())
            return float(3600 * hours + 60 * minutes + seconds)
    return None


def _worst(run: Path) -> Worst | None:
    """Of the newest measurement."""
    newest = _newest(run / SPECTRA) or {}
    found = [
        Worst(newest["step"], f"{network} {layer}", number)
        for network in NETWORKS
        for layer, sigmas in (newest.get(network) or {}).items()
        if sigmas and (number := _number(sigmas[0])) is not None
    ]
    return max(found, key=lambda worst: (math.isnan(worst.sigma), worst.sigma), default=None)


def _scores(run: Path) -> Record | None:
    """The newest, by their own names."""
    newest = _newest(run / SCALARS, f'"{SCORE}')
    if newest is None:
        return None
    scores = {name.removeprefix(SCORE): newest[name] for name in newest if name.startswith(SCORE)}
    return {"step": newest["step"], **scores}


def _told(alarm: Record) -> Record:
    return {name: alarm.get(name) for name in ("step", "channel", "reason", "action")}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
