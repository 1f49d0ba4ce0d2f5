"""Training with compiled passes: the training without, to rounding."""

from dataclasses import replace

import pytest
import torch

from biggan_sn.config import Config, DataConfig, LipschitzConfig, ModelConfig, SpeedConfig
from biggan_sn.data.loader import Loader, open_dataset
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
