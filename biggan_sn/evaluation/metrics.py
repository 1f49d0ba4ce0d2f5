"""What can be measured of samples, by the statistics of them and of real images."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan_sn.evaluation.extractors import Extractor
from biggan_sn.evaluation.fidelity import (
    NEIGHBOUR,
    Scores,
    class_frechet_distances,
    frechet_distance,
    inception_score,
    kernel_distance,
    no_torch_fidelity,
    of_either_side,
    precision_recall,
)
from biggan_sn.evaluation.statistics import Statistics
from biggan_sn.tables import lookup

NEAREST = 5  # neighbours that make the ball around a real image (Naeem et al. 2020)
ROWS = 1000  # of a matrix of distances that are held at a time
CERTAIN = 0.9  # noise is taken for hundreds of classes, but with less
PRESENT = 0.2  # of an equal share, for a class to count as present


class Metric(NamedTuple):
    """A row.

    Args:
        measure: (statistics of samples, of real images) -> scores by name.
        lacks: (extractor, whether classes of the samples are known, names of the real classes) ->
            what is missing, or "".
        least: how many samples, and real images whose features are kept, it needs.
        of_each: whether it needs so many of each class.
        theirs: whether torch-fidelity computes it.
    """

    measure: Callable[[Statistics, Statistics], Scores]
    lacks: Callable[[Extractor, bool, Sequence[str]], str] = lambda *_: ""
    least: int = 2
    of_each: bool = False
    theirs: bool = False


def check_known(names: Sequence[str]) -> None:
    """Raises ValueError if one of them is none of METRICS, or what computes it is not installed."""
    theirs = [name for name in names if lookup(METRICS, name, "metric").theirs]
    if theirs and (reason := no_torch_fidelity()):
        raise _refusal(theirs[0], reason, [name for name in names if name not in theirs])


def _refusal(name: str, reason: str, others: Sequence[str]) -> ValueError:
    instead = f"; without it: --metrics {' '.join(others)}" if others else ""
    return ValueError(f"the metric {name!r} cannot be measured: {reason}{instead}")


def check_metrics(
    names: Sequence[str],
    extractor: Extractor,
    classes: Sequence[str],
    labels: NDArray[np.int64],
    real_labels: NDArray[np.int64],
) -> None:
    """Raises ValueError if one of METRICS cannot be measured, and says why.

    Args:
        names: of the metrics.
        extractor: what makes the features.
        classes: names of those of the real images.
        labels: of the samples, [N]; -1 where unknown.
        real_labels: of the real images whose features are kept, [M].
    """
    labelled = bool((labels >= 0).all())
    for name in names:
        metric = lookup(METRICS, name, "metric")
        reason = metric.lacks(extractor, labelled, classes)
        if reason := reason or _too_few(metric, classes, labels, real_labels):
            raise _refusal(name, reason, [other for other in names if other != name])


def _too_few(
    metric: Metric, classes: Sequence[str], labels: NDArray[np.int64], real: NDArray[np.int64]
) -> str:
    sides = [np.array([len(side)]) for side in (labels, real)]
    if metric.of_each:
        sides = [np.bincount(side[side >= 0], minlength=len(classes)) for side in (labels, real)]
    ours, theirs = (int(counts.min()) for counts in sides)
    if min(ours, theirs) >= metric.least:
        return ""
    what = " of each class" if metric.of_each else ""
    return (
        f"it needs {metric.least} samples and features of {metric.least} real images{what}, and "
        f"there are {ours} and {theirs}"
    )


def measure(names: Iterable[str], generated: Statistics, real: Statistics) -> Scores:
    """The scores of these METRICS; nan where features are not finite, as those of a generator that
    diverged.

    Raises:
        ValueError: both are not of the same extractor, or there are too few images.
    """
    sides = [(side.extractor, side.weights) for side in (generated, real)]
    if sides[0] != sides[1]:
        named = " and ".join(f"{name} (weights {digest[:8]})" for name, digest in sides)
        raise ValueError(f"features of different networks cannot be compared: {named}")
    if min(generated.images, real.images) < 2:
        raise ValueError("metrics need at least two samples and two real images")
    scores: Scores = {}
    for name in names:
        scores |= lookup(METRICS, name, "metric").measure(generated, real)
    return scores


def overall(scores: Scores) -> Scores:
    """Without those of single classes, of which there may be thousands."""
    return {name: value for name, value in scores.items() if "/" not in name}


def density_coverage(generated: Statistics, real: Statistics) -> Scores:
    """density: in how many balls around real images a sample lies, over their neighbours; coverage:
    the share of real images with a sample in their ball (Naeem et al. 2020, eqs. 5 and 6). A ball
    reaches to the fifth neighbour among the real images."""
    ours, theirs = of_either_side(generated, real)
    nearest = min(NEAREST, len(theirs) - 1)
    radii = torch.cat([d.kthvalue(nearest + 1).values for d in _distances(theirs, theirs)])
    inside = covered = 0
    for distances, own in zip(_distances(theirs, ours), radii.split(ROWS), strict=True):
        within = distances < own[:, None]
        inside += int(within.sum())
        covered += int(within.any(1).sum())
    return {"density": inside / (nearest * len(ours)), "coverage": covered / len(theirs)}


def _distances(left: Tensor, right: Tensor) -> Iterable[Tensor]:
    """Distances [n, M] of some rows [n, D] of the left after the other to those [M, D] of the
    right."""
    return (torch.cdist(rows, right) for rows in left.split(ROWS))


def class_accuracy(generated: Statistics, real: Statistics) -> Scores:
    """accuracy: share of samples that the extractor takes for the class asked for; classes: how
    many it sees at least a fifth as often as if all were equal."""
    seen = generated.logits.argmax(1)
    counts = np.bincount(seen, minlength=len(real.classes))
    present = counts >= PRESENT * len(seen) / len(real.classes)
    right = (seen == generated.labels).mean()
    return {"accuracy": float(right), "classes": float(present.sum())}


def modes(generated: Statistics, real: Statistics) -> Scores:
    """modes: classes that some sample is taken for with a probability above CERTAIN; certain: the
    share of such samples; modes_kl: Kullback-Leibler divergence of the classes that samples are
    taken for from all alike (Metz et al. 2017, section 3.3.1), in nats."""
    seen = generated.logits.argmax(1)
    probabilities = torch.from_numpy(generated.logits).double().softmax(1)
    certain = (probabilities.amax(1) > CERTAIN).numpy()
    classes = generated.logits.shape[1]
    shares = np.bincount(seen, minlength=classes) / len(seen)
    present = shares[shares > 0]
    return {
        "modes": float(len(np.unique(seen[certain]))),
        "certain": float(certain.mean()),
        "modes_kl": float((present * np.log(present * classes)).sum()),
    }


def variety(generated: Statistics, real: Statistics) -> Scores:
    """variety: how far apart the features of two samples of a class are (root mean square over
    pairs, classes weighed alike), over the same of real images. 0 where each class has one picture
    for ever."""
    return {"variety": _spread(generated) / _spread(real)}


def _spread(side: Statistics) -> float:
    """Half the mean square distance of two images of a class is the trace of its covariance."""
    members = [side.features[side.labels == label] for label in np.unique(side.labels)]
    traces = [f.var(0, ddof=1, dtype=np.float64).sum() for f in members if len(f) > 1]
    return float(np.mean(traces)) ** 0.5 if traces else float("nan")


def _no_logits(extractor: Extractor, labelled: bool, classes: Sequence[str]) -> str:
    return "" if extractor.logits else f"{extractor.name!r} tells no classes apart"


def _no_modes(extractor: Extractor, labelled: bool, classes: Sequence[str]) -> str:
    return "" if extractor.classes else f"the classes of {extractor.name!r} are no modes of data"


def _no_labels(extractor: Extractor, labelled: bool, classes: Sequence[str]) -> str:
    return "" if labelled and classes else "the classes of the images are not known"


def _other_classes(extractor: Extractor, labelled: bool, classes: Sequence[str]) -> str:
    if not classes or tuple(classes) == extractor.classes:
        return _no_labels(extractor, labelled, classes)
    known = f"those of {extractor.name!r} are {', '.join(extractor.classes) or 'others'}"
    return f"the images are of {len(classes)} classes, and {known}"


METRICS: dict[str, Metric] = {
    "fid": Metric(frechet_distance, theirs=True),
    "is": Metric(inception_score, _no_logits, theirs=True),
    "kid": Metric(kernel_distance, theirs=True),
    "precision_recall": Metric(precision_recall, least=NEIGHBOUR + 1, theirs=True),
    "density_coverage": Metric(density_coverage),
    "class_fid": Metric(class_frechet_distances, _no_labels, of_each=True, theirs=True),
    "class_accuracy": Metric(class_accuracy, _other_classes),
    "modes": Metric(modes, _no_modes),
    "variety": Metric(variety, _no_labels),
}
