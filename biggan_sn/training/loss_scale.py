"""The factor that keeps gradients within the range of fp16 (Micikevicius et al. 2018, sec. 3.2)."""

import torch
from torch import Tensor

FIRST = 2.0**16
PATIENCE = 2000  # steps with finite gradients before a larger factor is tried


class LossScale:
    """A power of two that halves when gradients overflow, and doubles after a long time in which
    none did. Each player has one of its own: theirs are gradients of different sizes. Not torch's
    GradScaler, which looks for gradients at the parameters, where ZeRO keeps none.

    Args:
        dynamic: False is 1 for ever, for types of more range.
    """

    def __init__(self, dynamic: bool) -> None:
        self.dynamic = dynamic
        self.value = FIRST if dynamic else 1.0
        self.calm = 0

    def update(self, finite: bool) -> None:
        """To be called after each optimizer step, or where it was left out for an overflow."""
        if not self.dynamic:
            return
        self.calm = self.calm + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.calm == PATIENCE:
            self.value, self.calm = self.value * 2, 0

    def shown(self, device: torch.device) -> Tensor | float:
        """For the logs, beside what else is on the device: a plain number if it never changes."""
        return torch.tensor(self.value, device=device) if self.dynamic else self.value

    def state(self) -> dict[str, Tensor]:
        """What there is to remember: nothing if it never changes."""
        numbers = {"value": self.value, "calm": self.calm} if self.dynamic else {}
        return {name: torch.tensor(x, dtype=torch.float64) for name, x in numbers.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restores what `state` gave."""
        if self.dynamic:
            self.value, self.calm = float(state["value"]), int(state["calm"])
