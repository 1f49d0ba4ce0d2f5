"""What a run is made with: versions, devices, and the commit of the package itself."""

import json
import os
import platform
import subprocess
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import biggan_sn
from biggan_sn.files import write_whole
from biggan_sn.training.world import World

ENVIRONMENT = "environment.json"  # of a run's folder, written at every start
PACKAGES = ("accelerate", "deepspeed", "numpy", "safetensors", "simplejpeg")
NONE = "none"
PATIENCE = 10.0  # seconds that git may take, on a file system of any kind


def versions(device: torch.device) -> dict[str, str]:
    """Of Python, this package and what it stands on, by name; "none" of what is not installed."""
    found = {"python": platform.python_version(), "biggan_sn": biggan_sn.__version__}
    found |= {"torch": torch.__version__, "CUDA": str(torch.version.cuda or NONE)}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = NONE
    if device.type == "cuda":
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found


def device_name(device: torch.device) -> str:
    """What tensors live on."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).name
    return f"CPU ({platform.machine()})"


def describe(world: World) -> dict[str, Any]:
    """Versions, devices and how many processes have each, the engine, the commit: all that JSON
    can hold, and nothing that names a machine or a person. Every process must call it."""
    devices = Counter(world.tell(device_name(world.device)))
    return {
        "versions": versions(world.device),
        "devices": dict(devices),
        "processes": world.ranks,
        "engine": world.engine,
        "commit": commit_of(Path(biggan_sn.__file__).parent) if world.leads else "",
    }


def write(run: Path, environment: dict[str, Any]) -> None:
    """Into the folder of a run, in place of that of an earlier start."""
    write_whole(run / ENVIRONMENT, (json.dumps(environment, indent=1) + "\n").encode())


def commit_of(package: Path) -> str:
    """The commit of the git checkout that a package is part of, and whether its files were changed
    since; empty where it is part of none: an environment may lie in the checkout of another
    project, which says nothing of what is installed there."""
    if not _git(package, "ls-files", "--error-unmatch", "__init__.py"):
        return ""
    commit = _git(package, "rev-parse", "HEAD")
    changed = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{commit} with changes" if commit and changed else commit


def _git(folder: Path, *arguments: str) -> str:
    """What git answers there; nothing where it fails or is not installed."""
    # Within a hook of git, these name another checkout.
    around = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**around, "GIT_OPTIONAL_LOCKS": "0"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
