"""The verb `preflight`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.cli.common import config_of, ranks
from biggan_sn.cli.status import span
from biggan_sn.config import Config

LONGEST = 120.0  # seconds that one check may take


def declare(parser: ArgumentParser) -> None:
    """Check nodes, shards and disk and play two steps, before a long run; says what it will take.

    To be started as the run will be, with launch/local.sh's and node.sh's processes. Ends with exit
    code 2 if something would stop the run.
    """
    parser.add_argument("--config", action="config", help="YAML of the run; may be repeated")
    parser.add_argument("--run_dir", type=Path, default=Path(), help="where the run would go")
    parser.add_argument("--json", type=Path, default=None, help="file for all of it as JSON")
    parser.add_class_arguments(Config)


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Checks; returns the exit code."""
    config = config_of(parser, parsed)
    from biggan_sn.files import write_whole
    from biggan_sn.preflight.run import preflight
    from biggan_sn.training.build import check
    from biggan_sn.training.launching import WRONG_INPUT
    from biggan_sn.training.world import joined

    check(config, ranks())
    timeout = min(config.timeout, LONGEST)
    with joined(timeout) as world, _nothing_left(parsed.run_dir):
        report = preflight(world, config, parsed.run_dir, lambda line: print(line, flush=True))
        if not world.leads:
            return 0 if report.passed else WRONG_INPUT
        if report.forecast:
            print(_told(report.forecast), *report.scale, sep="\n")
        if parsed.json:
            write_whole(parsed.json, json.dumps(asdict(report), indent=1).encode())
    if not report.passed:
        wrong = ", ".join(found.what for found in report.findings if found.verdict == "FAILS")
        raise ValueError(f"not ready to train: {wrong}; the lines above say why")
    return 0


@contextmanager
def _nothing_left(folder: Path) -> Iterator[None]:
    """A folder that was made for what is tried in it goes again: there is no run in it yet."""
    was_there = folder.exists()
    try:
        yield
    finally:
        if not was_there:
            with suppress(OSError):  # it is not empty, or another process was first
                folder.rmdir()


def _told(forecast: dict[str, float]) -> str:
    return (
        "forecast: {seconds_per_step:.3g} s per step, {images_per_second:.3g} images/s; the run "
        "takes {length} (without evaluations), {disk_gigabytes:.3g} GB of checkpoints and "
        "{peak_memory_gigabytes:.3g} GB of memory"
    ).format(length=span(3600 * forecast["hours"]), **forecast)
