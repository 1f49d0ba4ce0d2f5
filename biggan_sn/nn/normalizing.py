"""Batch normalisation with a gain and a bias as one function, which keeps its input for the
backward pass and nothing else of that size.

With xhat = (x - mean) * rstd, rstd = 1 / sqrt(variance + eps), and out = xhat * gain + bias, for a
gradient g of out (Ioffe & Szegedy 2015, section 3, in closed form):

    d bias = sum g        d gain = sum g * xhat        (over what shares a gain)
    d x    = rstd * (gain * g - mean(gain * g) - xhat * mean(gain * g * xhat))

where the means are over all that shares statistics. The normalised xhat is worked out again from x.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from biggan_sn.nn.precision import at_least_fp32
from biggan_sn.nn.replicas import ALONE, Sharing, sum_over_replicas


class Running(NamedTuple):
    """Statistics of many batches, which each new one moves in place.

    Args:
        mean, variance: [C]; the variance is that of a sample, as torch keeps it.
        momentum: the weight of a new batch.
    """

    mean: Tensor
    variance: Tensor
    momentum: float


def normalize(
    x: Tensor, gain: Tensor, bias: Tensor, running: Running, eps: float, sharing: Sharing = ALONE
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * gain + bias with the statistics of this batch, in the
    type and the layout of x. All derivatives exist.

    Args:
        x: [N, C, H, W].
        gain: [N, C], one for each image, or [C].
        bias: of the same shape.
        running: is moved by the statistics, once.
        eps: keeps the root away from 0.
        sharing: whose statistics are one.

    Raises:
        ValueError: statistics of a single number.
    """
    if _count(x, sharing) == 1:
        raise ValueError(f"batch norm: images {[*x.shape]} have one number for each mean")
    if torch.compiler.is_compiling():  # which derives and joins operations by itself
        return _composed(x, gain, bias, eps, sharing, running)
    return _Normalize.apply(x, gain, bias, running, eps, sharing)


class _Normalize(torch.autograd.Function):
    """See the head of this file."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        bias: Tensor,
        running: Running,
        eps: float,
        sharing: Sharing,
    ) -> Tensor:
        forward = _forward_alone if sharing == ALONE else _forward_shared
        out, mean, rstd = forward(x, gain, bias, running, eps, sharing)
        ctx.save_for_backward(x, gain, bias, mean, rstd)
        ctx.eps, ctx.sharing = eps, sharing
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants derivatives of what is returned here
            inputs, needed = (x, gain, bias), ctx.needs_input_grad[:3]
            found = _differentiable(inputs, needed, gradient, ctx.eps, ctx.sharing)
        elif ctx.sharing == ALONE:
            found = _backward_alone(gradient, x, gain, bias, mean, rstd, ctx.eps)
        else:
            found = _backward_shared(gradient, x, gain, bias, mean, rstd, ctx.sharing)
        return (*found, None, None, None)


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]  # of x, gain and bias


def _forward_alone(
    x: Tensor, gain: Tensor, bias: Tensor, running: Running, eps: float, _: Sharing
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, mean [C] and rstd [C]. The running statistics are moved by torch itself."""
    out, mean, rstd = torch.native_batch_norm(
        x, None, None, running.mean, running.variance, True, running.momentum, eps
    )
    torch.addcmul(_pixels(bias), out, _pixels(gain), out=out)
    return out, mean, rstd


def _backward_alone(
    g: Tensor, x: Tensor, gain: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, eps: float
) -> Gradients:
    """With torch's own kernels where it has them: few launches, and fast on CPUs."""
    work = torch.native_batch_norm(x, None, None, mean, rstd.pow(-2), False, 0.0, 0.0)[0]  # xhat
    d_gain = _sum_pixels(work.mul_(g), gain)
    d_bias = _sum_pixels(g, bias)
    torch.mul(g, _pixels(gain), out=work)
    d_x = torch.ops.aten.native_batch_norm_backward(
        work, x, None, None, None, mean, rstd, True, eps, [True, False, False]
    )[0]
    return d_x, d_gain, d_bias


def _pixels(x: Tensor) -> Tensor:
    """[..., C] -> [..., C, 1, 1]."""
    return x[..., None, None]


def _sum_pixels(x: Tensor, like: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C], or [C] if `like` has that shape; in its type."""
    return x.sum((2, 3) if like.dim() == 2 else (0, 2, 3), dtype=like.dtype)


def _forward_shared(
    x: Tensor, gain: Tensor, bias: Tensor, running: Running, eps: float, sharing: Sharing
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, mean [parts, C] and rstd [parts, C]."""
    mean, variance, count = _statistics(x, sharing)
    _move(running, mean, variance, count)
    rstd = (variance + eps).rsqrt()
    scale = _in_parts(gain, sharing) * rstd[:, None]
    shift = torch.addcmul(_in_parts(bias, sharing), mean[:, None], scale, value=-1)
    return _affine(x, scale, shift), mean, rstd


