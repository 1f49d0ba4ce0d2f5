"""The card of an export: what its files are, in JSON, for people and for programs."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biggan_sn.checkpoint import CARD_NAME, CheckpointError
from biggan_sn.config import Config
from biggan_sn.config_io import from_dict, to_dict

VERSION = 1
DATA = ("resolution", "num_classes")  # what a generator is, of the data section of its config
REMEDY = "export it again"


@dataclass(frozen=True)
class Standing:
    """The batch norms' statistics of one truncation ("standing statistics", Brock et al. 2019).

    Args:
        truncation: its value.
        mode: kind of truncation; a row of TRUNCATIONS.
        passes: forward passes that they are the mean of.
        seed: of the latent vectors of those.
    """

    truncation: float
    mode: str
    passes: int
    seed: int

    @property
    def prefix(self) -> str:
        """How the names of their tensors begin."""
        return f"{self.mode}_{self.truncation}/"


@dataclass(frozen=True)
class Card:
    """What an export is.

    Args:
        format: a row of EXPORTS.
        step: updates of G when it was made.
        config: of the run, of which the card keeps what a generator is built by.
        classes: their names.
        statistics: the truncations whose own statistics it holds.
        metrics: of the last evaluation of that checkpoint, by name; none if there was none.
        licence: of the weights; None if nobody said.
        package: that wrote it, and its version.
        files: size and SHA-256 of each by its name.
    """

    format: str
    step: int
    config: Config
    classes: tuple[str, ...]
    statistics: tuple[Standing, ...]
    metrics: Mapping[str, float | None]
    licence: str | None
    package: str
    files: Mapping[str, Mapping[str, Any]]

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        config = to_dict(self.config)
        return {
            "version": VERSION,
            "package": self.package,
            "format": self.format,
            "licence": self.licence,
            "step": self.step,
            "inputs": {"z": ["N", self.config.model.z_dim], "y": ["N"]},
            "images": ["N", 3, self.config.data.resolution, self.config.data.resolution],
            "classes": list(self.classes),
            "statistics": [{**asdict(each), "prefix": each.prefix} for each in self.statistics],
            "metrics": dict(self.metrics),
            "config": {
                "data": {name: config["data"][name] for name in DATA},
                "model": config["model"],
            },
            "files": {name: dict(fingerprint) for name, fingerprint in self.files.items()},
        }


def read_card(folder: Path) -> Card:
    """The card of the export in `folder`.

    Raises:
        CheckpointError: it cannot be read, or another version of the package wrote it.
    """
    path = folder / CARD_NAME
    try:
        document = json.loads(path.read_text())
        version = document["version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error!r}); {REMEDY}") from error
    if version != VERSION:
        raise CheckpointError(f"{path}: card version {version}, this package reads {VERSION}")
    try:
        return _understand(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a card of an export ({error!r}); {REMEDY}") from error


def _understand(document: Mapping[str, Any]) -> Card:
    config: Config = from_dict(document["config"])
    classes = tuple(str(name) for name in document["classes"])
    if len(classes) != config.data.num_classes:
        raise ValueError(f"{len(classes)} names of {config.data.num_classes} classes")
    return Card(
        format=document["format"],
        step=document["step"],
        config=config,
        classes=classes,
        statistics=tuple(
            Standing(float(each["truncation"]), each["mode"], each["passes"], each["seed"])
            for each in document["statistics"]
        ),
        metrics=dict(document["metrics"]),
        licence=document["licence"],
        package=document["package"],
        files=dict(document["files"]),
    )
