"""Batch normalisation: over all replicas, conditional on the class, and standing statistics."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from biggan_sn.nn.precision import at_least_fp32
from biggan_sn.nn.replicas import num_replicas, sum_over_replicas


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of the joined batch of all processes.

    Equal to one process on that batch: output, first and second derivative. Works on CPU and
    CUDA. Statistics are fp32 or better. Shapes: [N, C, H, W] -> [N, C, H, W].
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or num_replicas() == 1:
            return super().forward(input)
        x = at_least_fp32(input)
        here = x.new_full((1,), x.numel() // x.shape[1])
        total = sum_over_replicas(torch.cat((x.sum((0, 2, 3)), here)))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = x - mean[:, None, None]
        variance = sum_over_replicas(centred.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = (variance + self.eps).rsqrt()
        if not self.affine:
            return (centred * scale[:, None, None]).to(input.dtype)
        scale = scale * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Running statistics as torch keeps them; `momentum` None is the plain mean of all."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        if self.momentum is None:
            weight = 1.0 / self.num_batches_tracked.to(mean.dtype)
            self.running_mean.lerp_(mean, weight)
            self.running_var.lerp_(variance, weight)
        else:
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalisation whose gain and bias depend on a condition: norm(x) (1 + gain) + bias.

    `make_map(channels)` builds the two maps condition -> [N, C]: linear maps of a shared embedding
    (BigGAN), or class tables of the layer's own (SAGAN, SNGAN). De Vries et al. 2017.
    Shapes: x [N, C, H, W], condition as the maps take it.
    """

    def __init__(self, channels: int, make_map: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels, affine=False)
        self.gain = make_map(channels)
        self.bias = make_map(channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain = 1 + self.gain(condition)[:, :, None, None]
        bias = self.bias(condition)[:, :, None, None]
        return torch.addcmul(bias, self.norm(x), gain)


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
