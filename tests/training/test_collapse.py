"""Whole runs that see a collapse coming: they warn, stop or go back, however often interrupted."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from biggan_sn.checkpoint import Checkpoints, load_state, load_tensors
from biggan_sn.collapse import cusum, signs
from biggan_sn.collapse.signs import SIGNS, Sign
from biggan_sn.config import (
    CheckpointConfig,
    CollapseConfig,
    EvaluationConfig,
    LipschitzConfig,
    LogsConfig,
    MonitorConfig,
)
from biggan_sn.data.loader import Batch
from biggan_sn.data.shards import ShardError, build_index, load_index, save_index
from biggan_sn.evaluation.metrics import METRICS, Metric
from biggan_sn.losses.penalties import build_penalty
from biggan_sn.training import records as kept
from biggan_sn.training.logs import Logs
from biggan_sn.training.rollback import CollapseError, way_back
from biggan_sn.training.step import GANStep
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World

GROUPS = ("generator", "discriminator", "ema", "generator_optimizer",
          "discriminator_optimizer", "spectra", "collapse")  # fmt: skip


@pytest.fixture
def config(small_config):
    """A run of 8 steps that are as cheap as can be."""
    side = replace(small_config.generator, microbatch=0)
    return replace(
        small_config,
        model=replace(small_config.model, generator_attention=(), discriminator_attention=()),
        generator=side,
        discriminator=side,
        monitor=MonitorConfig(every=0),
        checkpoint=CheckpointConfig(every=2, keep=9),
        steps=8,
        d_steps=1,
    )


def acting(config, action, **more):
    collapse = CollapseConfig(every=2, images=4, quality=action, **more)
    return replace(config, collapse=collapse)


@pytest.fixture
def sign(monkeypatch):
    """Puts a sign into the table, of the level level(attempt, step); tell it the trainer."""
    trainers = []

    def put(level, name="sign", channel="quality"):
        def read(look, memory, config):
            return level(trainers[-1].attempt, look.step)

        row = Sign(channel, read, lambda look, memory: f"seen at {look.step}")
        monkeypatch.setitem(SIGNS, name, row)
        return trainers

    return put


def train(config, folder, trainers=None):
    trainer = Trainer(config, folder, World())
    if trainers is not None:
        trainers.append(trainer)
    trainer.run()
    return trainer


def steps_of(folder):
    return [int(path.name[5:]) for path in Checkpoints(folder / "checkpoints").all()]


def newest(folder):
    return Checkpoints(folder / "checkpoints").newest()


def rollbacks(folder):
    return [(record["from"], record["to"], record["attempt"]) for record in kept.rollbacks(folder)]


def assert_same_end(one, other):
    assert newest(one).name == newest(other).name
    for group in GROUPS:
        found, wanted = (load_tensors(newest(folder), group) for folder in (one, other))
        assert found.keys() == wanted.keys()
        for name in found:
            assert torch.equal(found[name].nan_to_num(), wanted[name].nan_to_num()), (group, name)


# ------------------------------------------------------------------------------ what alarms lead to


def rising(attempt, step):
    """Calm until step 2, an alarm at step 6 of the first attempt."""
    return {2: 0.2, 4: 0.6, 6: 1.25}.get(step, 0.0) if attempt == 0 else 0.0


def test_a_warning_is_written_down_and_the_run_goes_on(config, tmp_path, sign):
    trainer = train(acting(config, "warn"), tmp_path, sign(rising))
    assert (trainer.step, trainer.attempt) == (8, 0)
    (alarm,) = kept.read(tmp_path / kept.COLLAPSE)
    levels = alarm.pop("levels")
    assert alarm == {
        "event": "alarm", "attempt": 0, "step": 6, "sign": "sign", "channel": "quality",
        "action": "warn", "reason": "seen at 6", "since": 2,
    }  # fmt: skip
    assert levels.keys() == SIGNS.keys()
    assert levels["sign"] == 1.25
    line = "ALARM, quality: seen at 6; calm until step 2; to do: warn"
    assert line in (tmp_path / "log.txt").read_text()
    paths = Checkpoints(tmp_path / "checkpoints").all()
    assert [load_state(path)["signs"]["sign"] for path in paths] == [0, 0.2, 0.6, 1.25, 0]


def test_a_channel_that_is_off_says_nothing(config, tmp_path, sign):
    trainer = train(acting(config, "off"), tmp_path, sign(rising))
    assert trainer.step == 8
    assert kept.read(tmp_path / kept.COLLAPSE) == []


def test_a_stop_saves_nothing_from_the_alarm_on(config, tmp_path, sign):
    with pytest.raises(CollapseError, match=r"step 6: seen at 6.* rollback \S+ --to 2\.") as raised:
        train(acting(config, "stop"), tmp_path, sign(rising))
    assert (raised.value.action, raised.value.since) == ("stop", 2)
    assert steps_of(tmp_path) == [0, 2, 4]
    (alarm,) = kept.read(tmp_path / kept.COLLAPSE)
    assert (alarm["step"], alarm["action"]) == (6, "stop")


@pytest.mark.parametrize(
    ("every", "target", "after"), [(2, 2, [0, 2, 4, 6, 8]), (3, 0, [0, 3, 6, 8])]
)
def test_a_rollback_goes_to_the_newest_from_before(config, tmp_path, sign, every, target, after):
    config = replace(config, checkpoint=CheckpointConfig(every=every, keep=9))
    trainer = train(acting(config, "rollback"), tmp_path, sign(rising))
    assert (trainer.step, trainer.attempt) == (8, 1)
    images = config.d_steps * config.batch_size
    assert trainer.position == (6 + 8 - target) * images
    assert rollbacks(tmp_path) == [(6, target, 1)]
    assert kept.rollbacks(tmp_path)[0]["reason"] == "step 6: seen at 6"
    news = f"rollback 1 of at most 3, from step 6 to {target}: step 6: seen at 6"
    assert news in (tmp_path / "log.txt").read_text()
    assert steps_of(tmp_path) == after
    given_up = sorted(path.name for path in (tmp_path / "attempts" / "0").glob("step_*"))
    assert given_up == [f"step_{step:08d}" for step in range(every, 6, every) if step > target]
    assert [event["event"] for event in kept.read(tmp_path / kept.COLLAPSE)] == [
        "alarm",
        "rollback",
    ]
    assert kept.alarms(tmp_path) == [], "none on the way to where it is now"
    lines = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))


@pytest.mark.parametrize(
    ("actions", "target"),
    [
        (("stop", "rollback"), 2),
        (("rollback", "stop"), 2),
        (("rollback", "rollback"), 2),
        (("warn", "rollback"), 4),
    ],
)
def test_of_two_alarms_the_graver_is_obeyed_and_both_began_after_the_place_gone_to(
    config, tmp_path, sign, actions, target
):
    """The first was calm until step 2, the second until step 4; a warning does not count."""
    trainers = sign(rising)
    sign(lambda attempt, step: float((attempt, step) == (0, 6)), "other", "explosion")
    collapse = CollapseConfig(every=2, images=4, quality=actions[0], explosion=actions[1])
    train(replace(config, collapse=collapse), tmp_path, trainers)
    assert rollbacks(tmp_path) == [(6, target, 1)]


def test_so_many_rollbacks_and_no_more(config, tmp_path, sign):
    again = sign(lambda attempt, step: float(step == 6))
    with pytest.raises(CollapseError, match="collapsed after 2 rollbacks and stops") as raised:
        train(acting(config, "rollback", rollbacks=2), tmp_path, again)
    assert rollbacks(tmp_path) == [(6, 4, 1), (6, 2, 2)], "what came to nothing goes further back"
    assert raised.value.since == 4
    assert [alarm["attempt"] for alarm in kept.read(tmp_path / kept.COLLAPSE)
            if alarm["event"] == "alarm"] == [0, 1, 2]  # fmt: skip


def test_an_alarm_may_sound_again_in_the_next_attempt(config, tmp_path, sign):
    """The detector goes back too: it does not take an alarm of the lost attempt for its own."""
    levels = sign(lambda attempt, step: 1.0 if step == 4 and attempt < 2 else 0.1)
    trainer = train(acting(config, "rollback"), tmp_path, levels)
    assert rollbacks(tmp_path) == [(4, 2, 1), (4, 0, 2)]
    assert (trainer.step, trainer.attempt) == (8, 2)


def test_a_collapse_before_the_first_checkpoint_starts_anew_and_otherwise(config, tmp_path, sign):
    config = acting(replace(config, checkpoint=CheckpointConfig(every=100), steps=4), "rollback")
    early = sign(lambda attempt, step: float(attempt == 0 and step == 2))
    trainer = train(config, tmp_path / "a", early)
    assert rollbacks(tmp_path / "a") == [(2, 0, 1)]
    assert (trainer.step, trainer.attempt) == (4, 1)
    assert trainer.position == (2 + 4) * config.d_steps * config.batch_size
    straight = train(replace(config, collapse=CollapseConfig(quality="off")), tmp_path / "b")
    draws = [one.play.latents.z(range(4)) for one in (trainer, straight)]
    assert not torch.equal(*draws)
    start = [load_tensors(folder / "checkpoints" / "step_00000000", "generator")
             for folder in (tmp_path / "a", tmp_path / "b")]  # fmt: skip
    assert all(torch.equal(start[0][name], start[1][name]) for name in start[0])
    ends = [one.networks["G"].linear.weight for one in (trainer, straight)]
    assert not torch.equal(*ends)


# -------------------------------------------------------------------------- stopped and carried on


def stopping_after(monkeypatch, trainers, stops):
    """A run is told to stop while it plays one of these steps."""
    play = GANStep.__call__

    def told(self, step, reals):
        trainers[-1].stopping.told = step + 1 in stops
        return play(self, step, reals)

    monkeypatch.setattr(GANStep, "__call__", told)


def assert_hears_the_same(config, folder, monkeypatch, stops):
    """A run that nothing stopped, and one stopped at these steps, sound the same alarms."""
    train(config, folder / "straight")
    alarms = kept.read(folder / "straight" / kept.COLLAPSE)
    with monkeypatch.context() as patched:
        trainers = []
        stopping_after(patched, trainers, stops)
        while not trainers or trainers[-1].step < config.steps:
            train(config, folder / "stopped", trainers)
        assert len(trainers) == len(stops) + 1
    assert kept.read(folder / "stopped" / kept.COLLAPSE) == alarms
    assert_same_end(folder / "straight", folder / "stopped")
    return alarms


@pytest.fixture
def nervous(config, monkeypatch):
    """A run of 14 steps that takes most signs for an alarm, and needs a few looks for that."""
    bright = Metric(lambda generated, real: {"fid": float(generated.mu.mean())})
    monkeypatch.setitem(METRICS, "fid", bright)
    monkeypatch.setattr(signs, "SETTLED", 3.0)
    monkeypatch.setattr(cusum, "BURN_IN", 2)
    limits = CollapseConfig(
        every=2, images=4, explosion="warn", quality="warn", cusum=0.5, growth=1 + 1e-9,
        d_loss=5.0, diversity=20.0,
    )  # fmt: skip
    evaluation = EvaluationConfig(every=4, samples=6, metrics=("fid",), extractor="digits")
    return replace(config, collapse=limits, evaluation=evaluation, steps=14)


def test_a_run_that_is_carried_on_hears_the_same(nervous, tmp_path, monkeypatch):
    alarms = assert_hears_the_same(nervous, tmp_path, monkeypatch, {1, 4, 7, 8, 11})
    assert len({alarm["sign"] for alarm in alarms}) >= 3
    assert all(alarm["step"] % 2 == 0 for alarm in alarms)


@pytest.mark.parametrize("stops", [{4, 8}, {1, 5, 7}], ids=["at looks", "between looks"])
def test_so_it_does_where_nobody_follows_the_spectra(nervous, tmp_path, monkeypatch, stops):
    """There they are searched when somebody looks, from where the last search ended."""
    config = replace(nervous, lipschitz=LipschitzConfig((), ()))
    assert assert_hears_the_same(config, tmp_path, monkeypatch, stops)


def test_a_run_that_ended_and_is_made_longer_hears_the_same(nervous, tmp_path):
    """Its last step was logged, saved and evaluated for being the last, but does not count."""
    train(nervous, tmp_path / "straight")
    for steps in (3, 7, 10, 14):
        train(replace(nervous, steps=steps), tmp_path / "longer")
    alarms = kept.read(tmp_path / "straight" / kept.COLLAPSE)
    assert alarms
    assert kept.read(tmp_path / "longer" / kept.COLLAPSE) == alarms
    assert_same_end(tmp_path / "straight", tmp_path / "longer")


# --------------------------------------------------------------------- what changes with a rollback


def changing(config, **more):
    return acting(
        replace(config, steps=6),
        "rollback",
        scale={"generator.lr": 0.5, "penalties.r1": 2.0},
        change={"discriminator.lr": 3e-4, "regularizers.generator": {}},
        **more,
    )


def rates(trainer):
    """Learning rates, and D's penalty in terms of plain r1."""
    play = trainer.play
    (g,), (d,) = (side.optimizer.param_groups for side in (play.g, play.d))
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    real = Batch(images, torch.tensor([0, 1]))
    plain = build_penalty({"r1": 1.0})(play.criticise, real, real, None)
    strength = play.penalty(play.criticise, real, real, None) / plain
    return g["lr"], d["lr"], strength.item()


