"""Training goes on while a checkpoint is written, and the checkpoint is of the moment it was saved.

Where a disk must be slow, it waits for an event; no test measures time.
"""

import errno
import os
import resource
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress

import pytest
import torch

from biggan_sn.checkpoint import Checkpoints, load_state, load_tensors
from biggan_sn.training.saving import Writer

LONG = 60  # seconds after which a test gives up
MOMENT = 0.3  # seconds in which what must not happen would have happened


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", keep=9)


@pytest.fixture
def writer(checkpoints):
    writer = Writer(checkpoints)
    yield writer
    with suppress(Exception):
        writer.close()


class Disk:
    """One that can be told to wait or to fail, and remembers what it was given.

    Attributes:
        go: may it write?
        begun: has it begun to?
        error: what it fails with instead.
        given: groups of tensors, as they came.
    """

    def __init__(self, checkpoints, monkeypatch):
        self.go, self.begun = threading.Event(), threading.Event()
        self.error = None
        self.given = []
        self.threads = []
        self._save = checkpoints.save
        self.go.set()
        monkeypatch.setattr(checkpoints, "save", self.save)

    def save(self, step, tensors, state, score):
        self.given.append(tensors)
        self.threads.append(threading.get_ident())
        self.begun.set()
        assert self.go.wait(LONG)
        if self.error:
            raise self.error
        return self._save(step, tensors, state, score)


@pytest.fixture
def disk(checkpoints, monkeypatch):
    disk = Disk(checkpoints, monkeypatch)
    yield disk
    disk.go.set()  # whatever failed: nothing waits for it


def group(value, **more):
    return {"net": {"weight": torch.full((4, 3), float(value)), "step": torch.tensor(value)} | more}


def assert_holds(checkpoints, step, expected):
    """The checkpoint holds these groups, all of each and nothing else."""
    path = checkpoints.path_of(step)
    assert {file.stem for file in path.glob("*.safetensors")} == set(expected)
    for name, tensors in expected.items():
        found = load_tensors(path, name)
        assert found.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert found[key].dtype == tensor.dtype, key
            assert found[key].shape == tensor.shape, key
            assert torch.equal(found[key], tensor.detach()), key


def test_save_does_not_wait_for_the_disk(writer, checkpoints, disk):
    disk.go.clear()
    writer.save(1, group(1), {"position": 10}, 0.5)
    assert disk.begun.wait(LONG)
    assert checkpoints.newest() is None, "and save has returned"
    disk.go.set()
    writer.wait()
    assert_holds(checkpoints, 1, group(1))
    state = load_state(checkpoints.newest())
    assert (state["step"], state["position"], state["score"]) == (1, 10, 0.5)


def test_it_writes_behind_the_trainings_back(writer, disk):
    """One thread for all checkpoints, and not the one that trains."""
    for step in (1, 2, 3):
        writer.save(step, group(step), {}, None)
    writer.wait()
    (thread,) = set(disk.threads)
    assert thread != threading.get_ident()


@pytest.mark.parametrize("change", ["in place", "of the data", "resized", "through a view"])
def test_tensors_are_written_as_they_were_when_save_returned(writer, checkpoints, disk, change):
    """Whatever training does to them while the disk is slow."""
    disk.go.clear()
    expected, tensors = group(1), group(1)
    writer.save(1, tensors, {}, None)
    for tensor in tensors["net"].values():
        if change == "in place":
            tensor.fill_(7)
        elif change == "of the data":
            tensor.data = torch.zeros(5, dtype=tensor.dtype)
        elif change == "resized":
            tensor.resize_(9).zero_()
        else:
            tensor.view(-1)[:] = 7
    tensors["net"]["more"] = torch.ones(1)
    del tensors["net"]["step"]
    disk.go.set()
    writer.wait()
    assert_holds(checkpoints, 1, expected)


class Watched(Mapping):
    """Tensors that tell when somebody begins to read them."""

    def __init__(self, tensors):
        self.tensors = tensors
        self.read = threading.Event()

    def __getitem__(self, name):
        self.read.set()
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        self.read.set()
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


