"""Batch normalisation over replicas, on a condition, and standing statistics."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from biggan_sn.nn.norm import BatchNorm2d, ConditionalBatchNorm2d, standing_statistics


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(6, 3, 4, 5, dtype=dtype, generator=generator) * 2 + 30


def derivatives(norm, x):
    """Output, first and second derivative of a function of it, and the running statistics."""
    x = x.clone().requires_grad_()
    out = norm(x)
    (first,) = torch.autograd.grad(out.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return out.detach(), first.detach(), second, norm.running_mean, norm.running_var


def _replica(rank, rendezvous, results):
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    mine = batch()[:2] if rank == 0 else batch()[2:]  # shares of different size
    found = derivatives(BatchNorm2d(3, affine=False).double(), mine)
    standing = BatchNorm2d(3, affine=False, momentum=None).double()
    for scale in (1, 2):
        standing(mine * scale)
    found = (*found, standing.running_mean, standing.running_var)
    torch.save(found, f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_two_replicas_equal_one_process_on_the_joined_batch(tmp_path):
    mp.spawn(_replica, (f"file://{tmp_path}/meet", str(tmp_path)), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole = derivatives(nn.BatchNorm2d(3, affine=False).double(), batch())
    for part in range(3):
        joined = torch.cat([half[part] for half in halves])
        scale = whole[part].abs().max()
        assert (joined - whole[part]).abs().max() <= 1e-11 * scale
    standing = nn.BatchNorm2d(3, affine=False, momentum=None).double()
    for scale in (1, 2):
        standing(batch() * scale)
    statistics = (*whole[3:], standing.running_mean, standing.running_var)
    for half in halves:
        torch.testing.assert_close(half[3:], statistics)


def test_one_process_is_torch():
    ours, theirs = BatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    for one, other in zip(derivatives(ours, batch()), derivatives(theirs, batch()), strict=True):
        assert torch.equal(one, other)


def test_condition_scales_by_one_plus_gain():
    norm = ConditionalBatchNorm2d(3, lambda channels: nn.Embedding(4, channels)).double()
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    out = norm(batch(), y)
    plain = nn.BatchNorm2d(3, affine=False).double()(batch())
    gain, bias = (table(y)[:, :, None, None] for table in (norm.gain, norm.bias))
    torch.testing.assert_close(out, plain * (1 + gain) + bias)
    nn.init.zeros_(norm.gain.weight)
    nn.init.zeros_(norm.bias.weight)
    torch.testing.assert_close(norm(batch(), y), plain)


def test_standing_statistics_are_the_mean_over_the_passes():
    norm = BatchNorm2d(3, affine=False).double()
    norm(batch() * 7)
    parts = batch().split(2)
    with standing_statistics(norm):
        for part in parts:
            norm(part)
    means = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    variances = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in parts]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert not norm.training
    assert norm.momentum == pytest.approx(0.1)
