"""What lies where in a run's folder, for those who look at one without torch too."""

from pathlib import Path

CONFIG = "config.yaml"
JOURNAL = "log.txt"
LOCK = ".lock"  # of the job at work, which writes its name into it
STOP, STOPPED = "STOP", "STOPPED"  # asks a run to stop; says that it did
CHECKPOINTS = "checkpoints"
STATE_NAME = "state.json"  # in each of them, written last


def whole_checkpoints(root: Path) -> list[Path]:
    """Every whole checkpoint in a folder of checkpoints, oldest first."""
    return sorted(path for path in root.glob("step_*") if (path / STATE_NAME).is_file())


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint by its name."""
    return int(checkpoint.name.removeprefix("step_"))
