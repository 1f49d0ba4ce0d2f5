"""One step of the game: the two updates of Goodfellow et al. 2014, algorithm 1."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from biggan_sn.config import LrDecayConfig
from biggan_sn.data.chance import Chance
from biggan_sn.data.loader import Batch, send
from biggan_sn.losses.consistency import Consistency
from biggan_sn.losses.feature_matching import FeatureMatching, Features
from biggan_sn.losses.lecam import LeCam
from biggan_sn.losses.objectives import Objective
from biggan_sn.losses.penalties import PenaltyOnD, Surroundings
from biggan_sn.losses.top_k import TopK
from biggan_sn.models.latent import Latents
from biggan_sn.nn.constraint import Constraint
from biggan_sn.nn.norm import settle_statistics
from biggan_sn.nn.precision import at_least_fp32
from biggan_sn.training.door import Door
from biggan_sn.training.ema import EMA
from biggan_sn.training.player import Player
from biggan_sn.training.shown import Shown


@dataclass
class GANStep:
    """All that takes part in a step; calling it plays one."""

    g: Player
    d: Player
    g_constraint: Constraint
    d_constraint: Constraint
    ema: EMA
    objective: Objective
    penalty: PenaltyOnD
    penalty_every: int
    g_regularizer: Callable[[nn.Module], Tensor | float]
    d_regularizer: Callable[[nn.Module], Tensor | float]
    matching: FeatureMatching
    latents: Latents
    door: Door
    consistency: Consistency
    lecam: LeCam
    top_k: TopK
    shared: Callable[[Tensor], Tensor]
    shown: Shown
    lr_decay: LrDecayConfig
    d_steps: int
    batch_size: int
    autocast: Callable[[], AbstractContextManager[object]]
    device: torch.device
    let_go: Callable[[], None] | None = None

    def __call__(self, step: int, reals: Iterator[Batch]) -> dict[str, Tensor]:
        """`d_steps` updates of D, one of G, then of G's average."""
        seen = Means()
        if self.lr_decay.end:
            for player in (self.g, self.d):
                player.slow_down(self.lr_decay.share(step))
        for turn in range(self.d_steps):
            self.update_discriminator(step, turn, reals, seen)
        self.update_generator(step, seen)
        self.ema.update(self.g.network, step)
        return seen.result()

    def update_discriminator(
        self, step: int, turn: int, reals: Iterator[Batch], seen: "Means"
    ) -> None:
        """D learns to tell real images from those of G."""
        self._begin()
        self.shown.forget()
        with self.d.turn() as d:  # thaws D; steps and freezes it on the way out
            for share in d.microbatches():  # gradients meet once, at the last one
                at = self.positions(step, turn, share)
                real = self.door(next(reals), "real", at)
                if self.compares:
                    self.shown.keep(real)
                with torch.no_grad():
                    draw = partial(self.fake, self.g.network, step, turn, share)
                    fake = draw()
                    twins = self.consistency.twins(real, fake, draw, at)
                # One pass over all of them
                real_logits, fake_logits, *others = self.judge(d.model, real, fake, *twins)
                d_loss = self.objective.d_loss(real_logits, fake_logits)
                penalty = self.penalize(real, fake, step, turn, share)
                consistency = self.consistency.d_loss(real_logits, fake_logits, others, twins)
                lecam = self.lecam(real_logits, fake_logits, step)
                regularizer = d.once(self.d_regularizer)
                d.descend(total(d_loss, penalty, consistency, lecam), regularizer)
                seen.add(d_loss=d_loss, d_real=real_logits, d_fake=fake_logits, d_penalty=penalty)
                seen.add(d_consistency=consistency, d_lecam=lecam, d_regularizer=regularizer)
                for follower in (self.door, self.lecam):
                    follower.note(real_logits, fake_logits)
        seen.add(augment_p=self.door.p, d_scale=self.d.scale.shown(self.device))
        for follower in (self.door, self.lecam):
            follower.follow()
        self.d_constraint.after_step()  # clamps; fresh u, v and sigma

    def update_generator(self, step: int, seen: "Means") -> None:
        """G learns what D takes for real."""
        self._begin()
        wanted = self.real_features()
        with self.g.turn() as g:
            for share in g.microbatches():
                at = self.positions(step, self.d_steps, share)
                draw = partial(self.sample, g.model, step, self.d_steps, share)
                fake = draw()
                with self.matching.watching(self.d.network) as (d, features):
                    logits = self.judge(d, self.door(fake, "fake", at))
                if self.objective.relative:
                    with torch.no_grad():
                        logits += self.judge(self.d.network, self.shown.at(share))
                g_loss = self.objective.g_loss(*self.top_k(step, *logits))
                matching = self.matching.loss(features, wanted)
                consistency = self.consistency.g_loss(fake, draw)
                regularizer = g.once(self.g_regularizer)
                g.descend(total(self.matching.joined(g_loss, matching), consistency), regularizer)
                seen.add(g_loss=g_loss, g_matching=matching)
                seen.add(g_consistency=consistency, g_regularizer=regularizer)
        seen.add(g_scale=self.g.scale.shown(self.device))
        self.g_constraint.after_step()
        settle_statistics(self.g.network)

    @property
    def compares(self) -> bool:
        """Whether G's update asks for the real images of D's last turn."""
        return self.objective.relative or bool(self.matching.layers)

    def _begin(self) -> None:
        """Nothing of the update before is needed any more."""
        if self.let_go:
            self.let_go()

    def close(self) -> None:
        """Lets go of the networks, where there will be others."""
        self.g.engine.close()
        self.d.engine.close()

    def fake(
        self, generator: nn.Module, step: int, turn: int, share: range, noise: float = 0.0
    ) -> Batch:
        """What `sample` gives, as D sees it."""
        fake = self.sample(generator, step, turn, share, noise)
        return self.door(fake, "fake", self.positions(step, turn, share))

    def sample(
        self, generator: nn.Module, step: int, turn: int, share: range, noise: float = 0.0
    ) -> Batch:
        """G's images for this process's `share` of the batch of this turn; with `noise`, a standard
        deviation, of latent vectors so near."""
        positions = self.positions(step, turn, share)
        z = send(self.latents.z(positions, noise=noise), self.device)
        y = send(self.latents.y(positions), self.device)
        with self.autocast():
            return Batch(at_least_fp32(generator(z, y)), y)

    def positions(self, step: int, turn: int, share: range) -> range:
        """Where the random numbers for this process's `share` of a turn are."""
        first = (step * (self.d_steps + 1) + turn) * self.batch_size
        return range(first + share.start, first + share.stop)

    @torch.no_grad()
    def real_features(self) -> list[Features]:
        """Means of D's features of the real images of its last turn, pass by pass."""
        found = []
        for real in self.shown.kept if self.matching.layers else ():
            with self.matching.watching(self.d.network) as (d, features):
                self.judge(d, real)
            found.append(self.matching.means(features))
        return found

    def judge(self, discriminator: Callable[..., Tensor], *batches: Batch) -> tuple[Tensor, ...]:
        """D's logits [N], fp32, of each batch, from one forward pass over all of them."""
        images = torch.cat([batch.images for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        sizes = [len(batch.labels) for batch in batches]
        with self.autocast():
            logits = at_least_fp32(discriminator(images, labels, sizes))
        return tuple(logits.split(sizes))

    def penalize(
        self, real: Batch, fake: Batch, step: int, turn: int, share: range
    ) -> Tensor | float:
        """The penalties on D, at every `penalty_every`-th of its updates and that much stronger."""
        if (step * self.d_steps + turn) % self.penalty_every:
            return 0.0
        positions = self.positions(step, turn, share)
        chance = Chance(self.latents.seed, f"{self.latents.purpose}/penalty", positions)
        around = Surroundings(chance, self.shared)
        return self.penalty_every * self.penalty(self.criticise, real, fake, around)

    def criticise(self, images: Tensor, labels: Tensor) -> Tensor:
        """The logits of D, inside its constraint, in passes that are derived twice."""
        return self.judge(self.d.network, Batch(images, labels))[0]


def total(loss: Tensor, *terms: Tensor | float) -> Tensor:
    """The sum of a loss and terms; a plain number stands for a term that is not there."""
    return sum((term for term in terms if isinstance(term, Tensor)), start=loss)


class Means:
    """Means over the turns and microbatches of a step, left on the device."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, **values: Tensor | float) -> None:
        """Takes note of tensors by name; a plain number stands for a term that is not there."""
        for name, value in values.items():
            if isinstance(value, Tensor):
                self._values.setdefault(name, []).append(value.detach().mean())

    def result(self) -> dict[str, Tensor]:
        """The mean of all that was noted, by name."""
        return {name: torch.stack(values).mean() for name, values in self._values.items()}
