"""Writes WebDataset shards and their index.

python -m data_tools.make_shards folder IMAGES OUT --resolution 128
python -m data_tools.make_shards digits OUT
python -m data_tools.make_shards index OUT
"""

import argparse
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import webdataset
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from biggan_sn.config import RESOLUTIONS
from biggan_sn.data.digits import Digits, load_digits
from biggan_sn.data.shards import ShardIndex, build_index, save_index
from biggan_sn.positions import permutation
from data_tools.indexing import index_folder, index_url
from data_tools.work import default_processes

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
SHOWN = 20  # classes, of which the names are printed
HIDDEN = (".", "__MACOSX")  # folders that programs leave beside those of a person
Sample = tuple[bytes, str, int]  # encoded image, its extension, its label


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the commands; 0 if all went well, 2 if the input is wrong."""
    parsed = _parse(arguments)
    try:
        parsed.run(parsed)
    except (ValueError, OSError) as error:
        print(f"make_shards: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make_shards", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    folder = commands.add_parser("folder", help="from a tree with one folder of images per class")
    folder.add_argument("images", type=Path, help="IMAGES/<class>/**/<image>")
    folder.add_argument("out", type=Path, help="folder to write")
    folder.add_argument("--resolution", type=int, choices=RESOLUTIONS, required=True)
    folder.add_argument("--format", choices=("jpg", "png"), default="jpg", help="default jpg")
    folder.add_argument("--quality", type=int, default=95, help="of jpg, 1 to 100; default 95")
    folder.add_argument("--per_shard", type=int, default=10_000, help="images; default 10000")
    folder.set_defaults(run=_from_folder)
    digits = commands.add_parser("digits", help="scikit-learn's real digits, 32 pixels, offline")
    digits.add_argument("out", type=Path, help="writes OUT/train and OUT/heldout")
    digits.add_argument("--per_shard", type=int, default=500, help="images; default 500")
    digits.set_defaults(run=_from_digits)
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


def _index(parsed: argparse.Namespace) -> None:
    if parsed.url:
        _report(index_url(parsed.out, parsed.url, parsed.processes))
    else:
        _report(index_folder(parsed.out, parsed.processes))


def _from_folder(parsed: argparse.Namespace) -> None:
    if not 1 <= parsed.quality <= 100:
        raise ValueError(f"--quality must be 1 to 100, got {parsed.quality}")
    files, classes = find_images(parsed.images)
    order = permutation(0, "shards", len(files))
    samples = (
        (_encode(path, parsed.resolution, parsed.format, parsed.quality), parsed.format, label)
        for path, label in (files[i] for i in order)
    )
    write_shards(samples, len(files), parsed.out, parsed.per_shard, classes)


def find_images(root: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Every image under root/<class>/ with its label, and the sorted names of the classes.

    Raises:
        ValueError: no folder, fewer than two classes, or a class without images.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(HIDDEN))
    if len(folders) < 2:
        names = ", ".join(folder.name for folder in folders) or "no folder"
        raise ValueError(
            f"{root}: needs one folder per class, two at the least, but has {names}; "
            "is the path one level off?"
        )
    files = []
    for label, folder in enumerate(folders):
        found = sorted(p for p in folder.rglob("*") if _is_image(p.relative_to(folder)))
        if not found:
            raise ValueError(f"{folder}: no images in it ({', '.join(sorted(SUFFIXES))})")
        files += [(path, label) for path in found]
    return files, tuple(folder.name for folder in folders)


def _is_image(path: Path) -> bool:
    hidden = any(part.startswith(HIDDEN) for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _encode(path: Path, resolution: int, extension: str, quality: int) -> bytes:
    """One image, its centre cut square and scaled by area, as JPEG or PNG."""
    try:
        with Image.open(path) as opened:
            if opened.mode.startswith(("I", "F")):  # Pillow would cut all above 255 off
                raise ValueError(f"more than 8 bits of grey, mode {opened.mode}")
            image = _opaque(ImageOps.exif_transpose(opened))
    except Exception as error:  # Pillow raises whatever its parsers trip over
        raise ValueError(f"{path}: not a readable image ({error})") from error
    size = (resolution, resolution)
    reducing = min(image.size) >= resolution
    filter_ = Image.Resampling.BOX if reducing else Image.Resampling.BICUBIC
    return _to_bytes(ImageOps.fit(image, size, filter_), extension, quality)


def _opaque(image: Image.Image) -> Image.Image:
    """RGB, what is transparent on white: the colour behind it is anything."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _to_bytes(image: Image.Image, extension: str, quality: int = 95) -> bytes:
    out = io.BytesIO()
    if extension == "png":
        image.save(out, "PNG")
    else:
        image.save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def _from_digits(parsed: argparse.Namespace) -> None:
    for name, digits in zip(("train", "heldout"), load_digits(), strict=True):
        classes = tuple("0123456789")
        samples = digit_samples(digits)
        write_shards(samples, len(digits.labels), parsed.out / name, parsed.per_shard, classes)


def digit_samples(digits: Digits) -> Iterator[Sample]:
    """Digits as PNGs."""
    image: NDArray[np.uint8]
    for image, label in zip(digits.images, digits.labels, strict=True):
        yield _to_bytes(Image.fromarray(image), "png"), "png", int(label)


def write_shards(
    samples: Iterable[Sample], total: int, out: Path, per_shard: int, classes: tuple[str, ...]
) -> None:
    """Writes `total` samples to out/000000.tar and so on, and their index.

    Raises:
        ValueError: there are shards in `out` already.
    """
    if per_shard < 1:
        raise ValueError(f"--per_shard must be 1 or more, got {per_shard}")
    out.mkdir(parents=True, exist_ok=True)
    if there := sorted(out.glob("*.tar")):
        raise ValueError(f"{out}: {len(there)} shards are there already; remove them first")
    _drop_unfinished(out)
    progress = tqdm(samples, total=total, desc=str(out), unit="image", disable=None)
    iterator = enumerate(progress)
    # All are written under another name and renamed at the end: a part of the shards would pass
    # for a smaller data set.
    shards = [out / f"{shard:06d}.tar" for shard in range(-(-total // per_shard))]
    try:
        for shard in shards:
            _write_shard(_unfinished(shard), islice(iterator, per_shard))
    except BaseException:
        _drop_unfinished(out)
        raise
    for shard in shards:
        _unfinished(shard).rename(shard)
    _report(build_index(out, classes))


def _write_shard(path: Path, samples: Iterable[tuple[int, Sample]]) -> None:
    # mtime 0: the same images give the same bytes
    with path.open("wb") as file, webdataset.TarWriter(file, mtime=0) as tar:
        for number, (image, extension, label) in samples:
            tar.write({"__key__": f"{number:08d}", extension: image, "cls": str(label).encode()})


def _unfinished(shard: Path) -> Path:
    return shard.with_suffix(".tar.tmp")


def _drop_unfinished(out: Path) -> None:
    for unfinished in out.glob("*.tar.tmp"):
        unfinished.unlink()


def _report(index: ShardIndex) -> None:
    save_index(index)
    counts = np.bincount(index.label, minlength=len(index.classes))
    print(
        f"{index.root}: {len(index)} images of {len(index.classes)} classes "
        f"({counts.min()} to {counts.max()} each) in {len(index.names)} shards"
    )
    named = any(name != str(label) for label, name in enumerate(index.classes))
    if named and len(index.classes) <= SHOWN:
        print("classes: " + ", ".join(f"{i} {name}" for i, name in enumerate(index.classes)))


if __name__ == "__main__":
    raise SystemExit(main())
