"""Plays one game with one method and one seed to its end, and says how it went."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from biggan_sn.arena.points import POINTS, Mixture, as_points
from biggan_sn.config import Config
from biggan_sn.files import write_whole
from biggan_sn.models.latent import Latents
from biggan_sn.models.points import build_point_players
from biggan_sn.training.build import build
from biggan_sn.training.records import SCALARS, alarms, append, read
from biggan_sn.training.rollback import CollapseError
from biggan_sn.training.step import GANStep
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.watch import Watch
from biggan_sn.training.world import World, joined

RESULT, SAMPLES = "result.json", "samples.npy"
SCORES = ("modes", "quality", "kl", "fid")
# What metrics call the scores of images.
METRICS = {"modes": "modes", "quality": "certain", "kl": "modes_kl", "fid": "fid"}

Result = Mapping[str, float]


def play(config: Config, folder: Path) -> bool:
    """Plays on in a folder, and leaves the result there. False if it was told to stop before.

    The result has, by name: modes, quality, kl, fid and ms_per_step (None where there is none),
    alarms (how many), and lost: the step at which something was no longer finite, or -1.

    Raises:
        ValueError: the config or the data do not fit.
    """
    mixture = POINTS.get(config.data.path)
    result = play_points(config, mixture, folder) if mixture else play_images(config, folder)
    if result is None:
        return False
    known = {name: value if math.isfinite(value) else None for name, value in result.items()}
    write_whole(folder / RESULT, (json.dumps(known, indent=1) + "\n").encode())
    return True


def play_images(config: Config, folder: Path) -> Result | None:
    """A run as `train` plays it, in this folder; None if it was told to stop before its end."""
    lost = -1
    with joined(config.timeout) as world, world.holding(folder):
        trainer = Trainer(config, folder, world)
        try:
            if not trainer.run():
                return None
        except CollapseError:
            lost = trainer.step
    lines = read(folder / SCALARS)
    speeds = [line["speed"]["images_per_second"] for line in lines if "speed" in line]
    last = next((line for line in reversed(lines) if "evaluation/fid" in line), {})
    found = {} if lost >= 0 else last
    images = config.d_steps * config.batch_size
    return {
        **{name: found.get(f"evaluation/{METRICS[name]}", math.nan) for name in SCORES},
        "ms_per_step": 1e3 * images / median(speeds) if speeds else math.nan,
        "alarms": len(alarms(folder)),
        "lost": lost,
    }


class NoProbe:
    """Of points there is nothing to look at but losses and weights."""

    def start(self, step: int) -> None:
        """Nothing is read."""

    def look(self) -> dict[str, torch.Tensor]:
        """Nothing is seen."""
        return {}

    def close(self) -> None:
        """Nothing is open."""


def play_points(config: Config, mixture: Mixture, folder: Path) -> Result:
    """A game of points, from its beginning; samples [N, 2] stay in the folder too."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world = World(device=device)
    step = build(config, world, make=build_point_players)
    spectra = {"G": step.g_constraint.spectrum, "D": step.d_constraint.spectrum}
    watch = Watch(config, step, spectra, world, NoProbe())
    reals = mixture.batches(config.seed, config.batch_size, device)
    sounded, lost, begun = 0, -1, time.perf_counter()
    for number in range(1, config.steps + 1):
        scalars = step(number - 1, reals)
        if watch.due(number) or number == config.steps:
            seen = watch.see(number, scalars, False)
            append(folder / SCALARS, {"step": number, **seen.losses})
            sounded += len(watch.judge(seen))
            if watch.lost(seen):
                lost = number
                break
    seconds = time.perf_counter() - begun
    points = draw(config, step)
    np.save(folder / SAMPLES, points.astype(np.float32))
    scores = dict.fromkeys(SCORES, math.nan) if lost >= 0 else mixture.score(points)
    per_step = 1e3 * seconds / number
    return {"fid": math.nan, **scores, "ms_per_step": per_step, "alarms": sounded, "lost": lost}


@torch.no_grad()
def draw(config: Config, step: GANStep) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Points [N, 2] of the average of G."""
    latents = Latents(config.seed, config.model.z_dim, 1, "arena samples")
    positions = range(config.evaluation.samples)
    z, y = latents.z(positions).to(step.device), latents.y(positions).to(step.device)
    return as_points(step.ema.generator()(z, y))
