"""The scores of a run on its way; FID ranks its checkpoints."""

import math
from collections.abc import Sequence

import numpy as np

from biggan_sn.config import Config
from biggan_sn.evaluation.evaluating import Evaluation
from biggan_sn.evaluation.images import Drawn
from biggan_sn.evaluation.metrics import overall
from biggan_sn.evaluation.sampling import Sampling
from biggan_sn.models.generator import Generator
from biggan_sn.training.ema import EMA
from biggan_sn.training.logs import Logs
from biggan_sn.training.world import World


class Scoring:
    """What scores the average of G, on all processes together.

    Args:
        config: of the run.
        classes: their names.
        world: this process's place in the job.

    Raises:
        ValueError: the extractor has no weights here, there are no real images to compare with, or
            a metric cannot be measured of such data.
    """

    def __init__(self, config: Config, classes: Sequence[str], world: World) -> None:
        self._section = config.evaluation
        self._classes = classes
        self._world = world
        self._evaluation: Evaluation | None = None
        if self._section.every:
            self._evaluation = _opened(config, world)

    def start(self) -> None:
        """Gathers what is known of the real images, so that the first evaluation takes no longer
        than others. Every process must call it."""
        if self._evaluation:
            with self._world.pulse.busy("looking at the real images"):
                self._evaluation.prepare()

    def __call__(self, step: int, average: EMA, logs: Logs | None) -> float | None:
        """The FID of the average now, on the leading process; it also goes to the logs, with all
        other scores. Every process must call it."""
        if self._evaluation is None:
            return None
        generator = average.generator()
        assert isinstance(generator, Generator)
        samples = Drawn(generator, self._section.samples, Sampling(), self._classes)
        with self._world.pulse.busy("evaluating"):
            scores = self._evaluation.scores(samples)
        if scores is None or logs is None:
            return None
        logs.scores(step, overall(scores))
        return scores["fid"] if math.isfinite(scores["fid"]) else math.inf


def _opened(config: Config, world: World) -> Evaluation:
    try:
        evaluation = Evaluation(config.evaluation, config.data, world)
        side = config.data.resolution
        labels = np.arange(config.evaluation.samples) % config.data.num_classes
        evaluation.check(labels, (side, side))
    except ValueError as error:
        raise ValueError(f"{error}; to train without scores: --evaluation.every 0") from error
    return evaluation
