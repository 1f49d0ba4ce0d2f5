"""The step of the game: who moves when, what sees what, and that precision is what it says."""

from dataclasses import replace

import pytest
import torch

from biggan_sn.config import (
    AugmentConfig,
    EMAConfig,
    LipschitzConfig,
    LrDecayConfig,
    PlayerConfig,
    RegularizersConfig,
    SpectrumConfig,
)
from biggan_sn.data.augment import AUGMENTATIONS
from biggan_sn.data.loader import Batch, Loader, open_dataset
from biggan_sn.losses.objectives import OBJECTIVES
from biggan_sn.losses.penalties import PENALTIES
from biggan_sn.losses.regularizers import REGULARIZERS
from biggan_sn.models.bound import estimate_bound
from biggan_sn.models.zoo import ARCHITECTURES
from biggan_sn.nn.lipschitz import LIPSCHITZ
from biggan_sn.training.build import build, check
from biggan_sn.training.world import World

FOR_BOTH = [name for name, row in LIPSCHITZ.items() if not row.output]


def whole(config):
    """The same run without microbatches."""
    side = PlayerConfig(lr=1e-3)
    return replace(config, generator=side, discriminator=side)


def ready(config):
    step = build(config, World())
    loader = Loader(open_dataset(config.data), config.data, config.seed, torch.device("cpu"))
    reals = loader.batches(0, config.batch_size, 0, 1, step.d.microbatch)
    return step, reals


def weights(network):
    return [p.detach().clone() for p in network.parameters()]


def moved(before, network):
    return [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]


def test_both_players_move_and_every_weight_of_theirs(small_config):
    step, reals = ready(small_config)
    before = {side: weights(getattr(step, side).network) for side in "gd"}
    for number in range(2):
        step(number, reals)
    for side in "gd":
        network = getattr(step, side).network
        still = [
            name
            for (name, _), changed in zip(
                network.named_parameters(), moved(before[side], network), strict=True
            )
            if not changed
        ]
        # gamma 0 keeps gradients from the maps inside attention in the first step only
        assert still == [], still


def test_d_plays_d_steps_turns_before_g_plays_one(small_config):
    step, reals = ready(replace(whole(small_config), d_steps=3))
    order = []
    for side in "gd":
        optimizer = getattr(step, side).optimizer
        optimizer.register_step_pre_hook(lambda *_, side=side: order.append(side))
    step(0, reals)
    assert order == ["d", "d", "d", "g"]


def test_no_turn_leaves_gradients_on_the_other_player(small_config):
    step, reals = ready(whole(small_config))
    step(0, reals)
    sums = [p.grad.clone() for p in step.d.trainable]
    with step.g.turn():
        for share in step.g.microbatches():
            (logits,) = step.judge(step.d.network, step.sample(step.g.model, 0, 2, share))
            step.g.descend(logits.mean())
    assert all(torch.equal(p.grad, s) for p, s in zip(step.d.trainable, sums, strict=True))


def test_every_turn_draws_latents_of_its_own(small_config):
    step, _ = ready(whole(small_config))
    share = range(4)
    draws = [
        step.sample(step.g.network, number, turn, share).images.detach()
        for number in range(2)
        for turn in range(3)
    ]
    for i, one in enumerate(draws):
        for other in draws[i + 1 :]:
            assert not torch.equal(one, other)


def test_sigmas_follow_the_weights(small_config):
    step, reals = ready(whole(small_config))
    for number in range(2):
        step(number, reals)
    for network in (step.g.network, step.d.network):
        for name, buffer in network.named_buffers():
            if name.endswith(".u"):
                assert abs(buffer.norm() - 1) < 1e-5, name


