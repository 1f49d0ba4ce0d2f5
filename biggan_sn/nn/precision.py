"""What stays out of half precision."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision becomes fp32: for statistics, spectra, images, logits, losses."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
