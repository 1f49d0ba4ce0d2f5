"""Going back to an earlier checkpoint, on another path from there."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from biggan_sn.checkpoint import CheckpointError, Checkpoints, load_state, save_state
from biggan_sn.run_folder import CHECKPOINTS, JOURNAL, step_of
from biggan_sn.training import records
from biggan_sn.training.launching import VerdictError

ATTEMPTS = "attempts"  # folder of a run where what was given up is kept
CONSEQUENCES = ("stop", "rollback")  # actions that end what is being played; the graver last
LOGS = (records.SCALARS, records.SPECTRA, JOURNAL)


class CollapseError(VerdictError):
    """The run collapsed.

    Args:
        message: what was seen.
        action: what is to be done, as in the config.
        since: the last step at which all was calm; -1 where another process knows.
    """

    def __init__(self, message: str, action: str, since: int) -> None:
        super().__init__(message)
        self.action = action
        self.since = since


@dataclass(frozen=True)
class Rollback:
    """What was done.

    Args:
        step: the run goes on from there.
        given_up: the step it had reached.
        attempt: number of the new attempt; the run started as attempt 0.
        kept: where the checkpoints and logs of the old attempt are now.
    """

    step: int
    given_up: int
    attempt: int
    kept: Path


def roll_back(
    run: Path, step: int, reason: str, reached: tuple[int, int] | None = None
) -> Rollback:
    """Makes the checkpoint of `step` the newest of a run, in which nobody may be training.

    With the same random numbers a run that collapsed collapses again, bit for bit: so `attempt`,
    which enters the latent vectors, rises, and the data go on where the run had come to. Nothing
    is deleted. Stopped at any point it can be done again.

    Args:
        run: its folder.
        step: of one of its checkpoints.
        reason: for the record.
        reached: step and position the run is at; None: those of its newest checkpoint.

    Raises:
        CheckpointError: there is no such checkpoint, or one cannot be read.
    """
    checkpoints = Checkpoints(run / CHECKPOINTS)
    there = {step_of(path): path for path in checkpoints.all()}
    if step not in there:
        steps = ", ".join(str(known) for known in there) or "none"
        raise CheckpointError(f"{run}: no checkpoint of step {step}; there are {steps}")
    newest = load_state(there[max(there)])
    attempt = newest["attempt"] + 1
    kept = run / ATTEMPTS / str(newest["attempt"])
    kept.mkdir(parents=True, exist_ok=True)
    for name in LOGS:
        if (run / name).exists():
            shutil.copy2(run / name, kept / name)
    state = load_state(there[step])
    given_up, position = reached or (newest["step"], newest["position"])
    state["position"] = max(position, state["position"])
    state["attempt"] = attempt
    save_state(there[step], state)
    checkpoints.give_up_after(step, kept)
    done = Rollback(step, given_up, attempt, kept)
    line = {"event": "rollback", "from": given_up, "to": step, "attempt": attempt, "reason": reason}
    records.append(run / records.COLLAPSE, {**line, "by_hand": reached is None})
    return done


def way_back(run: Path, step: int, since: int) -> int | None:
    """The step of the checkpoint to go back to: the newest from before the first sign of trouble,
    but older than one from which the run was carried on before and got no further.

    Args:
        run: its folder.
        step: where the run is.
        since: the last step at which all was calm.

    Returns:
        The oldest where none is from before, or all came to nothing; None where there is none.
    """
    there = [step_of(path) for path in Checkpoints(run / CHECKPOINTS).all()]
    newest = since
    before = [rollback for rollback in records.rollbacks(run) if not rollback["by_hand"]]
    if before and step <= before[-1]["from"]:
        newest = min(newest, before[-1]["to"] - 1)
    return max((known for known in there if known <= newest), default=min(there, default=None))
