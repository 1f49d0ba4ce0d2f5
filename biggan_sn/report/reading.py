"""What is known of a run, from the files in its folder. What is missing or damaged is left out."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from biggan_sn.checkpoint import CheckpointError, Checkpoints, load_state
from biggan_sn.run_folder import CHECKPOINTS, CONFIG, JOURNAL, STOPPED, step_of
from biggan_sn.training.environment import ENVIRONMENT
from biggan_sn.training.records import COLLAPSE, SCALARS, SPECTRA, Record, standing

SCORE = "evaluation/"  # begins the name of what an evaluation found
SPEED = "speed/"  # that of what holds a job up
NEVER = (CONFIG, SCALARS, JOURNAL)  # one of them is there as soon as a run has begun
SILENT = 3600.0  # seconds after which a run that writes nothing is not taken to be on its way

FINISHED, STOPPED_HERE, ON_ITS_WAY = "finished", "stopped", "on its way"


@dataclass(frozen=True)
class History:
    """A run.

    Args:
        folder: its own.
        config: by section; empty if it cannot be read.
        config_text: the file it was read from.
        environment: what it was made with; empty if that is not known.
        scalars: step -> value of everything that was logged, by name, in order of steps.
        spectra: one record per measurement.
        events: alarms and rollbacks, oldest first.
        step: how far it is.
        state: FINISHED, STOPPED_HERE or ON_ITS_WAY.
        classes: their names, in the order of their numbers; empty if they are not known.
        written: when it last wrote something.
        now: when it was looked at.
        damaged: how many lines of which record could not be read.
    """

    folder: Path
    config: dict[str, Any]
    config_text: str
    environment: dict[str, Any]
    scalars: dict[str, dict[int, float]]
    spectra: list[Record]
    events: list[Record]
    step: int
    state: str
    classes: tuple[str, ...]
    written: datetime
    now: datetime
    damaged: dict[str, int]

    @property
    def name(self) -> str:
        """That of its folder."""
        return self.folder.resolve().name

    @property
    def steps(self) -> int:
        """Where it will end; 0 if that is not known."""
        steps = self.config.get("steps")
        return steps if type(steps) is int else 0

    @property
    def alarms(self) -> list[Record]:
        """Those that no rollback gave up."""
        return standing(self.events)


def read_run(folder: Path, now: float | None = None) -> History:
    """The history of the run in a folder; `now` is the time, in seconds since 1970.

    Raises:
        ValueError: there is no run.
    """
    if not any((folder / name).is_file() for name in NEVER):
        raise ValueError(f"{folder}: not the folder of a run; it has no {SCALARS}")
    lines = {name: list(_lines(folder / name)) for name in (SCALARS, SPECTRA, COLLAPSE)}
    fitting = {name: [line for line in lines[name] if KINDS[name](line)] for name in lines}
    damaged = {name: len(lines[name]) - len(fitting[name]) for name in lines}
    config_text = _text(folder / CONFIG)
    config = _config(config_text)
    scalars = _by_name(fitting[SCALARS])
    step = _reached(folder, scalars)
    moment = time.time() if now is None else now
    written = _last_sign(folder)
    return History(
        folder=folder,
        config=config,
        config_text=config_text,
        environment=_json(folder / ENVIRONMENT),
        scalars=scalars,
        spectra=fitting[SPECTRA],
        events=fitting[COLLAPSE],
        step=step,
        state=_state(folder, step, config.get("steps"), moment - written),
        classes=_classes(folder),
        written=datetime.fromtimestamp(written).astimezone(),
        now=datetime.fromtimestamp(moment).astimezone(),
        damaged={name: count for name, count in damaged.items() if count},
    )


def number(value: object) -> float:
    """A number as it is; nan for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return math.nan


def _lines(path: Path) -> Iterator[Any]:
    """What the lines hold, None where that cannot be read; without one that a kill cut short."""
    for line in _text(path).split("\n")[:-1]:
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            yield None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _config(document: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(document)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _has_step(line: Any) -> bool:
    return isinstance(line, dict) and type(line.get("step")) is int


def _is_measurement(line: Any) -> bool:
    return _has_step(line) and all(isinstance(line.get(network), dict) for network in "GD")


def _is_event(line: Any) -> bool:
    if not isinstance(line, dict):
        return False
    whole = {"alarm": ("step",), "rollback": ("from", "to")}.get(str(line.get("event")), ("?",))
    return all(type(line.get(name)) is int for name in whole)


KINDS = {SCALARS: _has_step, SPECTRA: _is_measurement, COLLAPSE: _is_event}


def _by_name(records: list[Record]) -> dict[str, dict[int, float]]:
    """Name -> step -> value. A name with a value that is none is not a curve."""
    found: dict[str, dict[int, float]] = {}
    for record in sorted(records, key=lambda record: record["step"]):
        speed = record.get("speed")
        parts = (
            {f"{SPEED}{name}": value for name, value in speed.items()}
            if isinstance(speed, dict)
            else {}
        )
        for name, value in {**record, **parts}.items():
            if name not in ("step", "speed"):
                found.setdefault(name, {})[record["step"]] = number(value)
    return found


def _reached(folder: Path, scalars: dict[str, dict[int, float]]) -> int:
    """The last step that is written down, or that a checkpoint is of."""
    newest = Checkpoints(folder / CHECKPOINTS).newest()
    saved = step_of(newest) if newest else 0
    return max([saved, *(max(values) for values in scalars.values())])


def _classes(folder: Path) -> tuple[str, ...]:
    newest = Checkpoints(folder / CHECKPOINTS).newest()
    try:
        found = load_state(newest).get("classes") if newest else ()
    except CheckpointError:
        return ()
    return tuple(map(str, found)) if isinstance(found, (list, tuple)) else ()


def _last_sign(folder: Path) -> float:
    """When the newest of its records was written."""
    names = (CONFIG, SCALARS, SPECTRA, COLLAPSE, JOURNAL, STOPPED, CHECKPOINTS)
    there = [folder / name for name in names if (folder / name).exists()]
    return max(path.stat().st_mtime for path in there)


def _state(folder: Path, step: int, steps: object, silent: float) -> str:
    if step == steps:
        return FINISHED
    # A run that was killed leaves no word; nor does one whose machine is gone.
    return STOPPED_HERE if (folder / STOPPED).exists() or silent > SILENT else ON_ITS_WAY
