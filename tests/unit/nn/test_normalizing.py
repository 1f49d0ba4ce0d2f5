"""Normalisation with gain and bias as one function, against the formula operation by operation."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from biggan_sn.nn import normalizing
from biggan_sn.nn.norm import BatchNorm2d, ConditionalBatchNorm2d, share_statistics
from biggan_sn.nn.normalizing import Running, normalize
from biggan_sn.nn.replicas import Sharing

EPS = 1e-3
WHOLE = Sharing(1, None)
LAYOUTS = {"rows": torch.contiguous_format, "channels_last": torch.channels_last}


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inputs(images=6, conditional=True, layout=torch.contiguous_format, mean=30.0):
    """x, gain, bias, all with gradients, and a gradient of the output."""
    rows = (images, 3) if conditional else (3,)
    x = (2 * draw(images, 3, 4, 5) + mean).contiguous(memory_format=layout)
    given = [x, 1 + draw(*rows, seed=1), draw(*rows, seed=2)]
    return *(t.requires_grad_() for t in given), draw(images, 3, 4, 5, seed=3)


def running(dtype=torch.float64):
    return Running(torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype), 0.1)


def truth(x, gain, bias, parts=1):
    """The definition, part by part, from operations of torch."""
    out = []
    rows = [t.expand(len(x), -1) for t in (gain, bias)]
    for part, factor, offset in zip(*(t.chunk(parts) for t in (x, *rows)), strict=True):
        centred = part - part.mean((0, 2, 3), keepdim=True)
        root = (centred.square().mean((0, 2, 3), keepdim=True) + EPS).sqrt()
        out.append(centred / root * factor[:, :, None, None] + offset[:, :, None, None])
    return torch.cat(out)


def close(found, wanted, tolerance=1e-10):
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("parts", [1, 2, 6])
@pytest.mark.parametrize("conditional", [True, False], ids=["conditional", "affine"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_output_and_gradients_are_those_of_the_formula(layout, conditional, parts):
    *given, g = inputs(6, conditional, layout)
    out = normalize(*given, running(), EPS, Sharing(parts, None))
    wanted = truth(*given, parts)
    assert out.is_contiguous(memory_format=layout)
    close([out], [wanted])
    found = torch.autograd.grad(out, given, g)
    assert found[0].is_contiguous(memory_format=layout)
    close(found, torch.autograd.grad(wanted, given, g))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("conditional", [True, False], ids=["conditional", "affine"])
def test_first_and_second_derivatives_are_those_of_differences(conditional, parts):
    rows = (4, 2) if conditional else (2,)
    given = [draw(4, 2, 2, 1), draw(*rows, seed=1), draw(*rows, seed=2)]
    given = [tensor.requires_grad_() for tensor in given]
    state = Running(torch.zeros(2).double(), torch.ones(2).double(), 0.1)

    def function(x, gain, bias):
        return normalize(x, gain, bias, state, EPS, Sharing(parts, None))

    assert gradcheck(function, given)
    assert gradgradcheck(function, given)


def test_gradients_are_the_same_with_a_graph_of_their_own():
    *given, g = inputs()
    for needed in ([0], [1], [2], [0, 2]):
        wanted = [t for i, t in enumerate(given) if i in needed]
        frozen = [t if i in needed else t.detach() for i, t in enumerate(given)]
        out = normalize(*frozen, running(), EPS)
        plain = torch.autograd.grad(out, wanted, g, retain_graph=True)
        close(plain, torch.autograd.grad(out, wanted, g, create_graph=True))


def test_hooks_see_one_gradient():
    x, gain, bias, g = inputs()
    seen = []
    out = normalize(x, gain, bias, running(), EPS)
    x.register_hook(seen.append)
    torch.autograd.grad(out, x, g, create_graph=True)
    assert len(seen) == 1


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_statistics_of_half_precision_are_fp32(layout, dtype, parts):
    """Ten standard deviations from zero the squares of halves say nothing of the variance."""
    x = (0.5 * draw(8, 3, 16, 16) + torch.tensor([5.0, -20, 0])[:, None, None]).to(dtype)
    x = x.contiguous(memory_format=layout).requires_grad_()
    gain, bias = (draw(8, 3, seed=n).float().requires_grad_() for n in (1, 2))
    g = draw(8, 3, 16, 16, seed=3).to(dtype)
    state = running(torch.float32)
    out = normalize(x, gain, bias, state, EPS, Sharing(parts, None))
    assert out.dtype == dtype
    exact = [t.detach().double().requires_grad_() for t in (x, gain, bias)]
    wanted = truth(*exact, parts)
    torch.testing.assert_close(out.double(), wanted, rtol=2**-7, atol=2**-6)
    found = torch.autograd.grad(out, (x, gain, bias), g)
    assert [t.dtype for t in found] == [dtype, torch.float32, torch.float32]
    close(found, torch.autograd.grad(wanted, exact, g.double()), 0.02)
    means = torch.stack([part.double().mean((0, 2, 3)) for part in x.detach().chunk(parts)])
    torch.testing.assert_close(state.mean.double(), 0.1 * means.mean(0), rtol=1e-5, atol=1e-6)
    spread = [part.double().transpose(0, 1).flatten(1).var(1) for part in x.detach().chunk(parts)]
    wanted_variance = 0.9 + 0.1 * torch.stack(spread).mean(0)
    torch.testing.assert_close(state.variance.double(), wanted_variance, rtol=1e-5, atol=0)


def test_autocast_changes_nothing_within():
    """The maps of a condition come in half precision, the input as it is."""
    x, gain, bias, g = (t.detach().float() for t in inputs())
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = normalize(x, gain, bias, running(torch.float32), EPS)
        (found,) = torch.autograd.grad(out, x, g, create_graph=True)
    plain = normalize(x, gain, bias, running(torch.float32), EPS)
    assert torch.equal(out, plain)
    (wanted,) = torch.autograd.grad(plain, x, g, create_graph=True)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_running_statistics_are_torchs_to_the_last_bit(momentum, dtype):
    ours, theirs = (kind(3, affine=False, momentum=momentum) for kind in (BatchNorm2d, plain_norm))
    rows = torch.ones(6, 3)
    for seed in range(3):
        x = draw(6, 3, 8, 8, seed=seed).to(dtype) + seed
        torch.testing.assert_close(ours(x, rows, 0 * rows), theirs(x))
        for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
            assert torch.equal(one, other)


def plain_norm(channels, **options):
    return nn.BatchNorm2d(channels, **options)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_parts_move_running_statistics_as_batches_would_on_average(momentum):
    norm = BatchNorm2d(3, affine=False, momentum=momentum).double()
    share_statistics(norm, [6], 3, 1)
    groups = [plain_norm(3, affine=False, momentum=momentum).double() for _ in range(2)]
    for _ in range(2):
        x, *_ = inputs()
        close([norm(x)], [torch.cat([g(part) for g, part in zip(groups, x.chunk(2), strict=True)])])
    assert norm.num_batches_tracked == 2
    close([norm.running_mean], [(groups[0].running_mean + groups[1].running_mean) / 2])
    close([norm.running_var], [(groups[0].running_var + groups[1].running_var) / 2])


@pytest.mark.parametrize("parts", [1, 2])
def test_only_the_input_is_kept(parts):
    norm = ConditionalBatchNorm2d(16, lambda channels: nn.Embedding(4, channels))
    share_statistics(norm, [8], 8 // parts, 1)
    x = draw(8, 16, 32, 32, dtype=torch.float32).bfloat16().requires_grad_()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = norm(x, torch.arange(8) % 4)
    assert out.dtype == x.dtype
    whole = kept.pop(x.untyped_storage().data_ptr())
    assert whole == 2 * x.numel()
    assert sum(kept.values()) <= 4 * 8 * 8 * 16  # a few [N, C]


def test_evaluation_takes_the_running_statistics():
    norm = ConditionalBatchNorm2d(3, lambda channels: nn.Embedding(4, channels)).double()
    share_statistics(norm, [6], 3, 1)
    x, *_ = inputs()
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    norm(x, y)
    state = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    assert sorted(state) == [
        "bias.weight",
        "gain.weight",
        "norm.num_batches_tracked",
        "norm.running_mean",
        "norm.running_var",
    ]
    mean, variance = (state[f"norm.running_{n}"][:, None, None] for n in ("mean", "var"))
    gain, bias = (state[f"{n}.weight"][y][:, :, None, None] for n in ("gain", "bias"))
    wanted = (x - mean) / (variance + norm.norm.eps).sqrt() * (1 + gain) + bias
    close([norm.eval()(x, y)], [wanted])
    for name, tensor in norm.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_one_number_has_no_statistics():
    norm = ConditionalBatchNorm2d(3, lambda channels: nn.Embedding(4, channels))
    with pytest.raises(ValueError, match=r"images \[1, 3, 1, 1\] have one number for each mean"):
        norm(torch.zeros(1, 3, 1, 1), torch.tensor([0]))
    with pytest.raises(ValueError, match="expected 4D input"):
        norm(torch.zeros(2, 3, 4), torch.tensor([0, 1]))


def _replica(rank, rendezvous, results):
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    messages, send = [], dist.all_reduce
    dist.all_reduce = lambda *args, **options: messages.append(1) or send(*args, **options)
    for conditional in (True, False):
        for layout in LAYOUTS.values():
            x, gain, bias, g = inputs(8, conditional, layout)
            mine = slice(4 * rank, 4 * rank + 4)
            given = [x.detach()[mine].requires_grad_()]
            given += [
                t.detach()[mine if conditional else ...].requires_grad_() for t in (gain, bias)
            ]
            state = running()
            messages.clear()
            out = normalize(*given, state, EPS, Sharing(1, dist.group.WORLD))
            assert len(messages) == 1
            found = torch.autograd.grad(out, given, g[mine], retain_graph=True)
            assert len(messages) == 2  # both sums of the backward pass are one
            with_graph = torch.autograd.grad(out, given, g[mine], create_graph=True)
            close(found, with_graph)
            kept = [out.detach(), *found, state.mean, state.variance]
            torch.save(kept, f"{results}/{conditional}{layout}{rank}.pt")
    x, gain, bias, _ = faint()
    group = Sharing(1, dist.group.WORLD)
    rows = slice(4 * rank, 4 * rank + 4)
    out = normalize(x[rows], gain[rows], bias[rows], running(torch.float32), 1e-5, group)
    torch.save(out, f"{results}/faint{rank}.pt")
    dist.destroy_process_group()


def faint():
    """In fp32, a variance of which the mean square knows nothing."""
    return [t.detach().float() for t in inputs(8, mean=3000.0)]


def test_two_processes_equal_one_in_two_messages(tmp_path):
    mp.spawn(_replica, (f"file://{tmp_path}/meet", str(tmp_path)), nprocs=2)
    for conditional in (True, False):
        for layout in LAYOUTS.values():
            *given, g = inputs(8, conditional, layout)
            halves = [torch.load(tmp_path / f"{conditional}{layout}{rank}.pt") for rank in (0, 1)]
            out = truth(*given)
            d_x, *d_rows = torch.autograd.grad(out, given, g)
            joined = [torch.cat(pair) for pair in zip(*halves, strict=True)]
            close(joined[:2], [out, d_x])
            sums = (
                joined[2:4] if conditional else [a + b for a, b in zip(*halves, strict=True)][2:4]
            )
            close(sums, d_rows)
            alone = running()
            normalize(*given, alone, EPS)
            for half in halves:
                close(half[4:], alone[:2])
    x, gain, bias, _ = faint()
    wanted = normalize(x.double(), gain.double(), bias.double(), running(), 1e-5)
    found = torch.cat([torch.load(tmp_path / f"faint{rank}.pt") for rank in (0, 1)])
    close([found.double()], [wanted], 1e-3)


def test_equal_images_have_no_variance_below_zero(monkeypatch):
    """Sums over 49 processes of one number, divided by 49, are not quite that number."""
    monkeypatch.setattr(dist, "get_world_size", lambda group: 49)
    monkeypatch.setattr(normalizing, "sum_over_replicas", lambda x, group: 49 * x)
    channels = 1e8 + 1e7 * torch.rand(64, generator=torch.Generator().manual_seed(0))
    x = channels[:, None, None].expand(2, 64, 4, 4).contiguous()
    state = Running(torch.zeros(64), torch.ones(64), 0.1)
    gain, bias = torch.ones(64), torch.zeros(64)
    out = normalize(x, gain, bias, state, EPS, Sharing(1, "all"))
    assert out.isfinite().all()
