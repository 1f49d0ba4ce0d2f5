"""Plays one game of an arena, in a process of its own: python -m biggan_sn.arena FOLDER."""

import json
import sys
from pathlib import Path

import torch

from biggan_sn.arena.play import play
from biggan_sn.arena.schedule import PLAN, STOPPED
from biggan_sn.config_io import from_dict


def main(folder: Path) -> int:
    """Plays what is planned in the folder. Returns STOPPED if it was told to stop."""
    # Adam's moments of a unit that died halve until they are denormal, with which CPUs calculate
    # slowly: after 3000 steps of weight norm on a ring a step took 40 ms instead of 8.
    torch.set_flush_denormal(True)
    plan = json.loads((folder / PLAN).read_text())
    return 0 if play(from_dict(plan["config"]), folder) else STOPPED


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
