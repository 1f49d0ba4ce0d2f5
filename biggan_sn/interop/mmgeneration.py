"""MMGeneration: its BigGAN and BigGAN-deep, in either of its styles of spectral norm.

One file with generator, generator_ema and discriminator as prefixes of names.
"""

from pathlib import Path

from biggan_sn.interop.changes import as_vectors, channels_first, find_sigmas
from biggan_sn.interop.reading import ForeignError, load, section, tensors_in
from biggan_sn.interop.renaming import DROPPED, Keys
from biggan_sn.interop.sources import PLAYERS, Part, Source

_LEAVES = {
    "weight_orig": "weight",
    "weight": "weight",
    "bias": "bias",
    "gamma": "gamma",
    "weight_u": "u",
    "weight_v": "v",
    "u0": "u",
    "sv0": DROPPED,
    "running_mean": "running_mean",
    "running_var": "running_var",
    "num_batches_tracked": "num_batches_tracked",
}
_BLOCKS = {
    "conv_blocks.{i}.conv{j}.conv": "blocks.{i}.conv{j}",
    "conv_blocks.{i}.shortcut.conv": "blocks.{i}.shortcut",
    "conv_blocks.{i}": "attention.{i}",
    "conv_blocks.{i}.theta.conv": "attention.{i}.theta",
    "conv_blocks.{i}.phi.conv": "attention.{i}.phi",
    "conv_blocks.{i}.g.conv": "attention.{i}.g",
    "conv_blocks.{i}.o.conv": "attention.{i}.o",
}
GENERATOR = Keys(
    modules={
        "shared_embedding": "shared",
        "noise2feat": "linear",
        **_BLOCKS,
        "conv_blocks.{i}.bn{j}.bn": "blocks.{i}.norm{j}.norm",
        "conv_blocks.{i}.bn{j}.gain": "blocks.{i}.norm{j}.gain",
        "conv_blocks.{i}.bn{j}.bias": "blocks.{i}.norm{j}.bias",
        "output_layer.bn": "norm",
        "output_layer.conv": "conv",
    },
    leaves=_LEAVES,
    changes=(find_sigmas, as_vectors, channels_first),
)
DISCRIMINATOR = Keys(
    modules={"input_conv.conv": "stem", **_BLOCKS, "decision": "linear", "proj_y": "embed"},
    leaves=_LEAVES,
    changes=(find_sigmas, as_vectors),
)
_PREFIXES = {"generator": "generator.", "ema": "generator_ema.", "discriminator": "discriminator."}


def find(path: Path) -> Source:
    """The networks and optimizers in one file.

    Raises:
        ForeignError: there is no generator, or it cannot be read.
    """
    content = load(path)
    tensors = tensors_in(path, section(path, content, "state_dict"))
    parts = {
        part: {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        for part, start in _PREFIXES.items()
    }
    others = [n for n in tensors if not n.startswith(tuple(_PREFIXES.values()))]
    if others:
        raise ForeignError(f"{path}: {others[0]!r} is of none of {', '.join(_PREFIXES.values())}")
    optimizers = content.get("optimizer") or {}
    return Source(
        {part: Part(str(path), own) for part, own in parts.items() if own},
        {player: (str(path), optimizers[player]) for player in PLAYERS if player in optimizers},
    )
