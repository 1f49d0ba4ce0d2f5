"""Shards are written by several processes, each by one, so that a stop loses little.

What is done lies in OUT/.unfinished, with a journal of it; the same command goes on from there.
When all is done, the index is moved to OUT before the shards, so that a part of these never passes
for a data set. The bytes of a shard follow from the images and the options only.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import PIL
import webdataset  # takes seconds, so this module is imported only where shards are written

from biggan_sn.data.shards import (
    CARD_NAME,
    INDEX_NAME,
    ShardIndex,
    build_index,
    load_index,
    save_index,
)
from biggan_sn.positions import permutation
from biggan_sn.progress import Advance
from data_tools.card import VERSION, Written, describe
from data_tools.imaging import ENCODINGS, UnreadableError, square_picture
from data_tools.sources import Source
from data_tools.work import Journal, Result, complete

REPORT = "report.json"
UNFINISHED = ".unfinished"
JOURNAL = "journal.jsonl"
NAMED = 3  # images that a message names

Sample = tuple[bytes, str, int]  # encoded image, its extension, its label


@dataclass(frozen=True)
class Plan:
    """What is to be made of which images.

    Args:
        source: the images.
        about: what else decides the bytes of the shards, as dataset.json has it: name of the
            source, resolution, fit, format and, of jpg, quality.
        quality: of jpg, 1 to 100.
        per_shard: images of a shard, at the most.
        damaged_share: share of the images that may be unreadable.
    """

    source: Source
    about: Mapping[str, str | int]
    quality: int
    per_shard: int
    damaged_share: float

    @property
    def shards(self) -> dict[str, range]:
        """Name of each shard, and the positions of its images: as many in each, but for one."""
        total = len(self.source.labels)
        count = -(-total // self.per_shard)
        edges = [shard * total // count for shard in range(count + 1)]
        return {f"{shard:06d}.tar": range(edges[shard], edges[shard + 1]) for shard in range(count)}

    def stamp(self) -> dict[str, object]:
        """What has to be alike for shards of two runs to be one data set."""
        return {
            "version": VERSION,
            **self.about,
            "per_shard": self.per_shard,
            "images": self.source.digest(),
            "Pillow": PIL.__version__,  # another one may decode or encode otherwise
        }


class Made(NamedTuple):
    """A finished data set, and how many images were left out of it."""

    shards: ShardIndex
    left_out: int


def make_shards(plan: Plan, out: Path, processes: int) -> Made:
    """Writes the shards of a plan, their index, dataset.json and report.json to `out`.

    Raises:
        ValueError: other shards are there; another plan was begun there; too many images are
            unreadable, or all of one class.
        OSError: the disk is full, and the like.
        RuntimeError: a process was killed.
    """
    check_free(out)
    unfinished = out / UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    for half in unfinished.glob("*.tmp"):
        half.unlink()
    journal = Journal(unfinished / JOURNAL, plan.stamp())
    _forget_lost(journal, out)
    tasks = {name: len(positions) for name, positions in plan.shards.items()}

    def check(results: Mapping[str, Result]) -> None:
        _check_damage([image for result in results.values() for image in result["left_out"]], plan)

    try:
        done = complete(tasks, write_part, (plan, unfinished), processes, journal, check)
    except ValueError:
        if not journal.results:  # nothing that were worth to go on with
            shutil.rmtree(unfinished)
        raise
    return Made(_publish(plan, out, done), sum(len(row["left_out"]) for row in done.values()))


def is_made(out: Path, about: Mapping[str, str | int]) -> bool:
    """Whether a whole data set lies in `out` that says this of itself."""
    try:
        card = json.loads((out / CARD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(card, dict) and all(card.get(name) == about[name] for name in about)


def check_free(out: Path) -> None:
    """That there are no shards in `out`, but such as an unfinished run has put there.

    Raises:
        ValueError: there are.
    """
    there = sorted(out.glob("*.tar"))
    if there and not (out / UNFINISHED / JOURNAL).exists():
        raise ValueError(f"{out}: {len(there)} shards are there already; remove them first")


def _forget_lost(journal: Journal, out: Path) -> None:
    """Shards that are in the journal but not on the disk, as it has them, are made again."""
    for name, result in list(journal.results.items()):
        places = (out / UNFINISHED / name, out / name)
        sizes = [path.stat().st_size for path in places if path.exists()]
        if sizes != [result["bytes"]] and result["images"]:
            del journal.results[name]


def write_part(context: tuple[Plan, Path], task: str, advance: Advance) -> Result:
    """Writes one shard: what is written, and which images were left out or are notable."""
    plan, folder = context
    found: Result = {"left_out": [], "animated": [], "enlarged": 0}
    # Not a name that a process of a run before, about to end, may still have open.
    half = folder / f"{task}.{os.getpid()}.tmp"
    try:
        written = write_shard(half, _samples(plan, plan.shards[task], found, advance))
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    if written.images:
        half.replace(folder / task)
    else:
        half.unlink()
    return {**written._asdict(), **found}


def _samples(
    plan: Plan, positions: range, found: Result, advance: Advance
) -> Iterator[tuple[int, Sample]]:
    """Positions and samples; adds to `found` what is to be reported."""
    source, about = plan.source, plan.about
    extension, encode = ENCODINGS[str(about["format"])]
    order = permutation(0, "shards", len(source.labels))
    for position in positions:
        image = int(order[position])
        try:
            content = source.read(image)
            picture = square_picture(content, int(about["resolution"]), str(about["fit"]))
        except (UnreadableError, OSError) as error:
            found["left_out"].append([source.name(image), str(error)])
            _check_damage(found["left_out"], plan)
        else:
            found["animated"] += [source.name(image)] if picture.animated else []
            found["enlarged"] += picture.enlarged
            label = int(source.labels[image])
            yield position, (encode(picture.pixels, plan.quality), extension, label)
        advance(1)


def _check_damage(left_out: list[list[str]], plan: Plan) -> None:
    total = len(plan.source.labels)
    if len(left_out) > plan.damaged_share * total:
        named = "; ".join(f"{name}: not a readable image ({why})" for name, why in left_out[:NAMED])
        raise ValueError(
            f"{named}: {len(left_out)} of {total} images, more than --damaged_share "
            f"{plan.damaged_share:g}: put them right, or raise it to leave them out"
        )


class _HashedFile:
    """A file that is hashed as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)


