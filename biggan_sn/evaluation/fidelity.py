"""torch-fidelity's metrics on statistics of our own: its functions, which are those of the papers,
without its walk over images, which knows neither ranks nor classes."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from biggan_sn.evaluation.statistics import Statistics

Scores = dict[str, float]

SPLITS = 10  # of the samples, for the deviation of the Inception score (Salimans et al. 2016)
SUBSET = 1000  # images of each of the subsets that KID is the mean over (Binkowski et al. 2018)
NEIGHBOUR = 3  # the one that the ball around an image reaches to (Kynkäänniemi et al. 2019)
MOST = 10_000  # images of which all distances are taken, from each side


def torch_fidelity(module: str) -> Any:
    """A module of torch-fidelity.

    Raises:
        ValueError: it cannot be imported, for which torchvision has to be there, and fit torch.
    """
    try:
        import_module("torch_fidelity")  # whose modules may be half there where it is not
        return import_module(f"torch_fidelity.{module}")
    except (ImportError, OSError, RuntimeError) as error:  # a torchvision of another torch
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"torch-fidelity cannot be imported ({reason}): pip install torch-fidelity, and the "
            f"torchvision that goes with torch {torch.__version__}"
        ) from error


def no_torch_fidelity() -> str:
    """Why there is no torch-fidelity here; empty where there is."""
    try:
        torch_fidelity("utils")
    except ValueError as error:
        return str(error)
    return ""


def frechet_distance(generated: Statistics, real: Statistics) -> Scores:
    """fid: the distance between Gaussians fitted to the features of all images (Heusel et al. 2017,
    eq. 6)."""
    return {"fid": _frechet(generated.mu, generated.sigma, real.mu, real.sigma)}


def class_frechet_distances(generated: Statistics, real: Statistics) -> Scores:
    """class_fid: the mean over the classes of the distance between their images, the intra-FID of
    Miyato and Koyama (2018); class_fid/NAME: that of each class.

    Raises:
        ValueError: of a class there are fewer than two images of a kind.
    """
    found = {}
    for label, name in enumerate(real.classes):
        sides = [side.features[side.labels == label] for side in (generated, real)]
        if min(map(len, sides)) < 2:
            raise ValueError(
                f"class_fid: class {name!r} has features of {len(sides[0])} samples and "
                f"{len(sides[1])} real images, but needs two of each and should have thousands"
            )
        moments = [(f.mean(0, dtype=np.float64), np.cov(f, rowvar=False)) for f in sides]
        found[f"class_fid/{name}"] = _frechet(*moments[0], *moments[1])
    return {"class_fid": float(np.mean(list(found.values()))), **found}


def _frechet(
    mu: NDArray[np.float64],
    sigma: NDArray[np.float64],
    real_mu: NDArray[np.float64],
    real_sigma: NDArray[np.float64],
) -> float:
    if not np.isfinite(sigma).all():  # of a generator that diverged
        return float("nan")
    ours, theirs = {"mu": mu, "sigma": sigma}, {"mu": real_mu, "sigma": real_sigma}
    found = torch_fidelity("metric_fid").fid_statistics_to_metric(ours, theirs, verbose=False)
    return float(found["frechet_inception_distance"])


def inception_score(generated: Statistics, real: Statistics) -> Scores:
    """is, is_std: of the logits of the samples (Salimans et al. 2016), over ten parts of them."""
    logits = torch.from_numpy(generated.logits)
    found = torch_fidelity("metric_isc").isc_features_to_metric(logits, min(SPLITS, len(logits)))
    return {"is": found["inception_score_mean"], "is_std": found["inception_score_std"]}


def kernel_distance(generated: Statistics, real: Statistics) -> Scores:
    """kid, kid_std: squared maximum mean discrepancy of a cubic kernel, over a hundred subsets of
    a thousand (Binkowski et al. 2018), or of as many as there are. The estimate is unbiased for any
    size; of smaller subsets it only spreads more."""
    ours, theirs = (torch.from_numpy(side.features) for side in (generated, real))
    size = min(SUBSET, len(ours), len(theirs))
    found = torch_fidelity("metric_kid").kid_features_to_metric(
        ours, theirs, kid_subset_size=size, verbose=False
    )
    mean, deviation = (found[f"kernel_inception_distance_{key}"] for key in ("mean", "std"))
    return {"kid": mean, "kid_std": deviation}


def precision_recall(generated: Statistics, real: Statistics) -> Scores:
    """precision: the share of samples that lie nearer to some real image than its third neighbour;
    recall: the same with the sides exchanged (Kynkäänniemi et al. 2019)."""
    ours, theirs = of_either_side(generated, real)
    found = torch_fidelity("metric_prc").prc_features_to_metric(
        ours, theirs, prc_neighborhood=NEIGHBOUR, verbose=False
    )
    return {key: float(found[key]) for key in ("precision", "recall")}


def of_either_side(generated: Statistics, real: Statistics) -> list[torch.Tensor]:
    """Features of at most MOST images of each, spread evenly, on a GPU if there is one: all
    distances between ten thousand are much even for it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for side in (generated, real):
        rows = len(side.features)
        kept = min(rows, MOST)
        chosen = np.arange(kept) * rows // kept
        found.append(torch.from_numpy(side.features[chosen]).to(device))
    return found