def test_rollbacks_scale_and_change_settings_and_compound(config, tmp_path, sign):
    levels = sign(lambda attempt, step: 1.0 if step == 4 and attempt < 2 else 0.0)
    config = changing(config)
    found = {}
    trainer = Trainer(config, tmp_path, World())
    levels.append(trainer)
    play_on = trainer._play_on

    def noting():
        found[trainer.attempt] = rates(trainer)
        play_on()

    trainer._play_on = noting
    trainer.run()
    assert found[0] == pytest.approx((1e-3, 1e-3, 0.1))
    assert found[1] == pytest.approx((5e-4, 3e-4, 0.2))
    assert found[2] == pytest.approx((2.5e-4, 3e-4, 0.4))
    assert rates(trainer) == pytest.approx(found[2])
    log = (tmp_path / "log.txt").read_text()
    (first,) = [line for line in (tmp_path / "attempts/1/log.txt").read_text().splitlines()
                if line.startswith("changed")]  # fmt: skip
    assert first == (
        "changed by the rollback: discriminator.lr: 0.001 -> 0.0003; "
        "generator.lr: 0.001 -> 0.0005; penalties.r1: 0.1 -> 0.2; "
        "regularizers.generator.orthogonal: 0.0001 -> None"
    )
    assert "generator.lr: 0.001 -> 0.00025; penalties.r1: 0.1 -> 0.4" in log
    scalars = kept.read(tmp_path / "scalars.jsonl")
    assert all("g_regularizer" not in line for line in scalars), "this way began at step 0"
    assert load_state(newest(tmp_path))["config"]["generator"]["lr"] == 1e-3, "the run's own"


