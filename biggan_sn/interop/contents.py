"""What of a run is exported."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from biggan_sn.config import Config
from biggan_sn.models.card import Standing
from biggan_sn.models.generator import Generator


@dataclass(frozen=True)
class Contents:
    """One checkpoint, as exports see it.

    Args:
        checkpoint: its folder.
        state: its JSON part.
        config: of the run.
        generator: the average, with plain weights and the statistics of training.
        statistics: the batch norms' of truncations, by the names of their buffers.
    """

    checkpoint: Path
    state: Mapping[str, Any]
    config: Config
    generator: Generator
    statistics: Mapping[Standing, Mapping[str, Tensor]]
