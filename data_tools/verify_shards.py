"""Checks a folder of shards to the last pixel, before a long job.

python -m data_tools.verify_shards FOLDER
python -m data_tools.verify_shards FOLDER --record
python -m data_tools.verify_shards TRAIN --against HELDOUT
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from biggan_sn.files import whole_file
from data_tools.card import write_card
from data_tools.checking import ERROR, WARNING
from data_tools.verifying import VERSION, Verified, verify
from data_tools.work import default_processes, exit_code

SHOWN = 20  # findings on the screen


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks what it is told to.

    Returns:
        0 if all is well, 1 if a process was lost, 2 if something is wrong, 130 if it was stopped.
    """
    parsed = _parse(arguments)
    return exit_code("verify_shards", lambda: _run(parsed))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="verify_shards", description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, help="of .tar shards and their index.npz")
    parser.add_argument(
        "--against", type=Path, metavar="OTHER", help="a data set that must share no image with it"
    )
    parser.add_argument(
        "--record", action="store_true", help="if nothing is wrong, write hashes to dataset.json"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for everything found")
    parser.add_argument("--no_pixels", action="store_true", help="do not decode the images")
    parser.add_argument(
        "--processes",
        type=int,
        default=default_processes(),
        help="that work side by side; default %(default)s, as many as cores",
    )
    return parser.parse_args(arguments)


def _run(parsed: argparse.Namespace) -> int:
    _check_options(parsed)
    verified = verify(parsed.folder, parsed.against, not parsed.no_pixels, parsed.processes)
    levels = [finding.level for finding in verified.found]
    errors, warnings = levels.count(ERROR), levels.count(WARNING)
    _show(verified)
    _tell_of_hashes(verified, parsed.record and not errors)
    if parsed.json:
        _write_json(parsed.json, verified)
    verdict = f"errors: {errors}, warnings: {warnings}" if levels else "all is well"
    print(f"{parsed.folder}: {verdict}", flush=True)
    return 2 if errors else 0


def _check_options(parsed: argparse.Namespace) -> None:
    """Raises ValueError for what does not go together, or does not go at all."""
    if parsed.processes < 1:
        raise ValueError(f"--processes must be 1 or more, got {parsed.processes}")
    if parsed.record and parsed.no_pixels:
        raise ValueError("--record needs the whole check: leave --no_pixels out")
    if parsed.against and parsed.against.resolve() == parsed.folder.resolve():
        raise ValueError(f"--against: {parsed.against} is the folder itself")
    if parsed.json and not parsed.json.parent.is_dir():
        raise ValueError(f"--json: {parsed.json.parent}: no such folder")


def _show(verified: Verified) -> None:
    found, given = verified.found, verified.given
    for finding in found[:SHOWN]:
        print(f"{finding.level}: {finding.text}")
    if len(found) > SHOWN:
        print(f"... and {len(found) - SHOWN} more; --json OUT lists all of them")
    counts, index = given.counts, given.index
    print(
        f"{len(index)} images of {len(counts)} classes in {len(index.names)} shards; "
        f"{min(counts)} to {max(counts)} of a class, median {np.median(counts):g}"
    )


def _tell_of_hashes(verified: Verified, record: bool) -> None:
    """Says if no hashes are known, and writes them down if it is to."""
    given = verified.given
    if given.card and given.card.shards:
        return
    if record:
        write_card(given.index, given.card, given.resolution, verified.sha256)
        print("dataset.json has the SHA-256 of every shard from now on")
    else:
        print(
            "no SHA-256 of the shards is known, so damage done before they were indexed is seen "
            "in their images only; --record notes it in dataset.json if nothing is wrong"
        )


def _write_json(path: Path, verified: Verified) -> None:
    given, found = verified.given, verified.found
    levels = [finding.level for finding in found]
    report = {
        "version": VERSION,
        "folder": str(given.index.root),
        "errors": levels.count(ERROR),
        "warnings": levels.count(WARNING),
        "images": len(given.index),
        "resolution": given.resolution,
        "classes": given.index.classes,
        "counts": given.counts,
        "shards": len(given.index.names),
        "hashes_known": bool(given.card and given.card.shards),
        "found": [finding._asdict() for finding in found],
    }
    with whole_file(path) as file:
        file.write((json.dumps(report, indent=2) + "\n").encode())


if __name__ == "__main__":
    raise SystemExit(main())
