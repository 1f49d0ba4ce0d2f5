"""What can score samples while a run trains, and the score that ranks its checkpoints."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from biggan_sn.evaluation import digits
from biggan_sn.evaluation.sampling import Sampling, draw_classes
from biggan_sn.models.generator import Generator
from biggan_sn.tables import lookup

# images [N, 3, H, W] in [-1, 1] and the classes [N] asked for -> scores; "fid" ranks
Judge = Callable[[Tensor, Tensor], dict[str, float]]


def evaluate(
    generator: nn.Module, judge: str, samples: int, sampling: Sampling
) -> dict[str, float]:
    """Scores `samples` images, as many of each class.

    Raises:
        ValueError: `judge` is no row of JUDGES, or cannot judge what the generator draws.
    """
    assert isinstance(generator, Generator)
    score = lookup(JUDGES, judge, "judge")
    classes = range(generator.num_classes)
    per_class = -(-samples // len(classes))
    with torch.no_grad():
        return score(*draw_classes(generator, classes, per_class, sampling))


JUDGES: dict[str, Judge] = {"digits": digits.score}
