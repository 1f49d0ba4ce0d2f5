"""Alarms: when they sound, what they say, and that a run that is carried on has the same."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from biggan_sn.collapse.detector import CALM, Alarm, Detector
from biggan_sn.collapse.signs import SIGNS, Look, Sign
from biggan_sn.config import CollapseConfig

CHANNELS = ("explosion", "memorization", "quality")
ALL_WARN = CollapseConfig(explosion="warn", memorization="warn", quality="warn")


@pytest.fixture
def given_levels(monkeypatch):
    """A sign whose level is what the look says; the channel is that of the name asked for."""

    def put(name, channel="quality"):
        row = Sign(channel, lambda look, *_: look.scalars.get(name), lambda look, _: f"{name}!")
        monkeypatch.setitem(SIGNS, name, row)
        return name

    return put


def feed(detector, levels, name="sign"):
    """The steps of alarms over looks 10 steps apart, None where a look has nothing."""
    found = []
    for number, level in enumerate(levels, 1):
        scalars = {} if level is None else {name: level}
        found += detector.observe(Look(10 * number, scalars))
    return found


def test_an_alarm_sounds_once_and_again_when_it_has_been_below_one(given_levels):
    given_levels("sign")
    levels = [0, 0.9, 1.0, 1.5, None, 1.2, 0.99, 1.0, 3.0, 0.0, 0.7, 7.0]
    assert [alarm.step for alarm in feed(Detector(ALL_WARN), levels)] == [30, 80, 120]


def test_since_is_the_last_calm_look(given_levels):
    given_levels("sign")
    levels = [0.49, 0.2, 0.5, 0.8, 1.0, 0.6, 1.0, 0.1, None, 1.0]
    alarms = feed(Detector(ALL_WARN), levels)
    assert CALM == 0.5
    assert [(alarm.step, alarm.since) for alarm in alarms] == [(50, 20), (70, 20), (100, 80)]


def test_what_was_never_calm_goes_back_to_the_beginning(given_levels):
    given_levels("sign")
    (alarm,) = feed(Detector(ALL_WARN), [0.6, 0.7, 1.0])
    assert (alarm.step, alarm.since) == (30, 0)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("action", ["warn", "stop", "rollback"])
def test_the_action_is_that_of_the_channel(given_levels, channel, action):
    given_levels("sign", channel)
    others = dict.fromkeys(CHANNELS, "off") | {channel: action}
    (alarm,) = feed(Detector(CollapseConfig(**others)), [0.0, 2.0])
    assert alarm == Alarm(20, "sign", channel, action, "sign!", 10, alarm.levels)
    assert alarm.levels == dict.fromkeys(SIGNS, 0.0) | {"sign": 2.0}


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_channel_that_is_off_is_followed_in_silence(given_levels, channel):
    given_levels("sign", channel)
    silent = CollapseConfig(**{channel: "off"})
    loud = CollapseConfig(**{channel: "warn"})
    levels = [0.1, 1.2, 0.3, 0.8]
    one, other = Detector(silent), Detector(loud)
    assert feed(one, levels) == []
    assert len(feed(other, levels)) == 1
    assert (one.levels, one.since) == (other.levels, other.since)
    assert (one.levels["sign"], one.since["sign"]) == (0.8, 30)


def test_several_signs_sound_together_each_with_its_own_words(given_levels):
    for name in ("one", "two"):
        given_levels(name)
    alarms = Detector(ALL_WARN).observe(Look(5, {"one": 1.0, "two": 1.5}))
    assert [(alarm.sign, alarm.reason) for alarm in alarms] == [("one", "one!"), ("two", "two!")]
    assert all(alarm.levels["one"] == 1.0 and alarm.levels["two"] == 1.5 for alarm in alarms)


def test_shown_levels_are_rounded(given_levels):
    given_levels("sign")
    detector = Detector(ALL_WARN)
    (alarm,) = feed(detector, [0.0, 1.23456])
    assert alarm.levels["sign"] == detector.shown()["sign"] == 1.235
    assert detector.levels["sign"] == 1.23456


def test_levels_are_from_zero_to_a_hundred_and_can_be_written_as_json(given_levels):
    given_levels("sign")
    detector = Detector(ALL_WARN)
    seen = []
    for level in (-3.0, math.inf, 1e9, -math.inf, 0.7):
        feed(detector, [level])
        seen.append(json.loads(json.dumps(detector.shown(), allow_nan=False))["sign"])
    assert seen == [0, 100, 100, 0, 0.7]


def test_the_channels_are_those_that_the_config_describes():
    assert {name: row.channel for name, row in SIGNS.items()} == {
        "explosion": "explosion",
        "heldout_gap": "memorization",
        "d_loss": "memorization",
        "diversity": "quality",
        "blindness": "quality",
        "fid_rise": "quality",
    }


def test_the_fid_was_calm_until_the_last_good_evaluation():
    detector = Detector(ALL_WARN)
    fids = (20.0, 10.0, 30.0, 30.0, 30.0)
    (alarm,) = [a for i, fid in enumerate(fids) for a in detector.observe(Look(100 * i, fid=fid))]
    assert (alarm.sign, alarm.step) == ("fid_rise", 400)
    assert alarm.since == 100


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_an_explosion_was_calm_until_it_began(rate):
    logs = np.concatenate([np.tile([0.0, 0.001], 40), rate * np.arange(1, 21)])
    detector = Detector(ALL_WARN)
    looks = [Look(i, weights={"a": math.exp(log)}) for i, log in enumerate(logs)]
    (alarm,) = [alarm for look in looks for alarm in detector.observe(look)]
    assert 77 <= alarm.since <= 81, "it begins at 80"
    before, now = math.exp(logs[alarm.since]), math.exp(logs[alarm.step])
    assert alarm.reason == f"a grew from {before:.3g} to {now:.3g}"


# ------------------------------------------------------------------- what is not finite any more


@pytest.mark.parametrize(
    ("quality", "action"),
    [("rollback", "rollback"), ("stop", "stop"), ("warn", "stop"), ("off", "stop")],
)
def test_what_is_lost_stops_or_goes_back(quality, action):
    alarm = Detector(CollapseConfig(quality=quality)).lost(47, "d_loss is nan", 40)
    assert (alarm.step, alarm.sign, alarm.channel) == (47, "finite", "quality")
    assert (alarm.action, alarm.reason, alarm.since) == (action, "d_loss is nan", 40)


@pytest.mark.parametrize(("level", "since"), [(0.3, 40), (0.5, 20), (0.9, 20)])
def test_what_is_lost_by_an_explosion_was_calm_before_that_began(monkeypatch, level, since):
    row = Sign("explosion", lambda look, *_: look.scalars.get("x"), lambda look, _: "")
    monkeypatch.setitem(SIGNS, "explosion", row)
    detector = Detector(CollapseConfig())
    feed(detector, [0.0, 0.1, level, level], "x")
    assert detector.lost(47, "d_loss is nan", 40).since == since
    assert detector.lost(47, "d_loss is nan", 5).since == 5


# ------------------------------------------------------------------------- stopped and carried on


def a_life(number=130):
    """Looks in which everything happens: growth, knowledge by heart, blindness, bad FIDs, gaps."""
    random = np.random.default_rng(0)
    logs = np.cumsum(0.01 * random.normal(size=(number, 3)), 0)
    logs[40:, 1] += 0.2 * np.minimum(np.arange(number - 40), 12)
    looks = []
    for i in range(number):
        weights = dict(zip("abc", np.exp(logs[i]).tolist(), strict=True)) if i % 9 else {}
        bad = i % 65 > 25
        scalars = {
            "d_doubt": (0.01 if bad else 0.8) + 0.01 * random.normal(),
            "d_on_train": 1 + 0.1 * random.normal(),
            "d_on_heldout": (-1 if bad else 0.9) + 0.1 * random.normal(),
            "d_on_fake": -1 + 0.1 * random.normal(),
            **({} if i % 13 == 0 else {"diversity": 0.1 if bad else 1.0}),
            "contrast": 0.0 if i % 65 > 50 else 0.3,
        }
        fid = 20 + 30 * bad + random.normal() if i % 4 == 0 else None
        looks.append(Look(10 * i, scalars if i % 11 else {}, weights, fid))
    return looks


LIFE = a_life()


def follow(detector, looks):
    """Everything that comes of looks."""
    return [(detector.observe(look), dict(detector.levels), dict(detector.since)) for look in looks]


ALL = follow(Detector(CollapseConfig()), LIFE)


def test_in_that_life_every_sign_sounds_and_some_again():
    heard = [alarm.sign for alarms, _, _ in ALL for alarm in alarms]
    assert set(heard) == set(SIGNS)
    assert len(heard) > len(set(heard))


def test_a_detector_restored_at_any_look_hears_the_same():
    before = Detector(CollapseConfig())
    for cut in range(len(LIFE) + 1):
        after = Detector(CollapseConfig())
        after.load_state(before.state())
        assert (after.levels, after.since) == (before.levels, before.since)
        assert follow(after, LIFE[cut : cut + 30]) == ALL[cut : cut + 30], cut
        follow(before, LIFE[cut : cut + 1])


@given(st.sets(st.integers(0, len(LIFE)), max_size=6))
@settings(max_examples=10, deadline=None)
def test_restored_again_and_again_through_a_file_it_hears_the_same(tmp_path_factory, cuts):
    file = tmp_path_factory.mktemp("state") / "collapse.safetensors"
    ends = [*sorted(cuts), len(LIFE)]
    heard, first = [], 0
    detector = Detector(CollapseConfig())
    for end in ends:
        heard += follow(detector, LIFE[first:end])
        save_file(detector.state(), file)
        detector, first = Detector(CollapseConfig()), end
        detector.load_state(load_file(file))
    assert heard == ALL


def test_a_state_that_was_taken_does_not_move_with_the_detector_nor_the_other_way():
    detector = Detector(CollapseConfig())
    follow(detector, LIFE[:50])
    state = detector.state()
    copy = {name: value.clone() for name, value in state.items()}
    other = Detector(CollapseConfig())
    other.load_state(state)
    follow(detector, LIFE[50:])
    follow(other, LIFE[50:])
    assert all(
        torch.equal(state[name], copy[name]) for name in copy if not copy[name].isnan().any()
    )
    third = Detector(CollapseConfig())
    third.load_state(state)
    assert follow(third, LIFE[50:]) == ALL[50:]


def test_a_sign_that_is_not_known_is_refused():
    detector = Detector(CollapseConfig())
    with pytest.raises(ValueError, match="not a sign of collapse: 'boredom'"):
        detector.load_state({"boredom/level": torch.tensor(0.0)})


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_a_memory_of_which_a_part_is_missing_is_refused(damage):
    before = Detector(CollapseConfig())
    follow(before, LIFE[:60])
    state = before.state()
    if damage == "lost":
        del state["explosion/sums"]
    else:
        state["explosion/sums"] = state["explosion/sums"][:-1]
    with pytest.raises(ValueError, match="explosion"):
        Detector(CollapseConfig()).load_state(state)


def test_a_sign_that_is_new_starts_afresh(given_levels):
    before = Detector(ALL_WARN)
    follow(before, LIFE[:60])
    state = before.state()
    given_levels("sign")
    after = Detector(ALL_WARN)
    after.load_state(state)
    assert after.levels == {**before.levels, "sign": 0.0}
    assert [alarm.sign for alarm in feed(after, [0.0, 1.0])] == ["sign"]


def test_the_words_of_an_alarm_are_those_of_the_sign():
    said = {alarm.sign: alarm.reason for alarms, _, _ in ALL for alarm in alarms}
    assert said["explosion"].startswith("b grew from ")
    assert said["blindness"] == SIGNS["blindness"].tell(LIFE[0], {})
