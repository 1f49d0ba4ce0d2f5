"""Batch normalisation over replicas, on a condition, and standing statistics."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from biggan_sn.nn.norm import (
    BatchNorm2d,
    ConditionalBatchNorm2d,
    settle_statistics,
    share_statistics,
    standing_statistics,
)
from biggan_sn.nn.replicas import plan_sharing


def batch(images=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(images, 3, 4, 5, dtype=dtype, generator=generator) * 2 + 30


def derivatives(norm, x):
    """Output, first and second derivative of a function of it, and the running statistics."""
    x = x.clone().requires_grad_()
    out = norm(x)
    (first,) = torch.autograd.grad(out.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return out.detach(), first.detach(), second, norm.running_mean, norm.running_var


def _replica(rank, rendezvous, results, together, device):
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=4)
    norm = BatchNorm2d(3).to(device, torch.float64)
    share_statistics(norm, [2, 4], together, 4)
    mine = batch(8)[2 * rank : 2 * rank + 2].to(device)
    found = derivatives(norm, mine)
    settle_statistics(norm)
    with pytest.raises(ValueError, match="a batch of 1 images, where every process must have 2 or"):
        norm(mine[:1])
    kept = [tensor.cpu() for tensor in (*found[:3], norm.running_mean, norm.running_var)]
    torch.save(kept, f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("together", [0, 4, 2, 1])
def test_four_replicas_equal_one_process_on_the_joined_batch(tmp_path, together, device):
    """All eight images in one, four of two replicas each, each replica alone, and each image."""
    mp.spawn(_replica, (f"file://{tmp_path}/meet", str(tmp_path), together, device), nprocs=4)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(4)]
    groups = [derivatives(nn.BatchNorm2d(3).double(), x) for x in batch(8).split(together or 8)]
    for number in range(3):
        found = torch.cat([part[number] for part in parts])
        wanted = torch.cat([group[number] for group in groups])
        assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()
    for number in (3, 4):  # running mean and variance: the mean over the groups, everywhere
        wanted = torch.stack([group[number] for group in groups]).mean(0)
        torch.testing.assert_close(parts[0][number], wanted)
        assert all(torch.equal(part[number], parts[0][number]) for part in parts)


@pytest.mark.parametrize("together", [1, 2, 4, 8])
def test_parts_of_a_batch_have_statistics_of_their_own(together):
    norm = BatchNorm2d(3).double()
    share_statistics(norm, [8], together, 1)
    found = derivatives(norm, batch(8).contiguous(memory_format=torch.channels_last))
    groups = [derivatives(nn.BatchNorm2d(3).double(), x) for x in batch(8).split(together)]
    for number in range(3):
        wanted = torch.cat([group[number] for group in groups])
        assert (found[number] - wanted).abs().max() <= 1e-10 * wanted.abs().max()
    for number in (3, 4):
        wanted = torch.stack([group[number] for group in groups]).mean(0)
        torch.testing.assert_close(found[number], wanted)


def test_only_training_asks_for_the_size_of_a_batch():
    norm = BatchNorm2d(3).double()
    share_statistics(norm, [4], 2, 1)
    with pytest.raises(ValueError, match="a batch of 6 images, where every process must have 4;"):
        norm(batch())
    assert norm.eval()(batch()).shape == batch().shape


@pytest.mark.parametrize(
    ("here", "together", "ranks"), [(4, 3, 4), (4, 12, 2), (4, 32, 4), (6, 4, 2)]
)
def test_images_that_cannot_be_joined_are_refused(here, together, ranks):
    with pytest.raises(ValueError, match=f"model.norm_batch {together} does not fit"):
        plan_sharing(here, together, ranks)


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