@pytest.mark.parametrize("name", PENALTIES)
def test_penalty_is_lazy_and_as_strong(small_config, name):
    config = replace(whole(small_config), penalties={name: 0.7}, penalty_every=3)
    step, reals = ready(config)
    once = build(replace(config, penalty_every=1), World())
    real = next(reals)
    for number in range(2):  # of two turns each
        for turn in range(2):
            fake = step.sample(step.g.network, number, turn, range(4))
            lazy = step.penalize(real, fake, number, turn, range(4))
            if 2 * number + turn in {0, 3}:
                torch.testing.assert_close(
                    lazy, 3 * once.penalize(real, fake, number, turn, range(4))
                )
                assert lazy > 0
            else:
                assert lazy == 0


@pytest.mark.parametrize(("start", "end", "share"), [(0, 0, 1), (0, 4, 1 / 4), (2, 6, 3 / 4)])
def test_rates_fall_along_a_line(small_config, start, end, share):
    """Adam's first update moves every weight by its rate, along the sign of the gradient."""
    sides = {
        "generator": PlayerConfig(lr=1e-3, eps=1e-30),
        "discriminator": PlayerConfig(lr=4e-3, eps=1e-30),
    }
    config = replace(small_config, **sides, d_steps=1, lr_decay=LrDecayConfig(start, end), steps=4)
    step, reals = ready(config)
    before = [p.detach().clone() for p in (*step.g.trainable, *step.d.trainable)]
    step(3, reals)
    found = [
        (p.detach() - b).abs().max().item()
        for b, p in zip(before, (*step.g.trainable, *step.d.trainable), strict=True)
    ]
    for player, rate in ((step.g, 1e-3), (step.d, 4e-3)):
        moved, found = found[: len(player.trainable)], found[len(player.trainable) :]
        assert max(moved) == pytest.approx(share * rate, rel=1e-3)
        assert player.rate == pytest.approx(share * rate)


def test_what_is_logged_is_the_mean_over_the_step(small_config):
    step, reals = ready(small_config)
    scalars = step(0, reals)
    assert list(scalars) == ["d_loss", "d_real", "d_fake", "d_penalty", "g_loss", "g_regularizer"]
    assert all(value.shape == () and torch.isfinite(value) for value in scalars.values())
    assert scalars["d_penalty"] > 0
    plain, reals = ready(replace(small_config, penalties={}, regularizers=RegularizersConfig()))
    assert list(plain(0, reals)) == ["d_loss", "d_real", "d_fake", "g_loss"]


def test_what_is_logged_of_a_term_does_not_hang_on_microbatches(small_config):
    terms = RegularizersConfig({"orthogonal": 1e-2}, {"orthonormal": 1e-2})
    logged = []
    for microbatch in (1, 4):
        side = PlayerConfig(lr=1e-3, microbatch=microbatch)
        config = replace(small_config, generator=side, discriminator=side, regularizers=terms)
        step, reals = ready(config)
        expected = step.g_regularizer(step.g.network), step.d_regularizer(step.d.network)
        scalars = step(0, reals)
        torch.testing.assert_close(scalars["g_regularizer"], expected[0])
        logged.append(scalars["d_regularizer"])
    torch.testing.assert_close(*logged)


def test_a_deeper_search_than_asked_for_but_no_shallower(small_config):
    depths = {}
    for rows in ((), ("sigma0_clamp",)):
        for depth in (1, 5):
            config = replace(
                small_config,
                lipschitz=LipschitzConfig(rows, ()),
                spectrum=SpectrumConfig(depth=depth),
            )
            depths[rows, depth] = build(config, World()).g_constraint.spectrum.depth
    assert list(depths.values()) == [1, 5, 3, 5]


@pytest.mark.parametrize("row", ["spectral_norm", "torch_spectral_norm", "conv_spectral_norm"])
def test_the_bound_of_d_is_measured_without_a_trace(small_config, row):
    config = replace(small_config, lipschitz=LipschitzConfig((row,), (row,)))
    step, _ = ready(config)
    before = {name: value.clone() for name, value in step.d.network.state_dict().items()}
    assert estimate_bound(step.d.network).total > 0
    assert step.d.network.training
    for name, value in step.d.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_ema_copies_until_its_start(small_config):
    config = replace(whole(small_config), ema=EMAConfig(decay=0.9, start=2))
    step, reals = ready(config)
    for number in range(3):
        step(number, reals)
        same = all(
            torch.equal(a, b)
            for a, b in zip(step.ema.network.parameters(), step.g.network.parameters(), strict=True)
        )
        assert same == (number < 2)


