"""Statistics of real images: made once, kept by what they are of, and made on after a stop."""

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from biggan_sn.evaluation.collecting import Crew, State, Task, walk
from biggan_sn.evaluation.moments import Moments
from biggan_sn.evaluation.statistics import Statistics, load_statistics
from biggan_sn.files import check_plan, whole_file
from biggan_sn.progress import noticed_stops, show_progress

VERSION = 2
PART = ".part"  # what is added to the name of an unfinished file
SAVE_EVERY = 30.0  # seconds
CACHE = "BIGGAN_SN_CACHE"  # environment variable that names the folder


def cache_folder() -> Path:
    """Where references are kept: $BIGGAN_SN_CACHE, or biggan_sn in the user's cache."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "biggan_sn")
    return Path(os.environ.get(CACHE) or usual)


def reference(task: Task, crew: Crew) -> Statistics | None:
    """Statistics of the images of `task` on the first process, from the cache if they are there;
    None on the others. Every process must call it.

    Raises:
        ValueError: an image cannot be read; features are not finite.
        OSError: the cache cannot be written.
    """
    plan = plan_of(task, crew.device)
    key = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_folder() / f"{key}.npz"
    found = _kept(path) if crew.leads else None
    (there,) = crew.most(int(found is not None))
    if not there:
        if crew.leads:
            path.parent.mkdir(parents=True, exist_ok=True)
        make_statistics(task, path, crew)
        found = load_statistics(path) if crew.leads else None
    return found


def _kept(path: Path) -> Statistics | None:
    """What is kept there; nothing where that is damaged, for it can be made anew."""
    try:
        return load_statistics(path) if path.is_file() else None
    except ValueError:
        return None


def plan_of(task: Task, device: torch.device) -> dict[str, object]:
    """All that decides the bits of a result, but for the machine."""
    return {
        "version": VERSION,
        **task.images.identity(),
        "size": list(task.images.size),
        "extractor": task.extractor.name,
        "weights": task.extractor.digest,
        "features": len(task.chosen),
        "batch": task.batch,
        "device": device.type,
        "torch": torch.__version__,
    }


def make_statistics(task: Task, out: Path, crew: Crew) -> None:
    """Writes the Statistics of the task's images to `out`; while it is not done, `out`.part, from
    which the same task goes on. Every process must call it.

    Raises:
        ValueError: an image cannot be read; what was begun there is another task, or damaged;
            features are not finite.
        OSError: the disk is full, and the like.
    """
    part = out.with_name(out.name + PART)
    state = task.beginning(crew)
    if crew.leads and part.exists():
        state = _load(part, task, crew.device)
    (done,) = crew.most(state.done)
    state = _go_on(task, state._replace(done=int(done)), part, crew)
    if crew.leads:
        task.statistics(state).save(out)
        part.unlink(missing_ok=True)


def _go_on(task: Task, state: State, part: Path, crew: Crew) -> State:
    """The state at the end; saved now and then, and where it is stopped on the way."""
    latest, saved = state, time.monotonic()

    total = len(task.images.labels)
    with noticed_stops() as stops, show_progress(total, shown=crew.leads) as advance:
        advance(state.done)

        def note(state: State) -> None:
            nonlocal latest, saved
            _check(task, latest.done, state)
            advance(state.done - latest.done)
            latest = state
            if stops:
                raise KeyboardInterrupt
            if crew.leads and time.monotonic() - saved >= SAVE_EVERY:
                _save(part, task, state, crew.device)
                saved = time.monotonic()

        try:
            state = walk(task, state, crew, note)
        except (KeyboardInterrupt, ValueError):
            if crew.leads:
                _save(part, task, latest, crew.device)
            raise
    return state


def _check(task: Task, first: int, state: State) -> None:
    """Raises ValueError if features of the images from `first` on are not finite."""
    if not state.moments.mean.isfinite().all():
        raise ValueError(
            f"features of images {first} to {state.done - 1} are not finite: are these the "
            f"weights of {task.extractor.name}?"
        )


def _save(part: Path, task: Task, state: State, device: torch.device) -> None:
    with whole_file(part) as file:
        np.savez(
            file,
            plan=np.array(json.dumps(plan_of(task, device))),
            done=state.done,
            mean=state.moments.mean.cpu().numpy(),
            scatter=state.moments.scatter.cpu().numpy(),
            features=state.features,
            logits=state.logits,
        )


def _load(part: Path, task: Task, device: torch.device) -> State:
    """What was saved."""
    try:
        with part.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            saved = dict(stored)
            plan = json.loads(str(saved["plan"]))
            done = int(saved["done"])
    except Exception as error:  # a damaged zip raises whatever its reader trips over
        raise ValueError(f"{part}: damaged ({error}): remove it to begin anew") from error
    check_plan(part, plan, plan_of(task, device), part)
    mean, scatter = (torch.from_numpy(saved[key]).to(device) for key in ("mean", "scatter"))
    return State(done, Moments(done, mean, scatter), saved["features"], saved["logits"])
