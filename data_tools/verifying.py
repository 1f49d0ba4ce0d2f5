"""The check of a whole data set: all shards, by several processes, and what they have in common."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from biggan_sn.data.looking import find_resolution
from biggan_sn.data.shards import ShardError, ShardIndex, read_index
from biggan_sn.files import whole_file
from data_tools.card import Card, read_card
from data_tools.checking import (
    ERROR,
    PLACE,
    TABLE,
    Finding,
    ShardSet,
    Table,
    check_shard,
    digest_rows,
)
from data_tools.comparing import compare_card, compare_shards
from data_tools.duplicates import Hashed, find_duplicates, find_shared
from data_tools.work import Journal, Result, complete, digest_of

VERSION = 1
WORKPLACE = ".verify"  # in the folder, as long as the check is not complete
JOURNAL = "journal.jsonl"
CHECKED, OTHER = "folder", "against"


@dataclass(frozen=True)
class Given:
    """A folder as it is before its shards are read.

    Args:
        index: of its shards.
        card: its dataset.json, if there is one.
        found: what is wrong with that.
        on_disk: of each shard, bytes and time of the last change.
        resolution: side of its images, pixels.
    """

    index: ShardIndex
    card: Card | None
    found: list[Finding]
    on_disk: dict[str, tuple[int, int]]
    resolution: int

    @property
    def counts(self) -> list[int]:
        """Images of each class."""
        counts: list[int] = np.bincount(
            self.index.label, minlength=len(self.index.classes)
        ).tolist()
        return counts


@dataclass(frozen=True)
class Verified:
    """A check that is complete.

    Args:
        given: the folder.
        found: all that is wrong, errors first.
        sha256: of each shard.
    """

    given: Given
    found: list[Finding]
    sha256: dict[str, str]


def verify(folder: Path, against: Path | None, decode: bool, processes: int) -> Verified:
    """Checks a folder of shards; after a stop, the rest of it.

    Args:
        folder: what is checked.
        against: another one, which is checked too, and should have no image of this one.
        decode: whether to decode the images.
        processes: how many work side by side.

    Raises:
        ValueError: there is nothing to check against, or the two cannot be compared.
        OSError: the disk is full, and the like.
        RuntimeError: a process was killed.
    """
    folders = {CHECKED: folder, OTHER: against}
    given = {of: _look(place) for of, place in folders.items() if place}
    sides = {of: one.resolution for of, one in given.items()}
    if len(set(sides.values())) > 1:
        raise ValueError(
            f"{against}: images of {sides[OTHER]} pixels cannot be compared with those of "
            f"{sides[CHECKED]} in {folder}: make both with one --resolution"
        )
    with _workplace(folder) as place:
        sets = {of: _describe(one, place / f"{of}.npy", decode) for of, one in given.items()}
        journal = _open_journal(place, given, sets)
        tasks = {
            f"{of}/{name}": one.images(name) or 1
            for of, one in sets.items()
            for name in given[of].on_disk
        }
        done = complete(tasks, check_shard, sets, processes, journal)
        results = {
            of: {name: done[f"{of}/{name}"] for name in one.on_disk} for of, one in given.items()
        }
        found = sorted(_findings(given, sets, results), key=lambda finding: finding.level)
    sha256 = {name: result["sha256"] for name, result in results[CHECKED].items()}
    return Verified(given[CHECKED], found, sha256)


def _look(folder: Path) -> Given:
    """A folder, its index, its card.

    Raises:
        ShardError: there is no index that could be checked against.
    """
    if not folder.is_dir():
        raise ShardError(f"{folder}: no such folder of shards")
    remedy = f"write it with: python -m data_tools.make_shards index {folder}"
    index = read_index(folder, remedy)
    if index.url:
        raise ShardError(f"{folder}: its shards are at {index.url}: check them where they lie")
    if (np.diff(index.shard) < 0).any():
        raise ShardError(f"{folder}: its index is not in the order of the shards; {remedy}")
    card, found = None, []
    try:
        card = read_card(folder)
        found = compare_card(folder, card, index) if card else []
    except ShardError as error:
        found = [Finding(ERROR, "card", "", None, str(error))]
    stats = {path.name: path.stat() for path in sorted(folder.glob("*.tar"))}
    on_disk = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
    # Where no image can be read, none can be of a wrong size.
    resolution = (card and card.resolution) or find_resolution(index) or 1
    return Given(index, card, found, on_disk, resolution)


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A place for what a check that was stopped goes on with; gone when the check is complete."""
    place = folder / WORKPLACE
    try:
        place.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError:
        with tempfile.TemporaryDirectory() as elsewhere:
            try:
                yield Path(elsewhere)
            except KeyboardInterrupt as stop:
                why = f"{folder} cannot be written to, so it will begin anew"
                raise KeyboardInterrupt(why) from stop
        return
    yield place
    shutil.rmtree(place)


def _describe(given: Given, table: Path, decode: bool) -> ShardSet:
    index = given.index
    edges = np.searchsorted(index.shard, np.arange(len(index.names) + 1)).tolist()
    rows = dict(zip(index.names, pairwise(edges), strict=True))
    return ShardSet(
        root=index.root,
        table=table,
        rows=rows,
        sizes=dict(zip(index.names, index.sizes, strict=True)),
        digests={
            name: digest_rows(_table(index, first, last)) for name, (first, last) in rows.items()
        },
        sha256={
            name: row.sha256 for name, row in (given.card.shards if given.card else {}).items()
        },
        resolution=given.resolution,
        decode=decode,
    )


def _table(index: ShardIndex, first: int, last: int) -> Table:
    """The rows of some images, without hashes as yet."""
    rows = np.zeros(last - first, TABLE)
    for name, _ in PLACE:
        rows[name] = getattr(index, name)[first:last]
    return rows


def _open_journal(place: Path, given: Mapping[str, Given], sets: Mapping[str, ShardSet]) -> Journal:
    """What is done of a check, and the tables that go with it."""
    plan = {
        "version": VERSION,
        **{of: digest_of([str(one.root.resolve())]) for of, one in sets.items()},
        "shards": digest_of([str(one.on_disk) for one in given.values()]),
        "index": digest_of([str(one.digests) for one in sets.values()]),
        "dataset.json": digest_of([str(one.sha256) for one in sets.values()]),
        "resolution": [one.resolution for one in sets.values()],
        "no_pixels": not sets[CHECKED].decode,
    }
    path = place / JOURNAL
    if not all(one.table.exists() for one in sets.values()):
        path.unlink(missing_ok=True)
    journal = Journal(path, plan)
    if not journal.results:
        for of, one in sets.items():
            # Written in full: a disk that is full is to be noticed now.
            with whole_file(one.table) as file:
                np.save(file, _table(given[of].index, 0, len(given[of].index)))
    return journal


def _findings(
    given: Mapping[str, Given],
    sets: Mapping[str, ShardSet],
    results: Mapping[str, Mapping[str, Result]],
) -> Iterator[Finding]:
    for of, one in given.items():
        yield from one.found
        yield from compare_shards(one.index, results[of])
        yield from (Finding(*row) for result in results[of].values() for row in result["found"])
    hashed = {of: _hashed(one.index, sets[of]) for of, one in given.items()}
    yield from find_duplicates(hashed[CHECKED])
    if OTHER in hashed:
        yield from find_shared(hashed[CHECKED], hashed[OTHER])


def _hashed(index: ShardIndex, of: ShardSet) -> Hashed:
    rows = np.load(of.table, mmap_mode="r")
    file = np.array(rows["file"])
    return Hashed(index, file, np.array(rows["pixels"]) if of.decode else file)
