"""The norm of a convolution as a map between images, with its real padding and stride.

The norm of the kernel as a matrix [C_out, C_in*kh*kw], by which spectral normalisation divides, is
another number: the map's is up to sqrt(kh*kw) times as large, 1.1 to 3 times for trained 3x3
kernels.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan_sn.nn.matrices import irregular_vector
from biggan_sn.nn.precision import at_least_fp32, without_autocast
from biggan_sn.nn.spectral import gram_iteration

DEPTH = 32  # within 0.2% of the norm for random, orthogonal and decaying kernels


class ConvMap(NamedTuple):
    """A convolution as a matrix [C_out*H'*W', C_in*H*W] that is never formed.

    Args:
        kernel: [C_out, C_in, kh, kw].
        side: H = W of the images it is applied to.
        stride, padding: of the convolution.
        transposed: whether this is the transpose.
    """

    kernel: Tensor
    side: int
    stride: int = 1
    padding: int = 0
    transposed: bool = False

    @property
    def side_out(self) -> int:
        """H' = W' of its results."""
        return (self.side + 2 * self.padding - self.kernel.shape[-1]) // self.stride + 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows = self.kernel.shape[0] * self.side_out**2
        columns = self.kernel.shape[1] * self.side**2
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def mT(self) -> "ConvMap":  # noqa: N802 (as torch calls it)
        """The transpose."""
        return self._replace(transposed=not self.transposed)

    def __matmul__(self, block: Tensor) -> Tensor:
        """[columns, width] -> [rows, width]: a batch of `width` images."""
        channels, side = self.kernel.shape[0], self.side_out
        if not self.transposed:
            images = block.mT.reshape(-1, self.kernel.shape[1], self.side, self.side)
            out = F.conv2d(images, self.kernel, None, self.stride, self.padding)
        else:
            images = block.mT.reshape(-1, channels, side, side)
            rest = self.side - ((side - 1) * self.stride - 2 * self.padding + self.kernel.shape[-1])
            out = F.conv_transpose2d(
                images, self.kernel, None, self.stride, self.padding, output_padding=rest
            )
        return out.flatten(1).mT


def conv_map(module: nn.Conv2d, side: int) -> ConvMap:
    """The map of a convolution with its present weight on images of `side` pixels.

    Raises:
        ValueError: a convolution with groups, dilation, other padding than with zeros, or one
            that treats height and width differently.
    """
    geometry = (module.kernel_size, module.stride, module.padding)
    square = all(isinstance(pair, tuple) and pair[0] == pair[1] for pair in geometry)
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    if not square or not plain:
        raise ValueError(f"the norm of such a convolution is not worked out: {module}")
    assert isinstance(module.padding[0], int)
    kernel = at_least_fp32(module.weight.detach())
    return ConvMap(kernel, side, module.stride[0], module.padding[0])


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32, which cuDNN takes for convolutions by default."""
    cudnn = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with without_autocast(device), cudnn:
        yield


class Triplet(NamedTuple):
    """The largest singular value found, and its vectors u [rows, 1] and v [columns, 1]."""

    sigma: Tensor
    u: Tensor
    v: Tensor


@torch.no_grad()
def conv_norm(convolution: ConvMap, depth: int = DEPTH) -> float:
    """The largest singular value of a convolution between images: a Ritz value, never too high.

    Power iteration through the convolution and its transpose, the best of all its iterates taken
    together; costs 2 * depth convolutions of one image. Starts from one and the same image each
    time, so it has no state. nan where the kernel is not finite.
    """
    start = irregular_vector(convolution.shape[1], convolution.kernel)[:, None]
    with full_precision(start.device):
        steps = [(alpha, beta) for alpha, beta, _, _ in _bidiagonalize(convolution, start, depth)]
    return float(_top_of_bidiagonal(steps)[0])


@torch.no_grad()
def conv_triplet(convolution: ConvMap, start: Tensor, depth: int) -> Triplet:
    """The largest singular triplet, found from v = start [columns, 1] in `depth` iterations."""
    with full_precision(start.device):
        steps = list(_bidiagonalize(convolution, start, depth))
        sigma, left, right = _top_of_bidiagonal([(alpha, beta) for alpha, beta, _, _ in steps])
        u = torch.cat([u for _, _, u, _ in steps], 1) @ left.to(start)[:, None]
        v = torch.cat([v for _, _, _, v in steps], 1) @ right.to(start)[:, None]
    return Triplet(sigma.to(start), u, v)


def _bidiagonalize(
    convolution: ConvMap, start: Tensor, depth: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Golub and Kahan 1965: alpha_i, beta_i, u_i, v_i with W v_i = alpha_i u_i + beta_i u_(i-1).
    Without reorthogonalization, which the largest value can do without, it takes the memory of a
    few images."""
    v, _ = _direction(start)
    u, beta = torch.zeros_like(start[:1]), torch.zeros_like(start[0, 0])
    for _ in range(depth):
        u, alpha = _direction(convolution @ v - beta * u)
        yield alpha, beta, u, v
        v, beta = _direction(convolution.mT @ u - alpha * v)


def _direction(column: Tensor) -> tuple[Tensor, Tensor]:
    """A column [n, 1] divided by its length, and that; zero stays zero."""
    length = column.norm()
    return column / torch.where(length == 0, 1.0, length), length


def _top_of_bidiagonal(steps: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular triplet of the matrix with alphas on its diagonal and betas above it,
    on the CPU; nan where it is not finite."""
    alphas, betas = torch.stack([torch.stack(pair) for pair in steps]).double().cpu().unbind(1)
    matrix = alphas.diag() + betas[1:].diag(1)
    if not matrix.isfinite().all():
        return torch.tensor(math.nan), alphas * math.nan, alphas * math.nan
    left, sigmas, right = torch.linalg.svd(matrix)
    return sigmas[0], left[:, 0], right[0]


@torch.no_grad()
def circular_norm(kernel: Tensor, side: int, iterations: int = 10) -> float:
    """An upper bound, at most rank^(1/2^(iterations+1)) too high, of the norm of the convolution
    with circular padding on images [C_in, side, side], `side` at least that of the kernel.

    The Fourier transform turns it to one small matrix [C_out, C_in] per frequency (Sedghi et al.
    2019). With zero padding and any stride, a convolution is a part of the circular one on images
    larger by kernel - 1: its norm is no larger.
    """
    taps = kernel.shape[-2]
    if kernel.shape[-2:] == (1, 1):
        return float(gram_iteration(kernel[..., 0, 0], iterations))
    rows = torch.fft.rfft(kernel.double(), n=side).permute(2, 3, 0, 1)  # [kh, frequency, o, i]
    largest = 0.0
    for frequency in range(side):  # one row of frequencies at a time, for the memory
        turns = torch.arange(taps, device=kernel.device, dtype=torch.float64) * frequency / side
        phases = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
        matrices = (rows * phases[:, None, None, None]).sum(0)
        largest = max(largest, float(gram_iteration(matrices, iterations).max()))
    return largest
