"""D's door: what happens to every image, real or G's, before D sees it."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from biggan_sn.config import AugmentConfig
from biggan_sn.data.augment import augment, augmentations
from biggan_sn.data.chance import Chance
from biggan_sn.data.loader import Batch
from biggan_sn.models.latent import Latents

_STATE = ("p", "signs", "turns")


class Door:
    """Augments images by numbers that belong to their positions; leaves them as they are where the
    config names no transform. With a target the probability p of each transform follows D.

    All that looks at D's input looks behind the door: penalties and gradient normalization take the
    gradient of D at the augmented image, and relativistic objectives and feature matching compare
    augmented images. So nothing derives an augmentation twice.

    Args:
        config: which transforms, and how probable each is.
        latents: whose seed and purpose the random numbers have, other ones after each rollback.
        adaptive: what moves p; None leaves it as the config has it.

    Raises:
        ValueError: there is no such transform.
    """

    def __init__(
        self, config: AugmentConfig, latents: Latents, adaptive: "Adaptive | None" = None
    ) -> None:
        self._rows = augmentations(config.transforms)
        self._latents = latents
        self._p = config.p
        self._adaptive = adaptive

    @property
    def p(self) -> Tensor | float:
        """The probability of a transform now; a tensor where it moves."""
        return self._adaptive.p if self._adaptive else self._p

    def __call__(self, batch: Batch, kind: str, positions: range) -> Batch:
        """The batch as D sees it. Real and fake images of one position have numbers of their own,
        by their `kind`."""
        if not self._rows:
            return batch
        purpose = f"{self._latents.purpose}/augment/{kind}"
        chance = Chance(self._latents.seed, purpose, positions)
        return Batch(augment(batch.images, self._rows, chance, self.p), batch.labels)

    def note(self, real: Tensor, fake: Tensor) -> None:
        """To be called with the logits of each pass of an update of D."""
        if self._adaptive:
            self._adaptive.note(real)

    def follow(self) -> None:
        """To be called after each update of D. Every process must call it."""
        if self._adaptive:
            self._adaptive.follow()

    def state(self) -> dict[str, Tensor]:
        """What there is to remember: nothing where p stays."""
        return self._adaptive.state() if self._adaptive else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave. Where that was nothing, p begins as the config has it.

        Raises:
            ValueError: it is no such state.
        """
        if self._adaptive and state:
            self._adaptive.load_state(state)


class Adaptive:
    """The probability p of ADA: Karras et al. 2020, section 3. Of real images of which D has seen
    enough it is sure, so that r = E[sign(D(real))] grows (eq. 1). p rises while r is above the
    target, and falls while it is below: so fast that it moves by 1 in `config.images` real images.

    What is kept is the same on all processes, and on the device: nobody waits for it.

    Args:
        config: target and pace.
        undecided: the logit of a D that cannot tell, from which signs count.
        batch_size: real images of an update of D, over all processes.
        shared: a tensor -> its mean over all processes.
        device: where p lives.
    """

    def __init__(
        self,
        config: AugmentConfig,
        undecided: float,
        batch_size: int,
        shared: Callable[[Tensor], Tensor],
        device: torch.device,
    ) -> None:
        self._config = config
        self._undecided = undecided
        self._move = config.every * batch_size / config.images
        self._shared = shared
        self.p = torch.tensor(config.p, dtype=torch.float64, device=device)
        self._signs = torch.zeros((), dtype=torch.float64, device=device)
        self._turns = 0
        self._noted: list[Tensor] = []

    @torch.no_grad()
    def note(self, real: Tensor) -> None:
        """To be called with the logits of real images of each pass of an update of D."""
        self._noted.append((real - self._undecided).sign().double().mean())

    @torch.no_grad()
    def follow(self) -> None:
        """To be called after each update of D; moves p when it is time."""
        self._signs += self._shared(torch.stack(self._noted).mean())
        self._noted.clear()
        self._turns += 1
        if self._turns == self._config.every:
            # Rounded: r that is the target but for rounding moves nothing, on any number of ranks.
            above = (self._signs / self._turns - self._config.target).round(decimals=9)
            self.p.add_(self._move * above.sign()).clamp_(0, 1)
            self._signs.zero_()
            self._turns = 0

    def state(self) -> dict[str, Tensor]:
        """All of it by name."""
        return dict(zip(_STATE, (self.p, self._signs, torch.tensor(self._turns)), strict=True))

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave.

        Raises:
            ValueError: it is no such state.
        """
        if state.keys() != set(_STATE) or any(t.shape for t in state.values()):
            raise ValueError("not the state of adaptive augmentation")
        self.p.copy_(state["p"])
        self._signs.copy_(state["signs"])
        self._turns = int(state["turns"])
