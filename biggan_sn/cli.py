"""The command `biggan-sn`: the only file that parses arguments.

Nothing here imports torch before the arguments are known to be right, so help and most mistakes
answer in a fraction of a second.
"""

import json
import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import yaml
from jsonargparse import ArgumentParser, Namespace

from biggan_sn import __version__
from biggan_sn.config import Config
from biggan_sn.config_io import changes, check_yaml, to_dict
from biggan_sn.models.plan import discriminator_stages, generator_stages

if TYPE_CHECKING:
    from biggan_sn.evaluation.sampling import Sampling
    from biggan_sn.models.generator import Generator
    from biggan_sn.training.trainer import Trainer

CONFIG_NAME = "config.yaml"
DIVERGED, WRONG_INPUT, INTERRUPTED = 1, 2, 130  # exit codes


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns 0 if it did what it should, 1 if a training run diverged, 2 if the
    input was wrong, 130 if it was interrupted where nothing is to be saved."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(arguments)
    except (ArgumentError, ValueError, OSError) as error:
        _complain(error)
        return WRONG_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED


def _complain(error: Exception) -> None:
    rank = os.environ.get("RANK")
    where = f"rank {rank}: " if rank is not None else ""
    print(f"biggan-sn: error: {where}{' '.join(str(error).split())}", file=sys.stderr)


def _run(arguments: list[str]) -> int:
    parser, verbs = _parser()
    if not arguments:
        parser.print_help()
        return 0
    arguments = _with_config_of_run(arguments)
    for path in _values_of("--config", arguments):
        check_yaml(Path(path))
    try:
        parsed = parser.parse_args(arguments)
    except (ArgumentError, TypeError) as error:
        known = verbs.get(arguments[0], parser)
        raise ValueError(_with_suggestion(str(error), arguments[0], known)) from error
    verb = parsed.subcommand
    return VERBS[verb][1](verbs[verb], parsed[verb])


