"""What training does not show: D on images it never saw, and G's variety within a class."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from biggan_sn.config import Config
from biggan_sn.data.loader import Batch, Loader, open_dataset
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
    paths = {"train": config.data.path, "heldout": config.data.heldout}
    for name, path in paths.items() if config.collapse.every else ():
        if path:
            data = replace(config.data, path=path, threads=1, prefetch=1)
            streams[name] = Loader(open_dataset(data), data, config.seed, world.device)
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
        # Training images from the beginning of the run: D has long seen them when they come here.
        share = (first, images, *self._place, self._here)
        self._fakes = shares(*share)
        self._reals = {name: stream.batches(*share) for name, stream in self._streams.items()}

    def close(self) -> None:
        """Ends the threads that read ahead."""
        for stream in self._streams.values():
            stream.close()

    @torch.no_grad()
    def look(self) -> dict[str, Tensor]:
        """The next look, with both networks as evaluation has them.

        diversity: how far two of G's images of one class lie apart among D's features, over how far
        two training images of any class do. contrast: the latter, in lengths of these features.
        d_on_train, d_on_heldout (if there are held-out images), d_on_fake: D's mean logits.
        """
        generator, discriminator = self._play.g.network, self._play.d.network
        assert isinstance(discriminator, Discriminator)
        with reading(generator), reading(discriminator):
            fake = self._pairs(next(self._fakes))
            reals = {name: next(stream) for name, stream in self._reals.items()}
            batches = {**reals, "fake": fake}
            logits = self._play.judge(discriminator, *batches.values())
            found = {f"d_on_{n}": x.mean() for n, x in zip(batches, logits, strict=True)}
            found |= self._spread(discriminator, fake.images, batches["train"].images)
        return found

    def _spread(
        self, discriminator: Discriminator, fake: Tensor, real: Tensor
    ) -> dict[str, Tensor]:
        """`diversity` and `contrast` from images [n, 3, H, W] each, two and two."""
        with self._play.autocast():
            features = at_least_fp32(discriminator.features(torch.cat([fake, real])))
        one, other = features.unflatten(0, (-1, 2)).unbind(1)
        fakes, reals = (one - other).norm(dim=1).unflatten(0, (2, -1)).mean(1).unbind()
        length = features[len(fake) :].norm(dim=1).mean()
        return {"diversity": fakes / reals, "contrast": reals / length}

    def _pairs(self, positions: range) -> Batch:
        """G's images [n, 3, H, W], two and two of one class."""
        pairs = range(positions.start // 2, positions.stop // 2)
        z = self._latents.z(positions).to(self._play.device, non_blocking=True)
        y = self._latents.y(pairs).repeat_interleave(2).to(self._play.device, non_blocking=True)
        with self._play.autocast():
            return Batch(at_least_fp32(self._play.g.network(z, y)), y)
