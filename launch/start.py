"""`accelerate launch` without its traceback: what went wrong the processes have said. Says which
ended first, and ends as that one did. Arguments as for `accelerate launch`."""

import signal
import sys

from accelerate.commands.launch import main
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def by_signal(number: int) -> int:
    """The exit code of a program that a signal ended, as shells have it."""
    return 128 + number


def launch() -> int:
    """Returns the exit code."""
    try:
        main()
    except SignalException as error:
        return by_signal(error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        print(f"launch: rank {rank} was the first here to end, {how}", file=sys.stderr)
        return code if code >= 0 else by_signal(-code)
    return 0


if __name__ == "__main__":
    sys.exit(launch())
