"""Spectral normalisation that changes once per optimizer step and at no other time."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from biggan_sn.nn.constraint import Constraint
from biggan_sn.nn.conv_norm import conv_map, conv_norm
from biggan_sn.nn.lipschitz import constrain, unconstrain
from biggan_sn.nn.matrices import as_matrix, named_weights
from biggan_sn.nn.parametrizations import _DivideBySigma as DivideBySigma
from biggan_sn.nn.spectrum import Spectrum
from tests.unit.nn.networks import CONFIG, SIGMA0, assert_same, everything


def small_network(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    ).to(dtype)


def held(network, *rows, sigma0=SIGMA0):
    """The constraint on `network` when the rows are put on it."""
    constrain(network, rows, CONFIG, embeddings=True, sides={"0": 6, "2": 6})
    return Constraint(network, rows, CONFIG, sigma0, Spectrum(network, 3), embeddings=True)


def constrained(seed=0, dtype=torch.float64):
    network = small_network(seed, dtype)
    return network, held(network, "spectral_norm")


def plain_copy(network):
    plain = copy.deepcopy(network)
    unconstrain(plain)
    return plain


def images(count=8):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 2, 6, 6, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (3, 2, 3, 3), (1, 5)])
def test_gradient_is_that_of_division_by_the_true_norm(shape):
    """gradcheck moves W and divides by the norm of what it then is; backward never sees that."""
    weight = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def normalized(w):
        left, sigmas, right = torch.linalg.svd(as_matrix(w.detach()), full_matrices=False)
        return DivideBySigma.apply(w, w.detach() / sigmas[0], left[:, 0], right[0], sigmas[0])

    assert torch.autograd.gradcheck(normalized, weight.requires_grad_())


def test_weights_have_norm_one():
    network, _ = constrained()
    for module in network:
        if isinstance(module, nn.Conv2d | nn.Linear):
            norm = torch.linalg.matrix_norm(module.weight.flatten(1), 2)
            assert abs(norm.item() - 1) < 1e-6


def test_embeddings_only_where_asked():
    for asked in (True, False):
        network = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
        constrain(network, ["spectral_norm"], CONFIG, embeddings=asked)
        assert hasattr(network[0], "parametrizations") == asked
        assert hasattr(network[1], "parametrizations")


def gradients(network, batches, forward=None):
    network.zero_grad()
    for batch in batches:
        out = (forward or network)(batch)
        (out.square().sum() / 8).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def test_one_and_eight_microbatches_give_one_gradient():
    network, _ = constrained()
    whole = gradients(network, [images()])
    parts = gradients(network, images().split(1))
    assert (whole - parts).norm() / whole.norm() < 1e-12


def _write(network):
    with torch.no_grad():
        network[0].parametrizations.weight.original.mul_(3)


def _swap(network):
    original = network[0].parametrizations.weight.original
    original.data = original.data.clone().neg_()


def _move(network):
    network.float()


def _lay_out(network):
    network.to(memory_format=torch.channels_last)


def _renew(network):
    network[0].parametrizations.weight[0].sigma.fill_(2.0)


def _load(network):
    network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()})


@pytest.mark.parametrize("change", [_write, _swap, _move, _lay_out, _renew, _load])
def test_a_known_quotient_is_forgotten_when_anything_changes(change):
    network, _ = constrained()
    before = network[0].weight.detach().clone()
    other = copy.deepcopy(network)  # knows the quotient too
    change(network)
    for changed in (network, change_of(other, change)):
        chain = changed[0].parametrizations.weight
        wanted = chain.original / chain[0].sigma
        torch.testing.assert_close(changed[0].weight, wanted, rtol=0, atol=0)
        assert changed[0].weight.stride() == chain.original.stride()
    if change is not _lay_out and change is not _move:
        assert not torch.allclose(network[0].weight, before)


def change_of(network, change):
    change(network)
    return network


def test_all_passes_between_two_updates_share_one_quotient():
    network, constraint = constrained()
    with torch.no_grad():
        first = network[0].weight
    second = network[0].weight
    assert second.requires_grad
    assert not first.requires_grad
    assert first.data_ptr() == second.data_ptr()
    second.sum().backward()
    network[0].weight.square().sum().backward()  # each pass has a graph of its own
    raw = network[0].parametrizations.weight.original
    torch.optim.Adam([raw], lr=0.1, fused=True).step()  # which nobody can tell from the tensor
    constraint.after_step()
    assert torch.equal(network[0].weight, raw / network[0].parametrizations.weight[0].sigma)
    assert not torch.allclose(network[0].weight, first)


def test_activation_checkpointing_changes_nothing():
    network, _ = constrained()
    plain = gradients(network, [images()])
    before = everything(network)
    again = gradients(network, [images()], lambda x: checkpoint(network, x, use_reentrant=False))
    assert torch.equal(plain, again)
    assert_same(before, everything(network))


def test_zero_weight_stays_finite():
    network = nn.Linear(4, 3)
    nn.init.zeros_(network.weight)
    constraint = held(network, "spectral_norm")
    for _ in range(4):
        out = network(torch.ones(2, 4))
        out.sum().backward()
        constraint.after_step()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_sigma_is_computed_in_full_precision_under_autocast():
    found = []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, autocast):
            network, constraint = constrained(dtype=torch.float32)
            for _ in range(3):
                constraint.after_step()
        found.append(everything(network))
    assert_same(*found)


def test_channels_last_gives_the_same_sigma_and_gradient():
    network, _ = constrained()
    twin = small_network().to(memory_format=torch.channels_last)
    held(twin, "spectral_norm")
    torch.testing.assert_close(network.state_dict(), twin.state_dict(), rtol=1e-12, atol=0)
    same = gradients(network, [images()]) - gradients(twin, [images()])
    assert same.abs().max() < 1e-12


def test_unconstrained_copy_computes_the_same_and_leaves_the_original_alone():
    network, _ = constrained()
    plain = plain_copy(network)
    assert torch.equal(plain(images()), network(images()))
    assert plain.state_dict().keys() == small_network().state_dict().keys()
    assert torch.equal(plain(images()), network(images()))


def test_raw_weights_are_what_the_optimizer_moves():
    network, _ = constrained()
    raw = named_weights(network)
    assert list(raw) == ["0", "2", "4"]
    assert all(any(weight is p for p in network.parameters()) for weight in raw.values())


BOUNDED = {"spectral_norm": 1, "torch_spectral_norm": 1, "conv_spectral_norm": CONFIG.conv_gain}


@pytest.mark.parametrize("name", BOUNDED)
def test_norm_is_bounded_after_some_training(name):
    network = small_network(dtype=torch.float32)
    constraint = held(network, name)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    for _ in range(30):
        optimizer.zero_grad()
        (-network(images().float()).square().mean()).backward()
        optimizer.step()
        constraint.after_step()
    weight = network[0].weight.detach().flatten(1)
    between_images = conv_norm(conv_map(network[0], 6))
    norms = {"conv_spectral_norm": between_images}
    norm = norms.get(name, torch.linalg.matrix_norm(weight, 2))
    assert norm == pytest.approx(BOUNDED[name], rel=0.1)


def test_unknown_constraint_names_its_neighbour():
    with pytest.raises(ValueError, match="did you mean 'spectral_norm'"):
        constrain(small_network(), ["spectral_nrm"], CONFIG, embeddings=True)
