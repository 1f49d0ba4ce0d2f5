"""Each sign sounds for what it is a sign of, says so, and not for what is as it should be."""

import math
import re

import numpy as np
import pytest

from biggan_sn.collapse.signs import BLIND_LOOKS, SIGNS, Look
from biggan_sn.config import CollapseConfig

LIMITS = CollapseConfig()
CALM = {"d_doubt": 0.6, "d_on_train": 0.5, "d_on_heldout": 0.4, "d_on_fake": -0.5,
        "diversity": 0.9, "contrast": 0.5}  # fmt: skip


def read(name, looks, config=LIMITS):
    """The levels of a sign at looks, and what it says of the last."""
    memory = {}
    levels = [SIGNS[name].read(look, memory, config) for look in looks]
    return levels, SIGNS[name].tell(looks[-1], memory)


def level_of(name, looks, config=LIMITS):
    return read(name, looks, config)[0][-1]


def trembling(random, number, names=("a", "b", "c"), grows=None, rate=1.0, start=100):
    """Looks at weights that grow slowly and unevenly; `grows` by `rate` a look from `start` on."""
    logs = np.cumsum(0.002 * random.normal(size=(number, len(names))) + 0.001, 0)
    if grows:
        logs[start:, names.index(grows)] += math.log(rate) * np.arange(1, number - start + 1)
    sizes = np.exp(logs).tolist()
    return [
        Look(10 * i, CALM, dict(zip(names, row, strict=True)), None) for i, row in enumerate(sizes)
    ]


def looks_at(number, **scalars):
    """Looks at constant scalars."""
    return [Look(i, scalars) for i in range(number)]


def calm_looks():
    """100 looks of a run in which nothing is wrong, with noise on everything."""
    random = np.random.default_rng(0)
    looks = trembling(random, 100)
    noisy = {name: value + 0.05 * random.normal(size=100) for name, value in CALM.items()}
    fids = 20 * 0.99 ** np.arange(100) * (1 + 0.02 * random.normal(size=100))
    return [
        Look(
            look.step,
            {name: float(values[i]) for name, values in noisy.items()},
            look.weights,
            float(fids[i]) if i % 10 == 0 else None,
        )
        for i, look in enumerate(looks)
    ]


TROUBLE = {
    "explosion": (
        trembling(np.random.default_rng(1), 110, grows="b", rate=1.1),
        r"^b grew from 1\.\d+ to [23]\.\d+$",
    ),
    "heldout_gap": (
        looks_at(20, d_on_train=1.0, d_on_heldout=-0.5, d_on_fake=-1.0),
        "knows the training images by heart.* 75% of the way",
    ),
    "d_loss": (looks_at(20, d_doubt=0.02), r"D has won: its loss is 2\.00% of"),
    "diversity": (looks_at(20, diversity=0.1), "become one: .* by 10% of what training images do"),
    "blindness": (looks_at(20, contrast=0.0), "D is blind"),
    "fid_rise": (
        [Look(i, fid=fid) for i, fid in enumerate((20.0, 10.0, 40.0, 30.0, 30.0))],
        "FID turned up: 30 after a best of 10",
    ),
}


def test_there_is_trouble_for_each():
    assert TROUBLE.keys() == SIGNS.keys()


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_sounds_for_its_trouble_and_tells_it(name):
    looks, words = TROUBLE[name]
    levels, told = read(name, looks)
    assert max(level for level in levels if level is not None) >= 1
    assert levels[-1] >= 1
    assert re.search(words, told), told


@pytest.mark.parametrize("name", SIGNS)
def test_no_sign_sounds_in_a_calm_run(name):
    levels, _ = read(name, calm_looks())
    seen = [level for level in levels if level is not None]
    assert len(seen) >= 10
    assert max(seen) < 0.7


@pytest.mark.parametrize("name", SIGNS)
def test_a_look_that_has_nothing_for_a_sign_changes_nothing(name):
    looks, _ = TROUBLE[name]
    gaps = [part for look in looks for part in (look, Look(look.step))]
    memory = {}
    levels = [SIGNS[name].read(look, memory, LIMITS) for look in gaps]
    assert levels[::2] == read(name, looks)[0]
    assert set(levels[1::2]) == {None}


@pytest.mark.parametrize("name", SIGNS)
def test_memories_are_arrays_of_numbers(name):
    """What a checkpoint can hold."""
    memory = {}
    for look in TROUBLE[name][0]:
        SIGNS[name].read(look, memory, LIMITS)
    assert memory
    assert all(np.asarray(value).dtype == np.float64 for value in memory.values())


# ------------------------------------------------------------------------------------ explosion


