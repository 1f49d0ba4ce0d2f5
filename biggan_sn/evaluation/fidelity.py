"""torch-fidelity's metrics on features of our own choice."""

from torch import Tensor


def frechet_distance(generated: Tensor, real: Tensor) -> float:
    """Frechet distance between Gaussians fitted to two sets of features [N, D] (Heusel et al.
    2017, eq. 6); nan where features are not finite, as those of a generator that diverged."""
    if not (generated.isfinite().all() and real.isfinite().all()):
        return float("nan")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    statistics = (fid_features_to_statistics(f.cpu()) for f in (generated, real))
    metric = fid_statistics_to_metric(*statistics, False)
    return float(metric["frechet_inception_distance"])
