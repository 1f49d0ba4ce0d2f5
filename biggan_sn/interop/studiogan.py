"""PyTorch-StudioGAN: backbones big_resnet and big_resnet_deep_legacy, with projection.

A folder with model=G-current-weights-step=1000.pth and the same of G_ema and D, or `best` for
`current`; each holds a network and its optimizer.
"""

import re
from pathlib import Path

import numpy as np

from biggan_sn.interop.changes import as_vectors, class_after_z, find_sigmas, with_epsilon
from biggan_sn.interop.reading import ForeignError, load, section, tensors_in
from biggan_sn.interop.renaming import Keys
from biggan_sn.interop.sources import EPSILON, Part, Source

_LEAVES = {
    "weight_orig": "weight",
    "weight": "weight",
    "bias": "bias",
    "sigma": "gamma",  # of attention
    "weight_u": "u",
    "weight_v": "v",
    "running_mean": "running_mean",
    "running_var": "running_var",
    "num_batches_tracked": "num_batches_tracked",
}
_BLOCKS = {
    "blocks.{i}.{k}.conv2d0": "blocks.{i}-{k}.shortcut",
    "blocks.{i}.{k}.conv2d{j}": "blocks.{i}-{k}.conv{j}",
    "blocks.{i}.{k}": "attention.{i}-{k}",
    "blocks.{i}.{k}.conv1x1_theta": "attention.{i}-{k}.theta",
    "blocks.{i}.{k}.conv1x1_phi": "attention.{i}-{k}.phi",
    "blocks.{i}.{k}.conv1x1_g": "attention.{i}-{k}.g",
    "blocks.{i}.{k}.conv1x1_attn": "attention.{i}-{k}.o",
}
GENERATOR = Keys(
    modules={
        "shared": "shared",
        "linear0": "linear",
        **_BLOCKS,
        "blocks.{i}.{k}.bn{j}.bn": "blocks.{i}-{k}.norm{j}.norm",
        "blocks.{i}.{k}.bn{j}.gain": "blocks.{i}-{k}.norm{j}.gain",
        "blocks.{i}.{k}.bn{j}.bias": "blocks.{i}-{k}.norm{j}.bias",
        "bn4": "norm",
        "conv2d5": "conv",
    },
    leaves=_LEAVES,
    changes=(find_sigmas, as_vectors, class_after_z, with_epsilon(1e-4)),
)
DISCRIMINATOR = Keys(
    modules={"input_conv": "stem", **_BLOCKS, "linear1": "linear", "embedding": "embed"},
    leaves=_LEAVES,
    changes=(find_sigmas, as_vectors),
)
_PARTS = {"G": "generator", "G_ema": "ema", "D": "discriminator"}
_NAME = re.compile(r"model=(G|G_ema|D)-(\w+-weights-step=\d+)\.pth")
# What a best FID is, which lies beside the weights.
_SCORES: list[type] = [np.dtype, *(type(np.dtype(kind)) for kind in (np.float64, np.float32))]


def find(path: Path) -> Source:
    """The files in a folder, or those beside one of them.

    Raises:
        ForeignError: there is no G, or those of several steps, or something cannot be read.
    """
    one = _NAME.fullmatch(path.name) if path.is_file() else None
    folder = path.parent if one else path
    copies: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.glob("model=*.pth")):
        match = _NAME.fullmatch(file.name)
        if match and (not one or match[2] == one[2]):
            copies.setdefault(match[2], {})[_PARTS[match[1]]] = file
    if len(copies) > 1:
        raise ForeignError(f"{path}: holds {' and '.join(copies)}; name one of the files instead")
    files = next(iter(copies.values()), {})
    if not files.keys() & {"generator", "ema"}:
        raise ForeignError(
            f"{path}: holds no model=G-...-weights-step=....pth, and is no such file"
        )
    contents = {part: (file, load(file, _SCORES)) for part, file in files.items()}
    return Source(
        {
            part: Part(str(file), tensors_in(file, section(file, content, "state_dict")))
            for part, (file, content) in contents.items()
        },
        {
            part: (str(file), content["optimizer"])
            for part, (file, content) in contents.items()
            if "optimizer" in content
        },
        (EPSILON,),
    )
