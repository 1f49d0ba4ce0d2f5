"""Writes the generator of a run, or all of its networks, for other programs."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from biggan_sn import __version__
from biggan_sn.checkpoint import CARD_NAME, fingerprint
from biggan_sn.config_io import after_rollbacks
from biggan_sn.evaluation.sampling import Sampling, renew_statistics
from biggan_sn.files import whole_folder
from biggan_sn.interop.contents import Contents
from biggan_sn.interop.formats import EXPORTS, Export
from biggan_sn.models.card import Card, Standing
from biggan_sn.models.generator import Generator
from biggan_sn.models.loading import config_of, load_generator
from biggan_sn.progress import show_progress
from biggan_sn.tables import lookup
from biggan_sn.training.records import SCALARS, read

METRIC = "evaluation/"  # how its name begins in the record of a run


@dataclass(frozen=True)
class Options:
    """What is not in a checkpoint.

    Args:
        standing: the truncations that get statistics of their own.
        licence: of the weights.
    """

    standing: Sequence[Standing] = ()
    licence: str | None = None


def export(name: str, checkpoint: Path, out: Path, options: Options) -> list[str]:
    """Writes the folder `out` as the format called `name`, and a card that says what it is, whole
    or not at all; returns what a person should know of it, one line each.

    Args:
        name: a row of EXPORTS.
        checkpoint: its folder.
        out: where there is nothing yet, or an empty folder.
        options: see there.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ValueError: there is no such format, it cannot hold what was asked for, or not be made here.
    """
    row = lookup(EXPORTS, name, "export format")
    out = out.absolute()
    _check(name, row, out, options)
    generator, state = load_generator(checkpoint)
    statistics = _find_statistics(generator, options.standing)
    config = after_rollbacks(config_of(checkpoint, state), state.get("attempt", 0))
    contents = Contents(checkpoint, state, config, generator, statistics)
    with whole_folder(out) as folder:
        notes = row.write(contents, folder)
        card = Card(
            format=name,
            step=state["step"],
            config=config,
            classes=tuple(state["classes"]),
            statistics=tuple(statistics),
            metrics=_metrics(checkpoint, state),
            licence=options.licence,
            package=f"biggan_sn {__version__}",
            files={file.name: fingerprint(file) for file in sorted(folder.iterdir())},
        )
        (folder / CARD_NAME).write_text(json.dumps(card.document(), indent=1))
    return notes


def _check(name: str, row: Export, out: Path, options: Options) -> None:
    """All that can be wrong before anything is read."""
    if missing := [module for module in row.needs if find_spec(module) is None]:
        raise ValueError(
            f"--format {name} needs {', '.join(missing)}: pip install 'biggan_sn[{name}]'"
        )
    if row.truncations is not None and len(options.standing) > row.truncations:
        raise ValueError(
            f"--truncations: an export as {name} holds the statistics of {row.truncations} at "
            f"most, got {len(options.standing)}"
        )
    for each in options.standing:
        Sampling(each.seed, each.truncation, each.mode, each.passes)  # says what is wrong
        if not math.isfinite(each.truncation) or each.passes == 0:
            raise ValueError(
                f"--truncations {each.truncation}: must be finite, with --standing_statistics of 1 "
                f"or more, got {each.passes}"
            )
    there = next(parent for parent in out.absolute().parents if parent.exists())
    if not there.is_dir():
        raise ValueError(f"{out}: {there} is a file, not a folder")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out}: is there already; an export needs a folder of its own")


def _find_statistics(
    generator: Generator, standing: Sequence[Standing]
) -> dict[Standing, dict[str, Tensor]]:
    """Of every truncation, by the names of their buffers. The generator keeps its own.

    Raises:
        ValueError: it has none.
    """
    norms = [name for name, m in generator.named_modules() if isinstance(m, nn.BatchNorm2d)]
    if standing and not norms:
        raise ValueError("--truncations: this generator has no norms with statistics")
    buffers = dict(generator.named_buffers())
    names = [f"{norm}.{kind}" for norm in norms for kind in ("running_mean", "running_var")]
    own = {name: buffers[name].clone() for name in names}
    found = {}
    samplings = [Sampling(one.seed, one.truncation, one.mode, one.passes) for one in standing]
    with show_progress(sum(sampling.renewing for sampling in samplings)) as advance:
        for each, sampling in zip(standing, samplings, strict=True):
            renew_statistics(generator, sampling, advance)
            found[each] = {name: buffers[name].clone() for name in names}
    generator.load_state_dict(own, strict=False)
    return found


def _metrics(checkpoint: Path, state: Mapping[str, Any]) -> dict[str, float | None]:
    """What the last evaluation on the way found at the step of this checkpoint."""
    last: dict[str, float] = {}
    for record in read(checkpoint.parent.parent / SCALARS):
        found = {n.removeprefix(METRIC): v for n, v in record.items() if n.startswith(METRIC)}
        last = found if found and record["step"] == state["step"] else last
    # JSON has no nan, which a generator that diverged scores.
    return {name: value if math.isfinite(value) else None for name, value in last.items()}
