"""LeCam: D's logits of real images stay near the mean of those of fake ones, and the reverse."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from biggan_sn.config import LeCamConfig

_STATE = {"means": (2,), "count": ()}


class LeCam:
    """E(D(x) - a_F)^2 + E(D(G(z)) - a_R)^2, where a_R and a_F are the moving means of D's logits of
    real and of fake images: Tseng et al. 2021, section 3.2. It brings in the divergence of Le Cam.

    The means are those of whole updates of D over all processes, and the term has those of the
    updates before. Where the weight is 0, nothing is kept.

    Args:
        config: weight, decay and start.
        shared: a tensor -> its mean over all processes.
        device: where the means live: nobody waits for them.
    """

    def __init__(
        self, config: LeCamConfig, shared: Callable[[Tensor], Tensor], device: torch.device
    ) -> None:
        self._config = config
        self._shared = shared
        self._means = torch.zeros(2, device=device)  # of real and of fake
        self._count = 0
        self._noted: list[Tensor] = []

    def __call__(self, real: Tensor, fake: Tensor, step: int) -> Tensor | float:
        """The term at its weight, from logits [N]; 0 where there is none yet."""
        if not self._config.weight or not self._count or step < self._config.start:
            return 0.0
        of_real, of_fake = self._means.clone()  # what is kept for the backward pass stays
        distance = (real - of_fake).square().mean() + (fake - of_real).square().mean()
        return self._config.weight * distance

    @torch.no_grad()
    def note(self, real: Tensor, fake: Tensor) -> None:
        """To be called with the logits of each pass of an update of D."""
        if self._config.weight:
            self._noted.append(torch.stack([real.mean(), fake.mean()]))

    @torch.no_grad()
    def follow(self) -> None:
        """To be called after each update of D. Every process must call it."""
        if not self._noted:
            return
        now = self._shared(torch.stack(self._noted).mean(0))
        self._noted.clear()
        self._means.lerp_(now, 1 - self._config.decay if self._count else 1.0)
        self._count += 1

    def state(self) -> dict[str, Tensor]:
        """All of it by name; nothing where nothing is kept."""
        if not self._config.weight:
            return {}
        return {"means": self._means, "count": torch.tensor(self._count)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave. Where that was nothing, the means begin with the next update.

        Raises:
            ValueError: it is no such state.
        """
        if not state or not self._config.weight:
            return
        if {name: tuple(tensor.shape) for name, tensor in state.items()} != _STATE:
            raise ValueError("not the means of LeCam")
        self._means.copy_(state["means"])
        self._count = int(state["count"])