def test_so_it_is_where_the_run_is_stopped_and_carried_on_after_a_rollback(
    config, tmp_path, sign, monkeypatch
):
    levels = sign(lambda attempt, step: float((attempt, step) == (0, 4)))
    config = changing(config)
    train(config, tmp_path / "straight", levels)
    stopping_after(monkeypatch, levels, {1, 5})  # step 1 of attempt 0, step 5 of attempt 1
    found = []
    while not found or levels[-1].step < 6:
        found.append(rates(train(config, tmp_path / "stopped", levels)))
    assert found == [pytest.approx((1e-3, 1e-3, 0.1))] + 2 * [pytest.approx((5e-4, 3e-4, 0.2))]
    assert levels[-1].attempt == 1
    assert_same_end(tmp_path / "straight", tmp_path / "stopped")
    assert rollbacks(tmp_path / "stopped") == [(4, 2, 1)]
    assert (tmp_path / "stopped" / "log.txt").read_text().count("changed by the rollback") == 2


def test_nothing_is_said_to_be_changed_where_nothing_is(config, tmp_path, sign):
    levels = sign(lambda attempt, step: float((attempt, step) == (0, 4)))
    train(acting(replace(config, steps=4), "rollback"), tmp_path, levels)
    assert "changed" not in (tmp_path / "log.txt").read_text()


