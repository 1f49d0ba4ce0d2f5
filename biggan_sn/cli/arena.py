"""The verb `arena`."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.cli import train
from biggan_sn.cli.common import check_yaml, config_of
from biggan_sn.config import Config
from biggan_sn.shipped import config_file


def declare(parser: ArgumentParser) -> None:
    """Play games with one method after another, several times each; one table and figure of all.

    A game is a YAML of a run, whose data may also be points in the plane (ring8, grid25); a method
    is a YAML laid over it. What was begun in --out goes on.
    """
    parser.add_argument("--games", type=Path, nargs="+", required=True, help="YAMLs of runs")
    parser.add_argument(
        "--methods", type=Path, nargs="+", required=True, help="YAMLs to lay over each of them"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of each game")
    parser.add_argument(
        "--steps", type=int, default=None, help="length of every game; default as its YAML has it"
    )
    parser.add_argument("--jobs", type=int, default=1, help="games that are played side by side")
    parser.add_argument("--out", type=Path, required=True, help="folder for all of it")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Plays; returns the exit code."""
    if parsed.jobs < 1:
        raise ValueError(f"--jobs must be 1 or more, got {parsed.jobs}")
    if parsed.out.is_file():
        raise ValueError(f"--out: {parsed.out} is a file; an arena goes into a folder")
    for option in ("games", "methods"):
        parsed[option] = [config_file(path) for path in parsed[option]]
        names = [path.stem for path in getattr(parsed, option)]
        if len(set(names)) < len(names) or len(set(parsed.seeds)) < len(parsed.seeds):
            raise ValueError(f"--{option}, --seeds: one of them is there twice")
    configs = _configs(parsed)

    from biggan_sn.arena.schedule import Cell, play_all
    from biggan_sn.arena.writing import check_games, write_all

    check_games(configs)
    cells = [
        Cell(game, method, config, parsed.out / game / method / f"seed{config.seed}")
        for (game, method, _), config in configs.items()
    ]
    failed = play_all(cells, parsed.jobs, lambda line: print(line, file=sys.stderr, flush=True))
    written = write_all(cells, parsed.out)
    print(*written, sep="\n")
    return 1 if failed else 0


def _configs(parsed: Namespace) -> dict[tuple[str, str, int], Config]:
    """Of each game, method and seed."""
    parser = ArgumentParser(exit_on_error=False)
    train.declare(parser)
    found = {}
    for game in parsed.games:
        for method in parsed.methods:
            for path in (game, method):
                check_yaml(path)
            given = ["--config", str(game), "--config", str(method), "--run_dir", "."]
            given += [] if parsed.steps is None else ["--steps", str(parsed.steps)]
            for seed in parsed.seeds:
                config = config_of(parser, parser.parse_args([*given, "--seed", str(seed)]))
                found[game.stem, method.stem, seed] = config
    return found
