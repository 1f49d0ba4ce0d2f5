"""One shard, checked against the index: its bytes, its tar, every image."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from biggan_sn.data.looking import picture_size
from biggan_sn.data.reader import DamagedError, Reader
from biggan_sn.data.shards import ShardError, ShardIndex
from biggan_sn.data.tars import Entry, scan_shard
from biggan_sn.progress import Advance
from data_tools.work import Result

ERROR, WARNING = "error", "warning"

# Where an image is, as the index has it, ...
PLACE = [("offset", "<i8"), ("size", "<i4"), ("label", "<i4"), ("raw", "?"), ("crc", "<u4")]
# ... and hashes of its file and of its pixels; 0 as long as they are not known.
TABLE = np.dtype([*PLACE, ("file", "<u8"), ("pixels", "<u8")])
Table = NDArray[np.void]


class Finding(NamedTuple):
    """Something that is wrong.

    Args:
        level: ERROR or WARNING.
        kind: one word for programs.
        shard: its name; "" for what is wrong with the whole.
        byte: where the image begins in it, if it is about an image.
        text: for people; names file and place, and where it is not plain what to do.
    """

    level: str
    kind: str
    shard: str
    byte: int | None
    text: str


@dataclass(frozen=True)
class ShardSet:
    """A data set as the processes that check it need it.

    Args:
        root: its folder.
        table: file of an array of TABLE: a row for each image, shard by shard.
        rows: of each shard, its rows.
        sizes: of each, bytes.
        digests: of each, of its rows: it is known by them under any name.
        sha256: of each, where it is known.
        resolution: side of the images, pixels.
        decode: whether the images are decoded.
    """

    root: Path
    table: Path
    rows: dict[str, tuple[int, int]]
    sizes: dict[str, int]
    digests: dict[str, str]
    sha256: dict[str, str]
    resolution: int
    decode: bool

    def images(self, shard: str) -> int:
        """How many a shard has; none if it is not in the index."""
        first, last = self.rows.get(shard, (0, 0))
        return last - first

    def open_rows(self, shard: str) -> Table:
        """Those of a shard; what is written to them is written to the file."""
        first, last = self.rows[shard]
        table: Table = np.load(self.table, mmap_mode="r+")
        return table[first:last]


def check_shard(sets: Mapping[str, ShardSet], task: str, advance: Advance) -> Result:
    """Checks the shard that `task`, set/shard, names, and writes the hashes of its images.

    Returns:
        "found": what is wrong; "twin": the shard that it was by its content, when the index was
        made, if that has another name; "sha256": of the file, None if it was not read.
    """
    of, _, name = task.partition("/")
    shards = sets[of]
    path = shards.root / name
    entries, found = _scan(path)
    digest = digest_rows(_as_rows(entries))
    twins = [other for other, known in shards.digests.items() if known == digest]
    if name not in shards.rows or (twins and name not in twins):
        advance(shards.images(name) or 1)
        return {"found": found, "twin": next(iter(twins), ""), "sha256": None}
    digested, more = _check_bytes(shards, name)
    rows = shards.open_rows(name)
    found = more + found
    if entries is not None and (moved := _compare_places(path, entries, rows)):
        advance(len(rows))
        found += moved
    else:
        found += _compare_labels(path, entries or (), rows)
        found += _check_images(shards, name, rows, advance)
    return {"found": found, "twin": "", "sha256": digested}


def digest_rows(rows: Table) -> str:
    """A hash of where the images of a shard are, what they are and of what class."""
    places = np.array(rows[[name for name, _ in PLACE]], PLACE)  # without gaps between them
    return sha256(places.tobytes()).hexdigest()


def _as_rows(entries: Sequence[Entry] | None) -> Table:
    return np.array([tuple(entry) for entry in entries or ()], PLACE)


def _scan(path: Path) -> tuple[list[Entry] | None, list[Finding]]:
    try:
        return scan_shard(path), []
    except ShardError as error:
        return None, [Finding(ERROR, "tar", path.name, None, str(error))]


def _check_bytes(shards: ShardSet, name: str) -> tuple[str | None, list[Finding]]:
    """The SHA-256 of a shard, and whether its size and that are what they were."""
    path, size = shards.root / name, shards.sizes[name]
    try:
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
            found = file.tell()
    except OSError as error:
        text = f"{path}: cannot be read ({error.strerror})"
        return None, [Finding(ERROR, "unreadable", name, None, text)]
    if found != size:
        text = f"{path}: {found} bytes, but {size} when it was indexed"
        return digest, [Finding(ERROR, "size", name, None, text)]
    if shards.sha256.get(name, digest) != digest:
        text = f"{path}: its SHA-256 is not that of dataset.json: copy the shard again"
        return digest, [Finding(ERROR, "hash", name, None, text)]
    return digest, []


def _compare_places(path: Path, entries: Sequence[Entry], rows: Table) -> list[Finding]:
    """Whether the images are where the index has them."""
    there = _as_rows(entries)
    common = min(len(there), len(rows))
    differ = np.zeros(common, bool)
    for column in ("offset", "size", "raw"):
        differ |= there[column][:common] != rows[column][:common]
    if len(there) == len(rows) and not differ.any():
        return []
    first = int(np.argmax(differ)) if differ.any() else common
    longer = there if len(there) > first else rows
    byte = int(longer["offset"][first])
    text = (
        f"{path}, image at byte {byte}: from here on the shard, with {len(there)} images, is not "
        f"what was indexed, with {len(rows)}: bring the old one back, or write the index anew "
        f"with: python -m data_tools.make_shards index {path.parent}"
    )
    return [Finding(ERROR, "index", path.name, byte, text)]


def _compare_labels(path: Path, entries: Sequence[Entry], rows: Table) -> list[Finding]:
    labels = zip(entries, rows["offset"].tolist(), rows["label"].tolist(), strict=False)
    return [
        Finding(
            ERROR,
            "label",
            path.name,
            offset,
            f"{path}, image at byte {offset}: class {entry.label}, but {label} in the index",
        )
        for entry, offset, label in labels
        if entry.label != label
    ]


def _check_images(shards: ShardSet, name: str, rows: Table, advance: Advance) -> list[Finding]:
    """Reads and decodes all images, and notes their hashes."""
    reader = Reader(_index_of(shards, name, rows), shards.resolution)
    pixels = np.empty((shards.resolution, shards.resolution, 3), np.uint8)
    hashes = np.zeros((len(rows), 2), np.uint64)
    found = []
    for image in range(len(rows)):
        try:
            hashes[image] = _hash_image(reader, image, pixels if shards.decode else None)
        except ShardError as error:
            byte = int(rows["offset"][image])
            found.append(Finding(ERROR, "image", name, byte, str(error)))
        advance(1)
    reader.close()
    rows["file"], rows["pixels"] = hashes.T
    assert isinstance(rows, np.memmap)
    rows.flush()  # to the disk, before the journal says so
    return found


def _hash_image(reader: Reader, image: int, pixels: NDArray[np.uint8] | None) -> tuple[int, int]:
    """Hashes of the file and of the pixels of an image; 0 for those that are not asked for.

    Raises:
        ShardError: it cannot be read or decoded, or has another size.
    """
    index, where = reader.index, reader.index.where(image)
    try:
        data = reader.store.read(0, int(index.offset[image]), int(index.size[image]))
    except OSError as error:
        raise DamagedError(f"{where}: cannot be read ({error.strerror})") from error
    if pixels is None:
        if zlib.crc32(data) != index.crc[image]:
            raise DamagedError(f"{where}: its bytes are not those that were indexed")
        return _hash(data), 0
    try:
        reader.decode_into(image, data, pixels)
    except DamagedError:
        raise
    except ShardError as error:
        width, height = picture_size(data, bool(index.raw[image]))
        side = reader.resolution
        raise ShardError(f"{where}: {width}x{height} pixels, not {side}x{side}") from error
    return _hash(data), _hash(pixels)


def _hash(data: Any) -> int:
    """64 bits of SHA-256, never 0: of ten million images, two that differ have the same one with a
    probability of 3e-6."""
    return int.from_bytes(sha256(data).digest()[:8], "little") or 1


def _index_of(shards: ShardSet, name: str, rows: Table) -> ShardIndex:
    """The index of one shard alone."""
    columns: dict[str, Any] = {column: np.array(rows[column]) for column, _ in PLACE}
    nothing = np.zeros(len(rows), np.int32)
    return ShardIndex(
        shards.root, (name,), (shards.sizes[name],), (), nothing, fingerprint="", **columns
    )
