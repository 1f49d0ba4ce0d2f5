"""The records of a run: JSON, one line each, in its folder."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SCALARS = "scalars.jsonl"  # one line per logged step
SPECTRA = "spectra.jsonl"  # one line per measurement: network -> layer -> sigmas
COLLAPSE = "collapse.jsonl"  # one line per alarm and rollback, of all attempts

BLOCK = 1 << 16  # bytes that are read at a time from the end

Record = dict[str, Any]


def append(path: Path, record: Mapping[str, object]) -> None:
    """Adds a line."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read(path: Path) -> list[Record]:
    """All lines but one that a kill cut short; none if there is no such file."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def last(path: Path) -> Record | None:
    """The last whole line, without reading all others; None if there is none."""
    line = next(newest_lines(path), None)
    found: Record | None = None if line is None else json.loads(line)
    return found


def newest_lines(path: Path, most: int | None = None) -> Iterator[bytes]:
    """The whole lines of a file, the newest first, without that which is being written or that a
    kill cut short; none if there is no such file. It may be as long as it will: only what is asked
    for is read.

    Args:
        path: the file.
        most: bytes from its end in which to look; None for all.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.seek(0, os.SEEK_END)
        first = 0 if most is None else max(0, start - most)
        rest, ended = b"", False  # what follows the blocks yet to be read, and whether a line did
        while start > first:
            end, start = start, max(first, start - BLOCK)
            file.seek(start)
            rest, *lines = (file.read(end - start) + rest).split(b"\n")
            if lines and not ended:
                lines.pop()
                ended = True
            yield from reversed(lines)
        if ended and start == 0:
            yield rest


def rollbacks(run: Path) -> list[Record]:
    """Every rollback of a run, oldest first."""
    return [record for record in read(run / COLLAPSE) if record["event"] == "rollback"]


def alarms(run: Path) -> list[Record]:
    """The alarms on the way to where the run is now, without those of what it gave up."""
    return standing(read(run / COLLAPSE))


def standing(events: Iterable[Record]) -> list[Record]:
    """Of all alarms and rollbacks, oldest first, the alarms that no rollback gave up."""
    found: list[Record] = []
    for event in events:
        if event["event"] == "alarm":
            found.append(event)
        else:
            found = [alarm for alarm in found if alarm["step"] <= event["to"]]
    return found
