"""The average of G: of raw weights and running statistics, and of nothing else."""

import torch

from biggan_sn.config import LipschitzConfig, Sigma0Config
from biggan_sn.nn.constraint import Constraint
from biggan_sn.nn.lipschitz import constrain
from biggan_sn.nn.norm import BatchNorm2d
from biggan_sn.nn.spectrum import Spectrum
from biggan_sn.training.ema import EMA

CONFIG = LipschitzConfig()


def network():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), BatchNorm2d(6)).double()
    constrain(layers, ["spectral_norm"], CONFIG, embeddings=True)
    spectrum = Spectrum(layers, 2)
    return layers, Constraint(layers, ["spectral_norm"], CONFIG, Sigma0Config(), spectrum, True)


def disturb(layers, constraint, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layers.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise)
    layers(torch.randn(4, 3, 5, 5, generator=generator, dtype=torch.float64))
    constraint.after_step()


def test_average_is_the_recurrence():
    layers, constraint = network()
    ema = EMA(layers, decay=0.9, start=2)
    expected = {}
    for step in range(6):
        disturb(layers, constraint, step)
        ema.update(layers, step)
        for name, value in layers.state_dict().items():
            decay = 0.9 if step >= 2 and value.is_floating_point() else 0.0
            old = expected.get(name, value)
            expected[name] = decay * old + (1 - decay) * value
    found = ema.network.state_dict()
    for name in ("0.parametrizations.weight.original", "0.bias", "1.running_mean",
                 "1.running_var", "1.weight"):  # fmt: skip
        torch.testing.assert_close(found[name], expected[name])
    assert found["1.num_batches_tracked"] == 6


def test_singular_vectors_are_never_averaged():
    layers, constraint = network()
    ema = EMA(layers, decay=0.5, start=0)
    for step in range(4):
        disturb(layers, constraint, step)
        ema.update(layers, step)
    settled = ema.settled()
    weight = settled[0].parametrizations.weight.original.flatten(1)
    norm = settled[0].parametrizations.weight[0]
    assert abs(norm.u.norm() - 1) < 1e-12
    assert abs(norm.v.norm() - 1) < 1e-12
    assert abs(norm.sigma / torch.linalg.matrix_norm(weight, 2) - 1) < 1e-6


def test_looking_at_the_average_changes_nothing():
    layers, constraint = network()
    ema = EMA(layers, decay=0.5, start=0)
    disturb(layers, constraint, 0)
    ema.update(layers, 0)
    before = {name: value.clone() for name, value in ema.network.state_dict().items()}
    generator = ema.generator()
    generator(torch.zeros(1, 3, 5, 5, dtype=torch.float64))
    assert not generator.training
    for name, value in ema.network.state_dict().items():
        assert torch.equal(before[name], value), name


def test_generator_is_the_average_with_plain_weights():
    layers, constraint = network()
    ema = EMA(layers, decay=0.5, start=0)
    disturb(layers, constraint, 0)
    ema.update(layers, 0)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    expected = ema.settled().eval()(x)  # laid out otherwise, so it rounds otherwise
    torch.testing.assert_close(ema.generator()(x), expected, rtol=1e-12, atol=1e-12)
    assert not any("parametrizations" in name for name in ema.generator().state_dict())


def test_what_is_not_averaged_is_copied_whatever_its_type():
    layers, constraint = network()
    ema = EMA(layers, decay=0.5, start=0)
    disturb(layers, constraint, 0)
    ema.update(layers, 0)
    found, expected = dict(ema.network.named_buffers()), dict(layers.named_buffers())
    for name in found.keys() - {"1.running_mean", "1.running_var"}:
        assert torch.equal(found[name], expected[name]), name
    assert len({buffer.dtype for buffer in found.values()}) == 2
