"""What tests share that start jobs as users do."""

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import yaml

from biggan_sn.config import (
    CheckpointConfig,
    CollapseConfig,
    Config,
    DataConfig,
    LogsConfig,
    ModelConfig,
    PlayerConfig,
)
from biggan_sn.config_io import to_dict

ROOT = Path(__file__).parents[2]
# What a job around the tests would say of itself.
OF_JOBS = ("ACCELERATE_", "BIGGAN_SN_", "SLURM", "OMPI_", "PMI_", "TORCHELASTIC_", "MASTER_")
OF_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")


def write_tiny_config(path, shards, every, keep=2, **changes):
    """A YAML of a run that moves all that is moved between processes; its path.

    Args:
        every, keep: steps between two checkpoints, and how many of them stay.
        changes: other fields of the config.
    """
    side = PlayerConfig(lr=1e-3)
    config = Config(
        data=DataConfig(path=str(shards), resolution=32, num_classes=3),
        model=ModelConfig(channels=2, z_dim=8, shared_dim=4, generator_attention=(16,)),
        penalties={"r1": 0.1},
        generator=side,
        discriminator=side,
        collapse=CollapseConfig(every=0),
        checkpoint=CheckpointConfig(every, keep),
        logs=LogsConfig(every=1, images=0),
        d_steps=1,
        batch_size=4,
    )
    path.write_text(yaml.safe_dump(to_dict(replace(config, **changes))))
    return path


def around(**more):
    """The environment of a launch: of no job, without a GPU, and with this python."""
    mine = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(OF_JOBS) and name not in OF_RANKS
    }
    path = f"{Path(sys.executable).parent}:{mine['PATH']}"
    alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return {**mine, **alone, "PATH": path, **more}


def free_port():
    """A port that nobody uses now."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return str(door.getsockname()[1])
