"""Weight norm, weight clipping and spectral norm do what their papers say."""

import pytest
import torch
from torch import nn

from biggan_sn.config import LipschitzConfig
from biggan_sn.nn.lipschitz import (
    LIPSCHITZ,
    constrain,
)
from biggan_sn.nn.matrices import as_matrix, matrix_layers, raw_weight
from biggan_sn.nn.spectral import DEPTH
from tests.unit.nn.networks import (
    CONFIG,
    WEIGHT_ROWS,
    gaussian,
    held,
    linear,
    mixed_network,
    norm_on,
    shake,
)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (3, 2, 3, 3), (1, 5)])
def test_weight_norm_makes_every_row_a_unit_vector(shape):
    norm = LIPSCHITZ["weight_norm"]
    layer = nn.Conv2d(2, 3, 3) if len(shape) == 4 else nn.Linear(shape[1], shape[0])
    layer.double().weight.data.copy_(10 * gaussian(*shape))
    norm.weight(layer, 0, CONFIG)
    matrix = layer.weight.detach().flatten(1)
    torch.testing.assert_close(matrix.norm(dim=1), torch.ones(shape[0], dtype=torch.float64))
    assert torch.linalg.svdvals(matrix).square().sum().item() == pytest.approx(shape[0])
    raw = raw_weight(layer).detach().flatten(1)
    assert (torch.cosine_similarity(matrix, raw) > 1 - 1e-12).all()


def test_gradient_of_weight_norm_is_that_of_its_formula():
    """Salimans and Kingma 2016, eq. 3, with g = 1: (1 - v v^T) / |w| of every row."""
    network = linear(gaussian(4, 6))
    constrain(network, ["weight_norm"], CONFIG, embeddings=True)
    weight, cotangent = raw_weight(network[0]), gaussian(4, 6, seed=1)
    (found,) = torch.autograd.grad((network[0].weight * cotangent).sum(), weight)
    lengths = weight.detach().norm(dim=1, keepdim=True)
    rows = weight.detach() / lengths
    along = (cotangent * rows).sum(1, keepdim=True)
    torch.testing.assert_close(found, (cotangent - along * rows) / lengths)
    assert torch.autograd.gradcheck(norm_on(network, "0"), weight.detach().requires_grad_())


def test_weight_norm_of_a_zero_row_is_zero_and_has_a_finite_gradient():
    weight = gaussian(3, 4)
    weight[1] = 0
    network = linear(weight)
    constrain(network, ["weight_norm"], CONFIG, embeddings=True)
    network[0].weight.square().sum().backward()
    assert (network[0].weight[1] == 0).all()
    assert torch.isfinite(raw_weight(network[0]).grad).all()


def test_weight_clipping_bounds_every_parameter_after_a_step():
    network = nn.Sequential(mixed_network(), nn.Embedding(4, 3), nn.LayerNorm(3)).double()
    config = LipschitzConfig(clip=0.05)
    constraint = held(network, "weight_clipping", config=config)
    assert any((p.abs() > 0.05).any() for p in network.parameters())
    for update in range(2):
        before = [p.detach().clone() for p in network.parameters()]
        constraint.after_step()
        for old, parameter in zip(before, network.parameters(), strict=True):
            assert torch.equal(parameter, old.clamp(-0.05, 0.05))
        shake(network, update)


def test_the_spectrum_is_that_of_clipped_weights():
    network = mixed_network()
    constraint = held(network, "weight_clipping")
    shake(network, 0)
    constraint.after_step()
    for layer, sigmas in zip(
        matrix_layers(network).values(), constraint.spectrum.known().sigmas, strict=True
    ):
        true = torch.linalg.svdvals(as_matrix(layer.weight.detach()))[0]
        assert sigmas[0].item() == pytest.approx(true.item(), rel=1e-2)


@pytest.mark.parametrize("iterations", [1, 3])
def test_power_iteration_norm_is_that_of_the_paper(iterations):
    """Miyato et al. 2018, algorithm 1."""
    network = mixed_network()
    config = LipschitzConfig(power_iterations=iterations)
    constraint = held(network, "power_iteration_norm", config=config)
    u = {name: norm_on(network, name).u.clone() for name in matrix_layers(network)}
    for update in range(4):
        shake(network, update)
        constraint.after_step()
        for name, layer in matrix_layers(network).items():
            matrix, norm = as_matrix(raw_weight(layer).detach()), norm_on(network, name)
            for _ in range(iterations):
                v = matrix.mT @ u[name]
                v = v / v.norm()
                u[name] = matrix @ v
                u[name] = u[name] / u[name].norm()
            sigma = u[name] @ matrix @ v
            torch.testing.assert_close(norm.u, u[name], rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(norm.v, v, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(norm.sigma, sigma, rtol=1e-12, atol=0)
            torch.testing.assert_close(layer.weight, raw_weight(layer) / sigma)


def test_spectral_norm_takes_the_top_triplet_of_the_spectrum():
    network = mixed_network()
    constraint = held(network, "spectral_norm")
    for update in range(3):
        shake(network, update)
        constraint.after_step()
        sigmas, lefts, rights = constraint.spectrum.triplets
        for number, name in enumerate(matrix_layers(network)):
            norm = norm_on(network, name)
            assert torch.equal(norm.sigma, sigmas[number, 0])
            assert torch.equal(norm.u, lefts[number][:, 0])
            assert torch.equal(norm.v, rights[number][:, 0])


def crossing(row, depth=DEPTH):
    """sigma of a weight, and the true one, while its second singular value grows from 1 to 5, past
    the first, 3."""
    left, right = (torch.linalg.qr(gaussian(n, 30, seed=n))[0] for n in (30, 50))
    sigmas = torch.cat([torch.tensor([3.0, 1.0]), torch.linspace(0.9, 0.1, 28)]).double()
    network = linear((left * sigmas) @ right.mT)
    constraint = held(network, row, depth=depth)
    for second in torch.linspace(1, 5, 20):
        sigmas[1] = second
        raw_weight(network[0]).data.copy_((left * sigmas) @ right.mT)
        constraint.after_step()
        yield float(norm_on(network, "0").sigma), float(sigmas.max())


@pytest.mark.parametrize(("depth", "tolerance"), [(1, 1e-4), (DEPTH, 1e-6)])
def test_a_search_sees_what_power_iteration_is_stuck_with(depth, tolerance):
    for found, true in crossing("spectral_norm", depth):
        assert found == pytest.approx(true, rel=tolerance)
    *_, (found, true) = crossing("power_iteration_norm")
    assert true == 5
    assert found == pytest.approx(3, rel=1e-3)


def test_two_rows_on_one_weight_are_refused():
    for second in WEIGHT_ROWS:
        with pytest.raises(ValueError, match="a weight takes one of"):
            constrain(mixed_network(), ["weight_norm", second], CONFIG, embeddings=True)
    network = mixed_network()
    others = [name for name, row in LIPSCHITZ.items() if not row.weight]
    held(network, "weight_norm", *others).after_step()
