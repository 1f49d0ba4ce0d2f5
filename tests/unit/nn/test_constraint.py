"""Every row of LIPSCHITZ does what its paper says, and only when an optimizer has stepped."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from biggan_sn.config import LipschitzConfig, Sigma0Config
from biggan_sn.nn.constraint import Constraint
from biggan_sn.nn.conv_norm import ConvMap, conv_map, conv_norm
from biggan_sn.nn.lipschitz import (
    LIPSCHITZ,
    constrain,
    constrain_output,
    gradient_normalization,
    unconstrain,
)
from biggan_sn.nn.matrices import as_matrix, chain_of, matrix_layers, raw_weight
from biggan_sn.nn.spectral import DEPTH, TopSingularTriplets
from biggan_sn.nn.spectrum import Spectrum

CONFIG = LipschitzConfig()
SIGMA0 = Sigma0Config()
SIDES = {"0": 5, "2": 5}
WEIGHT_ROWS = [name for name, row in LIPSCHITZ.items() if row.weight]
QUIET_ROWS = [name for name in WEIGHT_ROWS if name != "torch_spectral_norm"]


def gaussian(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def mixed_network(seed=0):
    """A 3x3, a 1x1 convolution and a linear map on 5x5 pixels: images [N, 2, 5, 5] -> [N, 3]."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Flatten(), nn.Linear(75, 3)
    ).double()


def held(network, *rows, config=CONFIG, depth=DEPTH):
    constrain(network, rows, config, embeddings=True, sides=SIDES)
    spectrum = Spectrum(network, 3, depth)
    return Constraint(network, rows, config, SIGMA0, spectrum, embeddings=True)


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    return nn.Sequential(layer)


def norm_on(network, name):
    """The parametrization of a layer."""
    return chain_of(network.get_submodule(name))[0]


