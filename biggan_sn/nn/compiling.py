"""Passes and terms that torch.compile turns into kernels of their own."""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import nn

Term = TypeVar("Term", bound=Callable[..., Any])

BACKEND = "inductor"
# Of one function; beyond torch's own limit of 8 it would go on without a compiler. Both networks
# count together, and come in a few sizes of batch, with gradients and without.
KINDS = 64


def compile_passes(network: nn.Module) -> None:
    """Compiles the forward and backward passes of `network`, in place; copies of it are plain. Each
    kind of pass is compiled when it comes for the first time. What is compiled so has no second
    derivative: torch raises an error."""
    _prepare()
    # Not as one graph by force: DeepSpeed hangs its clocks on the network, which no graph can hold.
    network.compile(backend=BACKEND, dynamic=False)


def compile_term(term: Term) -> Term:
    """`term`, a function of tensors and networks, compiled as one with the networks in it: it may
    hold derivatives (`inner_gradient`), and be derived once more."""
    _prepare()
    return cast(Term, torch.compile(term, backend=BACKEND, dynamic=False, fullgraph=True))


def _prepare() -> None:
    torch._dynamo.config.recompile_limit = KINDS
    torch._dynamo.config.accumulated_recompile_limit = 8 * KINDS
    # Else it cuts a pass in pieces along DDP's messages, in the midst of a derivative as well.
    torch._dynamo.config.optimize_ddp = False
    # It looks at the gradients of all that comes in, G's images among them.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
