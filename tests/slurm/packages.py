"""Slurm for a machine that has none: Debian packages, unpacked into a folder of our own.

Nothing is installed. A machine of a cluster lays the folder over its /usr, where the paths that
are compiled into Slurm expect it.
"""

import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
PACKAGES = (
    *("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins"),
    *("munge", "libmunge2"),
)

# What apt writes goes to {folder}, and no hook of the host runs.
APT = """\
Dir::State "{folder}/state";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}/log";
APT::Sandbox::User "root";
Acquire::http::Timeout "15";
Debug::NoLocking "true";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


class UnavailableError(Exception):
    """Why there is no Slurm, in one line."""


def on_host() -> bool:
    """Whether the host has a Slurm of its own."""
    return all(map(shutil.which, PROGRAMS))


@cache
def unpacked() -> Path:
    """The folder to lay over /usr, kept from run to run."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    system = platform.freedesktop_os_release()
    release = f"{system['ID']}-{system.get('VERSION_ID', '')}-{platform.machine()}"
    kept = caches / "biggan_sn" / "slurm" / release
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            root = Path(scratch) / "root"
            _unpack(_download(Path(scratch)), root)
            _try(root / "usr")
            _publish(root / "usr", kept)
    _try(kept)  # overlays may not be permitted
    return kept


def mount_command(layer: Path) -> str:
    """Lays the unpacked packages over /usr."""
    return f"mount -t overlay overlay -o 'ro,lowerdir={layer}:/usr' /usr"


def _download(folder: Path) -> list[Path]:
    for name in ("state", "cache"):
        (folder / name).mkdir()
    settings = folder / "apt.conf"
    settings.write_text(APT.format(folder=folder))
    apt = ("apt-get", "--quiet", "--yes", f"--config-file={settings}")
    # a broken source of something else is no reason to give up: the next command is the judge
    _run(*apt, "update", check=False)
    # packages that are named come whether or not the host has them, others only if it has not
    options = ("--download-only", "--reinstall", "--no-install-recommends")
    _run(*apt, "install", *options, *PACKAGES)
    packages = list((folder / "cache" / "archives").glob("*.deb"))
    if not packages:
        raise UnavailableError("apt-get has found nothing to download")
    return packages


def _unpack(packages: list[Path], root: Path) -> None:
    for package in packages:
        _run("dpkg", "--extract", str(package), str(root))
    for name in ("bin", "sbin", "lib"):  # which are links into /usr on a system of today
        if (root / name).exists():
            shutil.copytree(root / name, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
    # names that an installation would have made
    for program in (root / "usr" / "sbin").glob("*-wlm"):
        program.with_name(program.name.removesuffix("-wlm")).symlink_to(program.name)


def _try(layer: Path) -> None:
    _run("unshare", "--mount", "sh", "-c", f"{mount_command(layer)} && /usr/sbin/slurmctld -V")


def _publish(folder: Path, kept: Path) -> None:
    try:
        folder.rename(kept)
    except OSError:  # another process was quicker
        if not kept.exists():
            raise


def _run(*command: str, check: bool = True) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(str(error)) from error
    if check and done.returncode:
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise UnavailableError(f"{' '.join(command[:2])} failed: {last}")
    return done.stdout
