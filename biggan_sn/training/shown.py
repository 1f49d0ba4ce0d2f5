"""The real images that D saw last, for a G whose loss asks for their logits."""

import torch
from torch import Tensor

from biggan_sn.data.loader import Batch
from biggan_sn.training.world import World


class Shown:
    """Real images of D's turn, by their positions in its batch: with these G's images are compared,
    whatever the microbatches of both.

    Args:
        world: this process's place.
        shown, wanted: microbatches of D and of G.
    """

    def __init__(self, world: World, shown: int, wanted: int) -> None:
        self._world = world
        self._microbatch = shown
        # Else a process wants just those images, in that order, that it was shown.
        self._elsewhere = world.ranks > 1 and shown != wanted
        self.forget()

    def forget(self) -> None:
        """What D saw is of no use any more."""
        self.kept: list[Batch] = []
        self._whole: Batch | None = None
        self._next = 0

    def keep(self, batch: Batch) -> None:
        """The next microbatch of this process."""
        self.kept.append(batch)

    def at(self, share: range) -> Batch:
        """The images and labels at the positions of the next share of this process. Where processes
        exchange them, all must call it, and hold the whole batch then."""
        if self._whole is None:
            images = torch.cat([batch.images for batch in self.kept])
            labels = torch.cat([batch.labels for batch in self.kept])
            self.kept = []
            self._whole = Batch(self._gather(images), self._gather(labels))
        first = share.start if self._elsewhere else self._next
        self._next += len(share)
        chosen = slice(first, first + len(share))
        return Batch(self._whole.images[chosen], self._whole.labels[chosen])

    def _gather(self, rows: Tensor) -> Tensor:
        """Those of all processes by position, which go round by round (`shares`); or our own."""
        if not self._elsewhere:
            return rows
        table = self._world.stack(rows).unflatten(1, (-1, self._microbatch))
        return table.transpose(0, 1).flatten(0, 2)