def write_shard(path: Path, samples: Iterable[tuple[int, Sample]]) -> Written:
    """Writes numbered samples to a tar, which is on the disk when this returns.

    Raises:
        OSError: the disk is full, and the like.
    """
    images = 0
    try:
        with path.open("wb") as raw:
            file = _HashedFile(raw)
            # mtime 0: the same images give the same bytes
            with webdataset.TarWriter(file, mtime=0, encoder=False) as tar:
                for number, (image, extension, label) in samples:
                    tar.write({"__key__": f"{number:08d}", extension: image, "cls": b"%d" % label})
                    images += 1
            raw.flush()
            os.fsync(raw.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return Written(images, file.size, file.digest.hexdigest())


def _publish(plan: Plan, out: Path, done: Mapping[str, Result]) -> ShardIndex:
    """Moves what is finished to `out`; after a stop in the middle, what is left of it."""
    unfinished = out / UNFINISHED
    shards = {name: result for name, result in done.items() if result["images"]}
    if not any(out.glob("*.tar")):
        _describe_all(plan, unfinished, shards, done)
    for name in (INDEX_NAME, CARD_NAME, REPORT, *shards):
        if (unfinished / name).exists():
            (unfinished / name).replace(out / name)
    index = load_index(out)
    shutil.rmtree(unfinished)
    return index


def _describe_all(
    plan: Plan, folder: Path, shards: Mapping[str, Result], done: Mapping[str, Result]
) -> None:
    """Index, dataset.json and report.json of the finished shards of `folder`."""
    if not shards:
        raise ValueError(f"{folder}: none of the {len(plan.source.labels)} images is readable")
    index = build_index(folder, plan.source.classes)
    counts = np.bincount(index.label, minlength=len(index.classes))
    if not counts.all():
        name = index.classes[int(counts.argmin())]
        raise ValueError(f"{folder}: all images of class {name} are unreadable")
    left_out = [image for result in done.values() for image in result["left_out"]]
    save_index(index)
    written = {
        name: Written(row["images"], row["bytes"], row["sha256"]) for name, row in shards.items()
    }
    write_description(folder, plan.about, index, written, len(left_out))
    report = {
        "version": VERSION,
        "left_out": [{"image": name, "reason": reason} for name, reason in left_out],
        "animated": [name for result in done.values() for name in result["animated"]],
        "enlarged": sum(result["enlarged"] for result in done.values()),
    }
    _write_json(folder / REPORT, report)


def write_description(
    folder: Path,
    about: Mapping[str, str | int],
    index: ShardIndex,
    shards: Mapping[str, Written],
    left_out: int,
) -> None:
    """Writes dataset.json: what the data set is, and the SHA-256 of every shard."""
    described = describe(about, index, left_out)
    written = {name: row._asdict() for name, row in shards.items()}
    _write_json(folder / CARD_NAME, {**described, "shards": written})


def _write_json(path: Path, value: object) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
