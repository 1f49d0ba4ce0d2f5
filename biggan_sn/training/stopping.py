"""How a run is told to stop."""

import signal
from types import FrameType, TracebackType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Within it, Ctrl-C and SIGTERM only leave word: the run ends after the step at hand, with a
    checkpoint.

    Attributes:
        told: whether it is to stop.
    """

    told = False

    def __enter__(self) -> "Stopping":
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.told = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
