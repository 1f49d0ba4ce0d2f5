"""What programs leave on disk: which file holds which network and which optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

PLAYERS = ("generator", "discriminator")
FOREIGN = "foreign"  # the group of a checkpoint with buffers as the program left them
EPSILON = (
    "its batch norms add 0.0001 to variances, ours 0.00001: the running ones have the difference "
    "for good, those of a batch in training go without"
)


@dataclass(frozen=True)
class Part:
    """The tensors of one network, and the file that they are in."""

    where: str
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Source:
    """Everything found.

    Args:
        networks: generator, ema, discriminator: those that are there.
        optimizers: of generator and discriminator, as Adam's state_dict has them, and their file.
        notes: what was left, one line each.
    """

    networks: Mapping[str, Part]
    optimizers: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