def shake(network, seed, size=0.1):
    """What an optimizer step does to the weights."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn_like(parameter))


def images(count=4):
    return gaussian(count, 2, 5, 5, seed=5)


def everything(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same(before, after):
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name


# Weight norm and clipping.


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


# Gradient normalization.


def piecewise_linear(seed=0, size=1.0):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1)
    ).double()
    network[5].weight.data.mul_(size)
    return network, lambda x: network(x).squeeze(1)


def smooth(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 1)).double()
    return network, lambda x: network(x).squeeze(1)


def points(count=6, seed=3):
    return gaussian(count, 3, 2, 2, seed=seed)


def slope_by_differences(critic, x, eps=1e-6):
    """[N, C, H, W] of central differences."""
    slopes = torch.zeros_like(x).flatten(1)
    for index in range(slopes.shape[1]):
        nudge = torch.zeros_like(slopes)
        nudge[:, index] = eps
        nudge = nudge.view_as(x)
        slopes[:, index] = ((critic(x + nudge) - critic(x - nudge)) / (2 * eps)).detach()
    return slopes.view_as(x)


@pytest.mark.parametrize("make", [smooth, piecewise_linear])
def test_gradient_normalization_is_its_formula(make):
    """Wu et al. 2021, eq. 8."""
    _, critic = make()
    x = points()
    logits = critic(x).detach()
    lengths = slope_by_differences(critic, x).flatten(1).norm(dim=1)
    found = gradient_normalization(critic)(x)
    torch.testing.assert_close(found, logits / (lengths + logits.abs()), rtol=1e-7, atol=0)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_normalized_logits_lie_between_minus_one_and_one(size):
    _, critic = piecewise_linear(size=size)
    found = gradient_normalization(critic)(torch.cat([points(), 1e4 * points(seed=4)]))
    assert (found.abs() <= 1).all()
    assert found.abs().max() > 0.5, "far out, |D| is all there is"
    assert torch.equal(found.sign(), critic(torch.cat([points(), 1e4 * points(seed=4)])).sign())


def test_gradients_of_normalized_logits_are_those_of_differences():
    """In the images, as G needs them, and in the weights, as D does: through the slope too."""
    network, critic = smooth()
    normalized = gradient_normalization(critic)
    x = points().requires_grad_()
    (in_images,) = torch.autograd.grad(normalized(x).sum(), x)
    expected = slope_by_differences(normalized, points())
    torch.testing.assert_close(in_images, expected, rtol=1e-6, atol=1e-8)
    weight = network[0].weight
    (in_weight,) = torch.autograd.grad(normalized(points()).sum(), weight)
    with torch.no_grad():
        for place in ((0, 0, 0, 0), (3, 2, 1, 1)):
            old, sides = weight[place].item(), []
            for sign in (1, -1):
                weight[place] = old + sign * 1e-6
                sides.append(normalized(points()).sum().item())
            weight[place] = old
            difference = (sides[0] - sides[1]) / 2e-6
            assert in_weight[place].item() == pytest.approx(difference, rel=1e-5)


def pieces(network, line):
    """Number of the linear piece of each point of a line."""
    signs = []
    hidden = line
    for layer in network:
        hidden = layer(hidden)
        if isinstance(layer, nn.ReLU):
            signs.append(hidden > 0)
    moved = (torch.cat(signs, 1)[1:] != torch.cat(signs, 1)[:-1]).any(1)
    return torch.cat([torch.zeros(1, dtype=torch.long), moved.long().cumsum(0)])


def test_a_piecewise_linear_critic_becomes_1_lipschitz_on_each_piece():
    """Along lines, between any two points of the line that lie on one piece."""
    network, critic = piecewise_linear(size=10.0)
    steepest, crossed = 0.0, 0
    for number in range(20):
        start, end = 4 * points(2, seed=number)
        places = torch.linspace(0, 1, 200, dtype=torch.float64)
        line = start + places.view(-1, 1, 1, 1) * (end - start)
        logits = gradient_normalization(critic)(line).detach()
        numbers = pieces(network, line)
        rise = (logits[:, None] - logits).abs()
        run = ((places[:, None] - places) * (end - start).norm()).abs()
        alike = (numbers[:, None] == numbers) & (run > 0)
        steepest = max(steepest, float((rise / run)[alike].max()))
        crossed += int(numbers[-1])
    assert 0.3 < steepest <= 1 + 1e-9
    assert crossed > 20


def test_normalized_logits_jump_where_the_slope_of_the_critic_does():
    """1-Lipschitz on each piece is not 1-Lipschitz everywhere."""

    def critic(x):
        x = x.flatten(1).sum(1)
        return 1 + torch.where(x > 0, 3 * x, x)

    x = torch.tensor([-1e-9, 1e-9], dtype=torch.float64).view(2, 1, 1, 1)
    expected = torch.tensor([1 / 2, 1 / 4], dtype=torch.float64)
    torch.testing.assert_close(gradient_normalization(critic)(x).detach(), expected)


@pytest.mark.parametrize("kind", ["dead", "zero"])
def test_where_the_critic_has_neither_value_nor_slope_all_is_finite(kind):
    network, critic = piecewise_linear()
    with torch.no_grad():
        network[5].bias.zero_()
        if kind == "dead":
            network[3].weight.zero_()
            network[3].bias.fill_(-1.0)  # no unit is on
        else:
            network[5].weight.zero_()
    x = points().requires_grad_()
    found = gradient_normalization(critic)(x)
    assert (found == 0).all()
    gradients = torch.autograd.grad(found.sum(), [x, *network.parameters()])
    assert all(torch.isfinite(g).all() for g in gradients)


def test_each_image_is_normalized_by_itself():
    _, critic = smooth()
    normalized = gradient_normalization(critic)
    together = normalized(points())
    one_by_one = torch.cat([normalized(x) for x in points().split(1)])
    torch.testing.assert_close(together, one_by_one, rtol=1e-12, atol=0)


def test_gradient_normalization_works_where_gradients_are_off():
    _, critic = smooth()
    normalized = gradient_normalization(critic)
    with torch.no_grad():
        found = normalized(points())
    assert not found.requires_grad
    assert torch.equal(found, normalized(points()))


def test_gradient_normalization_leaves_images_that_need_no_gradient_as_they_are():
    _, critic = smooth()
    x = points()
    gradient_normalization(critic)(x).sum().backward()
    assert not x.requires_grad
    assert x.grad is None


def test_the_gradient_reaches_g_through_a_frozen_critic():
    network, critic = smooth()
    network.requires_grad_(False)
    code = points().requires_grad_()
    gradient_normalization(critic)(2 * code).sum().backward()
    expected = 2 * slope_by_differences(gradient_normalization(critic), 2 * points())
    torch.testing.assert_close(code.grad, expected, rtol=1e-6, atol=1e-8)


def test_bound_wraps_a_critic_where_asked_only():
    network, critic = smooth()
    x = points()
    assert torch.equal(constrain_output(network, ["spectral_norm"])(critic)(x), critic(x))
    expected = gradient_normalization(critic)(x)
    assert torch.equal(constrain_output(network, ["gradient_normalization"])(critic)(x), expected)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_bound_refuses_a_critic_in_which_images_meet(norm):
    network = nn.Sequential(nn.Conv2d(3, 4, 2), norm(4))
    with pytest.raises(ValueError, match="must not have batch norms; it has 1"):
        constrain_output(network, ["gradient_normalization"])
    constrain_output(network, ["spectral_norm"])


# Spectral norms.


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


# The norm of convolutions as maps.


def settled(gain=2.0):
    """Many iterations, and a seed with a gap behind the first singular value of its map."""
    network = mixed_network(seed=4)
    config = LipschitzConfig(conv_gain=gain, power_iterations=100)
    held(network, "conv_spectral_norm", config=config).after_step()
    return network


def dense_norm(kernel, like):
    """The norm of a convolution through the full decomposition, differentiable in the kernel."""
    convolution = like._replace(kernel=kernel)
    identity = torch.eye(convolution.shape[1], dtype=kernel.dtype)
    return torch.linalg.svdvals(convolution @ identity)[0]


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_conv_spectral_norm_gives_a_convolution_its_gain(gain):
    layer = settled(gain)[0]
    assert conv_norm(conv_map(layer, 5)) == pytest.approx(gain, rel=3e-3)
    true = dense_norm(layer.weight.detach(), conv_map(layer, 5))
    assert true.item() == pytest.approx(gain, rel=1e-9)


def test_conv_spectral_norm_is_settled_from_the_start():
    layer = mixed_network(seed=4)
    held(layer, "conv_spectral_norm")
    assert conv_norm(conv_map(layer[0], 5)) == pytest.approx(CONFIG.conv_gain, rel=1e-2)


def test_conv_spectral_norm_sees_a_value_that_overtakes_another():
    """Two channels that meet in a little noise alone: the norm of the second grows from 1 to 5,
    past that of the first, 3. Power iteration would be 66% off at the end."""
    layer = nn.Conv2d(2, 2, 3, padding=1, bias=False, dtype=torch.float64)
    kernels = [gaussian(1, 1, 3, 3, seed=seed) for seed in (0, 1)]
    kernels = [kernel / conv_norm(ConvMap(kernel, 5, 1, 1)) for kernel in kernels]
    nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0], layer.weight.data[1, 1] = 3 * kernels[0][0, 0], kernels[1][0, 0]
    network = nn.Sequential(layer)
    constraint = held(network, "conv_spectral_norm")
    for step, size in enumerate(torch.linspace(1, 5, 20)):
        raw_weight(layer).data[1, 1] = size * kernels[1][0, 0]
        shake(network, step, size=1e-3)
        constraint.after_step()
        norm = dense_norm(layer.weight.detach(), conv_map(layer, 5)).item()
        assert norm == pytest.approx(CONFIG.conv_gain, rel=0.1)
    assert norm == pytest.approx(CONFIG.conv_gain, rel=1e-3)


def test_conv_spectral_norm_keeps_up_with_training():
    network = mixed_network()
    constraint = held(network, "conv_spectral_norm")
    for update in range(30):
        shake(network, update, size=0.003)
        constraint.after_step()
    assert conv_norm(conv_map(network[0], 5)) == pytest.approx(CONFIG.conv_gain, rel=1e-2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_of_conv_spectral_norm_is_that_of_division_by_the_true_norm(layout):
    network = settled().to(memory_format=layout)
    layer, cotangent = network[0], gaussian(4, 2, 3, 3, seed=1)
    weight = raw_weight(layer)
    (found,) = torch.autograd.grad((layer.weight * cotangent).sum(), weight)
    assert found.stride() == weight.stride()
    kernel = weight.detach().clone().requires_grad_()
    normalized = CONFIG.conv_gain * kernel / dense_norm(kernel, conv_map(layer, 5))
    (expected,) = torch.autograd.grad((normalized * cotangent).sum(), kernel)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_strides_and_even_kernels_have_their_own_norm():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 4, stride=2, padding=1, dtype=torch.float64)
    constraint = held(nn.Sequential(layer), "conv_spectral_norm")
    for _ in range(60):
        constraint.after_step()
    identity = torch.eye(50, dtype=torch.float64).view(50, 2, 5, 5)
    matrix = nn.functional.conv2d(identity, layer.weight.detach(), None, 2, 1).flatten(1)
    assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(CONFIG.conv_gain)


def test_maps_of_single_pixels_get_the_plain_norm():
    network = mixed_network()
    held(network, "conv_spectral_norm")
    for name in ("2", "4"):
        matrix = as_matrix(network.get_submodule(name).weight.detach())
        assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, abs=1e-6)


def test_conv_spectral_norm_of_a_zero_kernel_stays_finite_and_recovers():
    network = mixed_network()
    nn.init.zeros_(network[0].weight)
    constraint = held(network, "conv_spectral_norm")
    for _ in range(3):
        network(images()).sum().backward()
        constraint.after_step()
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    assert_recovers(network, constraint)


def test_conv_spectral_norm_of_a_broken_kernel_says_so_and_recovers():
    network = mixed_network()
    constraint = held(network, "conv_spectral_norm")
    raw_weight(network[0]).data[1, 0, 2, 2] = math.nan
    constraint.after_step()
    assert torch.isnan(norm_on(network, "0").sigma)
    assert_recovers(network, constraint)


def assert_recovers(network, constraint):
    raw_weight(network[0]).data.copy_(gaussian(4, 2, 3, 3))
    for _ in range(20):
        constraint.after_step()
    assert conv_norm(conv_map(network[0], 5)) == pytest.approx(CONFIG.conv_gain, rel=1e-2)


def test_conv_spectral_norm_is_computed_in_full_precision_under_autocast():
    found = []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, autocast):
            network = mixed_network().float()
            constraint = held(network, "conv_spectral_norm")
            for _ in range(3):
                constraint.after_step()
        found.append(everything(network))
    assert_same(*found)


# Nothing but a step changes anything.


@pytest.mark.parametrize("row", QUIET_ROWS)
def test_looking_changes_nothing(row):
    network = mixed_network()
    constraint = held(network, row)
    shake(network, 0)
    constraint.after_step()
    before, spectrum = everything(network), constraint.spectrum.state()
    network(images()).sum().backward()
    with torch.no_grad():
        network(images())
    checkpoint(network, images(), use_reentrant=False).sum().backward()
    network.eval()(images())
    network.train()
    twin = copy.deepcopy(network)
    twin(images()).sum().backward()
    for layer in matrix_layers(network).values():
        _ = layer.weight
    assert_same(before, everything(network))
    assert_same(before, everything(twin))
    assert_same(spectrum, constraint.spectrum.state())


@pytest.mark.parametrize("row", QUIET_ROWS)
def test_a_copy_is_on_its_own(row):
    network = mixed_network()
    constraint = held(network, row)
    twin = copy.deepcopy(network)
    before = everything(twin)
    shake(network, 0)
    constraint.after_step()
    assert_same(before, everything(twin))


@pytest.mark.parametrize("row", QUIET_ROWS)
def test_training_is_the_same_with_extra_forwards_looks_and_checkpointing(row):
    def train(extra):
        network = mixed_network()
        constraint = held(network, row)
        optimizer = torch.optim.Adam(network.parameters(), 1e-2, betas=(0.0, 0.999))
        for _ in range(5):
            optimizer.zero_grad()
            if extra:
                network.eval()(images())
                network.train()(images())
                copy.deepcopy(network)(images())
                logits = checkpoint(network, images(), use_reentrant=False)
            else:
                logits = network(images())
            logits.square().mean().backward()
            optimizer.step()
            constraint.after_step()
        return everything(network) | constraint.spectrum.state()

    assert_same(train(extra=False), train(extra=True))


def test_the_rows_that_look_inside_forward_are_known():
    """torch's own: here to be compared with."""
    network = mixed_network()
    held(network, "torch_spectral_norm")
    shake(network, 0)
    before = everything(network)
    network(images())
    after = everything(network)
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("row", WEIGHT_ROWS)
def test_a_plain_copy_computes_the_same(row):
    network = mixed_network().eval()  # torch's own row iterates in every forward pass else
    held(network, row)
    plain = copy.deepcopy(network)
    unconstrain(plain)
    assert plain.state_dict().keys() == mixed_network().state_dict().keys()
    assert torch.equal(plain(images()), network(images()))


