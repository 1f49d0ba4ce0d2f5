"""Sections about what a run tells of itself: scores and logs."""

from dataclasses import dataclass

from biggan_sn.config.checks import require, require_not_negative, require_positive


@dataclass(frozen=True)
class EvaluationConfig:
    """How samples are scored, while training and afterwards.

    Args:
        every: steps between two evaluations of the average of G; 0 switches them off. The
            checkpoints with the lowest FID are kept.
        metrics: what is measured: fid, is (Inception score), kid, precision_recall,
            density_coverage, class_fid (the mean FID of each class for itself), class_accuracy,
            modes (classes that samples are taken for), variety (rows of METRICS). While training
            fid is among them.
        samples: number of samples, of all classes alike; the papers have 50 000.
        extractor: network whose features are compared: inception (the papers'), dinov2_vits14,
            dinov2_vitb14, dinov2_vitl14, dinov2_vitg14, digits or stacked_digits (for images of
            32 pixels), or thumbnails, mean colours of 8 x 8 parts, which need no download (rows of
            EXTRACTORS).
        weights: file of its weights; empty where they usually are.
        real: images to compare with: a folder of shards or images, a .npz of images, or one of
            statistics; empty takes those that are trained on.
        features: real images of which the features are kept, spread evenly, for all metrics that
            look at single images; 0 keeps all. FID takes all images, however many are kept.
    """

    every: int = 0
    metrics: tuple[str, ...] = ("fid", "is", "kid", "precision_recall", "density_coverage")
    samples: int = 50_000
    extractor: str = "inception"
    weights: str = ""
    real: str = ""
    features: int = 10_000

    def __post_init__(self) -> None:
        require_not_negative("evaluation", self, "every", "features")
        require(self.samples > 1, f"evaluation.samples must be 2 or more, got {self.samples}")
        require(bool(self.metrics), "evaluation.metrics is empty: name what is to be measured")
        require(
            not self.every or "fid" in self.metrics,
            "evaluation.metrics: fid must be among them, it ranks the checkpoints of the run",
        )


@dataclass(frozen=True)
class LogsConfig:
    """What is written while training.

    Args:
        every: steps between two lines of scalars.
        images: steps between two sample grids, and heat-maps if spectra are measured then; 0
            switches them off.
        rows: rows of a sample grid; a column is a class.
        columns: most classes shown in a grid.
    """

    every: int = 10
    images: int = 500
    rows: int = 8
    columns: int = 10

    def __post_init__(self) -> None:
        require_positive("logs", self, "every", "rows", "columns")
        require_not_negative("logs", self, "images")
