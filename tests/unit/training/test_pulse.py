"""What processes say of themselves, and who of them is named."""

import os
import re
import socket
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biggan_sn.training import pulse
from biggan_sn.training.pulse import MOST_NAMED, PLAYING, Pulse, Report, culprits, named


def report(step=5, doing=PLAYING):
    return Report(beat=1, step=step, doing=doing, seconds=2.0, host="node7", pid=40 + step)


class Clock:
    """Time that stands still but for `now`."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pulse, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("reports", "told"),
    [
        (
            {0: report(6), 1: report(5), 2: report(6)},
            "rank 1 (process 45 on node7, step 5, playing) keeps the job waiting",
        ),
        (
            {0: report(6), 1: report(4), 2: report(4)},
            "rank 1 (process 44 on node7, step 4, playing), "
            "rank 2 (process 44 on node7, step 4, playing) keeps the job waiting",
        ),
        (
            {0: report(5, "evaluating"), 1: report(5), 2: report(5)},
            "rank 0 (process 45 on node7, step 5, evaluating) keeps the job waiting",
        ),
        (
            {0: report(5, "saving"), 1: report(4)},
            "rank 0 (process 45 on node7, step 5, saving) keeps the job waiting",
        ),
        (
            {0: report(), 1: report()},
            "all processes are in it: a GPU hangs, or the network between them",
        ),
        (
            {0: report(5, "evaluating"), 1: report(5, "evaluating")},
            "rank 0 (process 45 on node7, step 5, evaluating), "
            "rank 1 (process 45 on node7, step 5, evaluating) keeps the job waiting",
        ),
    ],
    ids=["behind", "two behind", "elsewhere", "elsewhere and behind", "nobody", "all elsewhere"],
)
def test_who_keeps_the_others_waiting(reports, told):
    assert culprits(reports) == told


jobs = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([PLAYING, PLAYING, "evaluating", "data"])),
    min_size=1,
    max_size=MOST_NAMED,
)


@given(jobs)
def test_those_are_named_that_are_elsewhere_or_else_behind(job):
    """And nobody else; where all play the same step nobody is."""
    reports = {rank: report(step, doing) for rank, (step, doing) in enumerate(job)}
    told = {int(rank) for rank in re.findall(r"rank (\d+)", culprits(reports))}
    elsewhere = {rank for rank, (_, doing) in enumerate(job) if doing != PLAYING}
    slowest = min(step for step, _ in job)
    behind = {rank for rank, (step, _) in enumerate(job) if step == slowest}
    if elsewhere:
        assert told == elsewhere
    elif len(behind) < len(job):
        assert told == behind
    else:
        assert told == set()
        assert "all processes" in culprits(reports)


def test_many_are_not_all_named():
    reports = {rank: report() for rank in range(100)}
    ranks = [*range(10, 10 + MOST_NAMED + 3)]
    told = named(ranks, reports)
    assert re.findall(r"rank (\d+)", told) == [str(rank) for rank in ranks[:MOST_NAMED]]
    assert told.endswith(" and 3 more")
    assert " more" not in named(ranks[:MOST_NAMED], reports)


def test_of_whom_nothing_is_known_only_the_rank_is_said():
    assert named([3, 1], {1: report()}) == "rank 3, rank 1 (process 45 on node7, step 5, playing)"


def test_a_report_says_where_this_process_is_and_since_when(clock):
    mine = Pulse()
    first = mine.beat()
    assert (first.step, first.doing) == (0, "starting")
    assert (first.host, first.pid) == (socket.gethostname(), os.getpid())
    mine.at(7)
    clock.now += 3
    assert mine.now() == replace(first, step=7, doing=PLAYING, seconds=3.0)
    mine.at(8, "saving")
    assert mine.now().shown() == f"process {os.getpid()} on {socket.gethostname()}, step 8, saving"
    assert mine.now().seconds == 0


def test_beats_are_counted_and_looks_are_not():
    mine = Pulse()
    assert [mine.beat().beat, mine.now().beat, mine.beat().beat] == [1, 1, 2]


def test_what_one_is_busy_with_nests_and_ends(clock):
    """Each begins a time of its own; afterwards all is as before, at the same step."""
    mine, seen = Pulse(), []

    def look():
        seen.append((mine.now().step, mine.now().doing, mine.now().seconds))
        clock.now += 2

    mine.at(7)
    look()
    with mine.busy("evaluating"):
        look()
        with mine.busy("saving"):
            look()
        look()
    look()
    assert seen == [
        (7, PLAYING, 0),
        (7, "evaluating", 0),
        (7, "saving", 0),
        (7, "evaluating", 0),
        (7, PLAYING, 0),
    ]


def test_whoever_is_to_be_left_in_peace_can_say_so():
    mine = Pulse()
    with mine.undisturbed:
        assert not mine.undisturbed.acquire(timeout=0)
    assert mine.undisturbed.acquire(timeout=0)
