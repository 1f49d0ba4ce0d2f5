"""Historical averaging against arithmetic means that are kept by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biggan_sn.config import LipschitzConfig, PlayerConfig, RegularizersConfig
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.nn.history import History
from biggan_sn.training.build import build
from biggan_sn.training.step import Means
from biggan_sn.training.world import World


def network_of(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 2)).double()
    network[0].weight.data = network[0].weight.data.contiguous(memory_format=torch.channels_last)
    return network


def parameters(network):
    return {name: p.detach().numpy().copy() for name, p in network.named_parameters()}


@settings(max_examples=20, deadline=None)
@given(updates=st.integers(0, 12), seed=st.integers(0, 99))
def test_the_distance_is_that_to_the_mean_of_all_values(updates, seed):
    """Salimans et al. 2016, section 3.3; the gradient by central differences."""
    network = network_of(seed)
    history, seen = History(network), [parameters(network)]
    for _ in range(updates):
        for p in network.parameters():
            p.data += 0.3 * torch.randn_like(p)
        history.follow()
        seen.append(parameters(network))
    means = {name: np.mean([theta[name] for theta in seen], 0) for name in seen[0]}

    def formula():
        now = parameters(network)
        return sum(np.square(now[name] - means[name]).sum() for name in now)

    distance = history.distance()
    assert distance.item() == pytest.approx(formula(), rel=1e-10, abs=1e-20)
    distance.backward()
    weight = network[0].weight
    for place in [(0, 0, 0, 0), (2, 1, 2, 1)]:
        old, sides = weight.data[place].item(), []
        for sign in (1, -1):
            weight.data[place] = old + sign * 1e-6
            sides.append(formula())
        weight.data[place] = old
        assert weight.grad[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-7)
    for name, p in network.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), 2 * (seen[-1][name] - means[name]), atol=1e-12)


def test_its_state_goes_on_bit_for_bit_and_only_in_its_network():
    network = network_of()
    straight, stopped = History(network), History(network)
    for number in range(6):
        for p in network.parameters():
            p.data += torch.randn_like(p)
        straight.follow()
        if number == 2:
            state = {name: value.contiguous().clone() for name, value in stopped.state().items()}
            stopped = History(network)
            stopped.load_state(state)
        stopped.follow()
    for name, value in straight.state().items():
        assert torch.equal(stopped.state()[name], value), name
    assert int(straight.state()["count"]) == 7
    assert not torch.equal(straight.state()["0.weight"], network[0].weight)
    other = History(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="not the history of this network"):
        other.load_state(straight.state())
    straight.load_state({})
    assert straight.distance() == 0, "where nothing is known it begins"


def test_nothing_is_kept_where_nobody_asks():
    history = History(network_of(), follows=False)
    history.follow()
    assert history.state() == {}


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def averaged(config, weight=0.5):
    side = PlayerConfig(lr=1e-2)
    terms = {"historical_averaging": weight}
    return replace(
        config,
        generator=side,
        discriminator=side,
        regularizers=RegularizersConfig(terms, terms),
        lipschitz=LipschitzConfig(
            ("sigma0_clamp",), ("spectral_norm", "weight_clipping"), clip=0.3
        ),
    )


def test_both_players_remember_every_update_of_theirs(small_config, double):
    """As constraints leave the weights: three of G and six of D in three steps."""
    step = build(averaged(small_config), World())
    networks = {"g": step.g.network, "d": step.d.network}
    seen = {side: [parameters(network)] for side, network in networks.items()}
    for side, constraint in (("g", step.g_constraint), ("d", step.d_constraint)):

        def note(side=side, after_step=constraint.after_step):
            after_step()
            seen[side].append(parameters(networks[side]))

        constraint.after_step = note
    loader = Loader(open_dataset(small_config.data), small_config.data, 0, torch.device("cpu"))
    reals = loader.batches(0, 4, 0, 1, step.d.microbatch)
    for number in range(3):
        scalars = step(number, reals)
        assert (scalars["g_regularizer"] > 0) == (number > 0), "at first it is where it began"
    loader.close()
    assert [len(values) for values in seen.values()] == [4, 7]
    for side, constraint in (("g", step.g_constraint), ("d", step.d_constraint)):
        state = constraint.history.state()
        assert int(state.pop("count")) == len(seen[side])
        assert state.keys() == dict(networks[side].named_parameters()).keys()
        for name, mean in state.items():
            expected = np.mean([theta[name] for theta in seen[side]], 0)
            np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-10, atol=1e-14)
            assert name.endswith("gamma") or np.abs(expected - seen[side][-1][name]).max() > 0


def test_the_term_pulls_g_towards_its_past(small_config, double):
    """What it adds to the gradient of an update is twice the way from the mean, at its weight."""
    gradients, ways = [], {}
    for weight in (0.0, 0.5):
        step = build(averaged(small_config, weight), World())
        history = step.g_constraint.history
        torch.manual_seed(7)
        state = {
            name: value if name == "count" else value + 0.1 * torch.randn_like(value)
            for name, value in history.state().items()
        }
        assert bool(state) == (weight > 0)
        history.load_state(state)
        ways = {n: p.detach() - state[n] for n, p in step.g.network.named_parameters() if state}
        step.update_generator(0, Means())
        gradients.append({n: p.grad for n, p in step.g.network.named_parameters()})
    assert len(ways) == len(gradients[0]) > 10
    for name, way in ways.items():
        added = gradients[1][name] - gradients[0][name]
        torch.testing.assert_close(added, 2 * 0.5 * way, rtol=1e-8, atol=1e-10)
