"""Puts the tensors of others into our networks: all of them, and nothing else."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from biggan_sn.interop.changes import flat
from biggan_sn.interop.reading import ForeignError
from biggan_sn.interop.renaming import Foreign
from biggan_sn.models.zoo import CONSTRAINS_EMBEDDINGS
from biggan_sn.nn.matrices import matrix_layers

VECTORS = ("u", "v", "sigma")  # of a layer whose weight is divided by its norm
COUNT = "num_batches_tracked"  # which says nothing where statistics are running ones
_CONSTRAINED = "{}.parametrizations.weight."


def check_fit(network: nn.Module, foreign: Foreign, side: str, normed: bool) -> None:
    """Raises ForeignError, with the name of the tensor, unless what `foreign` has is what this
    plain network of `side` has, and of the layers that spectral norm takes all u or none."""
    mine = {name: t.shape for name, t in network.state_dict().items() if not name.endswith(COUNT)}
    if normed:
        layers = matrix_layers(network, CONSTRAINS_EMBEDDINGS[side])
        mine |= {f"{name}.u": layer.weight.shape[:1] for name, layer in layers.items()}  # type: ignore[index]
    for name, shape in mine.items():
        found = foreign.need(name).shape
        if found != shape:
            raise ForeignError(
                f"{foreign.where}: {foreign.their_name(name)!r} comes as {list(found)}, and by the "
                f"shapes of the others it must be {list(shape)}"
            )
    for name in foreign.theirs:
        if name not in mine and not name.endswith((".v", COUNT, ".counter")):
            raise ForeignError(
                f"{foreign.where}: {foreign.their_name(name)!r} has no place in this {side}"
            )


def fill(network: nn.Module, tensors: Mapping[str, Tensor], *but: str) -> None:
    """Copies tensors by our plain names into a network, plain or constrained, but for those whose
    names end with one of `but`."""
    mine = network.state_dict()  # the tensors themselves
    with torch.no_grad():
        for name, tensor in tensors.items():
            if not name.endswith((COUNT, *but)):
                v = name.endswith(".v")
                mine[place_of(name, mine)].copy_(flat(tensor) if v else tensor)


def place_of(name: str, places: Mapping[str, object]) -> str:
    """What our plain `name` is called among `places`, where its layer may be constrained."""
    layer, _, leaf = name.rpartition(".")
    start = _CONSTRAINED.format(layer)
    candidates = (name, f"{start}original" if leaf == "weight" else f"{start}0.{leaf}")
    return next(candidate for candidate in candidates if candidate in places)


def widest_gap(network: nn.Module, foreign: Foreign) -> tuple[float, str]:
    """How far the sigmas by which they divide are from those in the network, as a part of those;
    and in which layer, as they call it. 0 where there are none."""
    mine = network.state_dict()
    gaps = [
        (abs(float(tensor / mine[place_of(name, mine)]) - 1), foreign.their_name(f"{name[:-6]}.u"))
        for name, tensor in foreign.tensors.items()
        if name.endswith(".sigma")
    ]
    return max(gaps, default=(0.0, ""))
