"""Tasks for test_work, and a program that does them:

python -m tests.unit.data_tools.tasks FOLDER PROCESSES WORK
"""

import os
import signal
import sys
import time
from pathlib import Path

from data_tools import work
from data_tools.work import Journal, complete, exit_code

TASKS = {f"task{number}": 10 for number in range(6)}
PLAN = {"version": 1, "of": "tests"}


def quick(folder, task, advance):
    """Leaves a file for each time a task was begun."""
    (folder / f"{task}.{time.monotonic_ns()}.begun").touch()
    advance(10)
    return {"name": task, "pid": os.getpid()}


def slow(folder, task, advance):
    (folder / f"{task}.{time.monotonic_ns()}.begun").touch()
    for _ in range(10):
        time.sleep(0.03)
        advance(1)
    return {"name": task}


def failing(folder, task, advance):
    if task == "task3":
        raise ValueError("task3 is wrong")
    return quick(folder, task, advance)


def failing_beside_long(folder, task, advance):
    if task == "task3":
        raise ValueError("task3 is wrong")
    for _ in range(1000):
        time.sleep(0.02)
        advance(0 if task == "task0" else 10)
        if task != "task0":
            break
    return {"name": task}


def killed_with_lock(folder, task, advance):
    """As memory that runs out would, at the worst moment."""
    advance(1)
    work._Here.done.get_lock().acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder, processes, name):
    journal = Journal(Path(folder, "journal"), PLAN)
    done = complete(TASKS, globals()[name], Path(folder), int(processes), journal)
    assert list(done) == list(TASKS)
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code("tasks", lambda: main(*sys.argv[1:])))
