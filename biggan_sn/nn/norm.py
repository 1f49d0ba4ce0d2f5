"""Batch normalisation: over all replicas, conditional on the class, and standing statistics; and
the norms that G may have."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from biggan_sn.nn.minibatch import MinibatchLayer
from biggan_sn.nn.normalizing import Running, normalize
from biggan_sn.nn.replicas import ALONE, Sharing, average_over_replicas, share, sharing_for
from biggan_sn.nn.virtual import VirtualBatchNorm2d


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics may be those of images on many processes.

    Once `share_statistics` was called, equal to one process that has these images: output, first
    and second derivative. Until then torch's own. Works on CPU and CUDA. Statistics are fp32 or
    better. Shapes: [N, C, H, W] -> [N, C, H, W].

    Attributes:
        sharing: by the number of images here; None before `share_statistics`.

    Raises (in a forward pass):
        ValueError: a batch of a size that nobody spoke of, as the ragged last one of an epoch.
    """

    sharing: Mapping[int, Sharing] | None = None

    def forward(
        self, input: Tensor, gain: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """With `gain` and `bias` [N, C], one for each image: norm(input) * gain + bias."""
        self._check_input_dim(input)
        planned = self.sharing if self.training else None
        sharing = sharing_for(planned, input.shape[0], "batch norm")
        if gain is None or bias is None:
            if sharing == ALONE:
                return super().forward(input)
            gain, bias = self._affine(input)
        elif not self.training:
            gain, bias = gain[:, :, None, None], bias[:, :, None, None]
            return torch.addcmul(bias, super().forward(input), gain)
        return normalize(input, gain, bias, self._running(), self.eps, sharing)

    def _affine(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and bias [C] of the norm itself; 1 and 0 where it has none."""
        if self.affine:
            return self.weight, self.bias
        kind = torch.promote_types(input.dtype, torch.float32)
        one = torch.ones(self.num_features, dtype=kind, device=input.device)
        return one, torch.zeros_like(one)

    def _running(self) -> Running:
        """The running statistics, and the weight of one more batch, as torch counts it."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # the mean of all batches
            momentum = 1.0 / float(self.num_batches_tracked)
        return Running(self.running_mean, self.running_var, momentum)


def share_statistics(network: nn.Module, here: Collection[int], together: int, ranks: int) -> None:
    """Joins the statistics of all batch norms and minibatch layers of `network` over processes, in
    training. Every process must call it. Copies made before go on alone, as one process that draws
    samples must.

    Args:
        network: its layers that are `BatchNorm2d` or `MinibatchLayer`.
        here: the sizes of batch that each process will have.
        together: images whose statistics are one; 0 takes all that processes have in one pass.
        ranks: number of processes.

    Raises:
        ValueError: see `plan_sharing`.
    """
    layers = [m for m in network.modules() if isinstance(m, BatchNorm2d | MinibatchLayer)]
    if layers:  # groups of processes are not for nothing
        sharing = {n: share(n, together or n * ranks, ranks) for n in sorted(set(here))}
        for layer in layers:
            layer.sharing = sharing


def settle_statistics(network: nn.Module) -> None:
    """Makes the running statistics the same on all processes, where groups of them have their own:
    the mean, which is what one process would have tracked. Every process must call it."""
    apart = [
        norm
        for norm in _batch_norms(network)
        for sharing in (norm.sharing or {}).values()
        if sharing.group is not dist.group.WORLD
    ]
    if dist.is_initialized() and apart:
        buffers = [(norm.running_mean, norm.running_var) for norm in dict.fromkeys(apart)]
        average_over_replicas([b for pair in buffers for b in pair if b is not None])


def _batch_norms(network: nn.Module) -> list[BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, BatchNorm2d)]


MakeNorm = Callable[[int, bool], nn.Module]  # channels, and whether it has a gain of its own


def batch_norm(channels: int, affine: bool) -> BatchNorm2d:
    """Plain batch normalisation."""
    return BatchNorm2d(channels, affine=affine)


class Norm(NamedTuple):
    """A row.

    Args:
        make: channels, whether it has a gain of its own, images of the reference batch -> layer.
        refers: G makes images of a reference batch in every pass, before all others.
    """

    make: Callable[[int, bool, int], nn.Module]
    refers: bool = False


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalisation whose gain and bias depend on a condition: norm(x) (1 + gain) + bias.

    `make_map(channels)` builds the two maps condition -> [N, C]: linear maps of a shared embedding
    (BigGAN), or class tables of the layer's own (SAGAN, SNGAN). De Vries et al. 2017. `make_norm`
    builds what normalises x. Shapes: x [N, C, H, W], condition as the maps take it.
    """

    def __init__(
        self,
        channels: int,
        make_map: Callable[[int], nn.Module],
        make_norm: MakeNorm = batch_norm,
    ) -> None:
        super().__init__()
        self.norm = make_norm(channels, False)
        self.gain = make_map(channels)
        self.bias = make_map(channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.norm(x, 1 + self.gain(condition), self.bias(condition))


@contextmanager
def standing_statistics(network: nn.Module) -> Iterator[None]:
    """While open, forward passes replace the running statistics of all batch norms by their mean
    over these passes ("standing statistics", Brock et al. 2019). Leaves `network` in
    eval mode. Note that statistics belong to one truncation and to no other.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's cumulative average
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


NORMS: dict[str, Norm] = {
    "batch": Norm(lambda channels, affine, _: batch_norm(channels, affine)),
    "virtual_batch": Norm(
        lambda channels, affine, reference: VirtualBatchNorm2d(channels, reference, affine),
        refers=True,
    ),
}
