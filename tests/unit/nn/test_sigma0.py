"""sigma_0 held in place: by the clamps after a step, and by terms of the loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biggan_sn.config import LipschitzConfig, Sigma0Config
from biggan_sn.losses.regularizers import REGULARIZERS
from biggan_sn.nn.constraint import Constraint
from biggan_sn.nn.history import History
from biggan_sn.nn.lipschitz import constrain
from biggan_sn.nn.matrices import as_matrix, named_weights, raw_weight
from biggan_sn.nn.spectrum import Spectrum

CONFIG = LipschitzConfig()
CLAMPS = ("sigma0_clamp", "sigma0_ratio_clamp")


def held(network, *rows, values=3, embeddings=True, **sigma0):
    constrain(network, rows, CONFIG, embeddings)
    spectrum = Spectrum(network, values)
    return Constraint(network, rows, CONFIG, Sigma0Config(**sigma0), spectrum, embeddings)


def linear(weight):
    """A network of one layer with this weight."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    return nn.Sequential(layer)


def basis(rows, columns, generator):
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


def with_values(sigmas, rows, columns, seed=0):
    """A matrix of these singular values, and its vectors."""
    generator = torch.Generator().manual_seed(seed)
    left, right = basis(rows, len(sigmas), generator), basis(columns, len(sigmas), generator)
    sigmas = torch.as_tensor(sigmas, dtype=torch.float64)
    return (left * sigmas) @ right.mT, left, right


def weight_of(network):
    return raw_weight(network[0]).detach()


def values_of(network):
    return torch.linalg.svdvals(as_matrix(weight_of(network)))


def test_diagonal_by_hand():
    network = linear(torch.diag(torch.tensor([9.0, 2.0, 1.0], dtype=torch.float64)))
    held(network, "sigma0_ratio_clamp", ratio=1.5).after_step()
    expected = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(weight_of(network), expected, rtol=0, atol=1e-12)


@st.composite
def separated(draw):
    """Singular values with gaps, so that the vectors are defined, the first one far out."""
    rows, columns = draw(st.integers(3, 14)), draw(st.integers(3, 14))
    steps = draw(st.lists(st.floats(0.5, 0.9), min_size=1, max_size=min(rows, columns) - 1))
    sigmas = torch.tensor([1.0, *steps], dtype=torch.float64).cumprod(0)
    sigmas[0] = draw(st.floats(1.6, 100.0))
    scale = 10.0 ** draw(st.integers(-3, 3))
    return with_values(scale * sigmas, rows, columns, draw(st.integers(0, 999)))


@settings(max_examples=60, deadline=None)
@given(separated(), st.sampled_from([1.0, 1.5, 2.0]))
def test_ratio_clamp_moves_the_first_value_and_nothing_else(matrix, ratio):
    weight, left, right = matrix
    network = linear(weight)
    constraint = held(network, "sigma0_ratio_clamp", ratio=ratio)
    constraint.after_step()
    sigmas = left.mT @ weight @ right
    expected = sigmas.diagonal().clone()
    expected[0] = min(float(expected[0]), ratio * float(expected[1]))
    rebuilt = (left * expected) @ right.mT
    assert (weight_of(network) - rebuilt).norm() <= 1e-6 * expected[0]
    found = constraint.spectrum.triplets.sigmas[0, : min(3, len(expected))]
    torch.testing.assert_close(found, expected[:3], rtol=1e-6, atol=0)


