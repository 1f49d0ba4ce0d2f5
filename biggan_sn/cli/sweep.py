"""The verb `sweep`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.cli.draw import (
    MODES,
    check_least,
    classes_of,
    declare_classes,
    declare_drawing,
    sampling_of,
)
from biggan_sn.cli.evaluate import crew_of, declare_measuring, section_of
from biggan_sn.progress import show_progress

if TYPE_CHECKING:
    from biggan_sn.evaluation.evaluating import Evaluation
    from biggan_sn.evaluation.sampling import Sampling


def declare(parser: ArgumentParser) -> None:
    """Draw and score samples at one truncation after another: grids, curves and tables.

    May be started on many GPUs with launch/node.sh. What was begun in --out goes on, with more
    truncations too, if it is of the same checkpoint and measured in the same way.
    """
    declare_drawing(parser)
    declare_classes(parser, "; scores are of all classes")
    help_ = "images of each class in the grids"
    parser.add_argument("--per_class", type=int, default=8, help=help_)
    parser.add_argument(
        "--truncations",
        type=float,
        nargs="+",
        default=[0.1, 0.4, 0.7, 1.0, 1.5, 2.0],
        help="truncation values; samples without truncation come last",
    )
    parser.add_argument(
        "--modes", nargs="+", default=["resample"], help=f"kinds of truncation: {MODES}"
    )
    parser.add_argument(
        "--scored", type=bool, default=True, help="false: draw only, without metrics"
    )
    declare_measuring(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for all of it")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Sweeps; returns the exit code."""
    import numpy as np

    from biggan_sn.checkpoint import find
    from biggan_sn.evaluation.evaluating import Evaluation
    from biggan_sn.evaluation.sweep import Sweep, describe
    from biggan_sn.models.loading import config_of, load_generator

    check_least(parsed, per_class=1)
    if parsed.out.is_file():
        raise ValueError(f"--out: {parsed.out} is a file; a sweep goes into a folder")
    samplings = _samplings(parsed)
    with crew_of(parsed.device) as crew:
        checkpoint = find(parsed.checkpoint)
        generator, state = load_generator(checkpoint, crew.device)
        config = config_of(checkpoint, state)
        section = section_of(parsed, config.evaluation)
        evaluation = None
        if parsed.scored:
            evaluation = Evaluation(section, config.data, crew)
            labels = np.arange(section.samples) % generator.num_classes
            evaluation.check(labels, (generator.resolution, generator.resolution))
        sweep = Sweep(
            generator=generator,
            names=state["classes"],
            classes=classes_of(parsed, generator, state.get("classes")),
            per_class=parsed.per_class,
            samplings=samplings,
            evaluation=evaluation,
            about=_about(checkpoint, state, evaluation),
        )
        with show_progress(sweep.images, shown=crew.leads) as advance:
            record = sweep(parsed.out, crew, _say, advance)
        if crew.leads:
            print(*describe(record), parsed.out, sep="\n")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _samplings(parsed: Namespace) -> list["Sampling"]:
    """One for each point, and none of them twice."""
    pairs = [(value, mode) for mode in parsed.modes for value in parsed.truncations]
    samplings = [sampling_of(parsed, value, mode) for value, mode in pairs]
    return list(dict.fromkeys([*samplings, sampling_of(parsed, None, "resample")]))


def _about(
    checkpoint: Path, state: dict[str, Any], evaluation: "Evaluation | None"
) -> dict[str, Any]:
    """What the points of a sweep depend on, beside their own truncation."""
    weights = state["files"]["ema.safetensors"]["sha256"]
    about = {"checkpoint": str(checkpoint), "step": state["step"], "generator": weights}
    if evaluation is None:
        return about
    measured = asdict(evaluation.section)
    names = ("extractor", "samples", "metrics", "features")
    return (
        about | {name: measured[name] for name in names} | {"weights": evaluation.extractor.digest}
    )
