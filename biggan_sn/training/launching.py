"""What the launcher meant: how many processes, and how they move a network together.

A launch that goes wrong is silent: each process finds itself alone and trains a run of its own. So
whatever can be known of the number that was meant is asked for.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml

WRONG_INPUT, LOST = 2, 3  # exit codes of a process: of its input, or because it lost another one


class LaunchError(ValueError):
    """The job was not launched as it was meant."""


class LostError(RuntimeError):
    """Another process was lost; the message says which, and what to do.

    Args:
        message: for people.
        code: exit code, which says whether to start again may help.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class VerdictError(RuntimeError):
    """What all processes of a job know to be its end."""


# Who says how many processes there are: torchrun and accelerate, the scripts in launch/, srun, MPI.
# With a launcher on each node, srun starts no more than there are nodes.
COUNTS = (
    "WORLD_SIZE",
    "BIGGAN_SN_PROCESSES",
    "SLURM_STEP_NUM_TASKS",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
)

STAGES = {"0": "ddp", "1": "zero1", "2": "zero2"}  # of ZeRO, by the engines that are them


def check_processes(found: int, environment: Mapping[str, str], parent: Sequence[str]) -> None:
    """Raises LaunchError unless as many processes found one another as were meant.

    Args:
        found: how many did.
        environment: of this process.
        parent: the command line that started it.
    """
    meant = {
        f"{name}={environment[name]}": int(environment[name])
        for name in COUNTS
        if environment.get(name, "").isdecimal()
    }
    if "ACCELERATE_MIXED_PRECISION" in environment and "WORLD_SIZE" not in environment:
        meant["accelerate launch"] = _asked_of_accelerate(parent)
    for who, number in meant.items():
        if number > found:
            alone = "this one is alone" if found == 1 else f"only {found} found one another"
            raise LaunchError(
                f"{number} processes were meant ({who}), but {alone}: the job would fall into "
                "several that train the same run. Start it with launch/local.sh, on several nodes "
                "launch/node.sh once on each (srun --ntasks-per-node=1), or with torchrun; not "
                "accelerate launch --cpu, which starts one process (--multi_gpu works there too)"
            )


def _asked_of_accelerate(command: Sequence[str]) -> int:
    """The processes that an `accelerate launch` was asked for, by its options or its file."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config_file", "--config-file")
    parser.add_argument("--num_processes", "--num-processes")
    parser.add_argument("--num_machines", "--num-machines")
    parser.add_argument("--cpu", action="store_true")
    try:
        given, _ = parser.parse_known_args(list(command))
    except argparse.ArgumentError:
        return 1
    stored = _accelerate_file(given.config_file, given.cpu)
    asked = (given.num_processes, given.num_machines)
    files = (stored.get("num_processes"), stored.get("num_machines"))
    numbers = [theirs if mine is None else mine for mine, theirs in zip(asked, files, strict=True)]
    return max(int(text) if (text := str(number)).isdecimal() else 1 for number in numbers)


def _accelerate_file(named: str | None, on_cpu: bool) -> dict[str, object]:
    """The settings of accelerate's configuration: the file named, or that of the user."""
    from accelerate.commands.config.config_args import default_config_file  # brings torch along

    if named is None and on_cpu:
        return {}
    try:
        stored = yaml.safe_load(Path(named or default_config_file).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return stored if isinstance(stored, dict) else {}


def parent_command() -> list[str]:
    """The command line of the process that started this one; empty where it cannot be known."""
    try:
        contents = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return []
    return contents.decode(errors="replace").split("\0")


def meant_engine(environment: Mapping[str, str]) -> str:
    """The row of ENGINES that an accelerate configuration asks for.

    Raises:
        LaunchError: it asks for what cannot be.
    """
    if environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return "ddp"
    if file := environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        raise LaunchError(
            f"{file}: a DeepSpeed config file is not read, for most of it is ours to decide; write "
            "zero_stage: 1 or 2 into accelerate's file, as launch/topology/zero2.yaml does"
        )
    for part in ("OPTIMIZER", "PARAM"):
        where = environment.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{part}_DEVICE", "none")
        if where.lower() != "none":
            raise LaunchError(
                f"offload_{part.lower()}_device: {where}: networks of this size stay on the GPU; "
                "leave it out or say none"
            )
    stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    if stage not in STAGES:
        reason = (
            "stage 3 splits the weights themselves, and second derivatives (R1, gradient "
            "normalization) need them whole"
            if stage == "3"
            else f"there is no stage {stage!r}"
            if stage
            else "it is not given"
        )
        raise LaunchError(f"zero_stage: {reason}; take 1 or 2 (launch/topology/)")
    if stage != "0" and find_spec("deepspeed") is None:
        raise LaunchError(
            f"zero_stage: {stage}: DeepSpeed is not installed: pip install 'biggan_sn[deepspeed]'"
        )
    return STAGES[stage]
