"""Virtual batch normalisation: statistics of a fixed batch and of the image itself."""

import torch
from torch import Tensor, nn

from biggan_sn.nn.precision import at_least_fp32


class VirtualBatchNorm2d(nn.Module):
    """Normalises each image by the mean and variance of a reference batch together with itself, and
    the reference images by those of their batch alone: Salimans et al. 2016, section 3.5.

    The reference batch goes first in every pass, so that its statistics are those of the weights as
    they are, and gradients pass through them. It costs what so many more images cost: a pass over
    as many as it has takes twice as long at least, and twice the memory. No output depends on the
    other images of a pass, in training or not: nothing is tracked and processes exchange nothing.
    Statistics are fp32 or better. Shapes: [R + N, C, H, W] -> [R + N, C, H, W].

    Args:
        channels: C.
        reference: R, images of the reference batch.
        affine: it has a gain and a bias [C] of its own.
        eps: keeps the root away from 0.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self, channels: int, reference: int, affine: bool = True, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.reference = reference
        self.eps = eps
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)

    def forward(self, x: Tensor, gain: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """With `gain` and `bias` [R + N, C], one for each image: norm(x) * gain + bias."""
        gain = self.weight if gain is None else gain
        bias = self.bias if bias is None else bias
        precise = at_least_fp32(x)
        mean, variance = self._statistics(precise)
        scale = (variance + self.eps).rsqrt()
        scale = scale if gain is None else scale * gain
        shift = -mean * scale if bias is None else bias - mean * scale
        return torch.addcmul(_pixels(shift), precise, _pixels(scale)).to(x.dtype)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [R + N, C] by which each image is normalised."""
        n = self.reference
        variances, means = torch.var_mean(x, (2, 3), correction=0)  # of each image, [R + N, C]
        mean = means[:n].mean(0)
        variance = (variances[:n] + (means[:n] - mean).square()).mean(0)
        joined = (n * mean + means[n:]) / (n + 1)
        joined_variance = (
            n * (variance + (mean - joined).square())
            + variances[n:]
            + (means[n:] - joined).square()
        ) / (n + 1)
        return (
            torch.cat((mean.expand(n, -1), joined)),
            torch.cat((variance.expand(n, -1), joined_variance)),
        )


def _pixels(x: Tensor) -> Tensor:
    """[..., C] -> [..., C, 1, 1]."""
    return x[..., None, None]
