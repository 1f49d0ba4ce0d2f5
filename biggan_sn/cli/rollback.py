"""The verb `rollback`."""

from pathlib import Path
from shlex import quote

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.run_folder import CHECKPOINTS


def declare(parser: ArgumentParser) -> None:
    """Take a run back to an earlier checkpoint, from where it goes on with other random numbers."""
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("--to", type=int, required=True, metavar="STEP", help="one of its steps")
    parser.add_argument("--reason", default="by hand", help="for the record")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Rolls a run back; returns the exit code."""
    from biggan_sn.checkpoint import CheckpointError
    from biggan_sn.training.rollback import roll_back
    from biggan_sn.training.world import World

    folder: Path = parsed.run_dir
    if not (folder / CHECKPOINTS).is_dir():
        raise CheckpointError(f"{folder}: not the folder of a run with checkpoints")
    with World().holding(folder):
        done = roll_back(folder, parsed.to, parsed.reason)
    print(
        f"{folder}: back from step {done.given_up} to {done.step}, attempt {done.attempt}; what it "
        f"gave up is in {done.kept}; go on with: biggan-sn train --run_dir {quote(str(folder))}"
    )
    return 0
