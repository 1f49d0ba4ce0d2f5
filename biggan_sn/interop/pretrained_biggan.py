"""pytorch-pretrained-BigGAN: the deep generators of TF-Hub, at 128, 256 and 512 pixels.

A folder with pytorch_model.bin; of its config.json nothing is needed. There is no discriminator.
"""

from pathlib import Path

from biggan_sn.interop.changes import (
    as_vectors,
    channels_first,
    find_sigmas,
    keep_colours,
    transpose_classes,
    with_epsilon,
)
from biggan_sn.interop.reading import load, tensors_in
from biggan_sn.interop.renaming import Keys
from biggan_sn.interop.sources import EPSILON, Part, Source

WEIGHTS = "pytorch_model.bin"

GENERATOR = Keys(
    modules={
        "embeddings": "shared",
        "generator.gen_z": "linear",
        # They count the layers of a block from 0.
        **{f"generator.layers.{{i}}.conv_{j}": f"blocks.{{i}}.conv{j + 1}" for j in range(4)},
        **{f"generator.layers.{{i}}.bn_{j}": f"blocks.{{i}}.norm{j + 1}.norm" for j in range(4)},
        **{
            f"generator.layers.{{i}}.bn_{j}.{theirs}": f"blocks.{{i}}.norm{j + 1}.{ours}"
            for j in range(4)
            for theirs, ours in (("scale", "gain"), ("offset", "bias"))
        },
        "generator.layers.{i}": "attention.{i}",
        "generator.layers.{i}.snconv1x1_theta": "attention.{i}.theta",
        "generator.layers.{i}.snconv1x1_phi": "attention.{i}.phi",
        "generator.layers.{i}.snconv1x1_g": "attention.{i}.g",
        "generator.layers.{i}.snconv1x1_o_conv": "attention.{i}.o",
        "generator.bn": "norm",
        "generator.conv_to_rgb": "conv",
    },
    leaves={
        "weight_orig": "weight",
        "weight": "weight",
        "bias": "bias",
        "gamma": "gamma",
        "weight_u": "u",
        "weight_v": "v",
        "running_means": "running_mean",
        "running_vars": "running_var",
    },
    changes=(
        find_sigmas,
        transpose_classes,
        channels_first,
        as_vectors,
        with_epsilon(1e-4),
        keep_colours,
    ),
)


def find(path: Path) -> Source:
    """The weights in a folder, or themselves.

    Raises:
        ForeignError: they are not there, or cannot be read.
    """
    file = path / WEIGHTS if path.is_dir() else path
    note = (
        "statistics of batch norms are those of one truncation (--truncation, 1 by default; theirs "
        "is --mode scaled_resample); samples of another need --standing_statistics"
    )
    return Source({"ema": Part(str(file), tensors_in(file, load(file)))}, notes=(note, EPSILON))
