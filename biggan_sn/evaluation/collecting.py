"""From images to their statistics, by one process or by many: the same bits.

The images go by in batches that are always the same, whoever extracts them and wherever a walk
begins, and what comes of them is added in their order.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan_sn.evaluation.extractors import Extractor
from biggan_sn.evaluation.images import Images
from biggan_sn.evaluation.moments import Moments, merge, no_moments
from biggan_sn.evaluation.statistics import Statistics

BATCH = 64


class Crew(Protocol):
    """The processes that work together; training's World is one."""

    @property
    def rank(self) -> int:
        """Of this process."""
        ...

    @property
    def ranks(self) -> int:
        """How many there are."""
        ...

    @property
    def leads(self) -> bool:
        """Whether this one is the first."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it works."""
        ...

    def most(self, *numbers: float) -> list[float]:
        """The largest of each number over all processes."""
        ...

    def stack(self, rows: Tensor) -> Tensor:
        """The rows [N, D] of every process, by its rank: [ranks, N, D]."""
        ...

    def lives(self) -> None:
        """Notes that the work goes on."""
        ...


@dataclass(frozen=True)
class Alone:
    """A crew of one."""

    device: torch.device
    rank: int = 0
    ranks: int = 1
    leads: bool = True

    def most(self, *numbers: float) -> list[float]:
        """As Crew has it."""
        return list(numbers)

    def stack(self, rows: Tensor) -> Tensor:
        """As Crew has it."""
        return rows[None]

    def lives(self) -> None:
        """As Crew has it."""


class State(NamedTuple):
    """How far a walk over the images has come: those below `done` are in the moments, and the
    chosen of them in the features [kept, D] and logits [kept, number of logits]."""

    done: int
    moments: Moments
    features: NDArray[np.float32]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """What is to be known.

    Args:
        images: of which.
        extractor: what makes features of them.
        kept: of how many the features are kept; 0 keeps all.
        batch: images that are extracted at a time.
    """

    images: Images
    extractor: Extractor
    kept: int = 0
    batch: int = BATCH

    @property
    def chosen(self) -> NDArray[np.int64]:
        """The images whose features are kept, spread evenly: [kept], by number."""
        total = len(self.images.labels)
        kept = min(self.kept, total) or total
        return np.arange(kept) * total // kept

    def beginning(self, crew: Crew) -> State:
        """Before the first image."""
        kept = len(self.chosen) if crew.leads else 0
        sizes = (self.extractor.dim, self.extractor.logits)
        features, logits = (np.zeros((kept, size), np.float32) for size in sizes)
        return State(0, no_moments(self.extractor.dim, crew.device), features, logits)

    def statistics(self, state: State) -> Statistics:
        """What is known at the end."""
        images = self.images
        known = images.labels[images.labels >= 0]
        return Statistics(
            mu=state.moments.mean.cpu().numpy(),
            sigma=state.moments.covariance.cpu().numpy(),
            features=state.features,
            logits=state.logits,
            numbers=self.chosen,
            labels=images.labels[self.chosen],
            counts=np.bincount(known, minlength=len(images.classes)),
            classes=images.classes,
            images=len(images.labels),
            height=images.size[0],
            width=images.size[1],
            extractor=self.extractor.name,
            weights=self.extractor.digest,
            fingerprint=next(iter(images.identity().values())),
        )


def walk(task: Task, state: State, crew: Crew, note: Callable[[State], object]) -> State:
    """The state at the end, on the first process; `done` alone is right on the others. Every
    process must call it.

    Args:
        task: what is to be known.
        state: where to begin; the same on all processes as to `done`.
        crew: who shares the work.
        note: called with the state after each round of the crew.

    Raises:
        ValueError: an image cannot be read, or is not for this extractor.
    """
    total = len(task.images.labels)
    starts = range(state.done, total, task.batch)
    batches = [range(start, min(start + task.batch, total)) for start in starts]
    rows = torch.zeros(task.batch, task.extractor.dim + task.extractor.logits, device=crew.device)
    with closing(task.images.batches(batches[crew.rank :: crew.ranks])) as mine:
        for first in range(0, len(batches), crew.ranks):
            here = batches[first : first + crew.ranks]
            if crew.rank < len(here):
                found = torch.cat(task.extractor.extract(next(mine)), 1)
                rows[: len(found)] = found
            together = crew.stack(rows)
            if crew.leads:
                for numbers, found in zip(here, together, strict=False):
                    state = _add(task, state, numbers, found[: len(numbers)])
            state = state._replace(done=here[-1].stop)
            crew.lives()
            note(state)
    return state


def _add(task: Task, state: State, numbers: range, found: Tensor) -> State:
    """The state with the features and logits of these images too."""
    features, logits = found.split([task.extractor.dim, task.extractor.logits], 1)
    first, last = np.searchsorted(task.chosen, (numbers.start, numbers.stop)).tolist()
    rows = torch.from_numpy(task.chosen[first:last] - numbers.start)
    state.features[first:last] = features.cpu()[rows].numpy()
    state.logits[first:last] = logits.cpu()[rows].numpy()
    moments = merge(state.moments, features)
    return State(numbers.stop, moments, state.features, state.logits)
