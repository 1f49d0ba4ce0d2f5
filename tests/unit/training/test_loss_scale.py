"""The factor on fp16's gradients: when it changes, and that it is kept."""

import pytest
import torch
from torch import nn

from biggan_sn.config import PlayerConfig
from biggan_sn.training.loss_scale import FIRST, PATIENCE, LossScale
from biggan_sn.training.player import Player


def test_doubles_after_a_long_calm_and_counts_anew():
    scale = LossScale(dynamic=True)
    for doublings in (1, 2):
        for _ in range(PATIENCE - 1):
            scale.update(finite=True)
        assert scale.value == FIRST * 2 ** (doublings - 1)
        scale.update(finite=True)
        assert scale.value == FIRST * 2**doublings


def test_halves_at_each_overflow_which_ends_the_calm():
    scale = LossScale(dynamic=True)
    for _ in range(PATIENCE - 1):
        scale.update(finite=True)
    scale.update(finite=False)
    scale.update(finite=False)
    assert scale.value == FIRST / 4
    for _ in range(PATIENCE - 1):
        scale.update(finite=True)
    assert scale.value == FIRST / 4
    scale.update(finite=True)
    assert scale.value == FIRST / 2


def test_types_of_more_range_have_none():
    scale = LossScale(dynamic=False)
    for finite in (True, False):
        scale.update(finite)
    assert scale.value == 1.0
    assert scale.state() == {}
    assert scale.shown(torch.device("cpu")) == 1.0


def test_what_it_knows_comes_back():
    scale, other = LossScale(dynamic=True), LossScale(dynamic=True)
    scale.update(finite=False)
    for _ in range(PATIENCE - 1):
        scale.update(finite=True)
    other.load_state(scale.state())
    other.update(finite=True)
    assert other.value == FIRST


def player(scaled=True):
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    return Player(network, PlayerConfig(lr=1e-2, eps=1e-2), 4, 2, scaled=scaled)


def turn(side, factor=1.0):
    images = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    with side.turn():
        for share in side.microbatches():
            out = side.model(images[share.start : share.stop])
            side.descend(factor * out.square().mean())


@pytest.mark.parametrize("factor", [1e37, torch.nan], ids=["inf", "nan"])
def test_each_player_has_its_own_and_leaves_out_what_overflows(factor):
    one, other = player(), player()
    for side in (one, other):
        turn(side)
    before = {
        name: value.clone() for name, value in (one.network.state_dict() | one.state()).items()
    }
    turn(one, factor)
    turn(other)
    after = one.network.state_dict() | one.state()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "loss_scale/value",
        "loss_scale/calm",
    }
    assert (one.scale.value, other.scale.value) == (FIRST / 2, FIRST)


def test_a_player_keeps_it_with_its_moments():
    one, other = player(), player()
    turn(one, 1e37)
    turn(one)
    other.load_state(one.state())
    assert (other.scale.value, other.scale.calm) == (FIRST / 2, 1)
    other.network.load_state_dict(one.network.state_dict())
    turn(one)
    turn(other)
    assert torch.equal(one.network.weight, other.network.weight)


def test_scaled_steps_are_those_without_a_scale():
    """A power of two changes no digit."""
    one, other = player(scaled=True), player(scaled=False)
    for _ in range(3):
        turn(one)
        turn(other)
    assert torch.equal(one.network.weight, other.network.weight)
    assert not any(name.startswith("loss_scale") for name in other.state())


def test_what_is_logged_lies_where_the_losses_do():
    """They come over in one transfer."""
    scale = LossScale(dynamic=True)
    assert scale.shown(torch.device("meta")).device.type == "meta"
    assert scale.shown(torch.device("cpu")) == FIRST
