"""ADA: p against a computation by hand, at its door in a step, and where it has no meaning."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from biggan_sn.config import (
    AugmentConfig,
    ConsistencyConfig,
    LeCamConfig,
    LipschitzConfig,
    ModelConfig,
    PlayerConfig,
    TopKConfig,
)
from biggan_sn.data.loader import Batch, Loader, open_dataset
from biggan_sn.losses.divergences import DIVERGENCES
from biggan_sn.losses.objectives import OBJECTIVES
from biggan_sn.models.points import build_point_players
from biggan_sn.training.build import build, check
from biggan_sn.training.door import Adaptive
from biggan_sn.training.world import World

CPU = torch.device("cpu")


def adaptive(undecided=0.0, batch_size=10, shared=lambda x: x, **section):
    values = {"transforms": ("bgc",), "p": 0.0, "target": 0.6, "images": 100, "every": 4}
    return Adaptive(AugmentConfig(**values | section), undecided, batch_size, shared, CPU)


def logits(positive, negative):
    return torch.tensor([0.3] * positive + [-2.0] * negative)


def feed(p, *passes):
    for part in passes:
        p.note(part)
    p.follow()


def test_p_against_a_computation_by_hand():
    """Four updates of ten images move p by 40 / 100, up or down by the sign of r - 0.6."""
    ada = adaptive()
    found = []
    for positive in (10, 10, 8, 9, 8, 8, 8, 8, 9, 8, 8, 8, 0, 0, 0, 0, 10, 10, 10, 10):
        feed(ada, logits(positive, 10 - positive))
        found.append(float(ada.p))
    # Sums of signs: 34 of 40 above 24; 24 of 40, on the target; 26; -40; 40.
    expected = [0.0] * 3 + [0.4] * 8 + [0.8] * 4 + [0.4] * 4 + [0.8]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_p_stays_a_probability():
    ada = adaptive(every=1, images=15)
    for number, p in zip(range(4), (2 / 3, 1, 1, 1), strict=True):
        feed(ada, logits(10, 0))
        assert float(ada.p) == pytest.approx(p), number
    for p in (1 / 3, 0, 0):
        feed(ada, logits(0, 10))
        assert float(ada.p) == pytest.approx(p)


def test_p_begins_where_the_config_says():
    ada = adaptive(p=0.3, every=1)
    assert float(ada.p) == 0.3
    feed(ada, logits(0, 10))
    assert float(ada.p) == pytest.approx(0.2)


def test_signs_count_from_the_logit_of_a_d_that_cannot_tell():
    low, high = adaptive(every=1), adaptive(0.5, every=1)
    for ada in (low, high):
        feed(ada, torch.full((10,), 0.4))
    assert (float(low.p), float(high.p)) == (0.1, 0.0)


def test_passes_and_processes_count_as_one_batch():
    """An update in pieces; and two processes, of which one sees all that is positive."""
    whole, pieces = adaptive(every=1), adaptive(every=1)
    feed(whole, logits(8, 2))
    feed(pieces, logits(5, 0), logits(3, 2))
    assert float(whole.p) == float(pieces.p) == 0.0
    feed(pieces, logits(5, 0), logits(4, 1))
    assert float(pieces.p) == 0.1

    both = torch.tensor(0.5, dtype=torch.float64)
    here = adaptive(every=1, shared=lambda mine: (mine + both) / 2)
    feed(here, logits(9, 1))  # 0.8 here and 0.5 there
    assert float(here.p) == pytest.approx(0.1)


def test_the_state_is_all_of_it():
    one, other = adaptive(), adaptive(p=0.9)
    for _ in range(6):
        feed(one, logits(10, 0))
    other.load_state({name: value.clone() for name, value in one.state().items()})
    for positive in (10, 3, 0, 0, 0, 0):
        feed(one, logits(positive, 10 - positive))
        feed(other, logits(positive, 10 - positive))
        assert torch.equal(one.p, other.p)
    with pytest.raises(ValueError, match="not the state"):
        other.load_state({"p": one.p})


# ---------------------------------------------------------------- the logit of a D that cannot tell


def games():
    """Every objective with such a logit, with every kind of label that it has."""
    for name, row in OBJECTIVES.items():
        if row.undecided is not None:
            yield pytest.param(row, id=name)
            if row.smoothed:
                yield pytest.param(row.smoothed(0.8), id=f"{name}, label 0.8")


@pytest.mark.parametrize("row", [*games()])
def test_where_real_and_fake_are_equally_likely_it_is_the_best_logit(row):
    """Of D's loss with one logit for both; hinge has a stretch of best ones, and this is in it."""

    def loss(x):
        both = torch.tensor([x], dtype=torch.float64)
        return float(row.d_loss(both, both))

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    assert loss(row.undecided) <= best.fun + 1e-12
    flat = abs(loss(0.2) - loss(-0.2)) < 1e-12  # where it says nothing, the middle
    assert row.undecided == 0 if flat else abs(row.undecided - best.x) < 1e-4


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_is_undecided_where_its_bound_is_tight(name):
    """T = f'(p / q) at p = q: Nowozin et al. 2016, eq. 5."""
    row = DIVERGENCES[name]
    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(row.f(one), one)
    found = row.activation(torch.tensor(row.undecided, dtype=torch.float64))
    torch.testing.assert_close(found, slope)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_objectives_with_such_a_logit_take_a_target(small_config, name):
    config = replace(small_config, objective=name, augment=AugmentConfig(("bgc",), 0.0, 0.6))
    if name == "wgan" or name.startswith("relativistic"):
        with pytest.raises(ValueError, match=rf"^augment\.target: under the objective {name}"):
            check(config, 1)
        check(replace(config, augment=AugmentConfig(("bgc",), 0.5)), 1)
    else:
        check(config, 1)


