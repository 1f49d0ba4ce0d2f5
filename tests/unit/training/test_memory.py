"""Memory of tensors that are gone stays with the process."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np
from biggan_sn.training.memory import keep_freed_memory

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if sys.argv[1] == "keep":
    keep_freed_memory()
before = held()
large = [np.ones(8_000_000) for _ in range(4)]
del large
print(held() - before)
"""


def held_after_freeing(how):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of the C library of Linux")
def test_freed_memory_is_kept_where_it_was_given_back():
    assert held_after_freeing("leave") < 64e6
    assert held_after_freeing("keep") > 200e6
