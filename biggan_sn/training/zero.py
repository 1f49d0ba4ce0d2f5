"""DeepSpeed's ZeRO stages 1 and 2 (Rajbhandari et al. 2020) around one player.

Each process keeps the optimizer's moments of a part of the parameters, and under stage 2 moves only
their gradients. Stage 3 splits the weights themselves, which a second derivative needs whole.

What its documentation does not say, and tests here hold: forward passes go through the network, for
DeepSpeed's own wrapper breaks second derivatives; the gradient is clipped at 1 unless told not to;
and it steps from a copy of the weights that knows nothing of a clamp, so that it is renewed.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from biggan_sn.config import PlayerConfig
from biggan_sn.nn.clock import EXCHANGES
from biggan_sn.training.world import World


class Partitioned:
    """One network whose optimizer is spread over all processes.

    Args:
        network: on its device already; its parameters are moved into one flat buffer, so whoever
            keeps their memory at hand must ask for it afterwards.
        config: the optimizer's knobs.
        world: this process's place.
        stage: 1 or 2.
    """

    def __init__(self, network: nn.Module, config: PlayerConfig, world: World, stage: int) -> None:
        self.model: nn.Module = network
        self._leads = world.leads
        trainable = [p for p in network.parameters() if p.requires_grad]
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            trainable, lr=config.lr, betas=config.betas, eps=config.eps, fused=True
        )
        for parameter in network.parameters():  # it cannot take them channels last
            parameter.data = parameter.data.contiguous()
        self._engine = _initialize(network, self.optimizer, stage, world)
        self._zero = self._engine.optimizer
        self._together = ExitStack()

    def begin(self, rounds: int) -> None:
        self._zero.zero_grad()
        self._together = ExitStack()
        if rounds > 1:
            self._together.enter_context(self._engine.coalesce_grad_reduction())

    def apart(self) -> AbstractContextManager[Any]:
        return nullcontext()  # `begin` has seen to it

    def backward(self, loss: Tensor, scale: float) -> None:
        self._zero.override_loss_scale(scale)
        with _metered():
            self._engine.backward(loss)

    def step(self, scale: float) -> bool:
        self._zero.check_grad_overflow = scale != 1.0
        self._zero.refresh_fp32_params()  # the weights may have been clamped or loaded meanwhile
        with _metered():
            self._together.close()
            self._engine.step()
        return not self._zero.overflow

    def moments(self, parameter: nn.Parameter) -> Mapping[str, Tensor]:
        from deepspeed.utils import safe_get_full_optimizer_state

        slots: dict[str, Tensor] = {}
        kept: Mapping[str, Tensor] = next(iter(self.optimizer.state.values()), {})
        for name, value in kept.items():
            whole = value
            if value.dim() > 0:
                whole = safe_get_full_optimizer_state(parameter, name)
            slots[name] = whole.cpu() if self._leads else torch.empty(0)
        return slots

    def load_moments(self, moments: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        for group in self.optimizer.param_groups:
            for flat in group["params"]:
                self.optimizer.state[flat] = {
                    name: value.to(flat.device, copy=True)
                    if value.dim() == 0
                    else torch.zeros_like(flat)
                    for name, value in next(iter(moments.values())).items()
                }
        self._zero._hp_optimizer_states_linked = False
        self._zero._lazy_init_hp_params_optimizer_state()
        for parameter, slots in moments.items():
            for name, value in slots.items():
                if value.dim() > 0:
                    safe_set_full_optimizer_state(parameter, value.to(parameter.device), name)

    def close(self) -> None:
        self._engine.destroy()  # its hooks would keep network and moments alive for ever


@contextmanager
def _metered() -> Iterator[None]:
    """Counts what DeepSpeed exchanges within, by its own timers of communication."""
    if not EXCHANGES.on:
        yield
        return
    from deepspeed.comm import comm

    comm.configure(enabled=True, prof_all=True, verbose=False)
    yield
    comm.configure(enabled=False)
    # Not its log, in which each entry holds the sum of all before.
    milliseconds = sum(timer.elapsed(reset=True) for timer in comm.timers.get_timers().values())
    EXCHANGES.add(0.0, milliseconds / 1e3)


def _initialize(
    network: nn.Module, optimizer: torch.optim.Optimizer, stage: int, world: World
) -> Any:
    """DeepSpeed's engine."""
    on_cpu = world.device.type == "cpu"
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if on_cpu:  # else it compiles an all-reduce of its own, for a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    engine, *_ = deepspeed.initialize(
        model=network,
        optimizer=optimizer,
        config={
            "train_micro_batch_size_per_gpu": 1,  # counted by ourselves
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,
            "zero_allow_untested_optimizer": True,
            # With the norm it would leave out steps that are not finite, and say nothing.
            "zero_optimization": {"stage": stage, "compute_grad_norm": False},
            "steps_per_print": None,
        },
    )
    return engine