def test_the_next_save_waits_for_the_one_before(writer, checkpoints, disk):
    """Nothing of the second is copied while the first is written: there is memory for one."""
    disk.go.clear()
    writer.save(1, group(1), {}, None)
    second = Watched(group(2))
    thread = threading.Thread(target=writer.save, args=(2, second, {}, None))
    thread.start()
    assert not second.read.wait(MOMENT)
    disk.go.set()
    thread.join(LONG)
    assert second.read.is_set()
    writer.wait()
    assert_holds(checkpoints, 1, group(1))
    assert_holds(checkpoints, 2, group(2))


def full():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "step_00000001")


def test_an_error_of_the_disk_is_raised_at_the_next_save(writer, checkpoints, disk):
    disk.error = full()
    writer.save(1, group(1), {}, None)  # does not know yet
    with pytest.raises(OSError, match="No space left") as raised:
        writer.save(2, group(2), {}, None)
    assert raised.value.filename == "step_00000001"
    assert len(disk.given) == 1, "the second was not begun"
    disk.error = None
    writer.save(3, group(3), {}, None)
    writer.wait()
    assert [path.name for path in checkpoints.all()] == ["step_00000003"]


def test_an_error_of_the_disk_is_raised_by_wait_once(writer, disk):
    disk.error = full()
    writer.save(1, group(1), {}, None)
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    writer.wait()
    disk.error = None
    writer.save(2, group(2), {}, None)
    writer.wait()


def test_errors_of_the_real_disk_come_through(writer, checkpoints):
    """A file is where its folder ought to be."""
    checkpoints.root.write_text("")
    writer.save(1, group(1), {}, None)
    with pytest.raises(OSError, match=r"step_00000001: cannot be written .*there is none before"):
        writer.wait()


def test_a_disk_that_is_full_among_the_tensors_is_an_error_of_the_disk(writer, checkpoints):
    """safetensors has an error of its own for it."""
    writer.save(1, group(1), {}, None)
    writer.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        writer.save(2, {"net": {"weight": torch.zeros(10_000)}}, {}, None)
        with pytest.raises(OSError, match=r"step_00000002: cannot be written .*step_00000001"):
            writer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert checkpoints.newest() == checkpoints.path_of(1)


def test_a_group_that_is_gone_is_not_written_and_a_type_that_changed_is(writer, checkpoints):
    one = {"w": torch.ones(1)}
    writer.save(1, {"a": one, "b": one}, {}, None)
    writer.save(2, {"a": {"w": torch.ones(1, dtype=torch.float64) / 3}}, {}, None)
    writer.wait()
    assert not (checkpoints.path_of(2) / "b.safetensors").exists()
    assert load_tensors(checkpoints.path_of(2), "a")["w"].dtype == torch.float64


def test_the_state_is_that_of_the_moment(writer, checkpoints, disk):
    state = {"signs": {"explosion": 0.1}}
    disk.go.clear()
    writer.save(1, group(1), state, None)
    state["signs"]["explosion"] = 0.9
    disk.go.set()
    writer.wait()
    assert load_state(checkpoints.path_of(1))["signs"] == {"explosion": 0.1}


def test_wait_waits_until_all_is_on_disk(writer, checkpoints, disk):
    writer.wait()  # nothing to wait for
    disk.go.clear()
    writer.save(1, group(1), {}, None)
    threading.Timer(MOMENT, disk.go.set).start()
    writer.wait()
    assert_holds(checkpoints, 1, group(1))


def test_close_waits_for_what_is_being_written(writer, checkpoints, disk):
    disk.go.clear()
    writer.save(1, group(1), {}, None)
    threading.Timer(MOMENT, disk.go.set).start()
    writer.close()
    assert_holds(checkpoints, 1, group(1))
    with pytest.raises(RuntimeError):
        writer.save(2, group(2), {}, None)
    assert not any(thread.name.startswith("checkpoint") for thread in threading.enumerate())


def test_tensors_come_go_and_change_their_shape(writer, checkpoints):
    """An optimizer has no state before its first step; a detector's grows with what it has seen."""
    one = {"exp_avg": torch.ones(2, 3), "step": torch.tensor(1.0)}
    grown = {"exp_avg": torch.ones(4, 3) * 2, "step": torch.tensor([1.0])}
    shrunk = {"exp_avg": torch.ones(1, 3) * 3}
    sequence = [{}, one, grown, shrunk, {"other": torch.zeros(0, 5)}, {}, one]
    for step, optimizer in enumerate(sequence):
        writer.save(step, {"optimizer": optimizer, **group(step)}, {}, None)
        writer.wait()
        assert_holds(checkpoints, step, {"optimizer": optimizer, **group(step)})
    for step, optimizer in enumerate(sequence):  # none was changed by a later one
        assert_holds(checkpoints, step, {"optimizer": optimizer, **group(step)})


