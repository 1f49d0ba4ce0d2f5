"""A check that is stopped goes on, and finds what it would have found."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from biggan_sn.data.shards import INDEX_NAME, build_index, load_index, save_index
from data_tools import verifying
from data_tools.verify_shards import main
from data_tools.verifying import WORKPLACE
from tests.unit.data_tools.making import PYTHON, without_progress
from tests.unit.data_tools.shardsets import (
    CLASSES,
    check,
    flip,
    refused,
    samples_of,
    write_set,
    write_tar,
)

FIRST, SECOND, THIRD = SHARDS = ("000000.tar", "000001.tar", "000002.tar")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def good(tmp_path):
    return write_set(tmp_path / "set", *(samples_of(4 * shard, 4) for shard in range(3)))


SLOW = """
import sys, time
from data_tools import checking, verify_shards
hash_image = checking._hash_image
checking._hash_image = lambda *given: time.sleep(0.1) or hash_image(*given)
raise SystemExit(verify_shards.main(sys.argv[1:]))
"""


def stopped(folder, signal_):
    """A check that is stopped when one shard is done, and not all."""
    words = [*PYTHON, "-c", SLOW, str(folder), "--processes", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    program = subprocess.Popen(words, cwd=ROOT, **pipes)
    journal = folder / WORKPLACE / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_text().count("\n") > 1):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    program.send_signal(signal_)
    return program.communicate(), program.returncode


def checked_anew(monkeypatch):
    """A list that fills with the shards that are checked from now on."""
    shards = []

    def spy(sets, task, advance):
        shards.append(task.partition("/")[2])
        return checking_shard(sets, task, advance)

    checking_shard = verifying.check_shard
    monkeypatch.setattr(verifying, "check_shard", spy)
    return shards


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stop(good, signal_, monkeypatch):
    flip(good / FIRST, int(load_index(good).offset[2]) + 90)
    write_tar(good / THIRD, [*samples_of(0, 1), *samples_of(9, 3)])  # one of those of the first
    save_index(build_index(good, CLASSES))
    straight = check(good)[1]
    (_, said), code = stopped(good, signal_)
    assert (code, without_progress(said)) in (
        (-9, ""),
        (130, "verify_shards: stopped; the same command goes on\n"),
    )
    shards = checked_anew(monkeypatch)
    assert check(good)[1] == straight
    assert "same file" in {row["kind"] for row in straight["found"]}
    assert FIRST not in shards and THIRD in shards
    assert not (good / WORKPLACE).exists()


def test_what_changed_since_the_stop(good, capsys, monkeypatch):
    stopped(good, signal.SIGKILL)
    shutil.copytree(good, good.parent / "other")
    os.utime(good / THIRD, (1, 1))
    refused(capsys, r"journal.jsonl: .*\(shards differ\).*remove .*/.verify", good)
    refused(capsys, r"\(folder differ\)", good.parent / "other")
    shutil.rmtree(good / WORKPLACE)
    shards = checked_anew(monkeypatch)
    assert check(good)[0] == 0
    assert shards == list(SHARDS)


def test_hashes_that_were_lost_are_made_again(good, monkeypatch):
    stopped(good, signal.SIGKILL)
    (good / WORKPLACE / "folder.npy").unlink()
    shards = checked_anew(monkeypatch)
    assert check(good)[0] == 0
    assert shards == list(SHARDS)


def test_a_check_with_other_options_does_not_go_on(good, capsys):
    stopped(good, signal.SIGKILL)
    refused(capsys, "no_pixels differ", good, "--no_pixels")


def test_folder_that_cannot_be_written_to(good, monkeypatch, capsys):
    flip(good / FIRST, int(load_index(good).offset[2]) + 90)
    (good / WORKPLACE).write_text("in the way")
    assert len(check(good)[1]["found"]) == 1
    assert sorted(path.name for path in good.iterdir()) == sorted([*SHARDS, INDEX_NAME, WORKPLACE])

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verifying, "complete", stop)
    assert main([str(good)]) == 130
    assert capsys.readouterr().err.endswith("cannot be written to, so it will begin anew\n")