def test_an_exploded_weight_is_clamped_in_single_precision_too():
    """What is left is a thousandth of what is taken away."""
    weight, *_ = with_values([1e3, *(0.9**i for i in range(30))], 64, 100)
    network = linear(weight.float())
    held(network, "sigma0_ratio_clamp", ratio=1.5).after_step()
    found = torch.linalg.svdvals(weight_of(network).double())
    expected = torch.tensor([1.5, 1.0, 0.9, 0.81], dtype=torch.float64)
    torch.testing.assert_close(found[:4], expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("clamp", CLAMPS)
@settings(max_examples=30, deadline=None)
@given(matrix=separated())
def test_clamping_twice_is_clamping_once(clamp, matrix):
    network = linear(matrix[0])
    constraint = held(network, clamp, sigma_reg=float(values_of(network)[1]) * 0.8)
    for _ in range(3):
        constraint.after_step()  # the search converges in these
    once = weight_of(network).clone()
    constraint.after_step()
    assert (weight_of(network) - once).norm() <= 1e-9 * once.norm()


@pytest.mark.parametrize("clamp", CLAMPS)
def test_what_is_in_bounds_stays_to_the_last_bit(clamp):
    weight, *_ = with_values([2.0, 1.9, 1.0, 0.5], 6, 9)
    network = linear(weight)
    held(network, clamp).after_step()
    assert torch.equal(weight_of(network), weight)


def test_fixed_clamp_takes_all_values_that_are_known():
    weight, *_ = with_values([9.0, 7.0, 5.0, 2.0, 1.0], 8, 6)
    network = linear(weight)
    held(network, "sigma0_clamp", sigma_reg=3.0).after_step()
    expected = torch.tensor([3.0, 3.0, 3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(values_of(network), expected, rtol=1e-6, atol=1e-6)


def test_fixed_clamp_takes_the_first_alone_if_asked():
    weight, left, right = with_values([9.0, 7.0, 5.0, 2.0, 1.0], 8, 6)
    network = linear(weight)
    held(network, "sigma0_clamp", sigma_reg=3.0, only_first=True).after_step()
    expected = weight - 6 * left[:, :1] @ right[:, :1].mT
    torch.testing.assert_close(weight_of(network), expected, rtol=0, atol=1e-6)


def test_fixed_clamp_gets_to_all_values_step_by_step():
    weight, *_ = with_values([10.0] * 8, 8, 8)
    network = linear(weight)
    constraint = held(network, "sigma0_clamp", sigma_reg=3.0)
    above = []
    for _ in range(3):
        constraint.after_step()
        above.append(int((values_of(network) > 3.001).sum()))
    assert above == [5, 2, 0]


def test_triplets_follow_the_clamp():
    """Who reads the spectrum after a clamp sees the clamped weight, largest first."""
    weight, *_ = with_values([9.0, 7.0, 1.0, 0.5], 5, 8)
    network = linear(weight)
    constraint = held(network, "sigma0_clamp", sigma_reg=3.0, only_first=True)
    constraint.after_step()
    sigmas, lefts, rights = constraint.spectrum.triplets
    torch.testing.assert_close(sigmas[0], values_of(network)[:3], rtol=1e-9, atol=0)
    residual = weight_of(network) @ rights[0] - lefts[0] * sigmas[0]
    assert residual.norm() < 1e-8


def test_the_spectrum_after_a_clamp_finds_what_no_triplet_knows():
    network = linear(with_values([9.0, 8.0, 7.0, 6.0], 5, 8)[0])
    constraint = held(network, "sigma0_clamp", sigma_reg=3.0)
    constraint.after_step()
    expected = torch.tensor([6.0, 3.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(constraint.spectrum.triplets.sigmas[0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(1, 7), (7, 1)])
def test_ratio_clamp_leaves_a_weight_alone_that_has_no_sigma_1(shape):
    weight = 50 * torch.ones(shape, dtype=torch.float64)
    network = linear(weight)
    held(network, "sigma0_ratio_clamp").after_step()
    assert torch.equal(weight_of(network), weight)
    held(network, "sigma0_clamp").after_step()
    torch.testing.assert_close(values_of(network)[0].item(), 3.0)


def three_layers(middle):
    """A network whose layer in the middle is this one."""
    weights = [with_values([9.0, 2.0, 1.0], 5, 6, seed)[0] for seed in (0, 1)]
    return nn.Sequential(linear(weights[0])[0], linear(middle)[0], linear(weights[1])[0])


def odd_weight(entry):
    """Zero, or one with an entry that is not finite: no clamp has a say in it."""
    if not entry:
        return torch.zeros(4, 5, dtype=torch.float64)
    weight = with_values([9.0, 2.0, 1.0], 4, 5, seed=2)[0]
    weight[1, 2] = entry
    return weight


ODD = pytest.mark.parametrize("entry", [0.0, math.nan, math.inf])


@ODD
@pytest.mark.parametrize("clamp", CLAMPS)
def test_weights_that_cannot_be_clamped_do_not_disturb_others(clamp, entry):
    sick, well = three_layers(odd_weight(entry)), three_layers(odd_weight(1.0))
    for network in (sick, well):
        held(network, clamp).after_step()
    for number in (0, 2):
        assert torch.equal(sick[number].weight, well[number].weight)
        assert values_of(sick[number : number + 1])[0].item() == pytest.approx(3)


@ODD
@pytest.mark.parametrize("clamp", CLAMPS)
def test_weights_that_cannot_be_clamped_stay_as_they_are(clamp, entry):
    """In a broken weight one can still see which entries broke."""
    network = linear(odd_weight(entry))
    held(network, clamp).after_step()
    expected = odd_weight(entry)
    torch.testing.assert_close(weight_of(network), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("clamped", [True, False])
@pytest.mark.parametrize("clamp", CLAMPS)
def test_embeddings_are_clamped_where_asked_only(clamp, clamped):
    weight = with_values([9.0, 2.0, 1.0], 5, 6)[0]
    network = nn.Sequential(nn.Embedding(5, 6, dtype=torch.float64), linear(weight)[0])
    network[0].weight.data.copy_(weight)
    held(network, clamp, embeddings=clamped).after_step()
    assert values_of(network)[0].item() == pytest.approx(3 if clamped else 9)
    assert torch.equal(network[0].weight, weight) != clamped
    assert values_of(network[1:])[0].item() == pytest.approx(3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolutions_are_clamped_in_place_in_any_layout(layout):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False, dtype=torch.float64))
    matrix = as_matrix(network[0].weight.detach())
    left, sigmas, right = torch.linalg.svd(matrix, full_matrices=False)
    sigmas[0] = 5 * sigmas[1]
    weight = ((left * sigmas) @ right).view(6, 3, 3, 4).permute(0, 3, 1, 2)
    network.to(memory_format=layout)
    network[0].weight.data.copy_(weight)
    parameter, strides = network[0].weight, network[0].weight.stride()
    held(network, "sigma0_ratio_clamp", ratio=1.5).after_step()
    assert network[0].weight is parameter
    assert parameter.stride() == strides
    sigmas[0] = 1.5 * sigmas[1]
    expected = ((left * sigmas) @ right).view(6, 3, 3, 4).permute(0, 3, 1, 2)
    torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["spectral_norm", "conv_spectral_norm"])
@pytest.mark.parametrize("clamp", CLAMPS)
@pytest.mark.parametrize(
    "sigmas", [[9.0, 2.0, 1.0], [9.0, 7.0, 5.0, 2.0]], ids=["one over", "three over"]
)
def test_under_a_clamp_and_spectral_norm_the_norm_is_one(clamp, norm, sigmas):
    network = linear(with_values(sigmas, 6, 8)[0])
    held(network, norm, clamp).after_step()
    effective = torch.linalg.svdvals(network[0].weight.detach())
    assert effective[0].item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(effective * values_of(network)[0], values_of(network))


@pytest.mark.parametrize("rows", [("spectral_norm", "sigma0_clamp"), ("spectral_norm",)])
def test_norm_is_one_also_where_more_values_exceed_than_are_known(rows):
    """After the clamp the largest value is one that the search was not asked for."""
    network = linear(with_values([10.0, 9.9, 9.8, 9.7, 9.6], 6, 8)[0])
    held(network, *rows, sigma_reg=3.0).after_step()
    effective = torch.linalg.svdvals(network[0].weight.detach())
    assert effective[0].item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_the_moments_of_the_optimizer_do_not_notice(fused):
    network = linear(with_values([9.0, 2.0, 1.0], 5, 6)[0])
    constraint = held(network, "sigma0_ratio_clamp")
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=fused)
    network(torch.ones(2, 6, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    (state,) = optimizer.state.values()
    before = {name: value.clone() for name, value in state.items()}
    weight, gradient = weight_of(network).clone(), network[0].weight.grad.clone()
    constraint.after_step()
    assert not torch.equal(weight_of(network), weight)
    assert torch.equal(network[0].weight.grad, gradient)
    (after,) = optimizer.state.values()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_ratio_below_one_is_refused():
    """It would make sigma_1 the first, which the next step would clamp to less, and so on."""
    assert Sigma0Config(ratio=1.0).ratio == 1
    with pytest.raises(ValueError, match=r"sigma0\.ratio must be 1 or more"):
        Sigma0Config(ratio=0.99)


def term(network, name, **sigma0):
    """A regularizer of the network, once its search has converged."""
    spectrum = Spectrum(network, 3)
    for _ in range(4):
        spectrum.refresh()
    return REGULARIZERS[name].term(network, spectrum, Sigma0Config(**sigma0), History(network))


def two_layers(*sigmas):
    """A convolution and a linear map with these singular values, and an embedding to be ignored."""
    network = nn.Sequential(
        nn.Conv2d(2, 5, 3, dtype=torch.float64),
        nn.Linear(6, 7, dtype=torch.float64),
        nn.Embedding(4, 9, dtype=torch.float64),
    )
    shapes = ((5, 18), (7, 6))
    for number, (layer, values, shape) in enumerate(zip(network, sigmas, shapes, strict=False)):
        matrix = with_values(values, *shape, seed=number)[0]
        layer.weight.data.copy_(matrix.view(layer.weight.shape))
    nn.init.constant_(network[2].weight, 100.0)
    return network


def reference(network, name, two_sided, sigma_reg, ratio):
    """Brock et al. 2019, section 4.1, through the full decomposition."""
    total = 0.0
    for weight in named_weights(network, embeddings=False).values():
        sigmas = torch.linalg.svdvals(weight.flatten(1))
        target = sigma_reg if name == "sigma0" else ratio * sigmas[1].detach()
        excess = sigmas[0] - target
        total = total + (excess if two_sided else excess.relu()).square()
    return total


@pytest.mark.parametrize("name", ["sigma0", "sigma0_ratio"])
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize(
    "sigmas",
    [
        ([9.0, 2.0, 1.0, 0.5], [4.0, 2.0, 1.0]),
        ([9.0, 2.0, 1.0, 0.5], [2.4, 2.0, 1.0]),  # the second one below both targets
        ([2.4, 2.0, 1.0, 0.5], [1.2, 1.0, 0.9]),
    ],
)
def test_regularizers_and_their_gradients_equal_the_full_decomposition(name, two_sided, sigmas):
    network = two_layers(*sigmas)
    target = {"sigma_reg": 3.0, "ratio": 1.5, "two_sided": two_sided}
    found, expected = term(network, name, **target), reference(network, name, **target)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    weights = [network[0].weight, network[1].weight]
    gradients = [torch.autograd.grad(value, weights) for value in (found, expected)]
    for pair in zip(*gradients, strict=True):
        torch.testing.assert_close(*pair, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["sigma0", "sigma0_ratio"])
def test_below_the_target_there_is_nothing_unless_both_sides_are_asked_for(name):
    network = two_layers([2.4, 2.0, 1.0], [1.2, 1.0, 0.9])
    below, pulled = term(network, name), term(network, name, two_sided=True)
    assert below == 0
    assert pulled > 0
    for value, none in ((below, True), (pulled, False)):
        gradients = torch.autograd.grad(value, [network[0].weight, network[1].weight])
        assert all((g == 0).all() == none for g in gradients)


def test_weights_without_sigma_1_take_part_in_sigma0_alone():
    weight = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    network = linear(weight)
    for two_sided in (False, True):
        ratio = term(network, "sigma0_ratio", two_sided=two_sided)
        assert ratio == 0
        (gradient,) = torch.autograd.grad(ratio, network[0].weight)
        assert (gradient == 0).all()
    value = term(network, "sigma0", sigma_reg=3.0)
    assert value.item() == pytest.approx(4)
    (gradient,) = torch.autograd.grad(value, network[0].weight)
    torch.testing.assert_close(gradient, 2 * 2 * weight / 5)


def test_regularizers_of_a_zero_weight_are_finite():
    network = linear(torch.zeros(3, 4, dtype=torch.float64))
    for name, expected in (("sigma0", 9), ("sigma0_ratio", 0)):
        value = term(network, name, two_sided=True)
        (gradient,) = torch.autograd.grad(value, network[0].weight)
        assert value == expected
        assert (gradient == 0).all()


def test_regularizers_are_of_raw_weights_under_a_norm():
    network = two_layers([9.0, 2.0], [4.0, 2.0])
    constrain(network, ["spectral_norm"], CONFIG, embeddings=True)
    assert term(network, "sigma0").item() == pytest.approx(36 + 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
def test_orthonormal_is_the_distance_from_orthonormal_columns(rows, columns, seed):
    """|W^T W - I|_F^2, but for a constant where the columns are too many to be orthonormal."""
    generator = torch.Generator().manual_seed(seed)
    network = linear(torch.randn(rows, columns, dtype=torch.float64, generator=generator))
    weight = network[0].weight
    identity = torch.eye(columns, dtype=torch.float64)
    expected = (weight.mT @ weight - identity).square().sum()
    found = term(network, "orthonormal")
    torch.testing.assert_close(found + max(columns - rows, 0), expected, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(value, weight)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_orthonormal_sums_convolutions_and_linear_maps_and_no_embeddings():
    network = two_layers([3.0, 1.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(term(network, "orthonormal").item(), (9.0 - 1) ** 2 + 3**2 + 1)
    term(network, "orthonormal").backward()
    assert network[2].weight.grad is None


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
def test_orthonormal_is_zero_for_orthogonal_matrices(shape):
    """Permutations, so that no rounding blurs it."""
    network = linear(torch.eye(*shape).roll(1, 1))
    value = term(network, "orthonormal")
    assert value == 0
    value.backward()
    assert (network[0].weight.grad == 0).all()


@pytest.mark.parametrize("shape", [(3, 6), (6, 3)])
def test_descent_on_orthonormal_drives_all_values_to_one(shape):
    network = linear(with_values([2.0, 0.7, 0.1], *shape)[0])
    optimizer = torch.optim.SGD(network.parameters(), 0.02)
    for _ in range(400):
        optimizer.zero_grad()
        REGULARIZERS["orthonormal"].term(network, None, Sigma0Config(), None).backward()
        optimizer.step()
    torch.testing.assert_close(values_of(network), torch.ones(3, dtype=torch.float64))
