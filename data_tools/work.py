"""Work that is cut into tasks, done by several processes, and not lost when it is stopped."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from ctypes import c_byte
from multiprocessing import forkserver, resource_tracker
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from threading import Thread, current_thread, main_thread
from types import FrameType
from typing import Any

from biggan_sn.files import check_plan, whole_file
from biggan_sn.progress import Advance, noticed_stops, show_progress

Result = dict[str, Any]  # what a task found out, as JSON can hold it
Work = Callable[[Any, str, Advance], Result]  # (what all tasks need, a task's name, advance)
Check = Callable[[Mapping[str, Result]], object]
Note = Callable[[str, Result], None]


class StoppedError(Exception):
    """Raised within a task when the others are to end as well."""


class Journal:
    """The results of the tasks that are done, a line of JSON each, in a file that survives a kill.

    Args:
        path: the file.
        plan: what the tasks are about. Results of another plan are not of use.

    Raises:
        ValueError: it belongs to another plan, or is damaged.
    """

    def __init__(self, path: Path, plan: Mapping[str, object]) -> None:
        self.path = path
        before, self.results = _stored(path)
        if before is not None:
            check_plan(path, before, json.loads(json.dumps(plan)), path.parent)
        records = [{"task": task, "result": result} for task, result in self.results.items()]
        with whole_file(path) as file:
            file.writelines(json.dumps(line).encode() + b"\n" for line in [plan, *records])

    def note(self, task: str, result: Result) -> None:
        """Adds a line, on the disk when this returns."""
        self.results[task] = result
        with self.path.open("a") as file:
            file.write(json.dumps({"task": task, "result": result}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _stored(path: Path) -> tuple[dict[str, object] | None, dict[str, Result]]:
    """The plan of a journal, None where there is no journal yet, and its results."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]  # a kill may cut the last
    if not whole:
        return None, {}
    try:
        plan, *records = map(json.loads, whole)
        return dict(plan), {record["task"]: record["result"] for record in records}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}): remove {path.parent}") from error


def complete(
    tasks: Mapping[str, int],
    work: Work,
    context: object,
    processes: int,
    journal: Journal,
    check: Check = len,
    unit: str = "image",
) -> dict[str, Result]:
    """Does all tasks that the journal does not have yet; its results, in the order of `tasks`.

    Args:
        tasks: name of each, and how much it is to do, for the progress.
        work: a function of a module, called as work(context, task, advance).
        context: what all tasks need; it is sent to each process once.
        processes: how many work side by side; 1 works in this one.
        journal: what is done.
        check: called with all results so far, at first and after each task; what it raises ends
            the work.
        unit: what is counted.

    Raises:
        ValueError, OSError: what a task raised; those that are done stay in the journal.
        RuntimeError: a process was killed, for want of memory most likely.
    """
    to_do = {name: size for name, size in tasks.items() if name not in journal.results}
    check(journal.results)

    def note(task: str, result: Result) -> None:
        journal.note(task, result)
        check(journal.results)

    with terminable(), show_progress(sum(tasks.values()), unit) as progress:
        progress(sum(tasks.values()) - sum(to_do.values()))
        if processes == 1 or len(to_do) < 2:
            for task in to_do:
                note(task, work(context, task, progress))
        else:
            _together(to_do, work, context, processes, note, progress)
    return {name: journal.results[name] for name in tasks}


def _together(
    tasks: Mapping[str, int],
    work: Work,
    context: object,
    processes: int,
    note: Note,
    progress: Advance,
) -> None:
    # Not fork, which copies locks that threads hold; the server imports what all need once.
    method = multiprocessing.get_context("forkserver")
    method.set_forkserver_preload([work.__module__])
    resource_tracker.ensure_running()  # now, for it sets the mask of signals to its own liking
    with _held_back(signal.SIGINT):  # reaches all; the server and the workers inherit that
        forkserver.ensure_running()
    # This process takes the lock of neither: one that was killed may hold it for ever.
    done, stop = method.Value("q", 0), method.RawValue("b", 0)
    pool = ProcessPoolExecutor(
        min(processes, len(tasks)), method, _enter, (work, context, done, stop)
    )
    with noticed_stops() as stops:
        try:
            futures = {pool.submit(_work, task): task for task in tasks}
            _gather(futures, done, note, progress, stops)
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process was killed, perhaps because memory ran out: the same command goes on; "
                "give it fewer --processes"
            ) from error
        finally:
            stop.value = 1
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _held_back(*signals: signal.Signals) -> Iterator[None]:
    """They arrive afterwards."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _gather(
    futures: dict[Future[Result], str],
    done: "Synchronized[int]",
    note: Note,
    progress: Advance,
    stops: list[int],
) -> None:
    shown, running = 0, set(futures)
    while running and not stops:
        finished, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
        # What is done counts, whatever else failed.
        for future in sorted(finished, key=lambda future: future.exception() is not None):
            note(futures[future], future.result())
        counted = done.get_obj().value
        progress(counted - shown)
        shown = counted


class _Here:
    """What a process of the pool was given."""

    work: Work
    context: object
    done: "Synchronized[int]"
    stop: c_byte


def _enter(work: Work, context: object, done: "Synchronized[int]", stop: c_byte) -> None:
    _Here.work, _Here.context, _Here.done, _Here.stop = work, context, done, stop
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(task: str) -> Result:
    def advance(count: int) -> None:
        if _Here.stop.value:
            raise StoppedError
        with _Here.done.get_lock():
            _Here.done.value += count

    return _Here.work(_Here.context, task, advance)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(program: str, run: Callable[[], int]) -> int:
    """What a program ends with, and one line that says why where it does not end well.

    Returns:
        what `run` returns; 1 if a process was lost, 2 if the input is wrong, 130 if it was stopped.
    """
    try:
        with terminable():
            return run()
    except (ValueError, OSError) as error:
        code, line = 2, f"error: {error}"
    except RuntimeError as error:
        code, line = 1, f"error: {error}"
    except KeyboardInterrupt as stop:
        code, line = 130, f"stopped; {str(stop) or 'the same command goes on'}"
    print(f"{program}: {' '.join(line.split())}", file=sys.stderr)
    return code


def default_processes() -> int:
    """As many as there are cores for this one."""
    return len(os.sched_getaffinity(0))


def digest_of(parts: Sequence[str]) -> str:
    """A hash of what a plan is about, where it is too long to write down."""
    from hashlib import sha256

    return sha256("\n".join(parts).encode()).hexdigest()[:16]
