"""Checkpoints of other programs, written anew from the names and shapes of their tensors.

`peer_outputs/` holds what these programs themselves, with the weights below, made of the latent
vectors, classes and images below: recorded once, on a CPU in fp32.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from biggan_sn.positions import integers, uniform

FOLDER = Path(__file__).parent / "peer_outputs"
SHOWN = 16  # sides of the pixels that are recorded, evenly spread
IMAGES = 2
FACTOR = {"exp_avg": 0.5, "exp_avg_sq": 0.25}  # moments are these parts of the weights' own
STEPS = 1234
RATES = {"lr": 3e-4, "betas": (0.1, 0.98), "eps": 1e-7}
VARIANCES = ("stored_var", "running_var", "running_vars")
MEANS = ("stored_mean", "running_mean", "running_means")
SIGMAS = ("sv0", "sv1")
VECTORS = ("u0", "u1", "weight_u", "weight_v")
BUFFERS = (*VARIANCES, *MEANS, *SIGMAS, *VECTORS, "accumulation_counter", "num_batches_tracked")


def normal(name: str, *shape: int) -> Tensor:
    """Standard normal numbers that belong to a name."""
    numbers = torch.from_numpy(uniform(0, name, range(1), int(np.prod(shape))))
    return torch.special.ndtri(numbers).reshape(shape).float()


def weights(purpose: str, shapes: dict[str, list[int]], variance: float = 1.0) -> dict[str, Tensor]:
    """Tensors by name: alike in every program that asks. Stored variances are about `variance`."""
    made: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        made[name] = _draw(f"{purpose}/{name}", name.rpartition(".")[2], shape)
        if name.endswith(VARIANCES):
            made[name] *= variance
    for name in made:
        layer, _, leaf = name.rpartition(".")
        if leaf in ("u0", "weight_u"):
            raw = made.get(f"{layer}.weight_orig", made.get(f"{layer}.weight"))
            _iterate(made, layer, raw.flatten(1), leaf)
    return made


def _draw(purpose: str, leaf: str, shape: list[int]) -> Tensor:
    numbers = normal(purpose, *shape)
    if leaf in VARIANCES:
        return (0.3 * numbers).exp()
    if leaf in MEANS:
        return 0.05 * numbers
    if leaf in ("accumulation_counter", "num_batches_tracked"):
        return torch.full(shape, 3)
    if leaf in ("gamma", "sigma"):
        return 0.7 + 0.1 * numbers
    if len(shape) < 2:
        return (1 + 0.2 * numbers) if leaf in ("gain", "weight") else 0.1 * numbers
    return numbers / shape[1] ** 0.5


def _iterate(made: dict[str, Tensor], layer: str, matrix: Tensor, leaf: str) -> None:
    """Four power iterations: near the largest singular value, and not there."""
    u = made[f"{layer}.{leaf}"].flatten()
    for _ in range(4):
        v = F.normalize(matrix.T @ u, dim=0)
        u = F.normalize(matrix @ v, dim=0)
    made[f"{layer}.{leaf}"] = u.reshape(made[f"{layer}.{leaf}"].shape)
    if leaf == "weight_u":
        made[f"{layer}.weight_v"] = v


def inputs(z_dim: int, num_classes: int, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """z [N, z_dim], classes [N] and images [N, 3, H, W]."""
    y = torch.from_numpy(integers(0, "classes", range(IMAGES), 1, num_classes)[:, 0].copy())
    images = normal("images", IMAGES, 3, resolution // 4, resolution // 4)
    images = F.interpolate(images, scale_factor=4.0, mode="bilinear").tanh()
    return normal("z", IMAGES, z_dim), y, images


def shown(images: Tensor) -> Tensor:
    """The pixels of images [N, 3, H, W] that are recorded, [N, 3, SHOWN, SHOWN]."""
    apart = images.shape[-1] // SHOWN
    return images[:, :, apart // 2 :: apart, apart // 3 :: apart]


def optimizer(tensors: dict[str, Tensor], order: list[str]) -> dict[str, object]:
    """What Adam's state_dict would be, for parameters in this order."""
    state = {
        number: {"step": STEPS}
        | {slot: factor * tensors[name].abs() for slot, factor in FACTOR.items()}
        for number, name in enumerate(order)
    }
    group = {**RATES, "weight_decay": 0, "amsgrad": False, "params": list(range(len(order)))}
    return {"state": state, "param_groups": [group]}


class Recorded:
    """What is known of one network of a program.

    Attributes:
        about: what it is, what its optimizers move, in order, and shapes of tensors.
        shapes: of generator and discriminator, by name, in their order.
        outputs: one image of `generator`, all of `ema`, and `logits`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.about = json.loads((FOLDER / f"{name}.json").read_text())
        self.shapes = {
            side: {
                f"{module}.{leaf}": s for module, own in named.items() for leaf, s in own.items()
            }
            for side, named in self.about["shapes"].items()
        }
        self.outputs = dict(np.load(FOLDER / f"{name}.npz"))

    def tensors(self, part: str) -> dict[str, Tensor]:
        """Those of generator, ema or discriminator."""
        side = {"ema": "generator"}.get(part, part)
        return weights(f"{self.name}/{part}", self.shapes[side], self.about["variance"])

    def optimizer(self, part: str) -> dict[str, object]:
        """What the state_dict of Adam of generator or discriminator would be."""
        names = list(self.shapes[part])
        return optimizer(self.tensors(part), [names[n] for n in self.about["orders"][part]])

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """As `inputs`, for it."""
        model = self.about["model"]
        return inputs(model["z_dim"], self.about["num_classes"], self.about["resolution"])
