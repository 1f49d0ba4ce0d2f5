"""Features of a data set, streamed: their moments, and the features of some images.

The images go by in order of their numbers, in batches that are always the same, so that a run
which was stopped ends with the same bits as one that was not.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan_sn.data.reader import Pixels, Reader
from biggan_sn.data.shards import ShardError, ShardIndex
from biggan_sn.evaluation.extractors import Extractor
from data_tools.moments import Moments, merge, no_moments
from data_tools.work import check_plan, noticed_stops, show_progress, whole_file

VERSION = 1
PART = ".part"  # what is added to the name of an unfinished file
SAVE_EVERY = 30.0  # seconds
DEVICES = ("cpu", "cuda")  # others lack float64, or give no result
AHEAD = 2  # batches that are decoded while one is in use
PORTION = 16  # images that a thread decodes in one go


@dataclass(frozen=True)
class Task:
    """What is asked for.

    Args:
        index: of the images.
        resolution: their side, pixels.
        extractor: what makes features of them.
        kept: of how many the features are kept.
        batch: images that are extracted at a time.
        device: where.
    """

    index: ShardIndex
    resolution: int
    extractor: Extractor
    kept: int
    batch: int
    device: torch.device

    @property
    def chosen(self) -> NDArray[np.int64]:
        """The images whose features are kept, spread evenly: [kept], by number."""
        return np.arange(self.kept) * len(self.index) // self.kept

    def plan(self) -> dict[str, object]:
        """All that decides the bits of the result, but for the machine."""
        return {
            "version": VERSION,
            "index": self.index.fingerprint,
            "images": sha256(self.index.crc.tobytes()).hexdigest(),
            "resolution": self.resolution,
            "extractor": self.extractor.name,
            "weights": self.extractor.digest,
            "features": self.kept,
            "batch": self.batch,
            "device": self.device.type,
            "torch": torch.__version__,
        }


class State(NamedTuple):
    """How far it has come: images below `done` are in the moments, and in the features."""

    done: int
    moments: Moments
    features: NDArray[np.float32]


def find_device(name: str) -> torch.device:
    """The device called `name`.

    Raises:
        ValueError: there is none.
    """
    try:
        device = torch.device(name)
        if device.type not in DEVICES:
            raise RuntimeError(f"only {' and '.join(DEVICES)} are known to do")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        line = str(error).partition("\n")[0]
        raise ValueError(f"--device: no {name!r} on this machine ({line})") from error
    return device


def make_statistics(task: Task, out: Path, threads: int) -> None:
    """Writes `out`; while it is not done, `out`.part, from which the same task goes on.

    mu [D] and sigma [D, D] float64; features [kept, D] float32, their image numbers and labels
    [kept] int64; counts [number of classes] int64 of the images of each class; classes, images,
    resolution, extractor, weights (SHA-256) and fingerprint of the index.

    Raises:
        ShardError: an image cannot be read, or has another size.
        ValueError: what was begun there is another task, or damaged; features are not finite.
        OSError: the disk is full, and the like.
    """
    part = out.with_name(out.name + PART)
    state = _load(part, task)
    with show_progress(len(task.index)) as advance:
        advance(state.done)
        state = _go_on(task, state, part, threads, advance)
    index, moments = task.index, state.moments
    with whole_file(out) as file:
        np.savez(
            file,
            mu=moments.mean.cpu().numpy(),
            sigma=moments.covariance.cpu().numpy(),
            features=state.features,
            numbers=task.chosen,
            labels=index.label[task.chosen].astype(np.int64),
            counts=np.bincount(index.label, minlength=len(index.classes)),
            classes=np.array(index.classes),
            images=len(index),
            resolution=task.resolution,
            extractor=task.extractor.name,
            weights=task.extractor.digest,
            fingerprint=index.fingerprint,
        )
    part.unlink(missing_ok=True)


def _go_on(
    task: Task, state: State, part: Path, threads: int, advance: Callable[[int], object]
) -> State:
    """The state at the end; saved now and then, and where it is stopped on the way."""
    reader = Reader(task.index, task.resolution)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    saved = time.monotonic()
    with noticed_stops() as stops:
        try:
            for numbers, images in _batches(reader, pool, state.done, task.batch):
                state = _add(task, state, numbers, images)
                advance(len(numbers))
                if stops:
                    raise KeyboardInterrupt
                if time.monotonic() - saved >= SAVE_EVERY:
                    _save(part, task, state)
                    saved = time.monotonic()
        except (KeyboardInterrupt, ShardError):
            _save(part, task, state)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            reader.close()
    return state


def _add(task: Task, state: State, numbers: range, images: Tensor) -> State:
    """The state with these images too."""
    features = task.extractor.features(images)
    if not features.isfinite().all():
        raise ValueError(
            f"{task.index.root}: features of images {numbers[0]} to {numbers[-1]} are not finite: "
            f"are these the weights of {task.extractor.name}?"
        )
    first, last = np.searchsorted(task.chosen, (numbers.start, numbers.stop)).tolist()
    rows = torch.from_numpy(task.chosen[first:last] - numbers.start)
    state.features[first:last] = features.cpu()[rows].numpy()
    return State(numbers.stop, merge(state.moments, features), state.features)


def _batches(
    reader: Reader, pool: ThreadPoolExecutor, first: int, size: int
) -> Iterator[tuple[range, Tensor]]:
    """The numbers of the images from `first` on, and the images, uint8 [N, 3, H, W]."""
    side, end = reader.resolution, len(reader.index)
    ahead: deque[_Pending] = deque()
    for start in range(first, end, size):
        numbers = range(start, min(start + size, end))
        pixels = np.empty((len(numbers), side, side, 3), np.uint8)
        ahead.append(_Pending(numbers, pixels, _decode(reader, pool, numbers, pixels)))
        if len(ahead) > AHEAD:
            yield ahead.popleft().wait()
    while ahead:
        yield ahead.popleft().wait()


class _Pending(NamedTuple):
    numbers: range
    pixels: Pixels
    parts: list[Future[None]]

    def wait(self) -> tuple[range, Tensor]:
        for part in self.parts:
            part.result()
        return self.numbers, torch.from_numpy(self.pixels).permute(0, 3, 1, 2).contiguous()


def _decode(
    reader: Reader, pool: ThreadPoolExecutor, numbers: range, pixels: Pixels
) -> list[Future[None]]:
    def decode(places: range) -> None:
        for place in places:
            reader.read_into(numbers[place], pixels[place])

    places = range(len(numbers))
    return [pool.submit(decode, places[i : i + PORTION]) for i in places[::PORTION]]


def _save(part: Path, task: Task, state: State) -> None:
    with whole_file(part) as file:
        np.savez(
            file,
            plan=np.array(json.dumps(task.plan())),
            done=state.done,
            mean=state.moments.mean.cpu().numpy(),
            scatter=state.moments.scatter.cpu().numpy(),
            features=state.features,
        )


def _load(part: Path, task: Task) -> State:
    """What was saved, or the beginning."""
    dim = task.extractor.dim
    if not part.exists():
        features = np.zeros((task.kept, dim), np.float32)
        return State(0, no_moments(dim, task.device), features)
    try:
        with part.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            saved: dict[str, Any] = dict(stored)
            plan = json.loads(str(saved["plan"]))
            done = int(saved["done"])
    except Exception as error:  # a damaged zip raises whatever its reader trips over
        raise ValueError(f"{part}: damaged ({error}): remove it to begin anew") from error
    check_plan(part, plan, task.plan(), part)
    mean, scatter = (torch.from_numpy(saved[key]).to(task.device) for key in ("mean", "scatter"))
    return State(done, Moments(done, mean, scatter), saved["features"])
