"""The norm of a convolution as a map between images, with its real padding and stride.

The norm of the kernel as a matrix [C_out, C_in*kh*kw], by which spectral normalisation divides, is
another number: the map's is up to sqrt(kh*kw) times as large (Sedghi et al. 2019), 1.1 to 3 times
for trained 3x3 kernels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan_sn.nn.precision import at_least_fp32
from biggan_sn.nn.spectral import block_lanczos, gram_iteration
from biggan_sn.positions import uniform

DEPTH = 24  # within 0.3% of the norm for random, orthogonal and decaying kernels


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


@torch.no_grad()
def conv_norm(convolution: ConvMap, depth: int = DEPTH) -> float:
    """The largest singular value of a convolution between images: a Ritz value, never too high.

    Power iteration through the convolution and its transpose, the best of all its iterates taken
    together (Golub and Kahan 1965); costs 2 * depth convolutions of one image. Starts from one
    and the same image each time, so it has no state. nan where the kernel is not finite.
    """
    rows, columns = convolution.shape
    wide = convolution if rows <= columns else convolution.mT
    start = torch.from_numpy(uniform(0, "conv norm", range(min(rows, columns)), 1) - 0.5)
    device = convolution.kernel.device
    with torch.autocast(device.type, enabled=False):
        sigmas, _, _ = block_lanczos([wide], [start.to(convolution.kernel)], depth)
    return float(sigmas[0, 0])


@torch.no_grad()
def circular_norm(kernel: Tensor, side: int, iterations: int = 10) -> float:
    """An upper bound, at most rank^(1/2^(iterations+1)) too high, of the norm of the convolution
    with circular padding on images [C_in, side, side], `side` at least that of the kernel.

    The Fourier transform turns it to one small matrix [C_out, C_in] per frequency (Sedghi et al.
    2019, theorem 6). With zero padding and any stride, a convolution is a part of the circular
    one on images larger by kernel - 1: its norm is no larger.
    """
    spectrum = torch.fft.rfft2(kernel.double(), s=(side, side)).permute(2, 3, 0, 1)
    return float(gram_iteration(spectrum.flatten(0, 1), iterations).max())
