"""What is known of a run whatever state its folder is in."""

import math

import pytest

from biggan_sn.report.reading import FINISHED, ON_ITS_WAY, STOPPED_HERE, number, read_run
from tests.unit.report.making import ALARM, NOW, ROLLBACK, lines, losses, make_run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def test_values_by_name_and_step(run):
    history = read_run(run, NOW)
    assert history.name == "run"
    assert history.scalars["d_loss"] == {s: 1 + s / 100 for s in range(10, 101, 10)}
    assert history.scalars["speed/images_per_second"][20] == 80.0
    assert history.scalars["evaluation/fid"] == {50: 7.25, 100: 8.5}
    assert (history.step, history.steps) == (100, 100)
    assert "step" not in history.scalars
    assert history.damaged == {}


def test_records_are_in_the_order_of_steps(run):
    (run / "scalars.jsonl").write_text(lines(losses(30), losses(10), losses(20)))
    assert list(read_run(run, NOW).scalars["d_loss"]) == [10, 20, 30]


def test_a_cut_line_and_what_is_no_number_are_left_out(run):
    whole = lines(losses(10, d_loss=math.nan), losses(20, d_loss=math.inf), losses(30, d_loss="x"))
    (run / "scalars.jsonl").write_text(f'{whole}{{"step": 40, "d_lo')
    history = read_run(run, NOW)
    assert repr(list(history.scalars["d_loss"].values())) == "[nan, inf, nan]"
    assert history.damaged == {}, "a line cut short is what a kill leaves"


@pytest.mark.parametrize("bad", ["\0\0\0", "[]", "3", "{}", '{"step": "9"}', "{", "[" * 100_000])
def test_damaged_lines_are_counted(run, bad):
    (run / "scalars.jsonl").write_text(lines(losses(10)) + bad + "\n" + lines(losses(20)))
    history = read_run(run, NOW)
    assert list(history.scalars["d_loss"]) == [10, 20]
    assert history.damaged == {"scalars.jsonl": 1}


@pytest.mark.parametrize("bad", ['{"step": 3}', '{"step": 3, "G": {}, "D": 5}'])
def test_a_measurement_without_networks_is_damaged(run, bad):
    (run / "spectra.jsonl").write_text(bad + "\n")
    history = read_run(run, NOW)
    assert (history.spectra, history.damaged) == ([], {"spectra.jsonl": 1})


@pytest.mark.parametrize("bad", ['{"event": "alarm"}', '{"event": "rollback", "from": 1}', "{}"])
def test_an_event_without_its_steps_is_damaged(run, bad):
    (run / "collapse.jsonl").write_text(lines(ALARM) + bad + "\n")
    history = read_run(run, NOW)
    assert (history.events, history.damaged) == ([ALARM], {"collapse.jsonl": 1})


def test_alarms_that_a_rollback_gave_up_do_not_stand(run):
    later = {**ALARM, "step": 60}
    (run / "collapse.jsonl").write_text(lines(ALARM, later, ROLLBACK))
    history = read_run(run, NOW)
    assert history.alarms == [ALARM]
    assert len(history.events) == 3


def test_states(run):
    assert read_run(run, NOW).state == FINISHED
    (run / "config.yaml").write_text("steps: 200")
    assert read_run(run, NOW).state == ON_ITS_WAY
    (run / "STOPPED").write_text("step 100\n")
    assert read_run(run, NOW).state == STOPPED_HERE


@pytest.mark.parametrize(("silent", "state"), [(3500, ON_ITS_WAY), (3700, STOPPED_HERE)])
def test_a_run_that_was_killed_says_nothing(tmp_path, silent, state):
    run = make_run(tmp_path / "run", steps=200)
    assert read_run(run, NOW - 60 + silent).state == state


def test_the_newest_checkpoint_counts_too(run):
    folder = run / "checkpoints" / "step_00000150"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    history = read_run(run, NOW)
    assert history.step == 150
    assert history.classes == (), "its state is not as it was written"


@pytest.mark.parametrize("text", ["", "- 1", "{", "\0", "steps: many", "a: &x [*x]", "steps: true"])
def test_configs_that_cannot_be_read(run, text):
    (run / "config.yaml").write_text(text)
    assert read_run(run, NOW).steps == 0


def test_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 10")
    history = read_run(tmp_path, NOW)
    assert (history.step, history.steps, history.scalars) == (0, 10, {})


def test_what_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="not the folder of a run"):
        read_run(tmp_path, NOW)


def test_numbers():
    assert [number(x) for x in (1, 2.5)] == [1.0, 2.5]
    assert all(math.isnan(number(x)) for x in (None, "3", True, [], {}))
    assert number(10**400) == math.inf
