"""Who is at work in a run's folder, told without a hand on the lock that keeps others out.

To try the lock, be it shared and for a moment, would tell a job that starts just then that another
is there. So the system is asked which files that process has open whose name is in the lock.
"""

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from biggan_sn.run_folder import LOCK

OPEN_FILES = "/proc/{process}/fd"  # on Linux; elsewhere nothing is known


@dataclass(frozen=True)
class Holder:
    """The process that took the lock last.

    Args:
        process: its number.
        host: where it ran, or runs.
        at_work: whether it still has the lock; None where that cannot be seen, as on another host
            or of another user's process.
    """

    process: int
    host: str
    at_work: bool | None


def name_of_this_process() -> str:
    """What whoever takes the lock writes into it."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def find_holder(folder: Path) -> Holder | None:
    """Who took the lock of a run's folder last; None if nobody did. Nothing is touched."""
    lock = folder / LOCK
    try:
        found = re.fullmatch(r"process (\d+) on (\S+)", lock.read_text(errors="replace"))
    except OSError:
        return None
    if not found:
        return None
    process, host = int(found[1]), found[2]
    return Holder(process, host, _has_open(process, lock) if host == socket.gethostname() else None)


def _has_open(process: int, path: Path) -> bool | None:
    if not Path(OPEN_FILES.format(process="self")).is_dir():
        return None
    try:
        return any(_is(file, path) for file in Path(OPEN_FILES.format(process=process)).iterdir())
    except FileNotFoundError:
        return False
    except PermissionError:
        return None


def _is(file: Path, path: Path) -> bool:
    """Whether an open file is that of this path. Files of other names are not even looked at: they
    may lie on a server that does not answer."""
    try:
        return file.readlink().name == path.name and file.samefile(path)
    except FileNotFoundError:  # closed meanwhile
        return False
