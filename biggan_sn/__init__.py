"""Class-conditional GANs at scale, with their spectra under control."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from biggan_sn.models.generator import Generator

__version__ = "0.1.0"


def load_generator(path: str | Path, device: str | torch.device = "cpu") -> Generator:
    """The averaged generator of a run or checkpoint: plain weights, eval mode, no gradients.

    Called with z [N, generator.z_dim] and classes y [N], it gives images [N, 3, H, W] in [-1, 1].

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
    """
    from biggan_sn.checkpoint import find
    from biggan_sn.evaluation.sampling import load_generator as load

    return load(find(Path(path)), device)[0]
