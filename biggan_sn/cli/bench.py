"""The verb `bench`."""

import json

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.cli.common import config_of, ranks
from biggan_sn.config import Config


def declare(parser: ArgumentParser) -> None:
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
    parser.add_argument(
        "--check_norms",
        type=bool,
        default=False,
        help="true: print also how far from 1 the norms of weights were, by full decompositions",
    )
    parser.add_class_arguments(Config)


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Times steps; returns the exit code."""
    configs = [config_of(parser, parsed)]
    if parsed.against:
        changed = parser.parse_args([f"--{change}" for change in parsed.against], parsed.clone())
        configs.append(config_of(parser, changed))
    from biggan_sn.bench.compare import compare
    from biggan_sn.training.build import check
    from biggan_sn.training.world import joined

    if parsed.rounds < 1 or parsed.steps_per_round < 1:
        raise ValueError("--rounds and --steps_per_round must be 1 or more")
    for config in configs:
        check(config, ranks())
    with joined(config.timeout) as world:
        records = compare(configs, world, parsed.rounds, parsed.steps_per_round, parsed.check_norms)
        for changed, record in zip(([], parsed.against), records, strict=False):
            if world.leads:
                print(json.dumps({"changed": changed, **record}))
    return 0
