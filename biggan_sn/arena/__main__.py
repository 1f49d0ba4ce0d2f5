"""Plays one game of an arena, in a process of its own: python -m biggan_sn.arena FOLDER."""

import json
import sys
from pathlib import Path

from biggan_sn.arena.play import play
from biggan_sn.arena.schedule import PLAN, STOPPED
from biggan_sn.config_io import from_dict


def main(folder: Path) -> int:
    """Plays what is planned in the folder. Returns STOPPED if it was told to stop."""
    plan = json.loads((folder / PLAN).read_text())
    return 0 if play(from_dict(plan["config"]), folder) else STOPPED


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
