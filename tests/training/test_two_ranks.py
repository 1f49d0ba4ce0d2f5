"""Two processes on gloo: one model to the last bit, and that of one process to rounding."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from biggan_sn.config import PlayerConfig
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.training.build import build
from biggan_sn.training.world import World

STEPS = 3


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


def _rank(rank, config, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    world = World(rank, 2)
    assert world.agree(7)
    assert not world.agree(rank)
    assert world.most(rank, -rank, rank == 0) == [1, 0, 1]
    torch.save(play(config, world), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def with_microbatch(config, microbatch):
    side = PlayerConfig(lr=1e-3, microbatch=microbatch)
    return replace(config, generator=side, discriminator=side)


def test_two_ranks_hold_one_model_and_it_is_that_of_one_process(small_config, tmp_path):
    """With penalty, regularizer, attention, accumulation and batch norm over both."""
    mp.spawn(_rank, (with_microbatch(small_config, 1), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    one = play(with_microbatch(small_config, 2), World())
    assert one.keys() == ranks[0].keys()
    for name in one:
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        found, expected = ranks[0][name], one[name]
        if name.endswith((".0.u", ".0.v")):  # (-u, -v) is as good as (u, v)
            found, expected = found.abs(), expected.abs()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


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
