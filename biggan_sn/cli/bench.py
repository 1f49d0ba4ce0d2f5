"""The verb `bench`."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.cli.common import config_of, ranks
from biggan_sn.config import Config
from biggan_sn.files import write_whole
from biggan_sn.progress import show_progress
from biggan_sn.tables import lookup


def declare(parser: ArgumentParser) -> None:
    """Time a training step, or the reading of images; prints lines of JSON."""
    parser.add_argument("--config", action="config", help="YAML of a run; may be repeated")
    parser.add_argument(
        "--mode",
        default="step",
        help="step: whole steps on random images, one line per config; d, g: an update of D or of "
        "G alone; weights: what a step does with weights alone (regularizers, Adam, spectra, the "
        "average); sample: drawing from the average of G; layers: each convolution beside a "
        "resampling in all its forms; data: reading and decoding the images of --data.path, or "
        "some that are made, beside webdataset's own pipeline",
    )
    parser.add_argument(
        "--count_only",
        action="store_true",
        help="time nothing: parameters, FLOPs, bytes and launches of a step, which need no memory",
    )
    parser.add_argument(
        "--table", default="", help="of --mode layers: file for the fastest forms, for speed.forms"
    )
    parser.add_argument("--json", default="", help="file to which the records are written too")
    parser.add_argument(
        "--profile", default="", help="file for a table of the operations of a round, longest first"
    )
    parser.add_argument(
        "--compare",
        default="",
        help="file that --json wrote before: print also, for each number there and here, how many "
        "times the old one the new one is",
    )
    _declare_rounds(parser)
    parser.add_class_arguments(Config)


def _declare_rounds(parser: ArgumentParser) -> None:
    """The options of what is timed."""
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


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Times what the mode says; returns the exit code."""
    for count in ("rounds", "steps_per_round", "images_per_round"):
        if parsed[count] < 1:
            raise ValueError(f"--{count} must be 1 or more, got {parsed[count]}")
    measure = lookup(MODES, parsed.mode, "mode")
    before = _records(Path(parsed.compare)) if parsed.compare else []
    for option in ("json", "table", "profile"):
        folder = Path(parsed[option]).absolute().parent
        if parsed[option] and not folder.is_dir():
            raise ValueError(f"--{option}: there is no folder {folder}")
    records = []
    for record in measure(parser, parsed):
        print(json.dumps(record), flush=True)
        records.append(record)
    for old, new in zip(before, records, strict=False):
        print(json.dumps({"times_before": ratios(old, new)}))
    if parsed.json and records:
        write_whole(Path(parsed.json), (json.dumps(records, indent=1) + "\n").encode())
    return 0


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"--compare: {path} cannot be read as JSON: {error}") from error
    if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
        raise ValueError(f"--compare: {path} is nothing that bench --json wrote")
    return records


def ratios(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """New over old for each number that both have and that is not 0, also within groups."""
    found: dict[str, Any] = {}
    for name in old.keys() & new.keys():
        before, after = old[name], new[name]
        if isinstance(before, dict) and isinstance(after, dict):
            found[name] = ratios(before, after)
        elif isinstance(before, int | float) and isinstance(after, int | float) and before:
            found[name] = after / before
    return {name: found[name] for name in new if name in found}


def _read(parser: ArgumentParser, parsed: Namespace) -> Iterator[dict[str, Any]]:
    config = config_of(parser, parsed)
    from biggan_sn.bench.data import time_reading

    yield from time_reading(config, parsed.rounds, parsed.images_per_round)


def _play(parser: ArgumentParser, parsed: Namespace) -> Iterator[dict[str, Any]]:
    configs = [config_of(parser, parsed)]
    if parsed.against:
        changed = parser.parse_args([f"--{change}" for change in parsed.against], parsed.clone())
        configs.append(config_of(parser, changed))
    from biggan_sn.training.build import check

    for config in configs:
        check(config, ranks())
    measure = _count if parsed.count_only else _time
    for changed, record in zip(([], parsed.against), measure(configs, parsed), strict=False):
        yield {"changed": changed, **record}


def _count(configs: Sequence[Config], parsed: Namespace) -> Iterator[dict[str, Any]]:
    from biggan_sn.bench.counts import count

    for config in configs:
        yield {"mode": parsed.mode, **asdict(count(config, parsed.mode, ranks()))}


def _time(configs: Sequence[Config], parsed: Namespace) -> Iterator[dict[str, Any]]:
    from biggan_sn.bench.compare import WARM_UP, compare
    from biggan_sn.training.world import joined

    steps = len(configs) * (WARM_UP + parsed.rounds * parsed.steps_per_round)
    timeout = max(config.timeout for config in configs)
    with joined(timeout) as world, show_progress(steps, "step", shown=world.leads) as advance:
        records = compare(
            configs,
            world,
            parsed.rounds,
            parsed.steps_per_round,
            check_norms=parsed.check_norms,
            mode=parsed.mode,
            profile=Path(parsed.profile) if parsed.profile and world.leads else None,
            advance=advance,
        )
        if world.leads:
            yield from records


def _race_forms(parser: ArgumentParser, parsed: Namespace) -> Iterator[dict[str, Any]]:
    config = config_of(parser, parsed)
    from biggan_sn.bench.layers import table_of, time_layers
    from biggan_sn.training.build import check
    from biggan_sn.training.world import joined

    check(config, ranks())
    records = []
    with joined(config.timeout) as world:
        for record in time_layers(config, world.device, world.ranks, parsed.rounds):
            records.append(record)
            yield record
    if parsed.table:
        text = json.dumps(table_of(records), indent=1) + "\n"
        write_whole(Path(parsed.table), text.encode())


Measure = Callable[[ArgumentParser, Namespace], Iterator[dict[str, Any]]]

MODES: dict[str, Measure] = {
    "step": _play,
    "d": _play,
    "g": _play,
    "weights": _play,
    "sample": _play,
    "layers": _race_forms,
    "data": _read,
}
