"""Turns, microbatches, and the optimizer's state on disk."""

import pytest
import torch
from torch import nn

from biggan_sn.config import PlayerConfig
from biggan_sn.training.player import Player


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 1)).double()
    return layers.to(memory_format=torch.channels_last)


def player(microbatch=8, net=None):
    return Player(net or network(), PlayerConfig(lr=1e-2), batch_size=8, microbatch=microbatch)


def images():
    return torch.randn(8, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def play(side, turns=1):
    for _ in range(turns):
        with side.turn():
            for share in side.microbatches():
                batch = images()[share.start : share.stop]
                side.descend(side.model(batch).square().mean())


def weights(side):
    return torch.cat([p.detach().flatten() for p in side.network.parameters()])


@pytest.mark.parametrize("microbatch", [1, 2, 4])
def test_microbatches_add_up_to_the_batch(microbatch):
    whole, parts = player(8), player(microbatch)
    play(whole, 3)
    play(parts, 3)
    torch.testing.assert_close(weights(whole), weights(parts), rtol=0, atol=1e-12)


@pytest.mark.parametrize("microbatch", [2, 8])
def test_a_term_on_the_network_counts_once(microbatch):
    computed = []

    def term(network):
        computed.append(network)
        return sum(p.square().sum() for p in network.parameters())

    side = player(microbatch)
    with side.turn():
        for _ in side.microbatches():
            loss = sum(p.sum() for p in side.network.parameters())
            side.descend(loss, side.once(term))
        gradients = [p.grad for p in side.trainable]
        weights = [p.detach().clone() for p in side.trainable]
    assert len(computed) == 1
    for gradient, weight in zip(gradients, weights, strict=True):
        torch.testing.assert_close(gradient, 1 + 2 * weight)


def test_network_is_frozen_outside_its_turn():
    side = player()
    assert not any(p.requires_grad for p in side.network.parameters())
    with side.turn():
        assert all(p.requires_grad for p in side.network.parameters())
        side.descend(side.model(images()).mean())
    assert not any(p.requires_grad for p in side.network.parameters())


def test_what_was_frozen_stays_frozen():
    net = network()
    net[0].bias.requires_grad_(False)
    side = player(net=net)
    with side.turn():
        assert not net[0].bias.requires_grad
        side.descend(side.model(images()).mean())


def test_a_turn_that_fails_takes_no_step():
    side = player()
    before = weights(side)

    def broken():
        with side.turn():
            side.descend(side.model(images()).mean())
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        broken()
    assert torch.equal(before, weights(side))
    assert not any(p.requires_grad for p in side.network.parameters())


def test_restored_moments_continue_exactly_even_where_layouts_differ():
    """safetensors keeps tensors contiguous, the network is channels last, and the fused Adam
    pairs their memory entry by entry: a moment laid out otherwise goes to the wrong weight."""
    straight = player()
    play(straight, 2)
    state = {name: value.contiguous().clone() for name, value in straight.state().items()}
    resumed = player()
    resumed.network.load_state_dict(straight.network.state_dict())
    resumed.load_state(state)
    play(straight, 2)
    play(resumed, 2)
    assert torch.equal(weights(straight), weights(resumed))


def test_moments_of_another_network_are_refused():
    with pytest.raises(ValueError, match="not the optimizer state of this network"):
        player().load_state({"9.weight/exp_avg": torch.zeros(1)})
