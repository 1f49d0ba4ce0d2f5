"""One machine of a cluster: namespaces of its own, and a process outside that keeps it up.

That process, the power supply, is this file run as a program. When its owner says so or dies, its
stdin ends, and so do the machine and what it had of control groups.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FREEZER = Path("/sys/fs/cgroup/freezer")
NAMESPACES = ("--net", "--uts", "--mount", "--pid")

# The first process of a machine, which takes in orphans. All others end with it.
INIT = """
set -e
read -r pid _ </proc/self/stat # its number outside, for this is still the /proc of outside
mount -t proc proc /proc
eval "$3"
hostname "$1"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/cluster
mount --bind "$2" /run/cluster
mount --bind /run/cluster/hosts /etc/hosts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ip link set lo up
echo "$pid"
exec >/dev/null
read -r _
"""


class Process(NamedTuple):
    """A line of the host's process table."""

    number: int
    name: str
    state: str
    parent: int


class Machine:
    """A machine that is switched on.

    Args:
        name: its host name.
        folder: the cluster's, which it also finds at /run/cluster: paths of sockets must be
            short. A file hosts in there is its /etc/hosts.
        mount: a command that it runs first, for what else it should find in its file system.
    """

    def __init__(self, name: str, folder: Path, mount: str) -> None:
        self.name = name
        boot = ["unshare", *NAMESPACES, "--fork", "bash", "-c", INIT]
        group = str(FREEZER / f"slurm_{name}")
        self._power = subprocess.Popen(
            [sys.executable, "-IS", __file__, group, *boot, "init", name, str(folder), mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # away from the terminal's Ctrl-C
        )
        assert self._power.stdout
        said = self._power.stdout.readline()
        if not said.strip().isdecimal():
            self.switch_off()
            raise AssertionError(f"{name} did not boot: {said}")
        self.init = int(said)

    def switch_off(self) -> None:
        """Power loss: every process of the machine dies at once."""
        self._power.communicate(timeout=30)  # which ends its stdin

    def run(
        self, *command: str, env: Mapping[str, str], cwd: Path = Path("/"), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the machine."""
        enter = ["nsenter", f"--target={self.init}", *NAMESPACES, "env", f"--chdir={cwd}"]
        done = subprocess.run(
            [*enter, *command],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        said = f"{' '.join(command)} on {self.name}: {done.stdout}{done.stderr}"
        assert not (check and done.returncode), said
        return done

    def strays(self) -> list[str]:
        """Processes that neither Slurm's daemons nor those of a job's steps have started."""
        table = {process.number: process for process in _processes()}
        return [
            f"{self.name}: {process.number} {process.name}"
            for process in table.values()
            if process.state != "Z" and _is_stray(process, self.init, table)
        ]


def _is_stray(process: Process, init: int, table: Mapping[int, Process]) -> bool:
    while process.parent in table and not process.name.startswith("slurm"):
        if process.parent == init:
            return True
        process = table[process.parent]
    return False  # Slurm's, or of another machine


def _processes() -> Iterator[Process]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            state, parent, *_ = rest.split()
            yield Process(int(folder.name), name, state, int(parent))


def supply(group: Path, boot: list[str]) -> None:
    """Keeps a machine up until our stdin ends, and then removes its control groups."""
    init = subprocess.Popen(boot)  # which reads the same stdin
    os.close(1)  # that the owner does not wait for the first line of a machine that did not boot
    os.close(2)
    sys.stdin.read()
    while init.poll() is None or group.exists():
        _remove(group)
        time.sleep(0.02)


def _remove(group: Path) -> None:
    groups = [path for path in [group, *group.rglob("*")] if path.is_dir()]
    for folder in sorted(groups, reverse=True):  # the innermost come first
        with suppress(OSError):  # not empty yet
            (folder / "freezer.state").write_text("THAWED")  # the frozen do not die
            folder.rmdir()


if __name__ == "__main__":
    supply(Path(sys.argv[1]), sys.argv[2:])
