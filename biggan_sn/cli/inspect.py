"""The verb `inspect`."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def declare(parser: ArgumentParser) -> None:
    """Show how a run is doing: checkpoints, alarms, rollbacks, the worst layers."""
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Prints a report; returns the exit code."""
    from biggan_sn.training.health import report

    for line in report(parsed.run_dir):
        print(line)
    return 0
