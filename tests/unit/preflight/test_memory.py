"""What does not fit is known before anything is played."""

from dataclasses import replace

import pytest

from biggan_sn.bench.counts import count, count_memory
from biggan_sn.preflight import memory
from biggan_sn.preflight.findings import FAILS, NOTE, OK
from biggan_sn.preflight.memory import check_memory, check_tensors
from biggan_sn.preflight.nodes import Facts
from biggan_sn.preflight.trial import Trial
from biggan_sn.training.world import World

GPU = Facts("n1", {}, "H200", 140 * 10**9, 32)
CPU = replace(GPU, device="CPU of some make")


def test_the_tensors_of_a_step_are_those_that_bench_counts(small_config):
    config = replace(small_config, batch_size=8)
    assert count_memory(config, 2) == count(config, ranks=2).peak_bytes


@pytest.mark.parametrize(
    ("facts", "needed", "verdict", "part"),
    [
        ([GPU, GPU], 100, OK, "71% of its device"),
        ([GPU, replace(GPU, memory=80 * 10**9)], 100, FAILS, "125% of its device"),
        ([CPU, CPU], 60, OK, "86% of its node, with the others there"),
        ([CPU, CPU], 100, FAILS, "143% of its node, with the others there"),
        ([CPU, replace(CPU, host="n2")], 100, OK, "71% of its node, with the others there"),
    ],
)
def test_who_shares_what_there_is(small_config, monkeypatch, facts, needed, verdict, part):
    monkeypatch.setattr(memory, "count_memory", lambda config, ranks: needed * 10**9)
    found = check_tensors(World(), small_config, facts)
    assert found.verdict == verdict
    assert part in found.text
    remedy = "lower generator.microbatch 4 and discriminator.microbatch 2, or say speed.recompute"
    assert (remedy in found.text) == (verdict == FAILS)
    partitioned = check_tensors(World(engine="zero1"), small_config, facts)
    assert partitioned.verdict == (NOTE if verdict == FAILS else OK), "ZeRO may fit nevertheless"
    trial = Trial((), {}, 0, needed * 10**9, 1.0, 1, 1.0)
    measured = check_memory(trial, facts)
    assert measured.verdict == (NOTE if verdict == FAILS else OK)
    assert part in measured.text
