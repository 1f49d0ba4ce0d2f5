"""A run as its records show it: how far it is, its checkpoints, alarms, rollbacks, worst layers."""

from collections.abc import Iterator
from pathlib import Path

from biggan_sn.checkpoint import BEST, LATEST, CheckpointError, Checkpoints, load_state
from biggan_sn.run_folder import CHECKPOINTS
from biggan_sn.training.monitor import worst_layers
from biggan_sn.training.records import SCALARS, SPECTRA, Record, alarms, read, rollbacks

NEWEST = 10  # alarms shown


def report(run: Path) -> Iterator[str]:
    """Lines of Markdown about the run in the folder `run`.

    Raises:
        CheckpointError: there is no run, or one of its checkpoints cannot be read.
    """
    if not (run / SCALARS).exists():
        raise CheckpointError(f"{run}: not the folder of a run; it has no {SCALARS}")
    yield f"# {run}\n"
    losses = [record for record in read(run / SCALARS) if "d_loss" in record]
    if losses:
        numbers = {**losses[-1], **losses[-1].get("speed", {})}
        numbers.pop("speed", None)
        yield "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    yield from _checkpoints(run)
    spectra = read(run / SPECTRA)
    yield from _alarms(alarms(run))
    yield from _rollbacks(rollbacks(run))
    if spectra:
        yield f"\n## Largest sigma_0 / sigma_1 at step {spectra[-1]['step']}\n"
        yield worst_layers({network: spectra[-1][network] for network in ("G", "D")})
        yield f"\nLipschitz bound of D, an estimate: {spectra[-1]['lipschitz']['total']:.4g}"


def _checkpoints(run: Path) -> Iterator[str]:
    checkpoints = Checkpoints(run / CHECKPOINTS)
    marks = {
        name: (checkpoints.root / name).resolve()
        for name in (LATEST, BEST)
        if (checkpoints.root / name).exists()
    }
    yield "\n## Checkpoints\n"
    yield "| step | attempt | FID | nearest alarm | |\n|---|---|---|---|---|"
    for path in checkpoints.all():
        state = load_state(path)
        words = " ".join(name for name, target in marks.items() if target == path.resolve())
        score = "" if state["score"] is None else f"{state['score']:.4g}"
        sign, level = max(state["signs"].items(), key=lambda item: item[1], default=("", 0.0))
        nearest = f"{sign} at {level:.0%}" if level > 0 else ""
        yield f"| {state['step']} | {state['attempt']} | {score} | {nearest} | {words} |"


def _alarms(found: list[Record]) -> Iterator[str]:
    yield f"\n## Alarms: {len(found)}\n" if found else "\n## Alarms: none"
    if len(found) > NEWEST:
        yield f"The newest {NEWEST}:"
    for alarm in found[-NEWEST:]:
        yield (
            f"- step {alarm['step']}, {alarm['channel']}: {alarm['reason']}; "
            f"calm until step {alarm['since']}"
        )


def _rollbacks(found: list[Record]) -> Iterator[str]:
    if found:
        yield "\n## Rollbacks\n"
    for done in found:
        yield (
            f"- from step {done['from']} to {done['to']}, attempt {done['attempt']}: "
            f"{done['reason']}"
        )
