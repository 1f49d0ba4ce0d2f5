"""What can score samples while a run trains, and the score that ranks its checkpoints."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan_sn.data.digits import NUM_CLASSES, RESOLUTION
from biggan_sn.evaluation import digits
from biggan_sn.evaluation.sampling import Sampling, draw_classes
from biggan_sn.models.generator import Generator
from biggan_sn.tables import lookup


class Judge(NamedTuple):
    """A row: score(images [N, 3, H, W] in [-1, 1], classes [N] asked for) -> scores, of which
    "fid" ranks checkpoints; and the only data it can judge."""

    score: Callable[[Tensor, Tensor], dict[str, float]]
    num_classes: int
    resolution: int


def fitting_judge(name: str, num_classes: int, resolution: int) -> Judge:
    """The judge called `name`.

    Raises:
        ValueError: there is none, or it cannot judge such data.
    """
    judge = lookup(JUDGES, name, "judge")
    if (judge.num_classes, judge.resolution) != (num_classes, resolution):
        raise ValueError(
            f"the judge {name!r} is for {judge.num_classes} classes at {judge.resolution} pixels, "
            f"not for {num_classes} at {resolution}"
        )
    return judge


def evaluate(
    generator: nn.Module, judge: str, samples: int, sampling: Sampling
) -> dict[str, float]:
    """Scores about `samples` images, as many of each class.

    Raises:
        ValueError: `judge` is no row of JUDGES, or cannot judge what the generator draws.
    """
    assert isinstance(generator, Generator)
    fitting = fitting_judge(judge, generator.num_classes, generator.resolution)
    per_class = -(-samples // generator.num_classes)
    if per_class < 2:
        raise ValueError(f"{samples} samples are too few to score {generator.num_classes} classes")
    with torch.no_grad():
        images, labels = draw_classes(generator, range(generator.num_classes), per_class, sampling)
        return fitting.score(images, labels)


JUDGES: dict[str, Judge] = {"digits": Judge(digits.score, NUM_CLASSES, RESOLUTION)}