def test_slow_growth_is_no_explosion_though_its_sum_is_large():
    """A 1 % per look more than before, for ever: by a growth of 1.5 in some ten looks it is not."""
    looks = trembling(np.random.default_rng(2), 160, grows="b", rate=1.03)
    memory, largest = {}, 0.0
    for look in looks:
        level = SIGNS["explosion"].read(look, memory, LIMITS)
        largest = max(largest, memory["sums"].max())
        assert level < 1
    assert largest > LIMITS.cusum


def test_chance_is_no_explosion_though_the_burst_is_large():
    """A weight that always jumped about as much as that."""
    random = np.random.default_rng(3)
    sizes = np.exp(0.5 * random.normal(size=(300, 3)))
    looks = [Look(i, {}, dict(zip("abc", row, strict=True))) for i, row in enumerate(sizes)]
    memory, largest = {}, 0.0
    for look in looks:
        assert SIGNS["explosion"].read(look, memory, LIMITS) < 1
        largest = max(largest, memory["burst"].max())
    assert largest > math.log(LIMITS.growth)


def test_an_explosion_is_as_bad_as_the_lesser_of_sum_and_burst_in_the_worst_weight():
    memory = {}
    for look in trembling(np.random.default_rng(4), 106, grows="c", rate=1.2):
        level = SIGNS["explosion"].read(look, memory, LIMITS)
    each = [
        min(total / 30.0, burst / math.log(1.5))
        for total, burst in zip(memory["sums"], memory["burst"], strict=True)
    ]
    assert level == pytest.approx(max(each))
    assert np.argmax(each) == 2


def test_a_weight_without_size_is_passed_over():
    """A weight of one row has no sigma_1, a dead one no logarithm."""
    looks = trembling(np.random.default_rng(1), 110, grows="b", rate=1.1)
    more = [Look(look.step, {}, {"none": math.nan, "dead": 0.0, **look.weights}) for look in looks]
    (levels, told), (others, also) = read("explosion", looks), read("explosion", more)
    assert levels == others
    assert told == also


# ---------------------------------------------------------------------------------- heldout_gap


@pytest.mark.parametrize("train", [-3.0, 0.2, 5.0])
@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.6, 1.0, 1.7])
@pytest.mark.parametrize("apart", [0.01, 2.0, 300.0])
def test_heldout_gap_is_r_v(train, ratio, apart):
    """(E[D_train] - E[D_heldout]) / (E[D_train] - E[D_fake]): Karras et al. 2020, eq. 1."""
    looks = looks_at(
        15, d_on_train=train, d_on_heldout=train - ratio * apart, d_on_fake=train - apart
    )
    levels, told = read("heldout_gap", looks)
    assert levels[:9] == [0] * 9, "a mean of few looks is none"
    for level in levels[9:]:
        assert level == pytest.approx(ratio / LIMITS.heldout_gap, rel=1e-6)
    assert f"{ratio:.0%} of the way" in told


def test_d_that_finds_heldout_images_more_real_does_not_know_the_others_by_heart():
    assert level_of("heldout_gap", looks_at(15, d_on_train=0, d_on_heldout=1, d_on_fake=-1)) < 0
    assert level_of("heldout_gap", looks_at(15, d_on_train=0, d_on_heldout=1, d_on_fake=3)) < 0


def test_d_that_finds_g_s_images_more_real_than_those_it_knows_tells_nothing():
    """r_v has no meaning there."""
    levels, _ = read("heldout_gap", looks_at(15, d_on_train=1, d_on_heldout=0.5, d_on_fake=2))
    assert set(levels) == {0}


def test_heldout_gap_is_the_ratio_of_means_and_not_the_mean_of_ratios():
    random = np.random.default_rng(0)
    apart = np.exp(random.normal(size=2000))
    looks = [
        Look(i, {"d_on_train": 0.0, "d_on_heldout": -0.3, "d_on_fake": -float(a)})
        for i, a in enumerate(apart)
    ]
    ratios = np.array(read("heldout_gap", looks)[0][100:]) * LIMITS.heldout_gap
    assert np.median(ratios) < 0.25, "0.18 and 0.49"


def test_a_gap_within_its_own_error_is_none():
    """Whatever it is beside the distance to G's images, here far above its limit."""
    looks = [
        Look(i, {"d_on_train": 0.1 + (-1) ** i, "d_on_heldout": 0.0, "d_on_fake": 0.1 + (-1) ** i})
        for i in range(100)
    ]
    assert max(read("heldout_gap", looks)[0]) < 1


