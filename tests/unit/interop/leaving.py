"""Files as other programs leave them."""

import torch

from biggan_sn.interop.formats import FORMATS
from tests.reference import peers


def format_of(name):
    return next(row for row in FORMATS if name.startswith(row))


def biggan_pytorch(recorded, folder, prefix="", but=()):
    """A folder of six files, but for those of some parts."""
    names = {"generator": "G", "ema": "G_ema", "discriminator": "D"}
    for part, name in names.items():
        if part in but:
            continue
        tensors = recorded.tensors(part)
        torch.save({f"{prefix}{key}": t for key, t in tensors.items()}, folder / f"{name}.pth")
        if part in recorded.about["orders"]:
            state = peers.optimizer(tensors, recorded.about["orders"][part])
            torch.save(state, folder / f"{name}_optim.pth")
    live = {"itr": peers.STEPS, "config": {"G_activation": torch.nn.ReLU()}}
    torch.save(live, folder / "state_dict.pth")
    return folder


LEAVE = {"biggan_pytorch": biggan_pytorch}
