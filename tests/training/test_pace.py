"""Two processes, one of which dawdles: who it was, and what the other waited for."""

import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from biggan_sn.nn.clock import EXCHANGES, Meter
from biggan_sn.nn.replicas import sum_over_replicas
from biggan_sn.training.pace import Pace, Speed
from biggan_sn.training.world import World

WORK, EXTRA, DATA = 0.05, 0.15, 0.1  # seconds


def slow_images(seconds):
    while True:
        time.sleep(seconds)
        yield torch.zeros(1)


def _rank(rank, rendezvous, out):
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    pace = Pace(World(rank, 2), images_per_step=8, step=10)
    images = pace.timed(slow_images(DATA * (1 - rank)))
    for step in (11, 12):
        with pace.step(measured=step == 12):
            next(images)
            time.sleep(WORK + EXTRA * rank)
            sum_over_replicas(torch.ones(1), dist.group.WORLD)
    with pace.saving():
        time.sleep(WORK * rank)
    speed = pace.report(12)
    again = pace.report(13)
    torch.save((speed, again), f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_the_slow_process_is_named_and_what_the_other_waits_for(tmp_path):
    mp.spawn(_rank, (f"file://{tmp_path}/meet", str(tmp_path)), nprocs=2)
    (speed, again), other = (torch.load(tmp_path / f"{r}.pt", weights_only=False) for r in (0, 1))
    assert speed.record().keys() == other[0].record().keys()
    for name in ("data_wait", "communication", "slowest_rank", "lag", "saving"):
        assert getattr(speed, name) == getattr(other[0], name), "one truth on all processes"
    assert speed.slowest_rank == 1
    assert speed.data_wait == pytest.approx(1e3 * DATA, rel=0.3)  # of rank 0, per step
    assert speed.saving == pytest.approx(1e3 * WORK / 2, rel=0.3)  # once in two steps
    # A step takes 0.2 s: rank 0 waits 0.05 s for rank 1, which waits for nobody.
    waits = WORK + EXTRA - (WORK + DATA)
    assert speed.communication == pytest.approx(waits / (WORK + EXTRA) / 2, abs=0.08)
    # Own work: 0.05 s and 0.2 s.
    assert speed.lag == pytest.approx((WORK + EXTRA) / (WORK + EXTRA / 2) - 1, abs=0.15)
    assert speed.images_per_second == pytest.approx(16 / (2 * (WORK + EXTRA) + WORK / 2), rel=0.3)
    assert again.data_wait == again.saving == again.communication == 0, "each report is new"


def test_a_meter_that_is_off_counts_nothing():
    meter = Meter()
    with meter.span(torch.device("cpu")):
        pass
    meter.add(0.0, 1.0)
    assert meter.read() == 0
    meter.on = True
    with meter.span(torch.device("cpu")):
        time.sleep(0.01)
    assert 0.01 <= meter.read() < 1
    assert meter.read() == 0
    assert not EXCHANGES.on


@pytest.mark.gpu
def test_a_gpu_is_timed_by_its_own_clock():
    meter = Meter()
    meter.on = True
    x = torch.randn(4096, 4096, device="cuda")
    (x @ x).sum().item()
    with meter.span(x.device):
        start = time.perf_counter()
        for _ in range(20):
            y = x @ x
        told = time.perf_counter() - start
    y.sum().item()
    assert meter.read() > told, "the work took longer than telling it to begin"


def test_a_line_says_what_holds_a_job_up_and_nothing_else():
    assert Speed(100.0, 0.2, 0.0, 0, 0.0, 0.0).held_up() == ""
    held = Speed(100.0, 12.3, 0.31, 3, 0.25, 0.0).held_up()
    assert held == "data 12 ms  comm 31%  rank 3 +25%  "
