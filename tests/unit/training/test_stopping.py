"""How a run is told to stop: by signals and a file, and by each process to all others."""

import os
import signal

import pytest
import torch

from biggan_sn.training import stopping
from biggan_sn.training.stopping import LOOK_EVERY, STOP, STOPPED, AnyProcess, Stopping
from biggan_sn.training.world import World
from tests.training.crew import Crew

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Clock:
    """Time that stands still but for `now`."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stopping, "time", clock)
    return clock


def never(number, frame):
    raise AssertionError("a handler of before")


@pytest.fixture
def _handlers():
    """Others of which Stopping must not forget."""
    before = {number: signal.signal(number, never) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("leads", [True, False])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_word_and_nothing_else(tmp_path, number, leads):
    run = Stopping(tmp_path, leads)
    with run:
        assert not run.asked()
        os.kill(os.getpid(), number)
        assert run.asked()
        os.kill(os.getpid(), number)
        assert run.asked(), "whoever is impatient changes nothing"
    assert [signal.getsignal(each) for each in SIGNALS] == [never] * 3


@pytest.mark.usefixtures("_handlers")
def test_handlers_come_back_after_an_error(tmp_path):
    def fail():
        assert never not in [signal.getsignal(each) for each in SIGNALS]
        raise RuntimeError("of the run")

    with pytest.raises(RuntimeError, match="of the run"), Stopping(tmp_path, True):
        fail()
    assert [signal.getsignal(each) for each in SIGNALS] == [never] * 3


def test_a_file_is_found_within_a_second(tmp_path, clock):
    """Folders that many nodes share are slow: no look at every step."""
    run = Stopping(tmp_path, True)
    assert not run.asked()
    (tmp_path / STOP).touch()
    clock.now += 0.9 * LOOK_EVERY
    assert not run.asked(), "looked just now"
    clock.now += 0.2 * LOOK_EVERY
    assert run.asked()
    (tmp_path / STOP).unlink()
    clock.now += 2 * LOOK_EVERY
    assert run.asked(), "what is said is said"


def test_a_file_that_is_there_from_the_first_counts(tmp_path):
    (tmp_path / STOP).touch()
    with Stopping(tmp_path, True) as run:
        assert run.asked()


def test_only_the_leading_process_looks(tmp_path, clock):
    (tmp_path / STOP).touch()
    run = Stopping(tmp_path, False)
    for _ in range(3):
        assert not run.asked()
        clock.now += 2 * LOOK_EVERY
    assert (tmp_path / STOP).exists()


def test_a_run_that_stopped_leaves_word(tmp_path):
    (tmp_path / STOP).touch()
    with Stopping(tmp_path, True) as run:
        assert run.end(7, finished=False) is False
    assert (tmp_path / STOPPED).read_text() == "step 7\n"
    assert not (tmp_path / STOP).exists(), "or it would stop at once when it goes on"


def test_a_run_that_finished_leaves_none(tmp_path):
    (tmp_path / STOP).touch()
    with Stopping(tmp_path, True) as run:
        assert run.end(7, finished=True) is True
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_goes_on_is_not_stopped(tmp_path):
    (tmp_path / STOPPED).write_text("step 7\n")
    with Stopping(tmp_path, True):
        assert not (tmp_path / STOPPED).exists()


def test_the_others_leave_files_alone(tmp_path):
    (tmp_path / STOP).touch()
    (tmp_path / STOPPED).write_text("step 7\n")
    with Stopping(tmp_path, False) as run:
        assert run.end(8, finished=False) is False
    assert (tmp_path / STOP).exists()
    assert (tmp_path / STOPPED).read_text() == "step 7\n"


def test_alone_one_hears_oneself_at_once():
    any_process = AnyProcess(World())
    assert [any_process(here) for here in (False, True, False)] == [False, True, False]


def listen(rank, ranks, said, device="cpu"):
    """What a process hears that says so at each call."""
    any_process = AnyProcess(World(rank, ranks, torch.device(device)))
    return [any_process(here) for here in said[rank]]


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    three = Crew(3, tmp_path_factory.mktemp("crew"))
    yield three
    three.close()


@pytest.mark.parametrize("speaker", [0, 1, 2])
def test_what_one_wants_all_know_one_call_later(crew, speaker):
    """All at the same call, and not before; nor do they hear it twice."""
    said = [[rank == speaker and call == 2 for call in range(6)] for rank in range(3)]
    for heard in crew(listen, said):
        assert heard == [False, False, False, True, False, False]


@pytest.mark.gpu
def test_on_a_gpu_too(crew):
    """There the answer travels in a stream of its own."""
    said = [[rank == 1 and call == 2 for call in range(6)] for rank in range(3)]
    for heard in crew(listen, said, "cuda"):
        assert heard == [False, False, False, True, False, False]


def test_what_nobody_wants_nobody_hears(crew):
    for heard in crew(listen, [[False] * 5] * 3):
        assert heard == [False] * 5


def test_whoever_keeps_wanting_is_heard_each_time(crew):
    said = [[False, True, True, True, False], [False] * 5, [False, False, False, True, False]]
    for heard in crew(listen, said):
        assert heard == [False, False, True, True, True]