# The spectrum between runs.


def test_a_restored_spectrum_goes_on_to_the_last_bit():
    def search(spectrum, network, updates):
        for update in updates:
            shake(network, update)
            spectrum.refresh()
        return spectrum.state()

    network = mixed_network()
    spectrum = Spectrum(network, 3)
    middle = search(spectrum, network, range(3))
    weights = everything(network)
    expected = search(spectrum, network, range(3, 6))

    other = mixed_network(seed=9)
    restored = Spectrum(other, 3)
    other.load_state_dict(weights)
    restored.load_state(middle)
    assert_same(restored.state(), middle)
    assert_same(search(restored, other, range(3, 6)), expected)


def test_a_state_is_a_copy():
    network = mixed_network()
    spectrum = Spectrum(network, 3)
    state = spectrum.state()
    before = {name: value.clone() for name, value in state.items()}
    shake(network, 0)
    spectrum.refresh()
    assert_same(before, state)
    later = spectrum.state()
    kept = {name: value.clone() for name, value in later.items()}
    spectrum.load_state(state)
    assert_same(kept, later)
    shake(network, 1)
    spectrum.refresh()
    assert_same(before, state)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("2/u"), "2/u"),
        (lambda state: state.update({"9/u": state["2/u"]}), "9/u"),
        (lambda state: state.update({"4/v": state["2/v"]}), "4/v"),
    ],
)
def test_the_spectra_of_another_network_are_refused_by_name(change, named):
    spectrum = Spectrum(mixed_network(), 3)
    before, state = spectrum.state(), spectrum.state()
    change(state)
    with pytest.raises(ValueError, match=f"not the spectra of this network: '{named}'"):
        spectrum.load_state(state)
    assert_same(before, spectrum.state())


