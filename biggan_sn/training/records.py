"""The records of a run: JSON, one line each, in its folder."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SCALARS = "scalars.jsonl"  # one line per logged step
SPECTRA = "spectra.jsonl"  # one line per measurement: network -> layer -> sigmas
COLLAPSE = "collapse.jsonl"  # one line per alarm and rollback, of all attempts

LONGEST = 1 << 16  # bytes of a line of scalars

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
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LONGEST))
        lines = file.read().decode(errors="replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    found: Record | None = json.loads(whole[-1]) if whole else None
    return found


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