def _parser() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    parser = ArgumentParser(
        prog="biggan-sn",
        description="Trains class-conditional GANs and keeps their spectra in sight.",
        version=__version__,
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(metavar="VERB", title="verbs")
    verbs = {}
    for name, (declare, _) in VERBS.items():
        verbs[name] = ArgumentParser(
            description=declare.__doc__, exit_on_error=False, allow_abbrev=False
        )
        declare(verbs[name])
        commands.add_subcommand(name, verbs[name], help=(declare.__doc__ or "").splitlines()[0])
    return parser, verbs


def _with_suggestion(message: str, verb: str, parser: ArgumentParser) -> str:
    """Adds the nearest known option to a complaint about an unknown one."""
    # The parser calls the --run_dir of train "train.run_dir", and the verb a subcommand.
    message = message.replace(f"{verb}.", "").replace(f"Subcommand '{verb}'", verb)
    words = message.split()
    if words[:1] == ["unrecognized"]:
        wrong = [word.partition("=")[0] for word in words if word.startswith("--")]
    elif "does not accept" in message:
        wrong = [f"--{words[-1].strip(chr(39))}"]
    else:
        wrong = []
    known = [option for action in parser._actions for option in action.option_strings]
    near = [match for word in wrong for match in get_close_matches(word, known, n=1, cutoff=0.7)]
    return f"{message}; did you mean {near[0]}?" if near else message


def _values_of(option: str, arguments: list[str]) -> list[str]:
    """All values given to `option`, as `--option value` or `--option=value`."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    spread = [value for name, value in pairs if name == option and value]
    return spread + [a.partition("=")[2] for a in arguments if a.startswith(f"{option}=")]


# ------------------------------------------------------------------------------------------ train


def _declare_train(parser: ArgumentParser) -> None:
    """Train a model, or carry on the run that is in --run_dir."""
    parser.add_argument(
        "--config", action="config", help="YAML of a run; may be repeated, the last word counts"
    )
    parser.add_argument(
        "--run_dir", type=Path, required=True, help="everything the run writes goes there"
    )
    parser.add_class_arguments(Config)


def _with_config_of_run(arguments: list[str]) -> list[str]:
    """A run that goes on without a --config goes on with its own."""
    folders = _values_of("--run_dir", arguments)
    if arguments[0] != "train" or not folders or _values_of("--config", arguments):
        return arguments
    stored = Path(folders[-1]) / CONFIG_NAME
    return ["train", "--config", str(stored), *arguments[1:]] if stored.is_file() else arguments


def _config(parser: ArgumentParser, parsed: Namespace) -> Config:
    """The config, with everything checked that needs no torch."""
    built = parser.instantiate(parsed)
    config = Config(**{field.name: built[field.name] for field in fields(Config)})
    config.microbatch("generator", _ranks())
    config.microbatch("discriminator", _ranks())
    model, resolution = config.model, config.data.resolution
    generator_stages(resolution, model.channels, model.generator_attention)
    discriminator_stages(resolution, model.channels, model.discriminator_attention)
    return config


def _ranks() -> int:
    """How many processes the launcher says there are."""
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdigit() or int(size) < 1:
        raise ValueError(f"the environment variable WORLD_SIZE must be a number, got {size!r}")
    return int(size)


def _train(parser: ArgumentParser, parsed: Namespace) -> int:
    config = _config(parser, parsed)
    folder: Path = parsed.run_dir
    if not str(parsed.run_dir).strip(" .") or not parsed.run_dir.name:
        raise ValueError(f"--run_dir must name a folder of the run's own, got {str(folder)!r}")
    stored = folder / CONFIG_NAME
    if stored.is_file() and (folder / "checkpoints" / "latest").exists():
        check_yaml(stored)
        before = _config(parser, parser.parse_args(["--config", str(stored), "--run_dir", "."]))
        if different := changes(before, config):
            raise ValueError(
                f"{folder} holds a run with another config ({'; '.join(different)}); to go on "
                "with it leave out --config and these options, a new run needs another --run_dir"
            )
    from biggan_sn.checkpoint import write_whole
    from biggan_sn.training.build import check
    from biggan_sn.training.trainer import DivergenceError, Trainer
    from biggan_sn.training.world import join, leave

    check(config, _ranks())
    if config.data.path:  # a run may be carried on from any folder
        path = Path(config.data.path).absolute()
        config = replace(config, data=replace(config.data, path=str(path)))
    world = join()
    try:
        trainer = Trainer(config, folder, world)
        with world.holding(folder):
            if world.leads:
                write_whole(stored, yaml.safe_dump(to_dict(config), sort_keys=False).encode())
            finished = _run_to_the_end(trainer)
    except DivergenceError as error:
        _complain(error)
        return DIVERGED
    finally:
        leave()
    if world.leads:
        word = "finished" if finished else f"stopped at step {trainer.step}"
        again = "" if finished else f"; go on with: biggan-sn train --run_dir {quote(str(folder))}"
        print(f"{folder}: {word}{again}")
    return 0


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


# ------------------------------------------------------------------------------- sample and sweep


def _declare_drawing(parser: ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a run's folder, or one of its checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="start of all randomness")
    parser.add_argument(
        "--mode",
        default="resample",
        help="kind of truncation: resample (the paper's), scaled_resample, scale or clamp",
    )
    parser.add_argument(
        "--standing_statistics",
        type=int,
        default=0,
        help="passes that renew the batch norms' statistics; 0 keeps those of training",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def _declare_truncation(parser: ArgumentParser) -> None:
    help_ = "truncation of z; default none at all"
    parser.add_argument("--truncation", type=float, default=None, help=help_)


def _declare_classes(parser: ArgumentParser) -> None:
    help_ = "which classes; default the first ten"
    parser.add_argument("--classes", type=int, nargs="+", default=None, help=help_)
    parser.add_argument("--per_class", type=int, default=8, help="images of each class")


def _declare_sample(parser: ArgumentParser) -> None:
    """Draw samples from a checkpoint: a grid, separate PNGs or an npz."""
    _declare_drawing(parser)
    _declare_truncation(parser)
    _declare_classes(parser)
    parser.add_argument(
        "--out", type=Path, required=True, help="a .png, a .npz, or a folder of PNGs"
    )


def _declare_sweep(parser: ArgumentParser) -> None:
    """Draw one grid per truncation value: a strip as PNG, and the diversity of each as CSV."""
    _declare_drawing(parser)
    _declare_classes(parser)
    parser.add_argument(
        "--truncations",
        type=float,
        nargs="+",
        default=[0.1, 0.4, 0.7, 1.0, 1.5, 2.0],
        help="truncation values",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for sweep.png and sweep.csv"
    )


def _sampling(parsed: Namespace, truncation: float | None) -> "Sampling":
    from biggan_sn.evaluation.sampling import Sampling

    return Sampling(parsed.seed, truncation, parsed.mode, parsed.standing_statistics)


def _open_generator(parsed: Namespace) -> tuple["Generator", list[int]]:
    """The generator of a checkpoint, and the classes to draw."""
    from biggan_sn.checkpoint import find
    from biggan_sn.evaluation.sampling import check_classes, find_device, load_generator

    if parsed.per_class < 1:
        raise ValueError(f"--per_class must be 1 or more, got {parsed.per_class}")
    generator, _ = load_generator(find(parsed.checkpoint), find_device(parsed.device))
    classes = parsed.classes or list(range(min(10, generator.num_classes)))
    check_classes(classes, generator.num_classes)
    return generator, classes


def _sample(parser: ArgumentParser, parsed: Namespace) -> int:
    from biggan_sn.evaluation.sampling import draw_classes, renew_statistics, write

    sampling = _sampling(parsed, parsed.truncation)
    generator, classes = _open_generator(parsed)
    renew_statistics(generator, sampling)
    images, labels = draw_classes(generator, classes, parsed.per_class, sampling)
    print(write(images, labels, parsed.out, len(classes)))
    return 0


def _sweep(parser: ArgumentParser, parsed: Namespace) -> int:
    from biggan_sn.evaluation.sweep import sweep

    samplings = [_sampling(parsed, value) for value in parsed.truncations]
    generator, classes = _open_generator(parsed)
    for path in sweep(generator, classes, parsed.per_class, samplings, parsed.out):
        print(path)
    return 0


# ------------------------------------------------------------------------------------------ bench


def _declare_bench(parser: ArgumentParser) -> None:
    """Time a training step on random images; prints one line of JSON per config."""
    parser.add_argument("--config", action="config", help="YAML of a run; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each timed")
    parser.add_argument("--steps_per_round", type=int, default=5, help="steps of each round")
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="time also the config with these fields changed, in turns with the first",
    )
    parser.add_class_arguments(Config)


def _bench(parser: ArgumentParser, parsed: Namespace) -> int:
    configs = [_config(parser, parsed)]
    if parsed.against:
        changed = parser.parse_args([f"--{change}" for change in parsed.against], parsed.clone())
        configs.append(_config(parser, changed))
    from biggan_sn.bench import compare
    from biggan_sn.training.build import check
    from biggan_sn.training.world import join, leave

    if parsed.rounds < 1 or parsed.steps_per_round < 1:
        raise ValueError("--rounds and --steps_per_round must be 1 or more")
    for config in configs:
        check(config, _ranks())
    world = join()
    try:
        records = compare(configs, world, parsed.rounds, parsed.steps_per_round)
        for changed, record in zip(([], parsed.against), records, strict=False):
            if world.leads:
                print(json.dumps({"changed": changed, **record}))
    finally:
        leave()
    return 0


# --------------------------------------------------------------------------------------- evaluate


def _declare_evaluate(parser: ArgumentParser) -> None:
    """Score the samples of a checkpoint; prints one line of JSON."""
    _declare_drawing(parser)
    _declare_truncation(parser)
    parser.add_argument("--scorer", default="digits", help="what scores them")
    parser.add_argument("--samples", type=int, default=1000, help="how many, over all classes")


def _evaluate(parser: ArgumentParser, parsed: Namespace) -> int:
    from biggan_sn.checkpoint import find
    from biggan_sn.evaluation.sampling import find_device, load_generator, renew_statistics
    from biggan_sn.evaluation.scorers import evaluate

    if parsed.samples < 1:
        raise ValueError(f"--samples must be 1 or more, got {parsed.samples}")
    sampling = _sampling(parsed, parsed.truncation)
    checkpoint = find(parsed.checkpoint)
    generator, state = load_generator(checkpoint, find_device(parsed.device))
    renew_statistics(generator, sampling)
    scores = evaluate(generator, parsed.scorer, parsed.samples, sampling)
    print(json.dumps({"checkpoint": str(checkpoint), "step": state["step"], **scores}))
    return 0


Declare = Callable[[ArgumentParser], None]
Run = Callable[[ArgumentParser, Namespace], int]

VERBS: dict[str, tuple[Declare, Run]] = {
    "train": (_declare_train, _train),
    "sample": (_declare_sample, _sample),
    "sweep": (_declare_sweep, _sweep),
    "evaluate": (_declare_evaluate, _evaluate),
    "bench": (_declare_bench, _bench),
}