def test_same_number_of_elements_in_another_shape(writer, checkpoints):
    for step, shape in enumerate([(6,), (2, 3), (3, 2), (1, 6), (6,)]):
        tensors = {"net": {"weight": torch.arange(6.0).reshape(shape)}}
        writer.save(step, tensors, {}, None)
        writer.wait()
        assert_holds(checkpoints, step, tensors)


def test_groups_come_as_they_please(writer, checkpoints):
    first, then = group(1), {**group(2), "average": {"weight": torch.ones(3)}}
    writer.save(1, first, {}, None)
    writer.save(2, then, {}, None)
    writer.wait()
    assert_holds(checkpoints, 1, first)
    assert_holds(checkpoints, 2, then)


def test_groups_of_equal_names_do_not_mix(writer, checkpoints):
    """G, D and the average have tensors of the same names."""
    tensors = {name: {"weight": torch.full((2,), v)} for v, name in enumerate("gde")}
    writer.save(1, tensors, {}, None)
    writer.wait()
    assert_holds(checkpoints, 1, tensors)


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.uint8, torch.bool)  # fmt: skip


def of_all_kinds(seed):
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 3, 4, 4, generator=random)
    kinds = {str(dtype): noise.mul(9).to(dtype) for dtype in DTYPES}
    kinds |= {f"0-dim {dtype}": noise.mul(9).to(dtype)[0, 0, 0, 0] for dtype in DTYPES}
    return kinds | {
        "channels_last": noise.to(memory_format=torch.channels_last),
        "transposed": noise.transpose(0, 3),
        "slice": noise[:, 1, ::2],
        "expanded": noise[0, 0, 0, 0].expand(3, 3),
        "empty": noise[:0],
        "parameter": torch.nn.Parameter(noise + 1),
        "extremes": torch.tensor([torch.inf, -torch.inf, torch.finfo().tiny, -0.0, 1e-45]),
    }


def test_types_and_layouts_survive(writer, checkpoints):
    for step in (1, 2):  # into memory that was taken, and into memory that is there
        writer.save(step, {"net": of_all_kinds(step)}, {}, None)
    writer.wait()
    for step in (1, 2):
        assert_holds(checkpoints, step, {"net": of_all_kinds(step)})


def test_tensors_that_share_memory_are_written_each(writer, checkpoints):
    weight = torch.arange(6.0)
    tensors = {"net": {"a": weight, "b": weight, "c": weight[2:]}}
    writer.save(1, tensors, {}, None)
    writer.wait()
    assert_holds(checkpoints, 1, tensors)


def addresses(given):
    return {
        (name, key): tensor.untyped_storage().data_ptr()
        for name, tensors in given.items()
        for key, tensor in tensors.items()
    }


def test_memory_is_taken_once(writer, disk):
    """Else every checkpoint of a large run would need as much memory again as it has weights."""
    ours = {name: torch.zeros(50, 50) for name in "abc"}
    taken = []
    for step in range(4):
        for tensor in ours.values():
            tensor.fill_(step)
        writer.save(step, {"net": ours, "other": {"a": torch.zeros(9)}}, {}, None)
        writer.wait()
        taken.append(addresses(disk.given[-1]))
    assert all(found == taken[0] for found in taken)
    assert len(set(taken[0].values())) == len(taken[0])
    theirs = set(addresses({"net": ours}).values())
    assert not theirs & set(taken[0].values()), "copies"


def test_memory_of_what_is_gone_is_let_go(writer, disk):
    writer.save(1, {"net": {"a": torch.zeros(9), "b": torch.zeros(9)}}, {}, None)
    writer.wait()
    writer.save(2, {"net": {"b": torch.zeros(9)}}, {}, None)
    writer.wait()
    assert set(disk.given[-1]["net"]) == {"b"}


def test_the_copies_carry_no_graph(writer, disk):
    weight = torch.nn.Parameter(torch.ones(3))
    writer.save(1, {"net": {"weight": weight, "product": weight * 2}}, {}, None)
    writer.wait()
    assert not any(tensor.requires_grad for tensor in disk.given[-1]["net"].values())
