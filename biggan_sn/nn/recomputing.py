"""Activations that are not kept for the backward pass but computed again: memory for time."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.utils.checkpoint import checkpoint

# What changes its buffers in a forward pass: running statistics, torch's power iteration.
_CHANGING = (_NormBase, _SpectralNorm)


def recompute(blocks: Iterable[nn.Module]) -> None:
    """Makes each of `blocks` keep its inputs alone, and compute all else again when a backward pass
    needs it (activation checkpointing, Chen et al. 2016); in place, and so do copies made later.

    No number changes: outputs, derivatives of any order, buffers. Passes without gradients go as
    before. A second derivative holds what the first one computed again, so it saves less.
    """
    for block in blocks:
        block.forward = MethodType(_forward, block)


def refuse_compiler(network: nn.Module) -> None:
    """Compiled blocks compute again with the buffers of that time.

    Raises:
        ValueError: `network` has a layer that changes in a pass what it computes with.
    """
    for name, module in network.named_modules():
        if isinstance(module, _SpectralNorm):
            layer = name.partition(".parametrizations")[0]
            raise ValueError(
                f"speed: compile and recompute do not go together with torch_spectral_norm, which "
                f"changes {layer} in every pass; use spectral_norm, or give up one of them"
            )


def _forward(block: nn.Module, *inputs: Tensor) -> Any:
    forward = type(block).forward
    if not torch.is_grad_enabled():
        return forward(block, *inputs)
    if torch.compiler.is_compiling():  # computes again what changes nothing else, and no more
        return checkpoint(forward, block, *inputs, use_reentrant=False, preserve_rng_state=False)

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _SecondPass(block)

    return checkpoint(
        forward,
        block,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=contexts,
    )


class _SecondPass:
    """Within, the buffers of `block` that forward passes change are copies of what they were when
    this was made; those themselves stay as they are. May be entered again and again."""

    def __init__(self, block: nn.Module) -> None:
        self._buffers = [
            (module, name, buffer)
            for module in block.modules()
            if isinstance(module, _CHANGING)
            for name, buffer in module.named_buffers(recurse=False)
        ]
        self._first = [buffer.clone() for _, _, buffer in self._buffers]

    def __enter__(self) -> None:
        for (module, name, _), value in zip(self._buffers, self._first, strict=True):
            setattr(module, name, value.clone())

    def __exit__(self, *error: object) -> None:
        for module, name, buffer in self._buffers:
            setattr(module, name, buffer)
