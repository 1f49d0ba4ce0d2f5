"""The truncation sweep: what is gained in quality and lost in diversity, in one picture."""

import csv
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import nn

from biggan_sn.data.loader import normalize
from biggan_sn.evaluation.diversity import diversity
from biggan_sn.evaluation.pictures import grid, strip
from biggan_sn.evaluation.sampling import Sampling, draw_classes, renew_statistics


def sweep(
    generator: nn.Module,
    classes: Sequence[int],
    per_class: int,
    samplings: Sequence[Sampling],
    out: Path,
) -> tuple[Path, Path]:
    """One grid per sampling, side by side in sweep.png, and the diversity of each in sweep.csv.

    The batch norms' statistics are renewed for every truncation where standing statistics are
    asked for, and are those of training for all otherwise.
    """
    out.mkdir(parents=True, exist_ok=True)
    trained = {name: buffer.clone() for name, buffer in generator.named_buffers()}
    grids, rows = [], []
    for sampling in samplings:
        generator.load_state_dict(trained, strict=False)
        renew_statistics(generator, sampling)
        images, labels = draw_classes(generator, classes, per_class, sampling)
        grids.append(grid(images, len(classes)))
        rows.append(
            (
                sampling.truncation,
                sampling.mode,
                sampling.standing_statistics,
                diversity(normalize(images), labels),
            )
        )
    picture, table = out / "sweep.png", out / "sweep.csv"
    titles = [f"{sampling.mode} {sampling.truncation:g}" for sampling in samplings]
    Image.fromarray(strip(grids, titles)).save(picture)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("truncation", "mode", "standing_statistics", "diversity"))
        writer.writerows(rows)
    return picture, table
