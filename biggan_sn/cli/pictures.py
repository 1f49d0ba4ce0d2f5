"""The verbs `interpolate` and `neighbours`: pictures of what a generator has learnt."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.cli.draw import (
    check_least,
    classes_of,
    declare_classes,
    declare_drawing,
    declare_truncation,
    renew,
    sampling_of,
)
from biggan_sn.cli.evaluate import declare_extractor, section_of
from biggan_sn.progress import show_progress

if TYPE_CHECKING:
    from biggan_sn.evaluation.images import Stored
    from biggan_sn.evaluation.pictures import Pixels
    from biggan_sn.models.generator import Generator


def declare_interpolate(parser: ArgumentParser) -> None:
    """Draw rows of images from one sample or class to another: one PNG."""
    _declare_picture(parser, "the PNG to write")
    help_ = "what changes along a row: z, within a class; class, on to the next one with the same "
    help_ += "z; or both, from a sample to one of the next class"
    parser.add_argument("--between", default="both", help=help_)
    parser.add_argument(
        "--rows", type=int, default=None, help="how many; default one for each class"
    )
    parser.add_argument(
        "--steps", type=int, default=8, help="images in a row, both ends among them"
    )


def declare_neighbours(parser: ArgumentParser) -> None:
    """Draw samples beside the real images nearest to them: a PNG, and a CSV of the distances."""
    _declare_picture(parser, "the PNG to write; the CSV goes beside it")
    help_ = "samples of each class"
    parser.add_argument("--per_class", type=int, default=1, help=help_)
    parser.add_argument("--nearest", type=int, default=5, help="real images for each sample")
    help_ = "the real images: a folder of shards or of pictures, or a .npz; default those that the "
    help_ += "run was trained on, as they are stored (neither mirrored nor shifted)"
    parser.add_argument("--real", type=Path, default=None, help=help_)
    declare_extractor(parser)


def _declare_picture(parser: ArgumentParser, out: str) -> None:
    declare_drawing(parser)
    declare_truncation(parser)
    declare_classes(parser)
    parser.add_argument("--out", type=Path, required=True, help=out)


def interpolate(parser: ArgumentParser, parsed: Namespace) -> int:
    """Draws interpolations; returns the exit code."""
    check_least(parsed, rows=1, steps=2)
    _check_file("--out", parsed.out, ".png")
    from biggan_sn.evaluation.interpolation import count_drawn, draw_rows, plan_rows
    from biggan_sn.evaluation.interpolation import interpolate as draw

    sampling = sampling_of(parsed, parsed.truncation, parsed.mode)
    generator, classes, state = _open_generator(parsed)
    ends = plan_rows(parsed.between, classes, parsed.rows or len(classes))
    renew(generator, sampling)
    with show_progress(count_drawn(ends, parsed.steps, classes)) as advance:
        images = draw(generator, ends, parsed.steps, classes, sampling, advance)
    _save(draw_rows(images, ends, _titles(_names(generator, state))), parsed.out)
    return 0


def neighbours(parser: ArgumentParser, parsed: Namespace) -> int:
    """Draws samples and the real images nearest to them; returns the exit code."""
    table = parsed.out.with_suffix(".csv")
    check_least(parsed, per_class=1, nearest=1)
    _check_file("--out", parsed.out, ".png")
    _check_file("--out", table, ".csv")
    from biggan_sn.evaluation import neighbours as found_by
    from biggan_sn.evaluation.extractors import open_extractor
    from biggan_sn.evaluation.sampling import draw_classes, find_device
    from biggan_sn.models.loading import config_of

    sampling = sampling_of(parsed, parsed.truncation, parsed.mode)
    generator, classes, state = _open_generator(parsed)
    real = _open_real(parsed, state)
    found_by.check_real(real, generator.resolution, parsed.nearest)
    section = section_of(parsed, config_of(parsed.checkpoint, state).evaluation)
    extractor = open_extractor(section.extractor, section.weights, find_device(parsed.device))
    extractor.check_size(*real.size)
    renew(generator, sampling)
    with show_progress(len(classes) * parsed.per_class) as advance:
        samples, drawn = draw_classes(generator, classes, parsed.per_class, sampling, advance)
    found = found_by.find_neighbours(samples, real, extractor, parsed.nearest)
    labels, names = drawn.tolist(), _names(generator, state)
    numbers = list(range(parsed.per_class)) * len(classes)
    found_by.write_table(found.samples, labels, numbers, names, real, table)
    titles = _titles(names)
    rows = [titles[label] for label in labels]
    print(found_by.summarize(found).line(len(samples)))
    _save(found_by.draw_neighbours(samples, rows, found.samples, real), parsed.out)
    print(table)
    return 0


def _check_file(option: str, path: Path, suffix: str) -> None:
    """Raises ValueError unless a file of this kind can be written there."""
    if path.suffix.lower() != suffix or path.is_dir():
        raise ValueError(f"{option} must be a {suffix}, got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}")


def _open_generator(parsed: Namespace) -> tuple["Generator", list[int], dict[str, Any]]:
    """The generator of a checkpoint, the classes to draw, and the checkpoint's state."""
    from biggan_sn.evaluation.sampling import find_device
    from biggan_sn.models.loading import load_generator, use_statistics

    generator, state = load_generator(parsed.checkpoint, find_device(parsed.device))
    use_statistics(generator, state, parsed.truncation, parsed.mode)
    return generator, classes_of(parsed, generator, state.get("classes")), state


def _open_real(parsed: Namespace, state: dict[str, Any]) -> "Stored":
    """The images named, or those that the run of this state is trained on."""
    from biggan_sn.data.loader import open_dataset
    from biggan_sn.evaluation.opening import open_images, shard_images
    from biggan_sn.models.loading import config_of

    if parsed.real is not None:
        return open_images(parsed.real)
    data = config_of(parsed.checkpoint, state).data
    return shard_images(open_dataset(data), data.resolution, data.command)


def _names(generator: "Generator", state: dict[str, Any]) -> list[str]:
    """Of the classes."""
    return list(state.get("classes") or map(str, range(generator.num_classes)))


def _titles(names: list[str]) -> list[str]:
    """The classes as they are called in a picture: by number, and by name where that is another."""
    numbers = map(str, range(len(names)))
    return [name if name == n else f"{n} {name}" for n, name in zip(numbers, names, strict=True)]


def _save(pixels: "Pixels", out: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(out)
    print(out)
