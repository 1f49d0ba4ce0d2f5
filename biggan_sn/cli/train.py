"""The verb `train`."""

from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import yaml
from jsonargparse import ArgumentParser, Namespace

from biggan_sn.cli.common import check_yaml, config_of, quick_imports, ranks, values_of
from biggan_sn.config import Config
from biggan_sn.config_io import changes, to_dict
from biggan_sn.run_folder import CHECKPOINTS, CONFIG

if TYPE_CHECKING:
    from biggan_sn.training.trainer import Trainer
    from biggan_sn.training.world import World


def declare(parser: ArgumentParser) -> None:
    """Train a model, or carry on the run that is in --run_dir."""
    parser.add_argument(
        "--config", action="config", help="YAML of a run; may be repeated, the last word counts"
    )
    parser.add_argument(
        "--run_dir", type=Path, required=True, help="everything the run writes goes there"
    )
    parser.add_class_arguments(Config)


def with_config_of_run(arguments: list[str]) -> list[str]:
    """A run that goes on without a --config goes on with its own."""
    folders = values_of("--run_dir", arguments)
    if (
        arguments[0] not in ("train", "preflight")
        or not folders
        or values_of("--config", arguments)
    ):
        return arguments
    stored = Path(folders[-1]) / CONFIG
    if not stored.is_file():
        return arguments
    return [arguments[0], "--config", str(stored), *arguments[1:]]


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Trains; returns the exit code."""
    config = _with_absolute_paths(config_of(parser, parsed))
    folder: Path = parsed.run_dir
    if not str(parsed.run_dir).strip(" .") or not parsed.run_dir.name:
        raise ValueError(f"--run_dir must name a folder of the run's own, got {str(folder)!r}")
    stored = folder / CONFIG
    if stored.is_file() and any((folder / CHECKPOINTS).glob("step_*")):
        check_yaml(stored)
        before = config_of(parser, parser.parse_args(["--config", str(stored), "--run_dir", "."]))
        if different := changes(before, config):
            raise ValueError(
                f"{folder} holds a run with another config ({'; '.join(different)}); to go on "
                "with it leave out --config and these options, a new run needs another --run_dir"
            )
    with quick_imports():
        from biggan_sn.training.build import check
        from biggan_sn.training.world import joined

        check(config, ranks())
    if not (stored.is_file() or config.data.path):
        raise ValueError(
            f"{folder} holds no run to go on with, and data.path is empty: a new run needs the "
            "folder of its shards, from --config or --data.path"
        )
    with joined(config.timeout) as world:
        return _train(config, folder, world)


def _train(config: Config, folder: Path, world: "World") -> int:
    with quick_imports():
        from biggan_sn.files import write_whole
        from biggan_sn.training import environment
        from biggan_sn.training.trainer import Trainer

    trainer = Trainer(config, folder, world)
    made_with = environment.describe(world)
    with world.holding(folder):
        trainer.catch_up()
        if world.leads:
            stored = yaml.safe_dump(to_dict(config), sort_keys=False)
            write_whole(folder / CONFIG, stored.encode())
            environment.write(folder, made_with)
        finished = _run_to_the_end(trainer)
    if world.leads:
        named = quote(str(folder))
        if finished:
            print(f"{folder}: finished; all about it on one page: biggan-sn report {named}")
        else:
            again = f"biggan-sn train --run_dir {named}"
            print(f"{folder}: stopped at step {trainer.step}; go on with: {again}")
    return 0


def _with_absolute_paths(config: Config) -> Config:
    """For a run that may be carried on from another folder; nothing stays nothing."""

    def absolute(path: str) -> str:
        return str(Path(path).absolute()) if path else ""

    data, evaluation, finetune = config.data, config.evaluation, config.finetune
    data = replace(data, path=absolute(data.path), heldout=absolute(data.heldout))
    real, weights = absolute(evaluation.real), absolute(evaluation.weights)
    return replace(
        config,
        data=data,
        evaluation=replace(evaluation, real=real, weights=weights),
        finetune=replace(finetune, source=absolute(finetune.source)),
    )


def _run_to_the_end(trainer: "Trainer") -> bool:
    """Once a run is under way, a ValueError that is not about the data is a fault of ours, and
    whoever mends it needs to see where it came from."""
    from biggan_sn.data.shards import ShardError

    try:
        return trainer.run()
    except ShardError:
        raise
    except ValueError as error:
        raise RuntimeError("a fault of the program, not of its input") from error
