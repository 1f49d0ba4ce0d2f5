"""Training with compiled passes: the training without, to rounding."""

from dataclasses import replace
from itertools import repeat

import pytest
import torch

from biggan_sn.config import Config, DataConfig, LipschitzConfig, ModelConfig, SpeedConfig
from biggan_sn.data.loader import Batch, Loader, open_dataset
from biggan_sn.nn import compiling
from biggan_sn.training.build import build, check
from biggan_sn.training.probe import Probe
from biggan_sn.training.world import World


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch._dynamo.utils.counters.clear()
    yield
    torch.set_default_dtype(torch.float32)
    torch._dynamo.reset()


def play(config):
    """One step, one look, a sample of the average; all tensors."""
    step = build(config, World())
    loader = Loader(open_dataset(config.data), config.data, config.seed, torch.device("cpu"))
    probe = Probe(config, step, World())
    probe.start(0)
    losses = step(0, loader.batches(0, config.batch_size, 0, 1, step.d.microbatch))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    losses |= probe.look()
    step.ema.generator()(torch.ones(3, 8), torch.arange(3))
    step.ema.network.train()(torch.ones(3, 8), torch.arange(3))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "for training only"
    loader.close()
    probe.close()
    networks = {"g": step.g.network, "d": step.d.network, "ema": step.ema.network}
    tensors = {f"{n} {k}": v for n, net in networks.items() for k, v in net.state_dict().items()}
    return losses | tensors, graphs


def test_a_step_is_that_of_plain_passes(small_config, monkeypatch):
    """With all that is on in the small config, microbatches and attention among it."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    config = replace(small_config, d_steps=1)
    wanted, none = play(config)
    found, graphs = play(replace(config, speed=SpeedConfig(compile=True)))
    assert (none, torch._dynamo.utils.counters["graph_break"]) == (0, {})
    assert graphs == 5  # D with gradients and frozen, R1, G without gradients and with
    assert found.keys() == wanted.keys()
    for name in wanted:
        one, other = found[name], wanted[name]
        if name.endswith((".0.u", ".0.v")):  # (-u, -v) is as good as (u, v)
            one, other = one.abs(), other.abs()
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8, msg=name)


def test_a_step_in_which_g_meets_real_images_is_that_of_plain_passes(small_config, monkeypatch):
    """D judges them frozen and without gradients, as nobody else asks it to in a step."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    config = replace(
        small_config,
        d_steps=1,
        objective="relativistic_average_nonsaturating",
        penalties={"r1": 0.1, "r2": 0.1, "dragan": 0.1},
    )
    wanted, _ = play(config)
    found, _ = play(replace(config, speed=SpeedConfig(compile=True)))
    assert torch._dynamo.utils.counters["graph_break"] == {}
    for name in wanted:
        one, other = found[name], wanted[name]
        if name.endswith((".0.u", ".0.v")):
            one, other = one.abs(), other.abs()
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8, msg=name)


TWICE = LipschitzConfig(discriminator=("gradient_normalization",))


@pytest.mark.parametrize("change", [{"penalties": {"r1": 1.0}}, {"lipschitz": TWICE}], ids=str)
def test_no_checkpoints_within_compiled_second_derivatives(change):
    config = Config(
        data=DataConfig(resolution=32), model=ModelConfig(z_dim=120), batch_size=8, **change
    )
    for names in ((), ("generator",)):
        check(replace(config, speed=SpeedConfig(names, compile=True)), 1)
    check(replace(config, speed=SpeedConfig(("discriminator",))), 1)
    with pytest.raises(ValueError, match=r"^speed: compile and recompute of the discriminator"):
        check(replace(config, speed=SpeedConfig(("discriminator",), compile=True)), 1)


def test_torchs_own_spectral_norm_does_not_go_with_both():
    lipschitz = LipschitzConfig(discriminator=("torch_spectral_norm",))
    config = Config(data=DataConfig(resolution=32), model=ModelConfig(z_dim=120), batch_size=8)
    config = replace(config, lipschitz=lipschitz)
    check(replace(config, speed=SpeedConfig(compile=True)), 1)
    check(replace(config, speed=SpeedConfig(("generator",), compile=True)), 1)
    with pytest.raises(ValueError, match=r"torch_spectral_norm, which changes blocks\.0\.conv1 in"):
        check(replace(config, speed=SpeedConfig(("discriminator",), compile=True)), 1)


def test_recording_needs_a_compiler():
    with pytest.raises(ValueError, match=r"set speed.compile to true as well"):
        SpeedConfig(cuda_graphs=True)


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
def test_compiled_steps_on_a_gpu_are_those_of_plain_passes(small_config, graphs):
    """Over several steps, since graphs are recorded at the second and played from the third on."""
    found = []
    for speed in (SpeedConfig(), SpeedConfig(compile=True, cuda_graphs=graphs)):
        config = replace(small_config, precision="fp32", speed=speed)
        step = build(config, World(device=torch.device("cuda")))
        images = torch.linspace(-1, 1, 4 * 3 * 32 * 32, device="cuda").reshape(4, 3, 32, 32)
        real = Batch(images[: step.d.microbatch], torch.arange(step.d.microbatch).cuda() % 3)
        for number in range(5):
            losses = step(number, repeat(real))
        found.append([value.cpu() for value in losses.values()])
        found[-1] += [p.cpu() for p in (*step.g.network.parameters(), *step.d.network.parameters())]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
