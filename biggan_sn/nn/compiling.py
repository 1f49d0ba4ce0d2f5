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


def compile_passes(network: nn.Module, graphs: bool = False) -> None:
    """Compiles the forward and backward passes of `network`, in place; copies of it are plain. Each
    kind of pass is compiled when it comes for the first time. What is compiled so has no second
    derivative: torch raises an error.

    Args:
        network: is compiled as it is when it is called first.
        graphs: on a GPU, passes are recorded as CUDA graphs and played again from then on. What
            they return is good until `let_go`.
    """
    _prepare()
    # Not as one graph by force: DeepSpeed hangs its clocks on the network, which no graph can hold.
    network.compile(backend=BACKEND, dynamic=False, options=_options(graphs))


def compile_term(term: Term, graphs: bool = False) -> Term:
    """`term`, a function of tensors and networks, compiled as one with the networks in it: it may
    hold derivatives (`inner_gradient`), and be derived once more. `graphs` as in `compile_passes`.
    """
    _prepare()
    compiled = torch.compile(
        term, backend=BACKEND, dynamic=False, fullgraph=True, options=_options(graphs)
    )
    return cast(Term, compiled)


def let_go() -> None:
    """What recorded passes returned may be written over from here on."""
    torch.compiler.cudagraph_mark_step_begin()


def _options(graphs: bool) -> dict[str, Any] | None:
    return {"triton.cudagraphs": True} if graphs else None


def _prepare() -> None:
    torch._dynamo.config.recompile_limit = KINDS
    torch._dynamo.config.accumulated_recompile_limit = 8 * KINDS
    # Else it cuts a pass in pieces along DDP's messages, in the midst of a derivative as well.
    torch._dynamo.config.optimize_ddp = False
    # It looks at the gradients of all that comes in, G's images among them.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
