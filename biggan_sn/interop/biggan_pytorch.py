"""BigGAN-PyTorch, the reference code of Brock et al. 2019: BigGAN.py and BigGANdeep.py.

A folder with G.pth, G_ema.pth, D.pth, G_optim.pth and D_optim.pth, where each may have a suffix
(G_best0.pth). Its state_dict.pth is not opened: beside the step, which the optimizers know, it
holds live modules.
"""

import re
from pathlib import Path

from biggan_sn.interop.changes import as_vectors, average_statistics, class_after_z, find_sigmas
from biggan_sn.interop.reading import ForeignError, load, tensors_in
from biggan_sn.interop.renaming import DROPPED, Keys
from biggan_sn.interop.sources import Part, Source

_LEAVES = {
    "weight": "weight",
    "bias": "bias",
    "gain": "weight",
    "gamma": "gamma",
    "u0": "u",
    "u[1-9]": DROPPED,  # further singular vectors, which only its logs read
    "sv[0-9]": DROPPED,
    "stored_mean": "running_mean",
    "stored_var": "running_var",
    "running_mean": "running_mean",  # --cross_replica
    "running_var": "running_var",
    "num_batches_tracked": "num_batches_tracked",
    "accumulation_counter": "counter",  # --mybn
}
_BACK = {"sigma": "sv0", "v": DROPPED, "num_batches_tracked": DROPPED}
_BLOCKS = {
    "blocks.{i}.{k}.conv{j}": "blocks.{i}-{k}.conv{j}",
    "blocks.{i}.{k}.conv_sc": "blocks.{i}-{k}.shortcut",
    "blocks.{i}.{k}": "attention.{i}-{k}",
    "blocks.{i}.{k}.theta": "attention.{i}-{k}.theta",
    "blocks.{i}.{k}.phi": "attention.{i}-{k}.phi",
    "blocks.{i}.{k}.g": "attention.{i}-{k}.g",
    "blocks.{i}.{k}.o": "attention.{i}-{k}.o",
}
GENERATOR = Keys(
    modules={
        "shared": "shared",
        "linear": "linear",
        **_BLOCKS,
        "blocks.{i}.{k}.bn{j}": "blocks.{i}-{k}.norm{j}.norm",
        "blocks.{i}.{k}.bn{j}.bn": "blocks.{i}-{k}.norm{j}.norm",
        "blocks.{i}.{k}.bn{j}.gain": "blocks.{i}-{k}.norm{j}.gain",
        "blocks.{i}.{k}.bn{j}.bias": "blocks.{i}-{k}.norm{j}.bias",
        "output_layer.0": "norm",
        "output_layer.0.bn": "norm",
        "output_layer.2": "conv",
    },
    leaves=_LEAVES,
    changes=(find_sigmas, average_statistics, as_vectors, class_after_z),
    back={**_BACK, "norm.weight": "output_layer.0.gain"},
)
DISCRIMINATOR = Keys(
    modules={"input_conv": "stem", **_BLOCKS, "linear": "linear", "embed": "embed"},
    leaves=_LEAVES,
    changes=(find_sigmas, as_vectors),
    back=_BACK,
)
NETWORKS = {"generator": "G", "ema": "G_ema", "discriminator": "D"}
OPTIMIZERS = {"generator": "G_optim", "discriminator": "D_optim"}
_OF_GENERATOR = re.compile(r"G(?:_ema)?((?:_[^_]+)?)\.pth")


def find(path: Path) -> Source:
    """The files in a folder, or those beside one of G's.

    Raises:
        ForeignError: there is no G, or something cannot be read.
    """
    named = _OF_GENERATOR.fullmatch(path.name)
    folder, suffix = (path.parent, named[1]) if named and path.is_file() else (path, "")

    def there(names: dict[str, str]) -> dict[str, Path]:
        files = {part: folder / f"{name}{suffix}.pth" for part, name in names.items()}
        return {part: file for part, file in files.items() if file.is_file()}

    networks = there(NETWORKS)
    if not networks.keys() & {"generator", "ema"}:
        raise ForeignError(f"{path}: holds neither G.pth nor G_ema.pth, and is no such file")
    return Source(
        {part: Part(str(file), tensors_in(file, load(file))) for part, file in networks.items()},
        {part: (str(file), load(file)) for part, file in there(OPTIMIZERS).items()},
    )