# ------------------------------------------------------------------------------------ two processes


def _rank(rank, config, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    fids = iter([10.0, 50.0, 50.0, 50.0, *[11.0] * 9])  # at 2, 4, 6 and 8, and again
    asked = []

    def score(generated, real):
        asked.append(next(fids))
        return {"fid": asked[-1]}

    METRICS["fid"] = Metric(score)
    trainer = Trainer(config, folder / "run", World(rank, 2))
    trainer.run()
    networks = {
        f"{name}.{key}": value
        for name, network in trainer.networks.items()
        for key, value in network.state_dict().items()
    }
    found = {"step": trainer.step, "attempt": trainer.attempt, "position": trainer.position}
    torch.save((found, len(asked), networks), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_what_one_process_alone_knows_takes_all_back_together(config, tmp_path):
    side = replace(config.generator, microbatch=0)
    config = acting(
        replace(config, generator=side, discriminator=side,
                evaluation=EvaluationConfig(2, ("fid",), 6, "digits")),
        "rollback",
    )  # fmt: skip
    mp.spawn(_rank, (config, tmp_path), nprocs=2)
    (found, asked, one), (also, unasked, other) = (
        torch.load(tmp_path / f"{rank}.pt") for rank in range(2)
    )
    assert asked > 4
    assert unasked == 0
    assert found == also
    assert (found["step"], found["attempt"]) == (8, 1)
    assert all(torch.equal(one[name], other[name]) for name in one)
    (alarm,) = [r for r in kept.read(tmp_path / "run" / kept.COLLAPSE) if r["event"] == "alarm"]
    assert (alarm["sign"], alarm["step"]) == ("fid_rise", 8)
    assert rollbacks(tmp_path / "run") == [(8, alarm["since"], 1)]


# ----------------------------------------------------------------------------------- where to go to


@pytest.fixture
def shelf(tmp_path):
    """A run with checkpoints of these steps and rollbacks (from, to)."""

    def put(steps, *rolled, by_hand=False):
        checkpoints = Checkpoints(tmp_path / "checkpoints", keep=99)
        for step in steps:
            checkpoints.save(step, {}, {})
        for start, end in rolled:
            event = {"event": "rollback", "from": start, "to": end, "by_hand": by_hand}
            kept.append(tmp_path / kept.COLLAPSE, event)
        return tmp_path

    return put


@pytest.mark.parametrize(
    ("since", "target"), [(0, 0), (9, 0), (10, 10), (25, 20), (30, 30), (99, 30)]
)
def test_the_way_back_leads_to_the_newest_from_before(shelf, since, target):
    assert way_back(shelf([0, 10, 20, 30]), 40, since) == target


def test_where_none_is_from_before_the_oldest_has_to_do(shelf):
    assert way_back(shelf([10, 20]), 40, 9) == 10


def test_a_rollback_by_hand_says_nothing_of_what_came_to_nothing(shelf):
    assert way_back(shelf([0, 10, 20, 30], (35, 20), by_hand=True), 33, 30) == 30


def test_there_is_no_way_back_without_checkpoints(shelf):
    assert way_back(shelf([]), 40, 40) is None


@pytest.mark.parametrize(
    ("rolled", "step", "since", "target"),
    [
        ([(35, 30)], 35, 30, 20),  # no further than before: so the trouble is older
        ([(35, 30)], 33, 30, 20),
        ([(35, 30)], 36, 30, 30),  # further: this is another trouble
        ([(35, 30), (35, 20)], 35, 30, 10),
        ([(35, 30), (35, 20), (34, 10)], 34, 30, 0),
        ([(35, 30), (35, 0)], 35, 30, 0),  # nothing is older
        ([(35, 20)], 35, 10, 10),  # calm before that anyway
        ([(35, 20)], 35, 15, 10),
        ([(35, 25)], 35, 30, 20),  # to a step that is gone
        ([(15, 10), (35, 30)], 15, 10, 10),
    ],
)
def test_what_came_to_nothing_before_goes_further_back(shelf, rolled, step, since, target):
    assert way_back(shelf([0, 10, 20, 30], *rolled), step, since) == target


def test_alarms_are_no_rollbacks(shelf):
    folder = shelf([0, 10])
    kept.append(folder / kept.COLLAPSE, {"event": "alarm", "step": 12, "attempt": 0})
    assert way_back(folder, 12, 11) == 10


def test_an_alarm_before_the_first_measurement_takes_the_run_back_too(config, tmp_path):
    """After a rollback to before it the record of spectra is empty."""
    monitor = replace(config.monitor, every=4)
    trainer = Trainer(replace(config, monitor=monitor), tmp_path, World())
    play = GANStep.__call__

    def broken(self, step, reals):
        if (trainer.attempt, step) in ((0, 1), (1, 2)):
            with torch.no_grad():
                trainer.networks["D"].linear.bias.fill_(torch.nan)
        return play(self, step, reals)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(GANStep, "__call__", broken)
        assert trainer.run()
    assert trainer.attempt == 2


def test_what_no_matrix_holds_is_not_saved_either_when_it_is_not_finite(config, tmp_path):
    trainer = Trainer(config, tmp_path, World())
    trainer.watch.start(0)
    with torch.no_grad():
        trainer.networks["G"].norm.running_var[0] = torch.inf
    seen = trainer.watch.see(3, {"d_loss": torch.ones(())}, measuring=False)
    trainer.watch.close()
    assert trainer.watch.lost(seen).reason == "G is not finite"


def test_held_out_images_of_other_classes_are_refused(config, shards, tmp_path):
    index = load_index(shards)
    for name in index.names:
        shutil.copy(shards / name, tmp_path / name)
    save_index(build_index(tmp_path, ("owl", "dog", "cat")))
    data = replace(config.data, heldout=str(tmp_path))
    with pytest.raises(ShardError, match=r"the classes of .* are not the same"):
        Trainer(replace(config, data=data), tmp_path / "run", World())


def test_grids_are_drawn_where_nothing_else_is_due(config, tmp_path):
    config = replace(config, logs=LogsConfig(every=100, images=3, rows=1), steps=4)
    trainer = Trainer(replace(config, monitor=replace(config.monitor, every=0)), tmp_path, World())
    drawn = []
    picture = Logs.picture
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Logs, "picture", lambda *a: drawn.append(a[1]) or picture(*a))
        trainer.run()
    assert drawn == [3, 4]
