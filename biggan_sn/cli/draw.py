"""The verb `sample`, and the options of all that draw."""

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.progress import show_progress
from biggan_sn.tables import lookup

if TYPE_CHECKING:
    from biggan_sn.evaluation.sampling import Sampling
    from biggan_sn.models.generator import Generator


CHECKPOINT = "a run's folder, or one of its checkpoints"
MODES = "resample (the paper's), scaled_resample, scale or clamp"


def declare_drawing(parser: ArgumentParser, checkpoint: str = CHECKPOINT) -> None:
    """Options of every verb that draws from a checkpoint."""
    parser.add_argument("checkpoint", type=Path, metavar="RUN", help=checkpoint)
    parser.add_argument("--seed", type=int, default=0, help="start of all randomness")
    parser.add_argument(
        "--standing_statistics",
        type=int,
        default=0,
        help="passes that renew the batch norms' statistics; 0 keeps those of training",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def declare_truncation(parser: ArgumentParser) -> None:
    """The options of verbs that draw with one truncation."""
    help_ = "truncation of z; default none at all"
    parser.add_argument("--truncation", type=float, default=None, help=help_)
    parser.add_argument("--mode", default="resample", help=f"kind of truncation: {MODES}")


def declare_classes(parser: ArgumentParser, more: str = "") -> None:
    """The option of every verb that draws some classes."""
    help_ = "which classes are drawn, by number or name, with spaces between; default the first ten"
    parser.add_argument("--classes", type=str, nargs="+", default=None, help=help_ + more)


def declare_sample(parser: ArgumentParser) -> None:
    """Draw samples from a checkpoint: a grid, separate PNGs or an npz."""
    declare_drawing(parser)
    declare_truncation(parser)
    declare_classes(parser)
    parser.add_argument("--per_class", type=int, default=8, help="images of each class")
    parser.add_argument(
        "--out", type=Path, required=True, help="a .png, a .npz, or a folder of PNGs"
    )


def sampling_of(parsed: Namespace, truncation: float | None, mode: str) -> "Sampling":
    """How the options say to draw."""
    from biggan_sn.evaluation.sampling import Sampling

    return Sampling(parsed.seed, truncation, mode, parsed.standing_statistics)


def renew(generator: "Generator", sampling: "Sampling", shown: bool = True) -> None:
    """Standing statistics, if they are asked for, with their progress."""
    from biggan_sn.evaluation.sampling import renew_statistics

    with show_progress(sampling.renewing, shown=shown) as advance:
        renew_statistics(generator, sampling, advance)


def classes_of(parsed: Namespace, generator: "Generator", names: Sequence[str] | None) -> list[int]:
    """The classes to draw, of those with these names.

    Raises:
        ValueError: the generator has no such class.
    """
    from biggan_sn.evaluation.sampling import check_classes

    numbers = {name: number for number, name in enumerate(names or ())}
    asked = parsed.classes or map(str, range(min(10, generator.num_classes)))
    classes = [int(one) if one.isdecimal() else lookup(numbers, one, "class") for one in asked]
    check_classes(classes, generator.num_classes)
    return classes


def check_least(parsed: Namespace, **least: int) -> None:
    """Raises ValueError if one of these options is given and below its least value."""
    for option, value in least.items():
        if parsed[option] is not None and parsed[option] < value:
            raise ValueError(f"--{option} must be {value} or more, got {parsed[option]}")


def sample(parser: ArgumentParser, parsed: Namespace) -> int:
    """Draws samples; returns the exit code."""
    from biggan_sn.evaluation.sampling import draw_classes, find_device, write
    from biggan_sn.models.loading import load_generator, use_statistics

    check_least(parsed, per_class=1)
    sampling = sampling_of(parsed, parsed.truncation, parsed.mode)
    generator, state = load_generator(parsed.checkpoint, find_device(parsed.device))
    classes = classes_of(parsed, generator, state.get("classes"))
    use_statistics(generator, state, parsed.truncation, parsed.mode)
    renew(generator, sampling)
    with show_progress(len(classes) * parsed.per_class) as advance:
        images, labels = draw_classes(generator, classes, parsed.per_class, sampling, advance)
    columns = len(classes) if len(classes) > 1 else ceil(sqrt(parsed.per_class))
    print(write(images, labels, parsed.out, columns))
    return 0
