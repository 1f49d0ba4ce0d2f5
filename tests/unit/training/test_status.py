"""The quick look at a run: what it says is so, and nobody notices that it looked."""

import fcntl
import json
import os
import signal
from contextlib import contextmanager

import pytest

from biggan_sn.cli import main
from biggan_sn.training import holder, records, status
from biggan_sn.training.holder import find_holder
from biggan_sn.training.status import read_status
from biggan_sn.training.world import World

NOW = 1_800_000_000.0
SPEED = {"images_per_second": 81.25, "data_wait": 1.0}


def lines(*of):
    return "".join(json.dumps(record) + "\n" for record in of)


def alarm(step, reason="G linear: sigma_0 grew"):
    about = {"channel": "explosion", "reason": reason, "action": "warn"}
    return {"event": "alarm", "attempt": 0, "step": step, **about}


def spectra(step, **sigmas):
    layers = {"linear": [2.5, 1.0], "blocks.0.conv1": [1.5, 1.0], **sigmas}
    return {"step": step, "G": layers, "D": {"embed": [2.0, 0.0]}, "lipschitz": {"total": 9.0}}


@pytest.fixture
def run(tmp_path):
    """A run at step 40 of 100, with two checkpoints and one that is being written."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("data: {path: shards}\nsteps: 100\n")
    logged = [{"step": step, "d_loss": 1.0, "speed": SPEED} for step in (10, 20, 30, 40)]
    scores = [{"step": 20, "evaluation/fid": 30.5}, {"step": 30, "evaluation/fid": 25.5}]
    (run / "scalars.jsonl").write_text(
        lines(*logged[:2], scores[0], logged[2], scores[1], logged[3])
    )
    (run / "spectra.jsonl").write_text(lines(spectra(30, linear=[9.0, 1.0]), spectra(40)))
    (run / "log.txt").write_text(
        "step      30/100    80.0 images/s  ETA 0:02:00  d_loss +1.000\n"
        "step      40/100    81.2 images/s  ETA 1:01:05  data 6 ms  d_loss +1.000\n"
        "step      40/100  evaluation: fid 25.500\n"
    )
    for step, age in ((20, 500), (30, 90)):
        checkpoint = run / "checkpoints" / f"step_{step:08d}"
        checkpoint.mkdir()
        (checkpoint / "state.json").write_text("{}")
        os.utime(checkpoint / "state.json", (NOW - age, NOW - age))
    (run / "checkpoints" / "step_00000040").mkdir()
    set_time(run, 12)
    return run


def set_time(run, ago):
    for path in run.iterdir():
        os.utime(path, (NOW - ago, NOW - ago))


def test_what_it_says(run):
    found = read_status(run, NOW)
    assert (found.step, found.steps, found.silent) == (40, 100, 12)
    assert (found.images_per_second, found.remaining) == (81.25, 3665)
    assert (found.checkpoint.step, found.checkpoint.age) == (30, 90)
    assert (found.worst.layer, found.worst.sigma, found.worst.step) == ("G linear", 2.5, 40)
    assert found.scores == {"step": 30, "fid": 25.5}
    assert (found.alarms, found.standing, found.newest_alarm, found.rollbacks) == (0, 0, None, 0)


def test_alarms_and_rollbacks(run):
    back = {"event": "rollback", "from": 35, "to": 20, "attempt": 1, "reason": "it broke"}
    (run / "collapse.jsonl").write_text(lines(alarm(15), alarm(35), back, alarm(38, "again")))
    found = read_status(run, NOW)
    assert (found.alarms, found.standing, found.rollbacks) == (3, 2, 1)
    assert found.newest_alarm == {
        "step": 38, "channel": "explosion", "reason": "again", "action": "warn"
    }  # fmt: skip


def test_what_is_not_finite_is_worst_and_null_in_json(run):
    with (run / "spectra.jsonl").open("a") as file:
        file.write(lines(spectra(50, **{"blocks.0.conv1": [float("nan"), 1.0]})))
    found = read_status(run, NOW)
    assert found.worst.layer == "G blocks.0.conv1"
    assert json.loads(json.dumps(found.record(), allow_nan=False))["worst"]["sigma"] is None


def test_lines_that_are_half_written_or_damaged(run):
    """A line that is being written, zeros that a full disk left, and no config."""
    for name in ("scalars.jsonl", "spectra.jsonl"):
        with (run / name).open("ab") as file:
            file.write(bytes(50) + b'\nnull\n{"x": 1}\n{"step": 90, "G": {"linear": [1e9')
    (run / "log.txt").write_bytes(b"\xff\xfe\nstep 4")
    (run / "config.yaml").write_text("data: [")
    found = read_status(run, NOW)
    assert (found.step, found.worst.sigma, found.scores["fid"]) == (40, 2.5, 25.5)
    assert (found.steps, found.remaining) == (None, None)


def test_of_long_records_only_the_end_is_read(run, monkeypatch):
    """Half a gigabyte, of which most is a hole: to read it all would take seconds."""
    with (run / "scalars.jsonl").open("r+b") as file:
        file.seek(1 << 29)
        file.write(b"\n" + lines({"step": 41, "d_loss": 1.0, "speed": SPEED}).encode())
    read = []
    original = records.newest_lines

    def counted(path, most=None):
        for line in original(path, most):
            read.append(len(line))
            yield line

    monkeypatch.setattr(status, "newest_lines", counted)
    found = read_status(run, NOW)
    assert found.step == 41 and found.scores is None
    assert sum(read) < 1 << 16


def test_a_run_that_only_began(tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    found = read_status(tmp_path, NOW)
    assert (found.step, found.state, found.checkpoint, found.worst) == (0, "no job yet", None, None)
    with pytest.raises(ValueError, match="not the folder of a run"):
        read_status(tmp_path / "none", NOW)


# ----------------------------------------------------------------------------------- who is at work


def test_the_lock_is_seen_while_it_is_held(run):
    assert find_holder(run) is None
    with World().holding(run):
        assert find_holder(run).process == os.getpid()
        assert read_status(run, NOW).state == "at work"
    assert find_holder(run).at_work is False
    assert read_status(run, NOW).state == "ended without a word"


def test_another_file_of_that_name_is_none(run, tmp_path):
    """The process lives and has a lock, but of another run."""
    with World().holding(run):
        pass
    with World().holding(tmp_path / "other"):
        assert find_holder(run).at_work is False


def test_no_look_takes_a_lock(run, monkeypatch):
    """Not for a moment: a job that starts just then would believe that another is there."""

    def refuse(*_):
        pytest.fail("a lock was tried")

    with World().holding(run):
        for name in ("flock", "lockf", "fcntl"):
            monkeypatch.setattr(fcntl, name, refuse)
        assert find_holder(run).at_work is True
    assert find_holder(run).at_work is False


@pytest.mark.parametrize(
    ("ago", "state"), [(30, "on its way"), (7000, "silent")], ids=["lately", "long ago"]
)
def test_a_job_on_another_host_is_known_by_what_it_writes(run, ago, state):
    (run / ".lock").write_text("process 7 on some-other-host")
    set_time(run, ago)
    found = read_status(run, NOW)
    assert (found.holder.process, found.holder.host) == (7, "some-other-host")
    assert (found.holder.at_work, found.state) == (None, state)


def test_where_processes_cannot_be_seen(run, monkeypatch):
    with World().holding(run):
        monkeypatch.setattr(holder, "OPEN_FILES", "/no/such/{process}")
        assert find_holder(run).at_work is None


@pytest.mark.parametrize("host", ["this", "another"])
def test_a_run_that_ended_says_how(run, host):
    with World().holding(run):
        pass
    if host == "another":
        (run / ".lock").write_text("process 7 on some-other-host")
    (run / "STOPPED").write_text("step 40\n")
    assert read_status(run, NOW).state == "stopped"
    (run / "STOPPED").unlink()
    (run / "config.yaml").write_text("steps: 40\n")
    assert read_status(run, NOW).state == "finished"


# ----------------------------------------------------------------------------------------- the verb


@contextmanager
def unchanged(folder):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}

    before = state()
    yield
    assert state() == before


def test_for_people(run, capsys):
    (run / "collapse.jsonl").write_text(lines(alarm(15)))
    with World().holding(run), unchanged(run):
        assert main(["status", str(run)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith(f"{run}: at work (process {os.getpid()} on ")
    assert shown[1].split("  ")[1:] == ["step 40 of 100 (40.0%)", "81.2 images/s", "ETA 61 min"]
    assert shown[2].startswith("  checkpoint of step 30, ")
    assert shown[3] == "  largest sigma_0 2.5: G linear, at step 40"
    assert shown[4] == "  scores at step 30  fid 25.5"
    assert shown[5].startswith("  alarms 1, standing 1; rollbacks 0; the newest alarm at step 15, ")
    assert len(shown) == 6


def test_as_json_a_line_for_each_run(run, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    assert main(["status", str(run), str(tmp_path / "none"), str(run), "--json"]) == 2
    printed = capsys.readouterr()
    found = [json.loads(line) for line in printed.out.splitlines()]
    assert [(one["run"], one["checkpoint"]["step"]) for one in found] == [(str(run), 30)] * 2
    assert printed.err.count("\n") == 1 and f"{tmp_path / 'none'}: not the folder" in printed.err


def test_watched_until_ctrl_c(run, capsys, monkeypatch):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("biggan_sn.cli.status.time.sleep", sleep)
    assert main(["status", str(run), "--watch", "0.5"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("step 40 of 100") == 3
    assert (waits, printed.err) == ([0.5] * 3, "")
