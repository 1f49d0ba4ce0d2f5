"""Scale on paper: how long a step would take on other numbers of GPUs.

A step of n processes with b images each is modelled as

    work    w(b) = passes x (a + c m)       m images in each pass, a per pass, c per image
    sums    s(n) = latency(n) + 2 (n - 1) / n x bytes / bandwidth           of all gradients
    norms   k x latency(n)          k sums of a step's batch norms: numbers few, so latency counts
    data    d_steps x b / loading                       read meanwhile: only what exceeds the rest
    step    max(w + s + norms, data)

with the ring's volume (Patarasuk and Yuan 2009) and a latency that grows as a tree's depth:
latency(n) = latency measured x log2(n) / log2(processes measured). That gradients travel while
others are still computed is left out, so sums are an upper bound. a, c, latency, bandwidth, loading
are measured.
"""

import math
from dataclasses import dataclass

from biggan_sn.config import Config
from biggan_sn.preflight.exchange import Exchange
from biggan_sn.preflight.trial import Trial

GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Prediction:
    """A step on so many GPUs; times in seconds.

    Args:
        gpus: number of processes.
        images: of one update, on each.
        work, sums, norms, data: the parts.
    """

    gpus: int
    images: int
    work: float
    sums: float
    norms: float
    data: float

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return max(self.work + self.sums + self.norms, self.data)


class Model:
    """The formulas above with measured numbers.

    Args:
        config: of the run.
        trial: what steps told.
        exchange: what sums over several processes take.
    """

    def __init__(self, config: Config, trial: Trial, exchange: Exchange) -> None:
        self._config = config
        self._trial = trial
        self._exchange = exchange
        whole = trial.timings[0]
        self.microbatch = whole.images / whole.microbatches
        self.per_pass, self.per_image = per_pass_and_image(trial)

    def predict(self, gpus: int, images: int) -> Prediction:
        """A step of `gpus` processes with `images` of an update each."""
        microbatch = min(self.microbatch, images)
        passes = images / microbatch
        return Prediction(
            gpus=gpus,
            images=images,
            work=passes * (self.per_pass + self.per_image * microbatch),
            sums=self._sums(gpus),
            norms=self._norms(gpus, passes),
            data=self._config.d_steps * images / self._trial.loading,
        )

    def _latency(self, gpus: int) -> float:
        return self._exchange.latency * math.log2(gpus) / math.log2(self._exchange.ranks)

    def _sums(self, gpus: int) -> float:
        d, g = self._trial.gradients["D"], self._trial.gradients["G"]
        volume = 2 * (gpus - 1) / gpus * (self._config.d_steps * d + g)
        return (self._config.d_steps + 1) * self._latency(gpus) + volume / self._exchange.bandwidth

    def _norms(self, gpus: int, passes: float) -> float:
        """Mean and variance: two sums forward, and two back in G's own turn."""
        times = passes * (2 * self._config.d_steps + 4)
        return self._trial.norms * times * self._latency(gpus)

    def table(self) -> list[str]:
        """Two tables for people: the batch of the config over more GPUs, and a batch that grows."""
        batch, share = self._config.batch_size, self._trial.timings[0].images
        same = [self.predict(n, batch // n) for n in GPUS if batch % n == 0]
        growing = [self.predict(n, share) for n in GPUS]
        return [
            f"batch {batch} on more GPUs:",
            *rows(same, self._config.d_steps),
            f"batch that grows, {share} images on each GPU:",
            *rows(growing, self._config.d_steps),
        ]


def per_pass_and_image(trial: Trial) -> tuple[float, float]:
    """Seconds of work that a pass takes, and an image more in it; neither below 0."""
    whole = trial.timings[0]
    images = whole.images / whole.microbatches
    each = whole.work / whole.microbatches
    if len(trial.timings) == 1:
        return 0.0, each / images
    half = trial.timings[1]
    per_image = (each - half.work / half.microbatches) / (images - half.images / half.microbatches)
    per_image = min(max(per_image, 0.0), each / images)
    return each - per_image * images, per_image


def rows(predictions: list[Prediction], d_steps: int) -> list[str]:
    """A line each; efficiency is the part of a step in which a GPU computes."""
    columns = ("work ms", "sums ms", "norms ms", "data ms", "step ms", "images/s", "efficiency")
    lines = [f"{'GPUs':>7}{'images/GPU':>12}" + "".join(f"{name:>11}" for name in columns)]
    for p in predictions:
        speed = d_steps * p.gpus * p.images / p.step
        parts = "".join(f"{1e3 * t:>11.1f}" for t in (p.work, p.sums, p.norms, p.data, p.step))
        lines.append(f"{p.gpus:>7}{p.images:>12}{parts}{speed:>11.0f}{p.work / p.step:>11.0%}")
    return lines