def test_bf16_computes_near_fp32_and_keeps_weights_and_logits_in_it(small_config):
    losses = {}
    for precision in ("fp32", "bf16"):
        step, reals = ready(replace(whole(small_config), precision=precision))
        real = next(reals)
        fake = step.sample(step.g.network, 0, 0, range(4))
        logits = step.judge(step.d.network, real, fake)
        assert all(part.dtype == torch.float32 for part in (*logits, fake.images))
        losses[precision] = step.objective.d_loss(*logits)
        losses[precision] += step.penalize(real, fake, 0, 0, range(4))
        step(0, reals)
        tensors = [*step.g.network.parameters(), *step.d.network.parameters()]
        assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in tensors)
    torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=0.1, atol=0.1)
    assert not torch.equal(losses["bf16"], losses["fp32"]), "bf16 was really used"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_in_half_precision_are_near_those_in_fp32(small_config, name, precision):
    found = {}
    for chosen in ("fp32", precision):
        change = {"penalties": {name: 1.0}, "precision": chosen}
        step, reals = ready(replace(whole(small_config), **change))
        fake = step.sample(step.g.network, 0, 0, range(4))
        value = step.penalize(next(reals), fake, 0, 0, range(4))
        assert value.dtype == torch.float32
        found[chosen] = value.item()
        scalars = step(0, reals)
        assert all(torch.isfinite(scalar) for scalar in scalars.values())
        assert all(torch.isfinite(p).all() for p in step.d.network.parameters())
    assert found[precision] == pytest.approx(found["fp32"], rel=0.15)
    assert found[precision] != found["fp32"]


