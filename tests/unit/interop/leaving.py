"""Files as other programs leave them."""

import numpy as np
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
            torch.save(recorded.optimizer(part), folder / f"{name}_optim.pth")
    live = {"itr": peers.STEPS, "config": {"G_activation": torch.nn.ReLU()}}
    torch.save(live, folder / "state_dict.pth")
    return folder


def pretrained_biggan(recorded, folder):
    """One file, beside a config that nobody reads."""
    torch.save(recorded.tensors("ema"), folder / "pytorch_model.bin")
    (folder / "config.json").write_text("not even JSON")
    return folder


def studiogan(recorded, folder, when="current"):
    """Three files; D's knows more than the others."""
    names = {"generator": "G", "ema": "G_ema", "discriminator": "D"}
    for part, name in names.items():
        tensors = recorded.tensors(part)
        content = {"state_dict": tensors}
        if part in recorded.about["orders"]:
            content["optimizer"] = recorded.optimizer(part)
        if name == "D":
            content |= {"step": peers.STEPS, "best_fid": np.float64(8.5), "run_name": "a run"}
        torch.save(content, folder / f"model={name}-{when}-weights-step={peers.STEPS}.pth")
    return folder


def mmgeneration(recorded, folder):
    """One file with everything."""
    prefixes = {"generator": "generator", "ema": "generator_ema", "discriminator": "discriminator"}
    tensors = {part: recorded.tensors(part) for part in prefixes}
    named = {f"{prefixes[p]}.{n}": t for p, own in tensors.items() for n, t in own.items()}
    optimizers = {part: recorded.optimizer(part) for part in recorded.about["orders"]}
    content = {"meta": {"iter": 7}, "state_dict": named, "optimizer": optimizers}
    torch.save(content, folder / "iter_7.pth")
    return folder / "iter_7.pth"


LEAVE = {
    "biggan_pytorch": biggan_pytorch,
    "pretrained_biggan": pretrained_biggan,
    "studiogan": studiogan,
    "mmgeneration": mmgeneration,
}
