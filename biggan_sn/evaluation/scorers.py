"""What can score samples while a run trains, and the score that ranks its checkpoints."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from biggan_sn.data.digits import NUM_CLASSES, RESOLUTION
from biggan_sn.data.loader import normalize
from biggan_sn.evaluation import digits
from biggan_sn.evaluation.sampling import Sampling, draw_classes
from biggan_sn.models.generator import Generator
from biggan_sn.tables import lookup


class Scorer(NamedTuple):
    """A row: score(images [N, 3, H, W] in [-1, 1], classes [N] asked for) -> scores, of which
    "fid" ranks checkpoints; and the only data it can score."""

    score: Callable[[Tensor, Tensor], dict[str, float]]
    num_classes: int
    resolution: int


def fitting_scorer(name: str, num_classes: int, resolution: int) -> Scorer:
    """The scorer called `name`.

    Raises:
        ValueError: there is none, or it cannot score such data.
    """
    scorer = lookup(SCORERS, name, "scorer")
    if (scorer.num_classes, scorer.resolution) != (num_classes, resolution):
        raise ValueError(
            f"the scorer {name!r} is for {scorer.num_classes} classes at {scorer.resolution} "
            f"pixels, not for {num_classes} at {resolution}"
        )
    return scorer


def evaluate(
    generator: nn.Module, scorer: str, samples: int, sampling: Sampling
) -> dict[str, float]:
    """Scores about `samples` images, as many of each class, as they would be on disk: rounded.

    Raises:
        ValueError: `scorer` is no row of SCORERS, or cannot score what the generator draws.
    """
    assert isinstance(generator, Generator)
    fitting = fitting_scorer(scorer, generator.num_classes, generator.resolution)
    per_class = -(-samples // generator.num_classes)
    if per_class < 2:
        raise ValueError(f"{samples} samples are too few to score {generator.num_classes} classes")
    pixels, labels = draw_classes(generator, range(generator.num_classes), per_class, sampling)
    return fitting.score(normalize(pixels), labels)


SCORERS: dict[str, Scorer] = {"digits": Scorer(digits.score, NUM_CLASSES, RESOLUTION)}