def test_heldout_gap_is_silent_when_d_cannot_tell():
    """Noise around 0 on all images: whatever the ratio of two such means is, it is nothing."""
    for seed in range(60):
        noise = np.random.default_rng(seed).normal(size=(300, 3)).tolist()
        names = ("d_on_train", "d_on_heldout", "d_on_fake")
        looks = [Look(i, dict(zip(names, row, strict=True))) for i, row in enumerate(noise)]
        assert max(read("heldout_gap", looks)[0]) < 1, seed


# ------------------------------------------------------------------------- d_loss and diversity


@pytest.mark.parametrize(
    ("name", "scalar", "limit"),
    [("d_loss", "d_doubt", LIMITS.d_loss), ("diversity", "diversity", LIMITS.diversity)],
)
def test_small_means_are_bad(name, scalar, limit):
    for value in (0.5 * limit, limit, 3 * limit):
        levels, _ = read(name, looks_at(12, **{scalar: value}))
        assert levels[:9] == [0] * 9
        assert levels[9:] == pytest.approx([limit / value] * 3)
    assert level_of(name, looks_at(12, **{scalar: 0.0})) > 1e6, "finite where nothing is left"


@pytest.mark.parametrize(("name", "scalar"), [("d_loss", "d_doubt"), ("diversity", "diversity")])
def test_means_forget_a_look_in_ten(name, scalar):
    looks = looks_at(50, **{scalar: 1.0}) + looks_at(30, **{scalar: 0.0})
    levels, _ = read(name, looks)
    limit = levels[49]
    for later in range(1, 31):
        assert levels[49 + later] == pytest.approx(limit / 0.9**later)


def test_a_limit_of_zero_never_sounds():
    config = CollapseConfig(d_loss=0.0, diversity=0.0)
    for name, scalar in (("d_loss", "d_doubt"), ("diversity", "diversity")):
        assert level_of(name, looks_at(20, **{scalar: 0.0}), config) == 0


def test_diversity_is_passed_over_where_d_is_blind():
    values = [0.9] * 12 + [0.1] * 3
    plain = [Look(i, {"diversity": value}) for i, value in enumerate(values)]
    blind = [part for look in plain for part in (Look(0, {"contrast": 0.0}), look)]
    levels, _ = read("diversity", blind)
    assert levels[1::2] == read("diversity", plain)[0]
    assert set(levels[::2]) == {None}


# ------------------------------------------------------------------------------------- blindness


def contrasts(*values):
    return [Look(i, {"contrast": value}) for i, value in enumerate(values)]


def test_blindness_is_five_blind_looks_in_a_row():
    levels, _ = read("blindness", contrasts(0.5, *[0.0] * 6))
    assert levels == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
    assert BLIND_LOOKS == 5


@pytest.mark.parametrize("seeing", [0.01, 0.5])
def test_one_seeing_look_ends_blindness(seeing):
    for blind in range(1, 5):
        looks = contrasts(*([*[0.0] * blind, seeing] * 10))
        assert max(read("blindness", looks)[0]) == pytest.approx(blind / 5)
        assert level_of("blindness", looks) == 0


@pytest.mark.parametrize("dead", [0.0, 0.0099])
def test_little_contrast_is_none(dead):
    assert level_of("blindness", contrasts(*[dead] * 5)) == 1


# -------------------------------------------------------------------------------------- fid_rise


def fids(*values):
    return [Look(i, fid=value) for i, value in enumerate(values)]


def test_fid_rise_is_by_the_best_of_the_last_three():
    levels, _ = read("fid_rise", fids(10, 30, 12, 12.5, 20, 15, 9, 100, 40, 30))
    now = [10, 10, 10, 12, 12, 12.5, 9, 9, 9, 30]
    best = [10, 10, 10, 10, 10, 10, 9, 9, 9, 9]
    rise = LIMITS.fid_rise - 1
    assert levels == pytest.approx([(a / b - 1) / rise for a, b in zip(now, best, strict=True)])


def test_two_bad_evaluations_are_bad_luck_and_three_are_not():
    limit = 10 * LIMITS.fid_rise
    assert max(read("fid_rise", fids(10, 99, 99, 10, 99, 99, 10))[0]) < 1
    assert level_of("fid_rise", fids(10, 99, limit + 0.1, 99)) >= 1
    assert level_of("fid_rise", fids(10, 99, limit - 0.1, 99)) < 1
    assert level_of("fid_rise", fids(10, math.inf, math.inf, math.inf)) == math.inf


def test_a_first_evaluation_without_a_number_is_forgotten():
    level = level_of("fid_rise", fids(math.inf, 10.0, 11.0, 11.0, 11.0))
    assert level == pytest.approx(0.1 / (LIMITS.fid_rise - 1))


def test_evaluations_of_which_none_gave_a_number_are_no_sign():
    assert read("fid_rise", fids(math.inf, math.inf, math.inf))[0] == [0, 0, 0]
