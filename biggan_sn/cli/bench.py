"""The verb `bench`."""

import json
from collections.abc import Callable

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.cli.common import config_of, ranks
from biggan_sn.config import Config
from biggan_sn.tables import lookup


def declare(parser: ArgumentParser) -> None:
    """Time a training step, or the reading of images; prints lines of JSON."""
    parser.add_argument("--config", action="config", help="YAML of a run; may be repeated")
    parser.add_argument(
        "--mode",
        default="step",
        help="step: whole steps on random images, one line per config; data: reading and decoding "
        "the images of --data.path, or some that are made, beside webdataset's own pipeline",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each timed")
    parser.add_argument("--steps_per_round", type=int, default=5, help="steps of each round")
    parser.add_argument("--images_per_round", type=int, default=4096, help="images read in each")
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="time also the config with these fields changed, in turns with the first",
    )
    parser.add_argument(
        "--check_norms",
        type=bool,
        default=False,
        help="true: print also how far from 1 the norms of weights were, by full decompositions",
    )
    parser.add_class_arguments(Config)


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Times what the mode says; returns the exit code."""
    for count in ("rounds", "steps_per_round", "images_per_round"):
        if parsed[count] < 1:
            raise ValueError(f"--{count} must be 1 or more, got {parsed[count]}")
    return lookup(MODES, parsed.mode, "mode")(parser, parsed)


def _time_reading(parser: ArgumentParser, parsed: Namespace) -> int:
    config = config_of(parser, parsed)
    from biggan_sn.bench.data import time_reading

    for record in time_reading(config, parsed.rounds, parsed.images_per_round):
        print(json.dumps(record), flush=True)
    return 0


def _time_steps(parser: ArgumentParser, parsed: Namespace) -> int:
    configs = [config_of(parser, parsed)]
    if parsed.against:
        changed = parser.parse_args([f"--{change}" for change in parsed.against], parsed.clone())
        configs.append(config_of(parser, changed))
    from biggan_sn.bench.compare import compare
    from biggan_sn.training.build import check
    from biggan_sn.training.world import joined

    for config in configs:
        check(config, ranks())
    with joined(config.timeout) as world:
        records = compare(configs, world, parsed.rounds, parsed.steps_per_round, parsed.check_norms)
        for changed, record in zip(([], parsed.against), records, strict=False):
            if world.leads:
                print(json.dumps({"changed": changed, **record}))
    return 0


MODES: dict[str, Callable[[ArgumentParser, Namespace], int]] = {
    "step": _time_steps,
    "data": _time_reading,
}
