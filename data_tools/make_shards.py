"""Writes WebDataset shards and their index.

python -m data_tools.make_shards SOURCE IN OUT --resolution R
python -m data_tools.make_shards digits OUT
python -m data_tools.make_shards stacked_digits OUT
python -m data_tools.make_shards index OUT
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from biggan_sn.config import RESOLUTIONS
from biggan_sn.data.digits import RESOLUTION as DIGITS_RESOLUTION
from biggan_sn.data.digits import Digits, load_digits, stack_digits
from biggan_sn.data.shards import ShardIndex, build_index, save_index
from data_tools.archives import open_imagenet
from data_tools.cifar import open_cifar
from data_tools.huggingface import open_datasets
from data_tools.imaging import ENCODINGS, FITS
from data_tools.indexing import index_folder, index_url
from data_tools.sources import Source, check_classes, open_folder, open_kaggle, passed_over
from data_tools.splitting import split
from data_tools.work import default_processes, exit_code

SHOWN = 20  # classes, of which the names are printed
Sample = tuple[bytes, str, int]  # encoded image, its extension, its label
About = Mapping[str, str | int]  # what dataset.json begins with

IN_MEMORY: About = {"source": "samples"}
DIGITS: About = {
    "source": "digits",
    "resolution": DIGITS_RESOLUTION,
    "fit": "short",
    "format": "png",
}


STACKED = {**DIGITS, "source": "stacked_digits"}


class Row(NamedTuple):
    """A kind of source.

    Args:
        summary: for the help.
        example: of a command line.
        options: those that only it has, and what argparse is to know of them.
        open: the command line, parsed -> the source. ValueError: it is damaged.
        note: the command line, parsed -> what is to be said at the end; nothing if it is "".
    """

    summary: str
    example: str
    options: dict[str, dict[str, Any]]
    open: Callable[[argparse.Namespace], Source]
    note: Callable[[argparse.Namespace], str] = lambda _: ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the commands.

    Returns:
        0 if all went well, 1 if a process was lost, 2 if the input is wrong, 130 if it was stopped.
    """
    parsed = _parse(arguments)

    def run() -> int:
        parsed.run(parsed)
        return 0

    return exit_code("make_shards", run)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    examples = "\n".join(f"  {row.example}" for row in SOURCES.values())
    parser = argparse.ArgumentParser(
        prog="make_shards",
        description=str(__doc__).splitlines()[0],
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, row in SOURCES.items():
        _add_source(commands.add_parser(name, help=row.summary, epilog=row.example), name, row)
    digits = commands.add_parser("digits", help="scikit-learn's real digits, 32 pixels, offline")
    digits.add_argument("out", type=Path, help="writes OUT/train and OUT/heldout")
    digits.add_argument("--per_shard", type=int, default=500, help="images; default 500")
    digits.set_defaults(run=_from_digits)
    stacked = commands.add_parser(
        "stacked_digits", help="three digits in red, green and blue: 1000 modes without labels"
    )
    stacked.add_argument("out", type=Path, help="folder to write")
    stacked.add_argument("--images", type=int, default=25_600, help="default 25600")
    stacked.add_argument("--per_shard", type=int, default=5_000, help="images; default 5000")
    stacked.set_defaults(run=_from_stacked)
    index = commands.add_parser("index", help="index shards that are there already")
    index.add_argument("out", type=Path, help="folder of .tar shards, or of the index of others")
    index.add_argument(
        "--url",
        default="",
        help="where the shards lie: a place with an index (https://host/shards/), or all of them "
        "(https://host/train-{000000..000146}.tar)",
    )
    index.add_argument(
        "--processes", type=int, default=default_processes(), help="default: as many as cores"
    )
    index.set_defaults(run=_index)
    return parser.parse_args(arguments)


def _add_source(parser: argparse.ArgumentParser, name: str, row: Row) -> None:
    parser.add_argument("images", type=Path, metavar="IN", help=row.summary)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--resolution", type=int, choices=RESOLUTIONS, required=True)
    for option, rules in (OPTIONS | row.options).items():
        parser.add_argument(option, **rules)
    parser.set_defaults(run=_from_source, source=name)


def _from_source(parsed: argparse.Namespace) -> None:
    _check_numbers(parsed)
    from data_tools.writing import check_free, is_made

    about = _about(parsed)
    outs = [parsed.out / part for part in ("train", "heldout")] if parsed.heldout else [parsed.out]
    left = [out for out in outs if not is_made(out, about)] or outs  # one of two, after a stop
    for out in left:
        check_free(out)
    row = SOURCES[parsed.source]
    source = row.open(parsed)
    check_classes(source, parsed.images)
    parts = split(source, parsed.heldout).values() if parsed.heldout else [source]
    for part, out in zip(parts, outs, strict=True):
        if out in left:
            _make(parsed, about, part, out)
    if line := row.note(parsed):
        print(line)


def _about(parsed: argparse.Namespace) -> About:
    """What dataset.json is to say of how the images were made."""
    names = ("source", "resolution", "fit", "format", *(["quality"] * (parsed.format == "jpg")))
    return {name: getattr(parsed, name) for name in names}


def _make(parsed: argparse.Namespace, about: About, source: Source, out: Path) -> None:
    """A data set in the folder `out`."""
    from data_tools.writing import Plan, make_shards

    plan = Plan(source, about, parsed.quality, parsed.per_shard, parsed.damaged_share)
    made = make_shards(plan, out, parsed.processes)
    _report(made.shards)
    if made.left_out:
        print(f"images left out: {made.left_out}, listed in {out / 'report.json'}")


def _check_numbers(parsed: argparse.Namespace) -> None:
    for option, (least, most) in LIMITS.items():
        value = getattr(parsed, option)
        if not least <= value <= most:
            raise ValueError(f"--{option} must be {least} to {most}, got {value}")


def _index(parsed: argparse.Namespace) -> None:
    if parsed.url:
        _report(index_url(parsed.out, parsed.url, parsed.processes))
    else:
        _report(index_folder(parsed.out, parsed.processes))


def _from_digits(parsed: argparse.Namespace) -> None:
    for name, digits in zip(("train", "heldout"), load_digits(), strict=True):
        classes = tuple("0123456789")
        samples = digit_samples(digits)
        total = len(digits.labels)
        write_shards(samples, total, parsed.out / name, parsed.per_shard, classes, DIGITS)


def _from_stacked(parsed: argparse.Namespace) -> None:
    if parsed.images < 1:
        raise ValueError(f"--images must be 1 or more, got {parsed.images}")
    digits = stack_digits(load_digits()[0], parsed.images)
    # Of one class: whoever asked for a combination by its label would not have to find it.
    samples = digit_samples(digits._replace(labels=np.zeros_like(digits.labels)))
    out, per_shard = parsed.out, parsed.per_shard
    write_shards(samples, parsed.images, out, per_shard, ("stacked digits",), STACKED)


def digit_samples(digits: Digits) -> Iterator[Sample]:
    """Digits as PNGs."""
    for image, label in zip(digits.images, digits.labels, strict=True):
        yield ENCODINGS["png"].encode(image, 0), "png", int(label)


def write_shards(
    samples: Iterable[Sample],
    total: int,
    out: Path,
    per_shard: int,
    classes: tuple[str, ...],
    about: About = IN_MEMORY,
) -> None:
    """Writes `total` samples in their order to out/000000.tar and so on, their index and
    dataset.json, which begins with `about`.

    Raises:
        ValueError: there are shards in `out` already.
    """
    if per_shard < 1:
        raise ValueError(f"--per_shard must be 1 or more, got {per_shard}")
    from data_tools.writing import check_free, write_description, write_shard

    check_free(out)
    out.mkdir(parents=True, exist_ok=True)
    _drop_unfinished(out)
    iterator = enumerate(samples)
    # All are written under another name and renamed at the end: a part of the shards would pass
    # for a smaller data set.
    shards = [out / f"{shard:06d}.tar" for shard in range(-(-total // per_shard))]
    try:
        written = {
            shard.name: write_shard(_unfinished(shard), islice(iterator, per_shard))
            for shard in shards
        }
    except BaseException:
        _drop_unfinished(out)
        raise
    for shard in shards:
        _unfinished(shard).rename(shard)
    index = build_index(out, classes)
    write_description(out, about, index, written, 0)
    save_index(index)
    _report(index)


def _unfinished(shard: Path) -> Path:
    return shard.with_suffix(".tar.tmp")


def _drop_unfinished(out: Path) -> None:
    for unfinished in out.glob("*.tar.tmp"):
        unfinished.unlink()


def _report(index: ShardIndex) -> None:
    counts = np.bincount(index.label, minlength=len(index.classes))
    print(
        f"{index.root}: {len(index)} images of {len(index.classes)} classes "
        f"({counts.min()} to {counts.max()} each) in {len(index.names)} shards"
    )
    named = any(name != str(label) for label, name in enumerate(index.classes))
    if named and len(index.classes) <= SHOWN:
        print("classes: " + ", ".join(f"{i} {name}" for i, name in enumerate(index.classes)))


LIMITS = {
    "quality": (1, 100),
    "per_shard": (1, 10_000_000),
    "processes": (1, 1024),
    "damaged_share": (0.0, 1.0),
    "heldout": (0.0, 0.5),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "--fit": {
        "choices": tuple(FITS),
        "default": "short",
        "help": "which side becomes R: the short one, the middle is taken; or the long one, the "
        "rest is white; default short",
    },
    "--format": {
        "choices": tuple(ENCODINGS),
        "default": "jpg",
        "help": "jpg, png (lossless) or raw (uint8); default jpg",
    },
    "--quality": {"type": int, "default": 95, "help": "of jpg, 1 to 100; default 95"},
    "--per_shard": {"type": int, "default": 10_000, "help": "images; default 10000"},
    "--processes": {
        "type": int,
        "default": default_processes(),
        "help": "that work side by side; default %(default)s, as many as cores",
    },
    "--damaged_share": {
        "type": float,
        "default": 0.001,
        "help": "of the images that may be unreadable and are left out; default 0.001",
    },
    "--heldout": {
        "type": float,
        "default": 0.0,
        "help": "share of each class that training is not to see: writes OUT/train and OUT/heldout "
        "(for data.heldout, evaluation.real); default 0, which writes OUT alone",
    },
}


_COMMAND = "python -m data_tools.make_shards"

SOURCES: dict[str, Row] = {
    "folder": Row(
        "a tree with one folder of images per class: IN/<class>/**/<image>",
        f"{_COMMAND} folder IMAGES data/mine --resolution 128",
        {},
        lambda parsed: open_folder(parsed.images),
        lambda parsed: passed_over(parsed.images),
    ),
    "imagenet": Row(
        "ImageNet's tar of one tar per class, or with --labels a flat tar",
        f"{_COMMAND} imagenet ILSVRC2012_img_train.tar data/imagenet128 --resolution 128",
        {
            "--labels": {
                "type": Path,
                "metavar": "TABLE.csv",
                "help": "lines of name,class for the images of a flat tar",
            }
        },
        lambda parsed: open_imagenet(parsed.images, parsed.labels),
    ),
    "kaggle": Row(
        "the unpacked folder of Kaggle's ImageNet download",
        f"{_COMMAND} kaggle imagenet-object-localization-challenge data/val128 --resolution 128 "
        "--split val",
        {"--split": {"choices": ("train", "val"), "default": "train", "help": "default train"}},
        lambda parsed: open_kaggle(parsed.images, parsed.split),
    ),
    "cifar": Row(
        "the archive of CIFAR-10 or CIFAR-100 for Python, or its folder",
        f"{_COMMAND} cifar cifar-10-python.tar.gz data/cifar10 --resolution 32 --format png",
        {"--split": {"choices": ("train", "test"), "default": "train", "help": "default train"}},
        lambda parsed: open_cifar(parsed.images, parsed.split),
    ),
    "hf": Row(
        "a folder that Hugging Face's `datasets` saved, or one of parquet files",
        f"{_COMMAND} hf SAVED data/saved --resolution 64 --split train",
        {"--split": {"default": "train", "help": "default train"}},
        lambda parsed: open_datasets(parsed.images, parsed.split),
    ),
}


if __name__ == "__main__":
    raise SystemExit(main())
