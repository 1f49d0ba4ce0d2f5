"""A run as its records show it: how far it is, its checkpoints, alarms, rollbacks, worst layers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biggan_sn.checkpoint import BEST, LATEST, CheckpointError, Checkpoints, load_state
from biggan_sn.training.logs import SCALARS
from biggan_sn.training.monitor import SPECTRA, worst_layers
from biggan_sn.training.rollback import RECORD

NEWEST = 10  # alarms shown


def report(run: Path) -> Iterator[str]:
    """Lines of Markdown about the run in the folder `run`.

    Raises:
        CheckpointError: there is no run, or one of its checkpoints cannot be read.
    """
    if not (run / SCALARS).exists():
        raise CheckpointError(f"{run}: not the folder of a run; it has no {SCALARS}")
    yield f"# {run}\n"
    losses = [record for record in _records(run / SCALARS) if "d_loss" in record]
    if losses:
        yield "  ".join(f"{name} {value:.4g}" for name, value in losses[-1].items())
    yield from _checkpoints(run)
    spectra = _records(run / SPECTRA)
    yield from _alarms(spectra)
    yield from _rollbacks(_records(run / RECORD))
    if spectra:
        yield f"\n## Largest sigma_0 / sigma_1 at step {spectra[-1]['step']}\n"
        yield worst_layers({network: spectra[-1][network] for network in ("G", "D")})
        yield f"\nLipschitz bound of D, an estimate: {spectra[-1]['lipschitz']['total']:.4g}"


def _records(path: Path) -> list[dict[str, Any]]:
    """The lines of a record, but for one that a kill cut short."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _checkpoints(run: Path) -> Iterator[str]:
    checkpoints = Checkpoints(run / "checkpoints")
    marks = {
        name: (checkpoints.root / name).resolve()
        for name in (LATEST, BEST)
        if (checkpoints.root / name).exists()
    }
    yield "\n## Checkpoints\n"
    yield "| step | attempt | FID | |\n|---|---|---|---|"
    for path in checkpoints.all():
        state = load_state(path)
        words = " ".join(name for name, target in marks.items() if target == path.resolve())
        score = "" if state["score"] is None else f"{state['score']:.4g}"
        yield f"| {state['step']} | {state['attempt']} | {score} | {words} |"


def _alarms(spectra: list[dict[str, Any]]) -> Iterator[str]:
    alarms = [(record["step"], text) for record in spectra for text in record["alarms"]]
    yield f"\n## Alarms: {len(alarms)}\n" if alarms else "\n## Alarms: none"
    if len(alarms) > NEWEST:
        yield f"The newest {NEWEST}:"
    for step, text in alarms[-NEWEST:]:
        yield f"- step {step}: {text}"


def _rollbacks(rollbacks: list[dict[str, Any]]) -> Iterator[str]:
    if rollbacks:
        yield "\n## Rollbacks\n"
    for done in rollbacks:
        yield (
            f"- from step {done['from']} to {done['to']}, attempt {done['attempt']}: "
            f"{done['reason']}"
        )
