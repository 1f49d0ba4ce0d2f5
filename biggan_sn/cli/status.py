"""The verb `status`."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.training.status import AT_WORK, ON_ITS_WAY, Status, is_run, read_status

UNITS = {"days": 86400.0, "h": 3600.0, "min": 60.0, "s": 1.0}


def declare(parser: ArgumentParser) -> None:
    """Show in a few lines how runs are doing, at once and without touching them.

    Whether a job is at work, how far it is, its newest checkpoint, the largest sigma_0, scores,
    alarms. `inspect` looks deeper.
    """
    parser.add_argument(
        "run_dirs", type=Path, nargs="+", metavar="RUN", help="folders of runs, of any state"
    )
    parser.add_argument(
        "--json", action="store_true", help="a line of JSON for each run; times are in seconds"
    )
    parser.add_argument(
        "--watch",
        type=float,
        default=None,
        metavar="SECONDS",
        help="look again every so many seconds, until Ctrl-C",
    )


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Prints how the runs are; returns the exit code."""
    every = parsed.watch
    if every is not None and not (0 < every < math.inf):
        raise ValueError(f"--watch must be a number of seconds above 0, got {every}")
    try:
        _show(parsed.run_dirs, parsed.json)
        while every is not None:
            time.sleep(every)
            print("" if parsed.json else time.strftime("\n%Y-%m-%d %H:%M:%S\n"), end="")
            _show(parsed.run_dirs, parsed.json)
    except KeyboardInterrupt:
        if every is None:
            raise
    return 0


def _show(folders: list[Path], as_json: bool) -> None:
    """What are runs are shown, even where others are none.

    Raises:
        ValueError: names those.
    """
    others = [folder for folder in folders if not is_run(folder)]
    for folder in folders:
        if folder not in others:
            status = read_status(folder, time.time())
            lines = [json.dumps(status.record())] if as_json else lines_of(status)
            print(*lines, sep="\n", flush=True)
    if len(others) == 1:
        read_status(others[0], time.time())  # says why it is none
    if others:
        raise ValueError(f"{', '.join(map(str, others))}: not the folders of runs")


def lines_of(status: Status) -> Iterator[str]:
    """The same for people."""
    yield f"{status.run}: {status.state}{_who(status)}, wrote {span(status.silent)} ago"
    yield f"  {_progress(status)}"
    if status.checkpoint:
        yield f"  checkpoint of step {status.checkpoint.step}, {span(status.checkpoint.age)} ago"
    if status.worst:
        worst = status.worst
        yield f"  largest sigma_0 {worst.sigma:.4g}: {worst.layer}, at step {worst.step}"
    if status.scores:
        named = [f"{name} {_brief(value)}" for name, value in status.scores.items()]
        yield f"  scores at {'  '.join(named)}"
    yield f"  {_alarms(status)}"


def _who(status: Status) -> str:
    holder = status.holder
    return f" (process {holder.process} on {holder.host})" if holder else ""


def _progress(status: Status) -> str:
    parts = [f"step {status.step}"]
    if status.steps:
        parts = [f"step {status.step} of {status.steps} ({status.step / status.steps:.1%})"]
    if status.images_per_second is not None:
        parts.append(f"{status.images_per_second:.1f} images/s")
    if status.remaining and status.state in (AT_WORK, ON_ITS_WAY):
        parts.append(f"ETA {span(status.remaining)}")
    return "  ".join(parts)


def _alarms(status: Status) -> str:
    counts = f"alarms {status.alarms}, standing {status.standing}; rollbacks {status.rollbacks}"
    newest = status.newest_alarm
    if newest is None:
        return counts
    return (
        f"{counts}; the newest alarm at step {newest['step']}, {newest['channel']}: "
        f"{newest['reason']}; to do: {newest['action']}"
    )


def span(seconds: float) -> str:
    """A length of time in the largest unit of which it has two or more."""
    unit = next((name for name, size in UNITS.items() if seconds >= 2 * size), "s")
    return f"{seconds / UNITS[unit]:.0f} {unit}"


def _brief(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
