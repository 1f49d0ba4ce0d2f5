"""Convolutions joined with the resampling beside them: exact, and cheaper.

A nearest-neighbour doubling or a 2x2 mean is itself a convolution, so it folds into the kernel:
16 products per pixel of the smaller image instead of 36, and the larger image is never stored.
Equal to the two operations in turn, borders and gradients included; constraints stay defined on
the 3x3 kernel.
"""

from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 8  # on fewer pixels a side, the larger kernel costs more than it saves


def double(x: Tensor) -> Tensor:
    """Nearest-neighbour doubling: [N, C, H, W] -> [N, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def halve(x: Tensor) -> Tensor:
    """2x2 mean: [N, C, 2H, 2W] -> [N, C, H, W]."""
    return F.avg_pool2d(x, 2)


def double_then_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(nearest x2 of x) for a 3x3 `conv` with padding 1: [N, C, H, W] -> [N, D, 2H, 2W].

    As one transposed convolution of stride 2, whose kernel is the flipped 3x3 summed over
    2x2 neighbours.
    """
    if x.shape[-1] < SMALLEST:
        result: Tensor = conv(double(x))
        return result
    kernel = 4 * _mean_of_neighbours(conv.weight.flip(2, 3)).transpose(0, 1)
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


def conv_then_halve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """2x2 mean of conv(x) for a 3x3 `conv` with padding 1: [N, C, 2H, 2W] -> [N, D, H, W].

    As one convolution of stride 2.
    """
    if x.shape[-1] < SMALLEST:
        return halve(conv(x))
    return F.conv2d(x, _mean_of_neighbours(conv.weight), conv.bias, stride=2, padding=1)


def _mean_of_neighbours(kernel: Tensor) -> Tensor:
    """[O, I, 3, 3] -> [O, I, 4, 4]: the 3x3 kernel convolved with a 2x2 box of mean 1."""
    return F.avg_pool2d(F.pad(kernel, (1, 1, 1, 1)), 2, stride=1)
