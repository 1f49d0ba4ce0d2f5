"""A run as BigGAN-PyTorch would have left it: the inverse of its import.

Of a run that was imported and not trained since, everything is as it came, to the last bit. Else u
and sigma are those that we divide by, and its own power iteration goes on from there.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from biggan_sn.checkpoint import load_tensors
from biggan_sn.config import Config
from biggan_sn.config.checks import require
from biggan_sn.interop.biggan_pytorch import DISCRIMINATOR, GENERATOR, NETWORKS, OPTIMIZERS
from biggan_sn.interop.changes import as_they_lie, class_before_z, is_deep
from biggan_sn.interop.contents import Contents
from biggan_sn.interop.moments import SLOTS
from biggan_sn.interop.renaming import BUFFERS, DROPPED, Tensors, bare_name, name_back
from biggan_sn.interop.sources import FOREIGN
from biggan_sn.models.zoo import architecture
from biggan_sn.nn.lipschitz import LIPSCHITZ

FORMAT = "biggan_pytorch"
LARGEST = 256  # pixels that its discriminators see
NORMS = ("spectral_norm", "power_iteration_norm")  # that divide as it does
_KEYS = {"generator": GENERATOR, "ema": GENERATOR, "discriminator": DISCRIMINATOR}
# Its modules in their order, which is that of what its optimizers move.
_OUTER = {
    "generator": ("shared", "linear", "blocks", "output_layer"),
    "ema": ("shared", "linear", "blocks", "output_layer"),
    "discriminator": ("input_conv", "blocks", "linear", "embed"),
}
_INNER = (
    *("conv1", "conv2", "conv3", "conv4", "conv_sc", "bn1", "bn2", "bn3", "bn4"),
    *("gamma", "theta", "phi", "g", "o", "weight", "gain", "bias"),
    *("u0", "sv0", "stored_mean", "stored_var"),
)
_NUMBERED = re.compile(r"(blocks|attention)\.(\d+)\.")


def write_networks(contents: Contents, folder: Path) -> list[str]:
    """Writes G, its average and D with raw weights, both optimizers, and the integers of the run.

    Raises:
        ValueError: the networks are none that it has.
    """
    check_known(contents.config)
    for part, file in NETWORKS.items():
        torch.save(_network(contents, part), folder / f"{file}.pth")
    for side, file in OPTIMIZERS.items():
        torch.save(_optimizer(contents, side), folder / f"{file}.pth")
    options = _options(contents.config)
    integers = {"itr": contents.state["step"], "epoch": 0, "save_num": 0, "save_best_num": 0}
    best = {"best_IS": 0, "best_FID": contents.state.get("score") or 999999}
    torch.save({**integers, **best, "config": options}, folder / "state_dict.pth")
    notes = [f"BigGAN-PyTorch takes them with {_as_words(options)}"]
    if _kept(contents, "generator") or _kept(contents, "ema"):
        notes.append("they are as they came: so are the options of their batch norms and SVs")
    return notes


def check_known(config: Config) -> None:
    """Raises ValueError unless BigGAN-PyTorch has networks like these."""
    model, side = config.model, config.data.resolution
    start = "BigGAN-PyTorch has no networks like these:"
    require(side <= LARGEST, f"{start} its discriminators end at {LARGEST} pixels, not {side}")
    require(model.norm == "batch", f"{start} model.norm {model.norm}")
    require(
        model.minibatch_layer == "none", f"{start} model.minibatch_layer {model.minibatch_layer}"
    )
    require(not model.generator_widths, f"{start} model.generator_widths {model.generator_widths}")
    # Where several blocks end at one resolution, it attends after each of them, and we after one.
    known = [side // 2**halvings for halvings in range(1, 7) if side > 32 and side >> halvings > 4]
    for wanted in model.discriminator_attention:
        require(wanted in known, f"{start} model.discriminator_attention at {wanted} pixels")
    _check_norms(start, "generator", config.lipschitz.generator, ((), *((n,) for n in NORMS)))
    _check_norms(start, "discriminator", config.lipschitz.discriminator, [(n,) for n in NORMS])


def _check_norms(
    start: str, side: str, names: Iterable[str], known: Iterable[tuple[str, ...]]
) -> None:
    """Of the rows of a side, those that change what a network computes must be `known`."""
    rows = [(name, LIPSCHITZ[name]) for name in names]
    found = tuple(name for name, row in rows if row.weight or row.output)
    told = ", ".join(found) or "nothing"
    require(found in known, f"{start} lipschitz.{side} has {told}, and not spectral_norm alone")


def _network(contents: Contents, part: str) -> Tensors:
    """The state_dict of generator, ema or discriminator."""
    tensors = _changed(load_tensors(contents.checkpoint, part))
    names = _names(tensors, part)
    kept = _kept(contents, part)
    return {
        theirs: tensors[ours].clone()
        for ours, theirs in names.items()
        if _is_trained(ours) or not kept
    } | kept


def _changed(tensors: Tensors) -> Tensors:
    """Under plain names, and as it has them."""
    plain = {bare_name(name): tensor for name, tensor in tensors.items()}
    for change in (class_before_z, as_they_lie):
        change(plain)
    return plain


def _names(tensors: Tensors, part: str) -> dict[str, str]:
    """Ours -> theirs, in the order of their modules."""
    blocks = 2 if part == "discriminator" and is_deep(tensors) else 1  # that it counts as one
    order = (*_OUTER[part], *_INNER)

    def place(pair: tuple[str, str]) -> list[int]:
        return [int(p) if p.isdigit() else order.index(p) for p in pair[1].split(".")]

    pairs = [(name, name_back(_KEYS[part], name, _numbers(name, blocks))) for name in tensors]
    return dict(sorted([pair for pair in pairs if pair[1] != DROPPED], key=place))


def _numbers(name: str, blocks: int) -> dict[str, str]:
    """The numbers of a block, or of the attention that it counts among the blocks."""
    match = _NUMBERED.match(name)
    if not match:
        return {}
    outer, inner = divmod(int(match[2]), blocks)
    return {"i": str(outer), "k": str(inner + (match[1] == "attention"))}


def _is_trained(name: str) -> bool:
    return name.rpartition(".")[2] not in (*BUFFERS, "sigma")


def _kept(contents: Contents, part: str) -> Tensors:
    """The buffers of a network as they were when it was imported, if nothing was trained since."""
    if f"{FOREIGN}.safetensors" not in contents.state["files"]:
        return {}
    prefix = f"{FORMAT}/{part}/"
    kept = load_tensors(contents.checkpoint, FOREIGN)
    return {n.removeprefix(prefix): t for n, t in kept.items() if n.startswith(prefix)}


def _optimizer(contents: Contents, side: str) -> dict[str, Any]:
    """The state_dict of Adam of generator or discriminator."""
    moments = load_tensors(contents.checkpoint, f"{side}_optimizer")
    names = _names(_changed(load_tensors(contents.checkpoint, side)), side)
    trained = [name for name in names if _is_trained(name)]
    slots = {slot: _changed(_slot(moments, slot)) for slot in SLOTS}
    steps = {bare_name(name): int(step) for name, step in _slot(moments, "step").items()}
    state = {
        number: {"step": steps[name], **{slot: slots[slot][name].clone() for slot in SLOTS}}
        for number, name in enumerate(trained)
        if name in steps  # before the first step there is nothing
    }
    player = getattr(contents.config, side)
    rates = {"lr": player.lr, "betas": tuple(player.betas), "eps": player.eps}
    group = {**rates, "weight_decay": 0, "amsgrad": False, "params": list(range(len(trained)))}
    return {"state": state, "param_groups": [group]}


def _slot(moments: Tensors, slot: str) -> Tensors:
    """One kind of moments, by the names of their parameters."""
    end = f"/{slot}"
    return {name.removesuffix(end): t for name, t in moments.items() if name.endswith(end)}


def _options(config: Config) -> dict[str, Any]:
    """What its command line calls these networks."""
    model, row = config.model, architecture(config)
    depth = 2 if row.deep else 1
    sides = {"G": model.generator_attention, "D": model.discriminator_attention}
    attention = {f"{n}_attn": "_".join(map(str, found)) or "0" for n, found in sides.items()}
    return {
        "model": "BigGANdeep" if row.deep else "BigGAN",
        "resolution": config.data.resolution,
        "n_classes": config.data.num_classes,
        "G_ch": model.channels,
        "D_ch": model.width_of_discriminator,
        "G_depth": depth,
        "D_depth": depth,
        **attention,
        "dim_z": model.z_dim,
        "shared_dim": row.shared_dim,
        "G_shared": row.shared_dim > 0,
        "hier": row.hierarchical_z or row.deep,
        "D_wide": row.wide,
        "G_param": "SN" if config.lipschitz.generator else "None",
    }


def _as_words(options: dict[str, Any]) -> str:
    """As they are typed; size and classes it knows by the data."""
    values = {n: v for n, v in options.items() if n not in ("resolution", "n_classes")}
    words = [f"--{n} {v}" for n, v in values.items() if not isinstance(v, bool)]
    words += [f"--{n}" for n in ("G_shared", "hier") if options[n]]
    return " ".join([*words, *([] if options["D_wide"] else ["--D_thin"])])
