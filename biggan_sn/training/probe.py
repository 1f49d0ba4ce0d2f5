"""What training does not show: D on images it never saw, and G's variety within a class."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from biggan_sn.config import Config
from biggan_sn.data.loader import Batch, Loader, open_dataset, send
from biggan_sn.data.shards import ShardError
from biggan_sn.models.bound import reading
from biggan_sn.models.discriminator import Discriminator
from biggan_sn.models.latent import Latents
from biggan_sn.nn.precision import at_least_fp32
from biggan_sn.positions import shares
from biggan_sn.training.step import GANStep
from biggan_sn.training.world import World


class Stream(Protocol):
    """Real images by position: what a Loader is."""

    def batches(
        self, position: int, batch_size: int, rank: int, ranks: int, microbatch: int
    ) -> Iterator[Batch]:
        """Those of `rank` from `position` on, without end."""
        ...

    def close(self) -> None:
        """Ends what reads ahead."""
        ...


def open_streams(config: Config, world: World) -> dict[str, Stream]:
    """The training images, and those held out if there are any.

    Raises:
        ShardError: they cannot be read, or do not fit.
    """
    streams: dict[str, Stream] = {}
    classes: dict[tuple[str, ...], str] = {}
    sources = {"train": config.data, "heldout": config.data.held_out()}
    for name, source in sources.items() if config.collapse.every else ():
        if source.path:
            data = replace(source, threads=1, prefetch=1)
            index = open_dataset(data)
            classes.setdefault(index.classes, str(index.root))
            streams[name] = Loader(index, data, config.seed, world.device)
    if len(classes) > 1:
        raise ShardError(f"the classes of {' and '.join(classes.values())} are not the same")
    return streams


class Probe:
    """Looks at both players without changing either: a few images at every look, shared out over
    all processes, the same ones whenever the run was stopped and carried on.

    Args:
        config: of the run.
        play: the players.
        world: this process's place.
        streams: of real images: train, and heldout if there are any; None opens the config's.

    Raises:
        ShardError: the images cannot be read, or do not fit.
    """

    def __init__(
        self,
        config: Config,
        play: GANStep,
        world: World,
        streams: Mapping[str, Stream] | None = None,
    ) -> None:
        self._play = play
        self._every = config.collapse.every
        # Pairs: every second image of G is of the class of the one before.
        self._here = 2 * max(1, -(-config.collapse.images // (2 * world.ranks)))
        self._place = (world.rank, world.ranks)
        self._latents = Latents(config.seed, config.model.z_dim, config.data.num_classes, "probe")
        self._streams = open_streams(config, world) if streams is None else streams
        self._reals: dict[str, Iterator[Batch]] = {}

    def start(self, step: int) -> None:
        """To be called before the first look, and where the run goes on from another step."""
        images = self._here * self._place[1]
        first = (step // self._every if self._every else 0) * images
        # Training images from the beginning of the run: looks take fewer than training does, so D
        # has seen them when they come here (with data.chunk: if a look takes no more than a batch).
        share = (first, images, *self._place, self._here)
        self._fakes = shares(*share)
        self._reals = {name: stream.batches(*share) for name, stream in self._streams.items()}

    def close(self) -> None:
        """Ends the threads that read ahead."""
        for stream in self._streams.values():
            stream.close()

    @torch.no_grad()
    def look(self) -> dict[str, Tensor]:
        """The next look, with both networks as evaluation has them: means over the images here,
        whose means over all processes `conclude` takes.

        d_on_train, d_on_heldout (if there are held-out images), d_on_fake: D's logits. fakes_apart:
        how far two of G's images of one class lie apart among D's features. reals_apart: how far
        two training images of any class do. length: that of a training image's features.
        """
        plain = torch.compiler.set_stance("force_eager")  # no look is worth compiling for
        with plain, reading(self._play.g.network), reading(self._play.d.network):
            fake = self._pairs(next(self._fakes))
            reals = {name: next(stream) for name, stream in self._reals.items()}
            batches = {**reals, "fake": fake}
            found = {f"d_on_{name}": self._logits(batch).mean() for name, batch in batches.items()}
            found |= self._spread(fake.images, batches["train"].images)
        return found

    def _logits(self, batch: Batch) -> Tensor:
        """D's logits [n]; like all here, from no more images at once than in training."""
        size = self._play.d.microbatch
        parts = zip(batch.images.split(size), batch.labels.split(size), strict=True)
        judge, network = self._play.judge, self._play.d.network
        # Gradient normalization leaves a graph on each.
        return torch.cat([judge(network, Batch(*part))[0].detach() for part in parts])

    def _spread(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """The distances, from images [n, 3, H, W] each, two and two."""
        fake, real = self._features(fake), self._features(real)
        fakes, reals = ((x[::2] - x[1::2]).norm(dim=1).mean() for x in (fake, real))
        return {"fakes_apart": fakes, "reals_apart": reals, "length": real.norm(dim=1).mean()}

    def _features(self, images: Tensor) -> Tensor:
        """D's features [n, C] of images [n, 3, H, W]."""
        discriminator = self._play.d.network
        assert isinstance(discriminator, Discriminator)
        with self._play.autocast():
            parts = images.split(self._play.d.microbatch)
            return at_least_fp32(torch.cat([discriminator.features(part) for part in parts]))

    def _pairs(self, positions: range) -> Batch:
        """G's images [n, 3, H, W], two and two of one class."""
        pairs = range(positions.start // 2, positions.stop // 2)
        z = send(self._latents.z(positions), self._play.device)
        y = send(self._latents.y(pairs).repeat_interleave(2), self._play.device)
        size = self._play.g.microbatch
        with self._play.autocast():
            parts = zip(z.split(size), y.split(size), strict=True)
            images = torch.cat([self._play.g.network(*part) for part in parts])
        return Batch(at_least_fp32(images), y)


def conclude(means: Mapping[str, float]) -> dict[str, float]:
    """What a look says, from its means over all processes.

    d_on_train, d_on_heldout, d_on_fake: as they are. diversity: how far two of G's images of one
    class lie apart, over how far two training images do; nan to a D that cannot tell these apart.
    contrast: how far they do, in lengths of their features; 0 where these are nothing.
    """
    said = {name: value for name, value in means.items() if name.startswith("d_on_")}
    if means:
        fakes, reals, length = (means[n] for n in ("fakes_apart", "reals_apart", "length"))
        said["diversity"] = fakes / reals if reals != 0 else math.nan
        said["contrast"] = reals / length if length != 0 else 0.0
    return said