def _backward_shared(
    g: Tensor, x: Tensor, gain: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, sharing: Sharing
) -> Gradients:
    """In the closed form, after one message with both of its sums."""
    work = _affine(x, rstd[:, None], (-mean * rstd)[:, None]).mul_(g)
    sums = torch.stack(
        [t.sum((2, 3), dtype=mean.dtype).unflatten(0, (len(mean), -1)) for t in (g, work)]
    )  # of g, and of g * xhat: [2, parts, n, C]
    weights = _in_parts(gain, sharing)
    means = (sums * weights).sum(2)  # [2, parts, C]
    if sharing.group is not None:
        means = sum_over_replicas(means, sharing.group)
    means /= -_count(x, sharing)
    slope = means[1] * rstd * rstd
    offset = torch.addcmul(means[0] * rstd, slope, mean, value=-1)
    _affine(x, slope[:, None], offset[:, None], out=work)
    parts = [t.unflatten(0, (len(mean), -1)) for t in (work, g)]
    parts[0].addcmul_(parts[1], _pixels(weights * rstd[:, None]))
    return work, _like(sums[1], gain), _like(sums[0], bias)


def _statistics(x: Tensor, sharing: Sharing) -> tuple[Tensor, Tensor, int]:
    """Mean and variance [parts, C], fp32 or better, and of how many numbers each is."""
    scratch = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    # Running statistics of fp32 are what lets torch return statistics of half precision in fp32.
    found = [
        torch.batch_norm_update_stats(part, scratch, scratch.clone(), 0.0)
        for part in x.chunk(sharing.parts)
    ]
    mean, variance = (torch.stack(column) for column in zip(*found, strict=True))
    count = _count(x, sharing)
    if sharing.group is None:
        return mean, variance, count
    # In double precision the mean of squares can travel in the same message as the mean: what the
    # difference below loses is far beyond the last digit of fp32.
    moments = torch.stack([mean, variance]).double()
    moments[1] += moments[0].square()
    moments = sum_over_replicas(moments, sharing.group) / dist.get_world_size(sharing.group)
    moments[1] -= moments[0].square()
    joined = moments.to(mean.dtype)
    return joined[0], joined[1].clamp_(min=0), count


def _move(running: Running, mean: Tensor, variance: Tensor, count: int) -> None:
    """By the statistics [parts, C] of this batch."""
    running.mean.lerp_(mean.mean(0), running.momentum)
    running.variance.lerp_(variance.mean(0) * (count / (count - 1)), running.momentum)


def _count(x: Tensor, sharing: Sharing) -> int:
    """How many numbers of x have one mean, over all processes that share it."""
    ranks = 1 if sharing.group is None else dist.get_world_size(sharing.group)
    return x.numel() // (x.shape[1] * sharing.parts) * ranks


def _in_parts(rows: Tensor, sharing: Sharing) -> Tensor:
    """[N, C] -> [parts, n, C], and [C] -> [1, 1, C]; fp32 or better."""
    rows = at_least_fp32(rows)
    return rows.unflatten(0, (sharing.parts, -1)) if rows.dim() == 2 else rows[None, None]


def _like(sums: Tensor, parameter: Tensor) -> Tensor:
    """[parts, n, C] -> the shape of the parameter, [N, C] or [C], and its type."""
    found = sums.flatten(0, 1) if parameter.dim() == 2 else sums.sum((0, 1))
    return found.to(parameter.dtype)


def _affine(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """x * scale + shift in one pass, in the type and the layout of x, but computed in the type of
    the others: x [N, C, H, W], scale and shift [parts, n or 1, C] -> [N, C, H, W]."""
    out = torch.empty_like(x) if out is None else out
    parts = [t.unflatten(0, (len(scale), -1)) for t in (x, out)]
    torch.addcmul(_pixels(shift), parts[0], _pixels(scale), out=parts[1])
    return out


def _differentiable(
    inputs: tuple[Tensor, Tensor, Tensor],
    needed: tuple[bool, bool, bool],
    g: Tensor,
    eps: float,
    sharing: Sharing,
) -> Gradients:
    """The gradients that are needed, of x, gain and bias, with a graph of their own: those of the
    same function put together from operations that torch derives as often as it is asked to."""
    x, gain, bias = (tensor.view_as(tensor) for tensor in inputs)  # not the hooks of the inputs
    wanted = [t for t, need in zip((x, gain, bias), needed, strict=True) if need]
    out = _composed(x, gain, bias, eps, sharing)
    found = iter(torch.autograd.grad(out, wanted, g, create_graph=True))
    d_x, d_gain, d_bias = (next(found) if need else None for need in needed)
    return d_x, d_gain, d_bias


def _composed(
    x: Tensor,
    gain: Tensor,
    bias: Tensor,
    eps: float,
    sharing: Sharing,
    running: Running | None = None,
) -> Tensor:
    """What `normalize` returns, operation by operation; moves `running` if it is given."""
    images = at_least_fp32(x).unflatten(0, (sharing.parts, -1))
    count = _count(x, sharing)
    mean = _sum(images, sharing) / count
    centred = images - _pixels(mean[:, None])
    variance = _sum(centred.square(), sharing) / count
    if running is not None:
        _move(running, mean.detach(), variance.detach(), count)
    scale = (variance + eps).rsqrt()[:, None] * _in_parts(gain, sharing)
    out = torch.addcmul(_pixels(_in_parts(bias, sharing)), centred, _pixels(scale))
    return out.flatten(0, 1).to(x.dtype)


def _sum(images: Tensor, sharing: Sharing) -> Tensor:
    """The sum over images and pixels, of every part alone: [parts, n, C, H, W] -> [parts, C]."""
    here = images.sum((1, 3, 4))
    return here if sharing.group is None else sum_over_replicas(here, sharing.group)
