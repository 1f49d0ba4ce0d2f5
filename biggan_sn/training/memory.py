"""What a process on a CPU does with the memory of tensors that are gone."""

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """Keeps it for the next tensors. The C library of Linux gives large tensors back to the kernel
    one by one, which clears each page anew for the next one: up to a tenth of a training step
    (RESULTS.md). Libraries that know nothing of it, as those of macOS and Alpine, are left alone.
    """
    if change := getattr(ctypes.CDLL(None), "mallopt", None):
        change(MMAP_MAX, 0)
        change(TRIM_THRESHOLD, -1)