@pytest.mark.parametrize("row", ["weight_norm", "spectral_norm"])
def test_the_spectrum_is_that_of_the_weights_as_the_last_step_left_them(row):
    network = mixed_network()
    constraint = held(network, row)
    shake(network, 0, size=1.0)
    before = constraint.spectrum.triplets.sigmas
    constraint.after_step()
    for found, old, layer in zip(
        constraint.spectrum.known().sigmas, before, matrix_layers(network).values(), strict=True
    ):
        true = torch.linalg.svdvals(as_matrix(raw_weight(layer).detach()))[:3]
        torch.testing.assert_close(found, true, rtol=2e-2, atol=0)
        assert not torch.allclose(old, true, rtol=2e-2)


@pytest.mark.parametrize(
    ("row", "searches"),
    [("spectral_norm", 2), ("weight_norm", 0), ("power_iteration_norm", 0), ("sigma0_clamp", 2)],
)
def test_steps_search_the_spectrum_only_where_somebody_reads_it(row, searches, monkeypatch):
    network = mixed_network()
    constraint = held(network, row)
    done = []
    refresh = TopSingularTriplets.refresh
    monkeypatch.setattr(
        TopSingularTriplets, "refresh", lambda *given: done.append(given) or refresh(*given)
    )
    for update in range(2):
        shake(network, update)
        constraint.after_step()
    assert len(done) == searches
    for _ in range(2):  # whoever looks searches, once
        constraint.spectrum.known()
    assert len(done) == max(searches, 1)
