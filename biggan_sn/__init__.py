"""Class-conditional GANs at scale, with their spectra under control."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from biggan_sn.models.generator import Generator

__version__ = "0.1.0"


def load_generator(
    path: str | Path,
    device: str | torch.device = "cpu",
    truncation: float | None = None,
    mode: str = "resample",
) -> Generator:
    """The averaged generator of a run, a checkpoint or an export: plain weights, eval mode, no
    gradients. Called with z [N, generator.z_dim] and classes y [N], it gives images [N, 3, H, W] in
    [-1, 1]. Needs torch, numpy and safetensors alone.

    Args:
        path: its folder.
        device: where the weights go.
        truncation: of the z that it will get: its batch norms have the statistics that an export
            holds for that; None, those of training.
        mode: kind of that truncation.

    Raises:
        CheckpointError: there is no generator, it cannot be read, or no statistics for that
            truncation.
    """
    from biggan_sn.checkpoint import CheckpointError
    from biggan_sn.models.loading import load_generator as load
    from biggan_sn.models.loading import use_statistics

    generator, state = load(Path(path), device)
    if truncation is not None and not use_statistics(generator, state, truncation, mode):
        raise CheckpointError(
            f"{path}: no statistics for the truncation {truncation} ({mode}); biggan-sn export "
            "--truncations makes an export that has them"
        )
    return generator
