"""Several processes on gloo: one model to the last bit, and that of one process to rounding."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from biggan_sn.config import LipschitzConfig, PlayerConfig
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.training.build import build
from biggan_sn.training.world import World

STEPS = 10


def play(config, world):
    """A few steps in float64; every tensor of both players and of the average."""
    torch.set_default_dtype(torch.float64)
    step = build(config, world)
    index = open_dataset(config.data)
    loader = Loader(index, config.data, config.seed, world.device)
    reals = loader.batches(0, config.batch_size, world.rank, world.ranks, step.d.microbatch)
    for number in range(STEPS):
        step(number, reals)
    loader.close()
    torch.set_default_dtype(torch.float32)
    networks = {"g": step.g.network, "d": step.d.network, "ema": step.ema.network}
    return {
        f"{name}.{key}": value.clone()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }


def _rank(rank, ranks, config, folder):
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    world = World(rank, ranks)
    assert world.agree(7, 8)
    assert not world.agree(7, rank)
    assert world.most(rank, -rank, rank == 0) == [ranks - 1, 0, 1]
    torch.save(play(config, world), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def with_microbatch(config, microbatch):
    side = PlayerConfig(lr=1e-3, microbatch=microbatch)
    return replace(config, generator=side, discriminator=side)


@pytest.fixture(scope="module")
def alone():
    """What one process makes of a config, worked out once for each."""
    return {}


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("rows", [(), ("gradient_normalization",)], ids=["", "GN"])
def test_ranks_hold_one_model_and_it_is_that_of_one_process(
    small_config, tmp_path, alone, ranks, rows
):
    """Ten steps with spectral norm, penalty, regularizer, attention, accumulation, the average and
    batch norm over all."""
    config = replace(
        small_config,
        batch_size=8,
        lipschitz=LipschitzConfig(("spectral_norm",), ("spectral_norm", *rows)),
    )
    mp.spawn(_rank, (ranks, with_microbatch(config, 4 // ranks), str(tmp_path)), nprocs=ranks)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(ranks)]
    if rows not in alone:
        alone[rows] = play(with_microbatch(config, 4), World())
    one = alone[rows]
    assert one.keys() == found[0].keys()
    for name in one:
        assert all(torch.equal(found[0][name], other[name]) for other in found), name
        mine, expected = found[0][name], one[name]
        if name.endswith((".0.u", ".0.v")):  # (-u, -v) is as good as (u, v)
            mine, expected = mine.abs(), expected.abs()
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-9)


def launch(config_path, folder, launcher):
    return subprocess.run(
        [*launcher, "-m", "biggan_sn", "train", "--config", str(config_path),
         "--run_dir", str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_accelerate_launches_two_processes_that_train_one_run(small_config, tmp_path):
    import yaml

    from biggan_sn.config_io import to_dict

    given = tmp_path / "given.yaml"
    side = PlayerConfig(lr=1e-3)
    config = replace(small_config, steps=4, generator=side, discriminator=side)
    given.write_text(yaml.safe_dump(to_dict(config)))
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
                  "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
                  "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    done = launch(given, tmp_path / "run", accelerate)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 x cpu" in done.stdout
    lines = (tmp_path / "run" / "scalars.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
