"""The verb `evaluate`, and the options of all that measure."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.cli.draw import declare_drawing, declare_truncation, renew, sampling_of
from biggan_sn.config import Config, EvaluationConfig
from biggan_sn.progress import show_progress

if TYPE_CHECKING:
    from biggan_sn.evaluation.collecting import Crew
    from biggan_sn.evaluation.images import Images

AS_IN_RUN = "default as in the run's config; for images, as in that of a new run"
TIMEOUT = 3600.0  # seconds that one process may keep the others waiting


def declare_measuring(parser: ArgumentParser) -> None:
    """Options of every verb that measures; what is not given is as in the run's config."""
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=None,
        help="some of fid is kid precision_recall density_coverage class_fid class_accuracy "
        f"modes variety; {AS_IN_RUN}",
    )
    parser.add_argument(
        "--samples", type=int, default=None, help=f"how many, over all classes; {AS_IN_RUN}"
    )
    declare_extractor(parser)
    parser.add_argument(
        "--real",
        default=None,
        help="what to compare with: a folder of shards or images, or a .npz of images or "
        f"statistics; {AS_IN_RUN}: the images it was trained on where that says nothing",
    )
    parser.add_argument(
        "--features",
        type=int,
        default=None,
        help=f"real images of which the features are kept, 0 for all; {AS_IN_RUN}",
    )


def declare_extractor(parser: ArgumentParser) -> None:
    """Options of every verb that compares features; as in the run's config by default."""
    parser.add_argument(
        "--extractor",
        default=None,
        help="inception, dinov2_vits14, dinov2_vitb14, dinov2_vitl14, dinov2_vitg14, digits, "
        "stacked_digits or thumbnails, which compares mean colours and needs no download; "
        f"{AS_IN_RUN}",
    )
    parser.add_argument("--weights", default=None, help=f"file of its weights; {AS_IN_RUN}")


def declare(parser: ArgumentParser) -> None:
    """Score the samples of a checkpoint, or images in a folder or a .npz; prints a line of JSON.

    May be started on many GPUs with launch/node.sh: the scores are the same.
    """
    declare_drawing(parser, "a run's folder, one of its checkpoints, or images: a folder or a .npz")
    declare_truncation(parser)
    declare_measuring(parser)
    parser.add_argument("--out", type=Path, default=None, help="file for the same JSON")


def section_of(parsed: Namespace, section: EvaluationConfig) -> EvaluationConfig:
    """The section of a run's config with what the options say."""
    names = ("metrics", "samples", "extractor", "weights", "real", "features")
    given = {name: parsed[name] for name in names if parsed.get(name) is not None}
    if "extractor" in given and "weights" not in given:
        given["weights"] = ""  # those of the config are of another network
    if "metrics" in given:
        given["metrics"] = tuple(given["metrics"])
    if given.get("real"):
        given["real"] = str(Path(given["real"]).absolute())
    return replace(section, every=0, **given)


@contextmanager
def crew_of(device: str) -> Iterator["Crew"]:
    """The processes that were launched together, or this one alone on `device`."""
    from biggan_sn.evaluation.collecting import Alone
    from biggan_sn.evaluation.sampling import find_device
    from biggan_sn.training.meeting import is_met
    from biggan_sn.training.world import joined

    if not is_met(os.environ):
        yield Alone(find_device(device))
        return
    with joined(TIMEOUT) as world:
        yield world


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Scores samples or images; returns the exit code."""
    from biggan_sn.evaluation.evaluating import Evaluation
    from biggan_sn.files import write_whole

    if parsed.out and (parsed.out.is_dir() or not parsed.out.parent.is_dir()):
        raise ValueError(f"--out: {parsed.out} cannot be written: a folder, or in none")
    with crew_of(parsed.device) as crew:
        config, images, about = _opened(parsed, crew)
        evaluation = Evaluation(config.evaluation, config.data, crew)
        evaluation.check(images.labels, images.size)
        evaluation.prepare()
        with show_progress(len(images.labels), shown=crew.leads) as advance:
            scores = evaluation.scores(images, advance)
        if scores is None:
            return 0
        section = config.evaluation
        about |= {"samples": len(images.labels), "extractor": section.extractor}
        about |= {"weights": evaluation.extractor.digest[:8]}
        about |= {"real": section.real or config.data.path}
        about |= {"real_images": evaluation.describe_real()["images"], "features": evaluation.kept}
        # JSON has no nan, which a generator that diverged scores.
        finite = {name: value if isfinite(value) else None for name, value in scores.items()}
        line = json.dumps({**about, **finite})
    print(line)
    if parsed.out:
        write_whole(parsed.out, f"{line}\n".encode())
    return 0


def _refuse(parsed: Namespace, *options: str) -> None:
    """Raises ValueError if one of the options is given that images have no use for."""
    for option in options:
        if parsed[option]:
            raise ValueError(f"--{option} is for checkpoints: {parsed.checkpoint} holds images")


def _opened(parsed: Namespace, crew: "Crew") -> tuple[Config, "Images", dict[str, Any]]:
    """A config with what is to be measured, the images, and what is to be said of them."""
    from biggan_sn.checkpoint import find
    from biggan_sn.evaluation.images import Drawn
    from biggan_sn.evaluation.opening import holds_images, open_images
    from biggan_sn.models.loading import config_of, load_generator

    if holds_images(parsed.checkpoint):
        _refuse(parsed, "samples", "truncation", "standing_statistics")
        section = section_of(parsed, EvaluationConfig())
        images = open_images(parsed.checkpoint)
        return Config(evaluation=section), images, {"images": str(parsed.checkpoint)}
    sampling = sampling_of(parsed, parsed.truncation, parsed.mode)
    checkpoint = find(parsed.checkpoint)
    generator, state = load_generator(checkpoint, crew.device)
    config = config_of(checkpoint, state)
    config = replace(config, evaluation=section_of(parsed, config.evaluation))
    renew(generator, sampling, shown=crew.leads)
    samples = Drawn(generator, config.evaluation.samples, sampling, state["classes"])
    about = {"checkpoint": str(checkpoint), "step": state["step"]}
    about |= {"truncation": sampling.truncation, "mode": sampling.mode, "seed": sampling.seed}
    return config, samples, about
