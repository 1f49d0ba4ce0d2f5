"""Memory that tensors take, against sums by hand."""

import torch

from biggan_sn.bench.living import Living


def test_what_lives_at_once_is_counted_once():
    before = Living()
    with before:
        pass
    with Living() as living:
        a = torch.ones(500)  # 2000 bytes
        a.mul_(2).view(5, 100)  # no memory of its own
        for _ in range(3):
            torch.ones(1000)  # 4000 bytes, and gone again
    assert living.peak - before.peak == 2000 + 4000


def test_what_was_there_counts_until_it_is_gone():
    there = [torch.ones(100_000)]
    with Living() as living:
        start = living.peak
        there.clear()
        torch.ones(50_000)
    assert living.peak == start


def test_backward_holds_what_it_needs():
    x = torch.ones(1000, requires_grad=True)
    with Living() as living:
        start = living.peak
        y = x.exp()  # is kept for its own derivative
        z = y.sum()
        del y
        (gradient,) = torch.autograd.grad(z, x)
    assert living.peak - start >= 4000 + 4000
    assert gradient.numel() == 1000
