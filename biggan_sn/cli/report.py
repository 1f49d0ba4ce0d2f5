"""The verb `report`."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def declare(parser: ArgumentParser) -> None:
    """Write one page of HTML about a run: samples, sweep, curves, spectra, alarms, config."""
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--sweep", type=Path, default=None, help="folder of its sweep; default RUN/sweep"
    )
    parser.add_argument("--out", type=Path, default=None, help="the page; default RUN/report.html")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Writes the page and prints where it is; returns the exit code."""
    from biggan_sn.report.page import write_report

    print(write_report(parsed.run_dir, parsed.sweep, parsed.out))
    return 0