@pytest.mark.parametrize(
    ("change", "section"),
    [
        ({"augment": AugmentConfig(("flip",))}, "augment"),
        ({"consistency": ConsistencyConfig(real=10.0)}, "consistency"),
        ({"consistency": ConsistencyConfig(latent_d=5.0, latent_g=0.5)}, None),
        ({"lecam": LeCamConfig(0.3), "top_k": TopKConfig(0.5)}, None),
    ],
)
def test_points_have_no_transforms(small_config, change, section):
    model = ModelConfig(channels=4, z_dim=2, shared_dim=0)
    config = replace(small_config, model=model, lipschitz=LipschitzConfig((), ()), **change)
    if section is None:
        check(config, 1, make=build_point_players)
    else:
        with pytest.raises(ValueError, match=rf"^{section}\.transforms: flip.* D judges points"):
            check(config, 1, make=build_point_players)


# ---------------------------------------------------------------------------------------- in a step


def ready(config):
    side = PlayerConfig(lr=1e-3)
    step = build(replace(config, generator=side, discriminator=side), World())
    loader = Loader(open_dataset(config.data), config.data, config.seed, CPU)
    return step, loader.batches(0, config.batch_size, 0, 1, step.d.microbatch)


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 0.5 + 8 / 80), (-1.0, 0.5 - 8 / 80)])
def test_p_rises_where_d_knows_real_images_and_falls_where_not(small_config, sign, expected):
    """Two updates of D of four images, and one move; it is logged as it was in the step."""
    config = replace(small_config, augment=AugmentConfig(("color",), 0.5, 0.6, 80, 2))
    step, reals = ready(config)
    judge = step.judge
    step.judge = lambda d, *batches: (
        (4 * sign + 0 * judge(d, *batches)[0], *judge(d, *batches)[1:])
        if len(batches) == 2
        else judge(d, *batches)
    )
    scalars = step(0, reals)
    assert float(scalars["augment_p"]) == pytest.approx(0.5)
    assert float(step.door.p) == pytest.approx(expected)
    assert float(step(1, reals)["augment_p"]) == pytest.approx(expected)


def test_what_is_logged_of_a_p_that_stays_is_nothing(small_config):
    step, reals = ready(replace(small_config, augment=AugmentConfig(("color",), 0.5)))
    assert "augment_p" not in step(0, reals)
    assert step.door.p == 0.5 and step.door.state() == {}


def test_every_image_that_d_sees_came_through_the_door(small_config):
    """Real ones, G's in both updates, and those of penalties; the same transforms for all, with
    other numbers for each; and G's gradient comes through it."""
    config = replace(
        small_config,
        augment=AugmentConfig(("cutout", "flip"), 0.5),
        objective="relativistic_paired_hinge",
        penalties={"r1": 1.0, "r2": 1.0},
    )
    step, reals = ready(config)
    door, judge, penalty = step.door, step.judge, step.penalty
    through, judged, punished, numbers = [], [], [], count()

    def passed(batch, kind, positions):
        out = door(batch, kind, positions)
        through.append((next(numbers), kind, positions, out))
        assert not torch.equal(out.images, batch.images)
        return out

    passed.p, passed.note, passed.follow = door.p, door.note, door.follow
    step.door = passed
    step.judge = lambda d, *batches: judged.append(batches) or judge(d, *batches)
    step.penalty = lambda d, real, fake, around: (
        punished.append((real, fake)) or penalty(d, real, fake, around)
    )
    step(0, reals)
    outs = [out for *_, out in through]
    assert [kind for _, kind, *_ in through] == ["real", "fake", "real", "fake", "fake"]
    assert [p.start for _, _, p, _ in through] == [0, 0, 4, 4, 8]
    for turn in range(2):
        assert judged[3 * turn] == (outs[2 * turn], outs[2 * turn + 1]) == punished[turn]
    fakes, reals_of_g = judged[-2][0], judged[-1][0]
    assert fakes is outs[-1]
    assert torch.equal(reals_of_g.images, outs[2].images)
    assert fakes.images.requires_grad and fakes.images.grad_fn is not None


def test_real_and_fake_images_get_the_same_transforms_and_other_numbers(small_config):
    step, _ = ready(replace(small_config, augment=AugmentConfig(("translation",))))
    dot = torch.zeros(1, 3, 32, 32)
    dot[:, :, 16, 16] = 1
    dots = Batch(dot.expand(2000, -1, -1, -1), torch.zeros(2000, dtype=torch.long))
    places = {
        kind: step.door(dots, kind, range(2000)).images[:, 0].flatten(1).argmax(1)
        for kind in ("real", "fake")
    }
    assert not torch.equal(places["real"], places["fake"])
    counts = [torch.bincount(found, minlength=1024) for found in places.values()]
    assert torch.equal(counts[0] > 0, counts[1] > 0) and (counts[0] > 0).sum() == 81
    apart = (counts[0] - counts[1]).abs().max()
    assert apart < 6 * np.sqrt(2 * 2000 / 81)
