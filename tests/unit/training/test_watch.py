"""Watching asks the device for nothing that was not asked of it before."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from biggan_sn.config import CheckpointConfig, CollapseConfig, LogsConfig, MonitorConfig
from biggan_sn.losses.objectives import OBJECTIVES
from biggan_sn.training.monitor import Measured
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.watch import Seen
from biggan_sn.training.world import World


class Scalars(TorchDispatchMode):
    """Counts how often the host waits for one number of a tensor."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def transfers(config, folder, monkeypatch):
    """Numbers and lists of numbers that a run brings from the device."""
    trainer = Trainer(config, folder, World())
    lists = []
    tolist = torch.Tensor.tolist
    with monkeypatch.context() as patched, Scalars() as scalars:
        patched.setattr(torch.Tensor, "tolist", lambda t: lists.append(t) or tolist(t))
        trainer._play_on()
    return scalars.number, len(lists)


@pytest.mark.parametrize("shown", [1, 2])
def test_looks_add_no_transfer_where_losses_are_logged(small_config, tmp_path, monkeypatch, shown):
    config = replace(
        small_config,
        monitor=MonitorConfig(every=0),
        checkpoint=CheckpointConfig(every=100),
        logs=LogsConfig(every=shown, images=0),
    )
    seen = [
        transfers(
            replace(config, collapse=CollapseConfig(every=every, images=4)),
            tmp_path / str(every),
            monkeypatch,
        )
        for every in (0, 2)
    ]
    assert seen[0] == seen[1]
    assert seen[0][1] >= config.steps // shown, "the losses come over in lists"


def test_what_a_blind_d_makes_meaningless_is_left_out(small_config, tmp_path):
    trainer = Trainer(small_config, tmp_path, World())
    trainer.watch.start(0)
    with torch.no_grad():
        trainer.networks["D"].blocks[-1].conv2.bias.fill_(-1e6)
    seen = trainer.watch.see(2, {"d_loss": torch.ones(())}, measuring=False)
    trainer.watch.close()
    assert "diversity" not in seen.probed
    assert seen.probed["contrast"] == 0
    assert seen.losses == {"d_loss": 1.0}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_doubt_of_d_is_its_loss_above_the_least_there_can_be(small_config, tmp_path, name):
    """1 for a D that cannot tell, 0 for one that has won; where losses know no end, nobody asks."""
    row = OBJECTIVES[name]
    trainer = Trainer(replace(small_config, objective=name), tmp_path, World())
    nothing = torch.zeros(1)
    for loss, doubt in ((float(row.d_loss(nothing, nothing)), 1.0), (row.least, 0.0)):
        looks = []
        trainer.watch.detector.observe = lambda look, looks=looks: looks.append(look) or []
        trainer.watch.judge(Seen(2, {"d_loss": loss}, {}, Measured({}, {}), {}))
        expected = {"d_doubt": pytest.approx(doubt)} if math.isfinite(row.least) else {}
        assert looks[0].scalars == expected
    trainer.watch.close()
