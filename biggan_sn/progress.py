"""What long work shows of itself, and how it hears that it is to end."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread

from tqdm import tqdm

Advance = Callable[[int], object]  # to be called with what was done since the last call

LINES_EVERY = 10.0  # seconds, where no terminal shows a bar


@contextmanager
def show_progress(total: int, unit: str = "image", shown: bool = True) -> Iterator[Advance]:
    """A bar on a terminal, plain lines in a log; neither where there is nothing to do, or where
    another process shows it."""
    if not shown or not total:
        yield lambda count: None
        return
    if sys.stderr.isatty():
        with tqdm(total=total, unit=unit) as bar:
            yield bar.update
        return
    done, start = 0, time.monotonic()
    last, first = start, None

    def advance(count: int) -> None:
        nonlocal done, last, first, start
        done += count
        now = time.monotonic()
        if first is None:  # what was there before took no time, and what was done before not this
            first, start = done, now
        if now - last >= LINES_EVERY:
            last = now
            rate = (done - first) / max(now - start, 1e-9)
            ahead = f", {rate:.0f}/s, {(total - done) / rate:.0f} s to go" if rate else ""
            print(f"{done}/{total} {unit}s{ahead}", file=sys.stderr)  # noqa: T201

    yield advance


@contextmanager
def noticed_stops() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM only add to this list, and end the work when the block ends: where they
    are raised in the midst of an executor, locks may stay taken that its threads wait for."""
    stops: list[int] = []
    here = current_thread() is main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if here and handler is not signal.SIG_IGN:  # as of what runs in the background
            signal.signal(number, lambda number, frame: stops.append(number))
    try:
        yield stops
    finally:
        for number, handler in before.items():
            if here:
                signal.signal(number, handler)
        if stops:  # also where something broke because all were stopped
            raise KeyboardInterrupt
