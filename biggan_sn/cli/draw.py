"""The verbs `sample` and `sweep`, and the options of all that draw."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from biggan_sn.evaluation.sampling import Sampling
    from biggan_sn.models.generator import Generator


def declare_drawing(parser: ArgumentParser) -> None:
    """Options of every verb that draws from a checkpoint."""
    parser.add_argument("checkpoint", type=Path, help="a run's folder, or one of its checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="start of all randomness")
    parser.add_argument(
        "--mode",
        default="resample",
        help="kind of truncation: resample (the paper's), scaled_resample, scale or clamp",
    )
    parser.add_argument(
        "--standing_statistics",
        type=int,
        default=0,
        help="passes that renew the batch norms' statistics; 0 keeps those of training",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def declare_truncation(parser: ArgumentParser) -> None:
    """The option of verbs that draw with one truncation."""
    help_ = "truncation of z; default none at all"
    parser.add_argument("--truncation", type=float, default=None, help=help_)


def _declare_classes(parser: ArgumentParser) -> None:
    help_ = "which classes; default the first ten"
    parser.add_argument("--classes", type=int, nargs="+", default=None, help=help_)
    parser.add_argument("--per_class", type=int, default=8, help="images of each class")


def declare_sample(parser: ArgumentParser) -> None:
    """Draw samples from a checkpoint: a grid, separate PNGs or an npz."""
    declare_drawing(parser)
    declare_truncation(parser)
    _declare_classes(parser)
    parser.add_argument(
        "--out", type=Path, required=True, help="a .png, a .npz, or a folder of PNGs"
    )


def declare_sweep(parser: ArgumentParser) -> None:
    """Draw one grid per truncation value: a strip as PNG, and the diversity of each as CSV."""
    declare_drawing(parser)
    _declare_classes(parser)
    parser.add_argument(
        "--truncations",
        type=float,
        nargs="+",
        default=[0.1, 0.4, 0.7, 1.0, 1.5, 2.0],
        help="truncation values",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for sweep.png and sweep.csv"
    )


def sampling_of(parsed: Namespace, truncation: float | None) -> "Sampling":
    """How the options say to draw."""
    from biggan_sn.evaluation.sampling import Sampling

    return Sampling(parsed.seed, truncation, parsed.mode, parsed.standing_statistics)


def _open_generator(parsed: Namespace) -> tuple["Generator", list[int]]:
    """The generator of a checkpoint, and the classes to draw."""
    from biggan_sn.checkpoint import find
    from biggan_sn.evaluation.sampling import check_classes, find_device, load_generator

    if parsed.per_class < 1:
        raise ValueError(f"--per_class must be 1 or more, got {parsed.per_class}")
    generator, _ = load_generator(find(parsed.checkpoint), find_device(parsed.device))
    classes = parsed.classes or list(range(min(10, generator.num_classes)))
    check_classes(classes, generator.num_classes)
    return generator, classes


def sample(parser: ArgumentParser, parsed: Namespace) -> int:
    """Draws samples; returns the exit code."""
    from biggan_sn.evaluation.sampling import draw_classes, renew_statistics, write

    sampling = sampling_of(parsed, parsed.truncation)
    generator, classes = _open_generator(parsed)
    renew_statistics(generator, sampling)
    images, labels = draw_classes(generator, classes, parsed.per_class, sampling)
    print(write(images, labels, parsed.out, len(classes)))
    return 0


def sweep(parser: ArgumentParser, parsed: Namespace) -> int:
    """Draws a sweep; returns the exit code."""
    from biggan_sn.evaluation.sweep import sweep as draw_sweep

    samplings = [sampling_of(parsed, value) for value in parsed.truncations]
    generator, classes = _open_generator(parsed)
    for path in draw_sweep(generator, classes, parsed.per_class, samplings, parsed.out):
        print(path)
    return 0
