"""What stands between the weight that the optimizer moves and the one that a layer uses.

Each is a module on one weight, put there by torch's parametrization. Those that need singular
vectors keep them as buffers, which change in `Constraint` and nowhere else: a forward pass only
reads them. So microbatches, activation checkpointing, extra forwards and reading a weight cannot
change training, as they do where the power iteration runs inside forward.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from biggan_sn.nn.conv_norm import ConvMap, conv_triplet, full_precision
from biggan_sn.nn.matrices import as_matrix, as_weight, irregular_vector
from biggan_sn.nn.precision import at_least_fp32


class SpectralNorm(nn.Module):
    """W / max(sigma, eps), sigma the largest singular value of W as a matrix.

    Args:
        weight: W, for its shape, precision and device.
        eps: smallest sigma that is divided by.
        searches: whether u and v come from the network's spectrum when that is renewed, and not
            from power iteration alone as in Miyato et al. 2018.
    """

    def __init__(self, weight: Tensor, eps: float, searches: bool) -> None:
        super().__init__()
        self.eps = eps
        self.searches = searches
        rows, columns = as_matrix(weight).shape
        self.register_buffer("u", irregular_vector(rows, weight))
        self.register_buffer("v", irregular_vector(columns, weight))
        self.register_buffer("sigma", torch.ones((), dtype=weight.dtype, device=weight.device))
        self._known: _Quotient | None = None

    u: Tensor
    v: Tensor
    sigma: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._divided(weight)
        quotient, sigma = self._quotient(weight)
        return _DivideBySigma.apply(weight, quotient, self.u, self.v, sigma)

    def _divided(self, weight: Tensor) -> Tensor:
        """The same in words that a compiler derives and joins by itself, which knows neither what
        was worked out before nor how to write into a gradient."""
        matrix = as_matrix(weight)
        along = (matrix * self.u[:, None] * self.v).sum()  # as sigma changes with W; is 0 below
        return weight / (self.sigma.clamp_min(self.eps) + (along - along.detach()))

    def _quotient(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """W / sigma, and sigma: worked out once for all passes between two updates. An optimizer
        need not leave a trace on W; sigma is written to after each of its steps."""
        memory = weight.untyped_storage()
        state = (memory._cdata, weight.stride(), weight._version, self.sigma._version)
        known = self._known
        if known is None or known.state != state:
            sigma = self.sigma.clamp_min(self.eps)
            known = self._known = _Quotient(memory, state, weight.detach() / sigma, sigma)
        return known.quotient, known.sigma


class _Quotient(NamedTuple):
    """W / sigma, and which W and sigma that was.

    Args:
        memory: that of W; held, so that no other weight can come to lie there.
        state: where that is, how W lies in it, and how often W and sigma were written to.
    """

    memory: torch.UntypedStorage
    state: tuple[object, ...]
    quotient: Tensor
    sigma: Tensor


class _DivideBySigma(torch.autograd.Function):
    """W / sigma, which is known. Its derivative counts that sigma depends on W:
    (g - <g, W/sigma> u v^T) / sigma, Miyato et al. 2018, eq. 12; exact once u, v have converged.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, quotient: Tensor, u: Tensor, v: Tensor, sigma: Tensor
    ) -> Tensor:
        ctx.save_for_backward(quotient, u, v, sigma)
        return quotient.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        quotient, u, v, sigma = ctx.saved_tensors
        result = torch.div(gradient, sigma, out=torch.empty_like(quotient))  # in the weight's order
        inner = torch.dot(as_matrix(result).reshape(-1), as_matrix(quotient).reshape(-1))
        columns = (inner * u).view(-1, *(1,) * (quotient.dim() - 1))
        result.addcmul_(columns, as_weight(v[None], quotient), value=-1)
        return result, None, None, None, None


class ConvSpectralNorm(nn.Module):
    """gain * W / max(sigma, eps), sigma the norm of the convolution as a map between images.

    Args:
        weight: W [C_out, C_in, kh, kw].
        convolution: the map, with any kernel of that shape.
        gain: the norm that the layer gets.
        eps: smallest sigma that is divided by.

    Each iteration takes the best of DEPTH power iterations together: plain power iteration was 13%
    off on a layer after 600 steps of the digits.
    """

    DEPTH = 4

    def __init__(self, weight: Tensor, convolution: ConvMap, gain: float, eps: float) -> None:
        super().__init__()
        self._geometry = convolution._replace(kernel=weight.new_empty(weight.shape, device="meta"))
        self.gain, self.eps = gain, eps
        self.cost = weight.numel() * convolution.side**2
        rows, columns = convolution.shape
        self.register_buffer("u", irregular_vector(rows, weight))
        self.register_buffer("v", irregular_vector(columns, weight))
        self.register_buffer("sigma", torch.ones((), dtype=weight.dtype, device=weight.device))
        self.register_buffer("slope", torch.zeros_like(weight))

    u: Tensor
    v: Tensor
    sigma: Tensor
    slope: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        sigma = self.sigma.clamp_min(self.eps)
        return _DivideByNorm.apply(weight, self.slope, sigma, self.gain)

    def iterate(self, weight: Tensor, iterations: int) -> None:
        """Iterations through the convolution and its transpose to new u, v and sigma. A kernel
        that is zero or not finite leaves u and v alone."""
        convolution = self._geometry._replace(kernel=at_least_fp32(weight.detach()))
        for _ in range(iterations):
            sigma, u, v = conv_triplet(convolution, self.v[:, None], self.DEPTH)
            self.u.copy_(torch.where(sigma > 0, u.squeeze(1), self.u))
            self.v.copy_(torch.where(sigma > 0, v.squeeze(1), self.v))
        self.sigma.copy_(sigma)

    def renew_slope(self, weight: Tensor) -> None:
        """slope = d sigma / d W = d <u, conv(v)> / d W for the present u and v."""
        kernel = weight.detach().requires_grad_()
        convolution = self._geometry._replace(kernel=at_least_fp32(kernel))
        with full_precision(weight.device), torch.enable_grad():
            sigma = torch.dot(self.u, (convolution @ self.v[:, None]).squeeze(1))
            (slope,) = torch.autograd.grad(sigma, kernel)
        self.slope.copy_(slope)


class _DivideByNorm(torch.autograd.Function):
    """gain * W / sigma, with sigma and its slope d sigma / d W known."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, slope: Tensor, sigma: Tensor, gain: float) -> Tensor:
        ctx.save_for_backward(weight, slope, sigma)
        ctx.gain = gain
        return weight * (gain / sigma)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        weight, slope, sigma = ctx.saved_tensors
        inner = (gradient * weight).sum() / sigma
        result = (gradient - inner * slope) * (ctx.gain / sigma)
        return _laid_out_like(weight, result), None, None, None


class WeightNorm(nn.Module):
    """Every row of W (filter, output, class) divided by its length, so that the squares of the
    singular values sum to C_out: Salimans and Kingma 2016 without the gain, as Miyato et al. 2018
    compare it (section 3)."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        others = tuple(range(1, weight.dim()))
        length = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
        return weight / length.clamp_min(self.eps)


def _laid_out_like(weight: Tensor, gradient: Tensor) -> Tensor:
    """DDP and the fused Adam want one layout."""
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight).copy_(gradient)
