"""What a step costs, counted and not timed: the same on every machine.

The step is played with tensors that have shapes and no numbers, so that no memory and no device is
needed, whatever the size of the networks.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from biggan_sn.bench.living import Living
from biggan_sn.bench.plays import PLAYS, Played
from biggan_sn.config import Config
from biggan_sn.data.loader import Batch
from biggan_sn.models.zoo import BUILDERS
from biggan_sn.nn.forms import operations_in_turn
from biggan_sn.nn.norm import share_statistics
from biggan_sn.nn.spectral import TopSingularTriplets
from biggan_sn.nn.thin_matrices import layout_of
from biggan_sn.tables import lookup
from biggan_sn.training.build import build
from biggan_sn.training.player import Player
from biggan_sn.training.step import GANStep
from biggan_sn.training.world import World

FREE = ("prim::", "aten::empty", "aten::new_empty", "aten::_unsafe_view", "aten::lift")
NETWORKS = ("Generator", "Discriminator")


@dataclass(frozen=True)
class Counts:
    """Of one step on one process.

    Args:
        params_G, params_D: parameters.
        model_flops_per_iter: floating-point operations in all passes through the networks, a
            multiplication and an addition being two, if every layer did what it is called: doubling
            and then convolving, for example. The same for all programs that train these networks.
        hw_flops_per_iter: those that are executed, control of spectra and regularizers included.
        saved_bytes_per_image: what the backward pass needs of the forward pass for each image:
            "G" in the update of G, "D" in that of D, where a real image and a fake one are two.
        launches_per_iter: operations given to the device, views and allocations left out.
        peak_bytes: of all tensors that live at once. A device needs more: for its kernels, for gaps
            between tensors, and for what it keeps of its library.
    """

    params_G: int  # noqa: N815
    params_D: int  # noqa: N815
    model_flops_per_iter: int
    hw_flops_per_iter: int
    saved_bytes_per_image: dict[str, float]
    launches_per_iter: int
    peak_bytes: int


def count(config: Config, mode: str = "step", ranks: int = 1) -> Counts:
    """The counts of a config on one of so many processes, of a whole step or of what else PLAYS
    has. Takes seconds.

    Raises:
        ValueError: no such mode.
    """
    config = _of_one(config, ranks)
    with shapes_only():
        step, reals = _ready(config)
        ready = lookup(PLAYS, mode, "mode").ready
        with operations_in_turn(step.g.network, step.d.network, step.ema.network):
            usual = _flops(ready(step), reals)
        launches = Launches()
        executed = _flops(ready(step), reals, launches)
        peak = _peak(ready(step), reals)
        return Counts(
            params_G=sum(p.numel() for p in step.g.network.parameters()),
            params_D=sum(p.numel() for p in step.d.network.parameters()),
            model_flops_per_iter=sum(usual.get(name, 0) for name in NETWORKS),
            hw_flops_per_iter=executed["Global"],
            saved_bytes_per_image=_saved_per_image(step, config),
            launches_per_iter=launches.count,
            peak_bytes=peak,
        )


def count_memory(config: Config, ranks: int = 1) -> int:
    """`Counts.peak_bytes` of a whole step alone, in a fraction of the time."""
    with shapes_only():
        step, reals = _ready(_of_one(config, ranks))
        step(0, reals)  # from here on Adam has moments
        return _peak(step, reals)


def _peak(play: Played, reals: Iterator[Batch]) -> int:
    with Living() as living:
        play(0, reals)
    return living.peak


def _of_one(config: Config, ranks: int) -> Config:
    """What one of so many processes plays."""
    return replace(config, batch_size=config.batch_size // ranks)


@contextmanager
def shapes_only() -> Iterator[None]:
    """While open, new tensors have shapes and no numbers."""
    layout_of.cache_clear()  # what it remembers has numbers now, and then none
    rounds = TopSingularTriplets.COLD_ROUNDS
    TopSingularTriplets.COLD_ROUNDS = 1  # further ones would find better numbers
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Zeros():  # type: ignore[no-untyped-call]
            yield
    finally:
        TopSingularTriplets.COLD_ROUNDS = rounds
        layout_of.cache_clear()


def _ready(config: Config) -> tuple[GANStep, Iterator[Batch]]:
    # How weights start does not matter, and some ways take long even without numbers.
    config = replace(config, model=replace(config.model, initialization="normal"))
    side, images = config.data.resolution, config.microbatch("discriminator", 1)
    real = torch.zeros(images, 3, side, side).to(memory_format=torch.channels_last)
    return build(config, World()), repeat(Batch(real, torch.zeros(images, dtype=torch.int64)))


def _flops(
    play: Played, reals: Iterator[Batch], beside: AbstractContextManager[object] | None = None
) -> dict[str, int]:
    """By the network in whose passes they happen, backward passes included, and in all. What counts
    beside it sees operations before they are taken apart."""
    with FlopCounterMode(display=False) as counter, beside or nullcontext():
        play(0, reals)
    return {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}


def _saved_per_image(step: GANStep, config: Config) -> dict[str, float]:
    """By the growth with the batch: what is saved of weights does not grow."""
    images = max(config.microbatch(side, 1) for side in BUILDERS)
    passes = (images, 2 * images)
    for network in (step.g.network, step.d.network):
        share_statistics(network, passes, 0, 1)
    side = config.data.resolution
    grown = {"G": 0, "D": 0}
    for count, sign in zip(passes, (-1, 1), strict=True):
        real = Batch(torch.zeros(count, 3, side, side), torch.zeros(count, dtype=torch.int64))
        grown["D"] += sign * _saved(step.d, partial(step.judge, step.d.network, real))
        grown["G"] += sign * _saved(step.g, partial(_fool, step, count))
    return {name: extra / images for name, extra in grown.items()}


def _fool(step: GANStep, images: int) -> None:
    step.judge(step.d.network, step.sample(step.g.network, 0, 0, range(images)))


def _saved(player: Player, work: Callable[[], object]) -> int:
    """Bytes that autograd keeps of some work for the player, each piece of memory once."""
    pieces: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        pieces[storage._cdata] = storage
        return tensor.detach()  # with its history it would keep itself for ever

    player.network.requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    player.network.requires_grad_(False)
    return sum(storage.nbytes() for storage in pieces.values())


class Zeros(TorchDispatchMode):
    """While open, whoever asks for a number is told 0, or no."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 0
        return func(*args, **(kwargs or {}))


class Launches(TorchDispatchMode):
    """While open, counts the operations that a device has to do."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not _is_free(func):
            self.count += 1
        return func(*args, **(kwargs or {}))


def _is_free(operation: torch._ops.OpOverload) -> bool:
    """Whether an operation only looks at memory in another way, or asks for some."""
    schema = operation._schema
    aliases = [value.alias_info for value in schema.returns]
    return schema.name.startswith(FREE) or any(
        alias is not None and not alias.is_write for alias in aliases
    )
