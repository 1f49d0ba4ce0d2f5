"""How tensors of others become ours. Each change knows ours by name, and does nothing where there
is nothing of the kind: so it does to the moments of an optimizer what it does to the weights."""

import torch
from torch import Tensor
from torch.nn import functional as F

from biggan_sn.interop.renaming import Change, Tensors
from biggan_sn.models.plan import IMAGE_CHANNELS, SMALLEST

OUR_EPS = torch.nn.BatchNorm2d(1).eps


def find_sigmas(tensors: Tensors) -> None:
    """The u, v and sigma by which their layers divide when nothing is trained: u [C_out], v of the
    shape of one row of the weight, sigma [].

    Where they keep u and v, sigma = u W v (torch's spectral_norm); where they keep u alone, one
    power iteration starts from it in every pass (the reference PyTorch code). Neither u needs to be
    of length 1 there: an average of such vectors is not. Where shapes do not fit, nothing is done.
    """
    for name in [name for name in tensors if name.endswith(".u")]:
        layer, u = name.removesuffix(".u"), tensors[name].flatten()
        weight, v = tensors.get(f"{layer}.weight"), tensors.get(f"{layer}.v")
        if weight is None or weight.dim() < 2 or len(weight) != len(u):
            continue
        matrix = weight.flatten(1)
        if v is not None and v.shape != matrix.shape[1:]:
            continue
        if v is None:
            v = F.normalize(u @ matrix, dim=0, eps=1e-12)
            u = F.normalize(matrix @ v, dim=0, eps=1e-12)
        tensors[name] = u
        tensors[f"{layer}.v"] = v.reshape(weight.shape[1:])
        tensors[f"{layer}.sigma"] = u @ (matrix @ v)


def average_statistics(tensors: Tensors) -> None:
    """Statistics that were summed up over batches become their mean."""
    for name in [name for name in tensors if name.endswith(".counter")]:
        norm, batches = name.removesuffix(".counter"), float(tensors.pop(name))
        if batches > 0:
            tensors[f"{norm}.running_mean"] = tensors[f"{norm}.running_mean"] / batches
            tensors[f"{norm}.running_var"] = tensors[f"{norm}.running_var"] / batches


def with_epsilon(theirs: float) -> Change:
    """Variances to which they add another epsilon than we do get the difference for good."""

    def change(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            if name.endswith(".running_var"):
                tensors[name] = tensor + (theirs - OUR_EPS)

    return change


def as_vectors(tensors: Tensors) -> None:
    """A gamma of attention is a vector of one number."""
    for name, tensor in tensors.items():
        if name.endswith(".gamma"):
            tensors[name] = tensor.reshape(1)


def as_they_lie(tensors: Tensors) -> None:
    """The shapes of BigGAN-PyTorch: a gamma is a number, a u a row, a sigma a vector of one."""
    shapes = {".gamma": (), ".u": (1, -1), ".sigma": (1,)}
    for name, tensor in tensors.items():
        for leaf, shape in shapes.items():
            if name.endswith(leaf):
                tensors[name] = tensor.reshape(shape)


def is_deep(tensors: Tensors) -> bool:
    """Whether the blocks are bottlenecks."""
    return "blocks.0.conv4.weight" in tensors


def class_after_z(tensors: Tensors) -> None:
    """In a deep G, what sees the class and then z shall see z and then the class."""
    _roll_conditions(tensors, -1)


def class_before_z(tensors: Tensors) -> None:
    """The inverse of `class_after_z`."""
    _roll_conditions(tensors, 1)


def _roll_conditions(tensors: Tensors, way: int) -> None:
    """By the width of the class embedding, to the left (-1) or to the right (1)."""
    if is_deep(tensors) and "shared.weight" in tensors:
        classes = tensors["shared.weight"].shape[1]
        for name, tensor in tensors.items():
            layer, _, leaf = name.rpartition(".")
            if layer == "linear" or layer.endswith((".gain", ".bias")):
                axis = {"weight": 1, "v": 0}.get(leaf)
                if axis is not None:
                    tensors[name] = tensor.roll(way * classes, axis)


def channels_first(tensors: Tensors) -> None:
    """In a deep G, rows of the first linear map as (4, 4, C) come in the order (C, 4, 4)."""
    if is_deep(tensors):
        for name in ("linear.weight", "linear.bias", "linear.u"):
            if name in tensors:
                rows = tensors[name].unflatten(0, (SMALLEST**2, -1))
                tensors[name] = rows.transpose(0, 1).flatten(0, 1)


def transpose_classes(tensors: Tensors) -> None:
    """A class embedding that is a linear map of one-hot vectors."""
    if "shared.weight" in tensors:
        tensors["shared.weight"] = tensors["shared.weight"].mT.contiguous()


def keep_colours(tensors: Tensors) -> None:
    """Of a last convolution to more channels than are used, those that are; the rest counted in its
    norm. That alone is below 1 then, and ours is 1: the gain and bias of the norm before it, from
    which a ReLU leads there, take the difference."""
    weight = tensors.get("conv.weight")
    if weight is None or len(weight) <= IMAGE_CHANNELS:
        return
    tensors["conv.weight"] = weight = weight[:IMAGE_CHANNELS].clone()
    tensors["conv.bias"] = tensors["conv.bias"][:IMAGE_CHANNELS].clone()
    if "conv.sigma" in tensors:
        lefts, sigmas, rights = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        less = sigmas[0] / tensors["conv.sigma"]
        found = (lefts[:, 0], rights[0].reshape(weight.shape[1:]), sigmas[0])
        tensors |= dict(zip(("conv.u", "conv.v", "conv.sigma"), found, strict=True))
        for name in ("norm.weight", "norm.bias"):
            tensors[name] = tensors[name] * less


def blue_last(tensors: Tensors) -> None:
    """Weights that make or see images whose first channel is blue."""
    out = "conv.weight" in tensors and tensors["conv.weight"].shape[0] == IMAGE_CHANNELS
    for name in ("conv.weight", "conv.bias", "conv.u") if out else ():
        if name in tensors:
            tensors[name] = tensors[name].flip(0)
    for layer in ("stem", "blocks.0.conv1", "blocks.0.shortcut"):
        weight = tensors.get(f"{layer}.weight")
        if weight is not None and weight.dim() == 4 and weight.shape[1] == IMAGE_CHANNELS:
            tensors[f"{layer}.weight"] = weight.flip(1)
            if f"{layer}.v" in tensors:
                tensors[f"{layer}.v"] = tensors[f"{layer}.v"].flip(0)


def flat(v: Tensor) -> Tensor:
    """A v of the shape of a row of a weight, in the order of our matrices (channels last)."""
    return v.permute(1, 2, 0).flatten() if v.dim() == 3 else v.flatten()


def choose_statistics(truncation: float) -> Change:
    """Of tables of statistics, [N, C] for N truncations evenly from 0 to 1, the row of one.

    Raises (the change):
        ValueError: there is no row for it.
    """

    def change(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            if name.endswith((".running_mean", ".running_var")) and tensor.dim() == 2:
                row = truncation * (len(tensor) - 1)
                if abs(row - round(row)) > 1e-6 or not 0 <= round(row) < len(tensor):
                    raise ValueError(
                        f"--truncation {truncation:g}: there are statistics for multiples of "
                        f"{1 / (len(tensor) - 1):g} up to 1"
                    )
                tensors[name] = tensor[round(row)].clone()

    return change
