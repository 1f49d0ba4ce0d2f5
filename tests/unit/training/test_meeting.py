"""Where the processes of a job meet: all are waited for, and those that do not come are named."""

import gc
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from biggan_sn.training.launching import LaunchError
from biggan_sn.training.meeting import Meeting, is_met
from tests.training.crew import free_port

MOMENT = 0.5  # seconds that a meeting waits which waits in vain
LONG = 60.0  # and one that does not


def job(port, rank, ranks, **more):
    """The environment of one process."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **more,
    }


class Launcher:
    """One that keeps the store itself, and starts processes more than once."""

    def __init__(self):
        self.store = TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=LONG)
        )

    def meeting(self, rank, ranks, attempt=0, timeout=LONG):
        more = {
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": str(attempt),
        }
        return Meeting(job(self.store.port, rank, ranks, **more), timeout)


@pytest.fixture
def launcher():
    yield Launcher()
    gc.collect()


def all_at_once(meetings):
    """What the roll call says to each: nothing, or the error."""

    def call(meeting):
        try:
            meeting.call_the_roll()
        except LaunchError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(len(meetings)) as pool:
        return list(pool.map(call, meetings))


def test_all_who_come_meet():
    port = free_port()
    meetings = [Meeting(job(port, rank, 3), LONG) for rank in range(3)]
    assert all_at_once(meetings) == [None] * 3
    meetings[2].store.set("word", "from the last")
    assert meetings[0].store.get("word") == b"from the last"


def test_nobody_goes_before_all_are_here(launcher):
    """Rank 1 is early: it waits until rank 0 has seen all, and has not only come itself."""
    early, head = launcher.meeting(1, 3), launcher.meeting(0, 3)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(meeting.call_the_roll) for meeting in (early, head)]
        last = launcher.meeting(2, 3)
        last.store.wait(["here/0", "here/1"], timedelta(seconds=LONG))
        time.sleep(0.2)  # in which they would have gone
        assert not any(call.done() for call in calls)
        last.call_the_roll()
        for call in calls:
            call.result(timeout=LONG)


def test_those_who_do_not_come_are_named_in_time():
    """By rank 0; the others say whom they waited for."""
    port = free_port()
    meetings = [Meeting(job(port, rank, 5), MOMENT) for rank in (0, 2, 4)]
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(all_at_once, meetings[1:2])
        (told,) = all_at_once(meetings[:1])
        assert MOMENT <= time.monotonic() - begun < MOMENT + 4
        (waited,) = others.result()
    assert told.startswith(f"rank 1, 3, 4 did not come to 127.0.0.1:{port} within 0.5 s; ")
    assert waited.startswith(f"rank 0, which waits for all, did not come to 127.0.0.1:{port}")


def test_an_attempt_does_not_take_what_is_left_of_the_one_before_for_news(launcher):
    before = [launcher.meeting(rank, 2) for rank in range(2)]
    assert all_at_once(before) == [None] * 2
    before[1].line().set("pulse/1", "of one that is dead")
    alone = launcher.meeting(0, 2, attempt=1, timeout=MOMENT)
    (told,) = all_at_once([alone])
    assert told.startswith("rank 1 did not come")
    assert not alone.store.check(["pulse/1"])
    assert not alone.line().check(["pulse/1"])
    again = [launcher.meeting(rank, 2, attempt=2) for rank in range(2)]
    assert all_at_once(again) == [None] * 2
    again[1].line().set("pulse/1", "of one that lives")
    assert again[0].store.get("pulse/1") == b"of one that lives"


def test_an_address_that_nobody_answers_at_is_named_in_time():
    port = free_port()
    begun = time.monotonic()
    with pytest.raises(LaunchError, match=re.escape("cannot be reached within 0.5 s")) as raised:
        Meeting(job(port, 1, 2), MOMENT)
    assert time.monotonic() - begun < MOMENT + 4
    assert f"127.0.0.1:{port}, where the processes meet" in str(raised.value)
    assert "HEAD" in str(raised.value)


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT"])
def test_a_job_must_say_where_it_meets(missing):
    environment = job(29500, 0, 2)
    del environment[missing]
    with pytest.raises(LaunchError, match=re.escape("WORLD_SIZE is 2, but MASTER_ADDR")):
        Meeting(environment, MOMENT)


def test_a_line_is_not_held_up_by_who_waits(launcher):
    """Else the reports of a process would wait for its roll call, or its exchanges."""
    one = launcher.meeting(1, 2)
    line = one.line()
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(one.store.wait, ["word"], timedelta(seconds=5))
        while not waiting.running():
            time.sleep(0.01)
        time.sleep(0.1)  # now it is on its way
        pool.submit(line.set, "word", "").result(timeout=LONG)
        waiting.result(timeout=LONG)


@pytest.mark.parametrize(
    ("environment", "met"),
    [
        ({}, False),
        ({"RANK": "0", "WORLD_SIZE": "1"}, False),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"WORLD_SIZE": "2"}, False),
        ({"RANK": "0"}, False),
        ({"RANK": "0", "WORLD_SIZE": "two"}, False),
    ],
)
def test_who_meets_others(environment, met):
    assert is_met(environment) is met