@pytest.mark.parametrize(("d", "g"), [(4, 4), (2, 4), (4, 2), (1, 2)])
def test_g_meets_the_real_images_of_d_s_last_turn_at_its_own_positions(small_config, d, g):
    """Whatever the microbatches; and no objective that has no use for them keeps any."""
    sides = (PlayerConfig(lr=1e-3, microbatch=images) for images in (g, d))
    config = replace(small_config, objective="relativistic_paired_hinge", d_steps=2)
    config = replace(config, **dict(zip(("generator", "discriminator"), sides, strict=True)))
    step, reals = ready(config)
    handed, judged = [], []

    def watched():
        for real in reals:
            handed.append(real)
            yield real

    judge = step.judge
    step.judge = lambda network, *batches: judged.append(batches) or judge(network, *batches)
    for number in range(2):
        handed.clear(), judged.clear()
        step(number, watched())
        assert len(handed) == 2 * 4 // d, "G takes none of its own"
        last = Batch(
            torch.cat([real.images for real in handed[4 // d :]]),
            torch.cat([real.labels for real in handed[4 // d :]]),
        )
        met = [batches[0] for batches in judged if not batches[0].images.requires_grad][-4 // g :]
        assert torch.equal(torch.cat([real.images for real in met]), last.images)
        assert torch.equal(torch.cat([real.labels for real in met]), last.labels)
    plain, reals = ready(replace(config, objective="hinge"))
    plain.shown.keep = None
    plain(0, reals)


@pytest.mark.parametrize(
    "change",
    [
        *({"objective": name} for name in OBJECTIVES),
        *({"objective": n, "fgan_saturating": True} for n, r in OBJECTIVES.items() if r.saturating),
        *({"objective": n, "real_label": 0.9} for n, row in OBJECTIVES.items() if row.smoothed),
        *({"penalties": {name: 1.0}} for name in PENALTIES),
        *({"regularizers": RegularizersConfig({n: 1e-3}, {n: 1e-3})} for n in REGULARIZERS),
        *({"lipschitz": LipschitzConfig((name,), ())} for name in FOR_BOTH),
        *({"lipschitz": LipschitzConfig((), (name,))} for name in LIPSCHITZ),
        *({"architecture": name} for name in ARCHITECTURES),
        *({"augment": AugmentConfig((name,), 0.8)} for name in AUGMENTATIONS),
    ],
    ids=str,
)
def test_every_row_of_every_table_trains(small_config, change):
    config = whole(small_config)
    if name := change.get("architecture"):
        model = {"name": name, "channels": 4, "shared_dim": None, "generator_attention": ()}
        model = replace(config.model, **model)
        config = replace(config, model=model)
    else:
        config = replace(config, **change)
    step, reals = ready(config)
    before = weights(step.g.network), weights(step.d.network)
    scalars = step(0, reals)
    assert all(torch.isfinite(value) for value in scalars.values())
    assert any(moved(before[0], step.g.network))
    assert any(moved(before[1], step.d.network))


@pytest.mark.parametrize(
    "held",
    [
        *({"lipschitz": LipschitzConfig((), (name,))} for name in LIPSCHITZ),
        *({"penalties": {name: 10.0}} for name in PENALTIES),
        {"regularizers": RegularizersConfig({}, {"orthonormal": 0.1})},
    ],
    ids=str,
)
def test_a_wasserstein_d_is_held_by_anything_but_not_by_nothing(small_config, held):
    nothing = {
        "lipschitz": LipschitzConfig((), ()),
        "penalties": {"r1": 0.0},
        "regularizers": RegularizersConfig({"orthonormal": 0.1}, {}),
    }
    config = replace(small_config, objective="wgan", **nothing)
    with pytest.raises(ValueError, match=r"^objective wgan: nothing keeps D Lipschitz"):
        check(config, 1)
    check(replace(config, **held), 1)
    check(replace(config, objective="fgan_kl"), 1)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "change"),
    [
        *((precision, {}) for precision in ("fp32", "bf16", "fp16")),
        *(("fp32", {"penalties": {name: 0.1}}) for name in PENALTIES),
        ("fp32", {"objective": "relativistic_average_nonsaturating"}),
    ],
    ids=str,
)
def test_cuda_takes_the_same_path(small_config, precision, change):
    config = replace(whole(small_config), precision=precision, **change)
    found = {}
    for device in ("cpu", "cuda"):
        step = build(config, World(device=torch.device(device)))
        loader = Loader(open_dataset(config.data), config.data, 0, torch.device(device))
        reals = loader.batches(0, config.batch_size, 0, 1, step.d.microbatch)
        scalars = step(0, reals)
        assert {value.device.type for value in scalars.values()} == {device}, "one transfer"
        found[device] = {k: v.cpu() for k, v in scalars.items()}
        loader.close()
    rtol = 1e-2 if precision == "fp32" else 0.2
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=rtol, atol=rtol)


@pytest.mark.gpu
def test_resume_on_cuda_continues_near_exactly(small_config, tmp_path):
    """Not to the last bit: cuDNN may choose other algorithms, whose sums round otherwise."""
    from biggan_sn.checkpoint import Checkpoints, load_tensors
    from biggan_sn.training.trainer import Trainer

    world = World(device=torch.device("cuda"))
    small_config = replace(small_config, precision="fp32")
    for folder, ends in (("straight", (6,)), ("stopped", (2, 4, 6))):
        for steps in ends:
            Trainer(replace(small_config, steps=steps), tmp_path / folder, world).run()
    found = [
        load_tensors(Checkpoints(tmp_path / folder / "checkpoints").newest(), "ema")
        for folder in ("straight", "stopped")
    ]
    torch.testing.assert_close(*found, rtol=1e-2, atol=1e-3)
