"""Convolutions joined with the resampling beside them: exact, and cheaper.

A nearest-neighbour doubling or a 2x2 mean is itself a convolution, so it folds into the kernel:
16 products per pixel of the smaller image instead of 36, and the larger image is never stored. A
1x1 convolution commutes with both, and costs a quarter on the smaller image. Every form equals the
two operations in turn, borders and gradients included; the weight and all constraints on it stay
those of the kernel that was asked for.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan_sn.nn.precision import without_autocast

Compute = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # images, kernel, bias -> images

# What one axis of a kernel [3] becomes, by rows: convolved with the box (1, 1), and the two phases
# of a doubling: an odd pixel sees two equal ones first, an even one last.
_BOXED = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])
_PHASES = torch.tensor([[[1.0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]])

_STRIDED = torch.kron(_BOXED, _BOXED) / 4
_TRANSPOSED = torch.kron(_BOXED.flip(0), _BOXED.flip(0))
_INTERLEAVED = torch.cat([torch.kron(row, column) for row in _PHASES for column in _PHASES])


def double(x: Tensor) -> Tensor:
    """Nearest-neighbour doubling: [N, C, H, W] -> [N, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def halve(x: Tensor) -> Tensor:
    """2x2 mean: [N, C, 2H, 2W] -> [N, C, H, W]."""
    return F.avg_pool2d(x, 2)


class ResamplingConv2d(nn.Conv2d):
    """A 3x3 or 1x1 convolution after a doubling, or before a 2x2 mean, in the cheapest form.

    Args:
        resampling: double, [N, C, H, W] -> [N, D, 2H, 2W], or halve, [N, C, 2H, 2W] ->
            [N, D, H, W]; a doubling comes first, a mean last.
        in_channels, out_channels: C and D.
        kernel_size: 3, with padding 1, or 1.

    Attributes:
        form: the row of its forms (FORMS) that computes it; empty: the one for the size of each
            batch (RULES).
    """

    def __init__(
        self, resampling: str, in_channels: int, out_channels: int, kernel_size: int
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.resampling = resampling
        self.form = ""

    @property
    def forms(self) -> dict[str, Compute]:
        """All that compute it; the first one is the two operations in turn."""
        return FORMS[self.resampling, self.kernel_size[0]]

    def forward(self, input: Tensor) -> Tensor:
        form = self.form or self.usual_form(input)
        return self.forms[form](input, self.weight, self.bias)

    def usual_form(self, x: Tensor) -> str:
        """The form for a batch of this size, where nobody measured."""
        positions = x.shape[0] * x.shape[2] * x.shape[3]
        positions //= 1 if self.resampling == "double" else 4
        rules = RULES.get(x.device.type, RULES["cuda"])[self.resampling, self.kernel_size[0]]
        return next(form for least, form in rules if positions >= least)


def _double_then_conv(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(double(x), kernel, bias, padding=kernel.shape[-1] // 2)


def _conv_then_halve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    return halve(F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2))


def _conv_then_double(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    return double(F.conv2d(x, kernel, bias))


def _halve_then_conv(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(halve(x), kernel, bias)


def _transposed(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """A transposed 4x4 convolution of stride 2."""
    out_channels, in_channels = kernel.shape[:2]
    # Outputs last, as this convolution wants them: by way of a matrix, for torch is slow to change
    # the order of four dimensions.
    flipped = _Transpose.apply(kernel.permute(0, 2, 3, 1).flatten(1))  # [9 C, D]
    pixels = flipped.view(9, in_channels, out_channels).transpose(0, 1)
    rows = _combine(_TRANSPOSED, pixels).unflatten(1, (4, 4))  # [C, 4, 4, D]
    return F.conv_transpose2d(x, rows.permute(0, 3, 1, 2), bias, stride=2, padding=1)


def _interleaved(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """A 2x2 convolution to 4 D channels, the four phases of each pixel, which are then put beside
    one another: for devices that like neither strides nor transposed convolutions."""
    rows = _combine(_INTERLEAVED, _pixels(kernel)).reshape(
        -1, 2, 2, kernel.shape[1]
    )  # [4 D, 2, 2, C]
    repeated = None if bias is None else bias.repeat_interleave(4)
    phases = F.conv2d(x, rows.permute(0, 3, 1, 2), repeated, padding=1)
    return F.pixel_shuffle(phases, 2)[:, :, 1:-1, 1:-1]  # a border that only half a pixel sees


def _strided(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """A 4x4 convolution of stride 2."""
    rows = _combine(_STRIDED, _pixels(kernel)).unflatten(1, (4, 4))  # [D, 4, 4, C]
    return F.conv2d(x, rows.permute(0, 3, 1, 2), bias, stride=2, padding=1)


def _pixels(kernel: Tensor) -> Tensor:
    """[D, C, 3, 3] -> [D, 9, C]."""
    return kernel.permute(0, 2, 3, 1).flatten(1, 2)


def _combine(matrix: Tensor, pixels: Tensor) -> Tensor:
    """A map [16, 9] of the pixels [D, 9, C] of a kernel: [D, 16, C], channels last as convolutions
    want them. Sums of weights are not for half precision."""
    with without_autocast(pixels.device):
        return torch.matmul(matrix.to(pixels), pixels)


class _Transpose(torch.autograd.Function):
    """A matrix, transposed in memory, and so its gradient."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        return matrix.t().contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Transpose.apply(gradient)


FORMS: dict[tuple[str, int], dict[str, Compute]] = {
    ("double", 3): {
        "plain": _double_then_conv,
        "transposed": _transposed,
        "interleaved": _interleaved,
    },
    ("halve", 3): {"plain": _conv_then_halve, "strided": _strided},
    ("double", 1): {"plain": _double_then_conv, "commuted": _conv_then_double},
    ("halve", 1): {"plain": _conv_then_halve, "commuted": _halve_then_conv},
}

# From how many pixels of the smaller image, over the whole batch, a form pays by rule of thumb:
# on fewer, the larger kernel costs more than it saves.
_COMMUTES = {("double", 1): [(0, "commuted")], ("halve", 1): [(0, "commuted")]}
RULES: dict[str, dict[tuple[str, int], list[tuple[int, str]]]] = {
    "cpu": {
        ("double", 3): [(512, "transposed"), (0, "plain")],
        ("halve", 3): [(512, "strided"), (0, "plain")],
        **_COMMUTES,
    },
    "cuda": {
        ("double", 3): [(1024, "transposed"), (0, "plain")],
        ("halve", 3): [(1024, "strided"), (0, "plain")],
        **_COMMUTES,
    },
}
