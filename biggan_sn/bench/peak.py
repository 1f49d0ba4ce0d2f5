"""What a device can do at most, as it is measured and not as it is sold."""

import time

import torch

from biggan_sn.nn.precision import PRECISIONS
from biggan_sn.tables import lookup

SIDES = {"cuda": 8192}  # of the matrices that are multiplied, by the kind of device
SIDE = 1024
SECONDS = 1.0


def peak_flops(device: torch.device, precision: str) -> float:
    """Floating-point operations per second of a product of large matrices, in the precision in
    which networks compute: the best of about a second."""
    reduced = lookup(PRECISIONS, precision, "precision").reduced
    side = SIDES.get(device.type, SIDE)
    matrix = torch.randn(side, side, device=device, dtype=reduced)
    best, end = 0.0, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        wait(device)
        start = time.perf_counter()
        matrix @ matrix
        wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def wait(device: torch.device) -> None:
    """Until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
