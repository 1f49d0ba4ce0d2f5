"""No file of a checkpoint is taken for what was written if a single byte of it is not."""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from biggan_sn.checkpoint import (
    STATE_NAME,
    VERSION,
    CheckpointError,
    Checkpoints,
    load_network,
    load_state,
    load_tensors,
    save_state,
)

GROUPS = ("net", "optimizer", "nothing")
FILES = (*(f"{name}.safetensors" for name in GROUPS), STATE_NAME)
STATE = {"position": 40, "attempt": 1, "signs": {"blindness": 0.25, "é": [1, 2.0, None, True, ""]}}
UNTIL_ALL = settings(deadline=None, max_examples=150)


def tensors(value):
    return {
        "net": {"weight": torch.full((3, 2), float(value)), "bias": torch.arange(2.0)},
        "optimizer": {"step": torch.tensor(float(value))},
        "nothing": {},
    }


@pytest.fixture(scope="module", autouse=True)
def _no_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint, and what is in its files."""
    path = Checkpoints(tmp_path_factory.mktemp("run")).save(4, tensors(4), STATE, 1.5)
    files = {name: (path / name).read_bytes() for name in FILES}
    assert sorted(files) == sorted(file.name for file in path.iterdir()), "all there is"
    return path, files, load_state(path)


@pytest.fixture(scope="module")
def damaged(written):
    """Gives the checkpoint one other file."""
    path, files, _ = written
    before = {STATE_NAME}

    def damage(name, contents):
        other = before.pop()
        (path / other).write_bytes(files[other])
        (path / name).write_bytes(contents)
        before.add(name)
        return path

    yield damage
    damage(STATE_NAME, files[STATE_NAME])


def exactly(document):
    """A JSON document with its types: 1 is not 1.0, nor true."""
    return json.dumps(document, sort_keys=True)


def assert_noticed(path, name, written):
    """Whoever reads this file is told which it is. A state that says the same may be read."""
    _, _, state = written
    if name == STATE_NAME:
        try:
            assert exactly(load_state(path)) == exactly(state)
        except CheckpointError as error:
            assert STATE_NAME in str(error)  # noqa: PT017
            for group in GROUPS:
                with pytest.raises(CheckpointError, match=STATE_NAME):
                    load_tensors(path, group)
            return
        contents = (path / name).read_bytes()
        assert exactly(json.loads(contents)) == exactly(json.loads(written[1][name]))
        return
    for group in GROUPS:
        if name == f"{group}.safetensors":
            with pytest.raises(CheckpointError, match=name):
                load_tensors(path, group)
        else:
            load_tensors(path, group)


def test_undisturbed_it_is_read(written, damaged):
    path = damaged(STATE_NAME, written[1][STATE_NAME])
    for group, expected in tensors(4).items():
        found = load_tensors(path, group)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    state = load_state(path)
    assert {name: state[name] for name in STATE} == STATE
    assert (state["step"], state["score"]) == (4, 1.5)


@pytest.mark.parametrize("name", FILES)
@UNTIL_ALL
@given(data=st.data())
def test_any_other_byte_is_noticed(written, damaged, name, data):
    contents = bytearray(written[1][name])
    at = data.draw(st.integers(0, len(contents) - 1), "byte number")
    contents[at] ^= data.draw(st.integers(1, 255), "changed by")
    assert_noticed(damaged(name, bytes(contents)), name, written)


def test_every_byte_of_the_state_counts(written, damaged):
    """The one file without a hash in another: each byte, as the digit or letter beside it."""
    whole = written[1][STATE_NAME]
    noticed = 0
    for at in range(len(whole)):
        contents = bytearray(whole)
        contents[at] ^= 1
        path = damaged(STATE_NAME, bytes(contents))
        try:
            assert exactly(load_state(path)) == exactly(written[2])
        except CheckpointError as error:
            noticed += 1
            assert STATE_NAME in str(error)  # noqa: PT017
    assert noticed >= len(whole.translate(None, b" \n")), "all but spaces"


@pytest.mark.parametrize("name", FILES)
@UNTIL_ALL
@given(data=st.data())
def test_any_truncation_is_noticed(written, damaged, name, data):
    whole = written[1][name]
    left = data.draw(st.integers(0, len(whole) - 1), "bytes left")
    path = damaged(name, whole[:left])
    assert_noticed(path, name, written)
    if name == STATE_NAME:
        with pytest.raises(CheckpointError, match=STATE_NAME):
            load_state(path)


@pytest.mark.parametrize("name", FILES)
@UNTIL_ALL
@given(data=st.data())
def test_anything_appended_or_put_before_is_noticed(written, damaged, name, data):
    whole = written[1][name]
    more = data.draw(st.binary(min_size=1, max_size=20), "more")
    assert_noticed(damaged(name, whole + more), name, written)
    assert_noticed(damaged(name, more + whole), name, written)
    if name == STATE_NAME and more.strip(b" \t\r\n"):
        with pytest.raises(CheckpointError, match=STATE_NAME):
            load_state(damaged(name, whole + more))


@UNTIL_ALL
@given(st.binary(max_size=200))
@example(b"null")
@example(b"[]")
@example(b"{}")
@example(b"5")
@example(b'"state"')
@example(b"[" * 200)
def test_anything_else_in_place_of_the_state_is_noticed(damaged, contents):
    with pytest.raises(CheckpointError, match=STATE_NAME):
        load_state(damaged(STATE_NAME, contents))


@UNTIL_ALL
@given(data=st.data())
def test_the_state_may_be_laid_out_anew(written, damaged, data):
    """Spaces and the order of names are not what a state says."""
    indent = data.draw(st.sampled_from([None, 0, 4, "\t"]))
    separators = data.draw(st.sampled_from([(",", ":"), (" , ", " : "), (",\r\n", ":\t")]))
    document = json.loads(written[1][STATE_NAME])
    in_order = data.draw(st.booleans())
    contents = json.dumps(
        document, indent=indent, separators=separators, sort_keys=in_order
    ).encode()
    path = damaged(STATE_NAME, b" \n" + contents + b"\n")
    assert exactly(load_state(path)) == exactly(written[2])
    assert load_tensors(path, "net").keys() == {"weight", "bias"}


def values_in(document, path=()):
    """Where in the document is what."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from values_in(value, (*path, key))


def test_no_field_can_be_changed_or_left_out(written, damaged):
    """Also by who knows JSON, but not the seal."""
    document = json.loads(written[1][STATE_NAME])
    for path in values_in(document):
        for replacement in (None, 0, 1.0, True, "other", {}, "without"):
            other = json.loads(written[1][STATE_NAME])
            place = other
            for key in path[:-1]:
                place = place[key]
            if replacement == "without":
                del place[path[-1]]
            elif exactly(place[path[-1]]) == exactly(replacement):
                continue
            else:
                place[path[-1]] = replacement
            with pytest.raises(CheckpointError, match=STATE_NAME):
                load_state(damaged(STATE_NAME, json.dumps(other).encode()))


def test_a_file_of_another_checkpoint_or_group_is_noticed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    one, other = (checkpoints.save(step, tensors(step), STATE) for step in (1, 2))
    kept = (one / "net.safetensors").read_bytes()
    shutil.copy(other / "net.safetensors", one)
    with pytest.raises(CheckpointError, match=r"net\.safetensors.*SHA-256"):
        load_tensors(one, "net")
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        load_network(torch.nn.Linear(2, 3), one, "net")
    (one / "optimizer.safetensors").write_bytes(kept)
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors.*size"):
        load_tensors(one, "optimizer")
    (one / "net.safetensors").write_bytes(kept)
    assert load_tensors(one, "net")["weight"][0, 0] == 1
    shutil.copy(other / STATE_NAME, one)
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        load_tensors(one, "net")


def test_a_file_the_state_does_not_know_is_not_read(tmp_path):
    path = Checkpoints(tmp_path).save(1, tensors(1), STATE)
    shutil.copy(path / "net.safetensors", path / "more.safetensors")
    with pytest.raises(CheckpointError, match=r"more\.safetensors"):
        load_tensors(path, "more")
    with pytest.raises(CheckpointError, match=r"never\.safetensors"):
        load_tensors(path, "never")


def test_a_seal_is_of_the_contents_alone(written):
    """Not of where it was written, nor when: the same state has the same bytes."""
    path, files, state = written
    save_state(path, state)
    assert (path / STATE_NAME).read_bytes() == files[STATE_NAME]


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from(["\ud800", "\u2028", '"\\', "ß\x00", float("inf"), -0.0, 10**30])
)  # fmt: skip
keys = st.text(max_size=5) | st.integers() | st.booleans() | st.none() | st.floats()
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(json_values)
@example({1: "one", "1": "uno", None: [], False: {}, 2.5: float("-inf")})
def test_a_state_of_any_json_reads_back_as_json_wrote_it(written, value):
    path, files, _ = written
    try:
        save_state(path, {"version": VERSION, "value": value})
        found = load_state(path)
        assert found.keys() == {"version", "value"}
        assert exactly(found["value"]) == exactly(json.loads(json.dumps(value)))
    finally:
        (path / STATE_NAME).write_bytes(files[STATE_NAME])


class Killed(BaseException):
    """Ends the program at a system call, as kill -9 would: nothing handles it."""


def calls_of_a_save(patch, fatal, moment):
    """Every call by which something reaches the disk ends the program if it is number `fatal`.
    Returns the calls that were made."""
    made = []

    def dying(owner, name):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            made.append(name)
            last = len(made) - 1 == fatal
            if last and moment == "before":
                raise Killed
            if last and moment == "amid":
                if name == "write_bytes":
                    path, contents = args
                    original(path, contents[: len(contents) // 2])
                raise Killed
            result = original(*args, **kwargs)
            if last:
                raise Killed
            return result

        patch.setattr(owner, name, call)

    for owner, name in ((os, "fsync"), (Path, "write_bytes"), (Path, "replace"), (Path, "mkdir"),
                        (Path, "write_text"), (Path, "rename"), (Path, "unlink")):  # fmt: skip
        dying(owner, name)
    return made


def number_of_calls(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        made = calls_of_a_save(patch, -1, "never")
        save_state(tmp_path, {"version": VERSION, "value": 0})
    return len(made)


@pytest.mark.parametrize("moment", ["before", "amid", "after"])
@pytest.mark.parametrize("before", [True, False], ids=["over another", "new"])
def test_a_state_is_there_whole_or_as_it_was(tmp_path, moment, before):
    calls = number_of_calls(tmp_path / "counted")
    assert calls >= 4
    seen = []
    for fatal in range(calls):
        path = tmp_path / str(fatal)
        if before:
            save_state(path, {"version": VERSION, "value": "old"})
        with pytest.MonkeyPatch.context() as patch:
            calls_of_a_save(patch, fatal, moment)
            with pytest.raises(Killed):
                save_state(path, {"version": VERSION, "value": "new" * 100})
        seen.append(load_state(path)["value"] if (path / STATE_NAME).exists() else "old")
        assert seen[-1] in ("old", "new" * 100)
        save_state(path, {"version": VERSION, "value": "next"})
        assert load_state(path)["value"] == "next"
        assert [file.name for file in path.iterdir()] == [STATE_NAME], "nothing is left over"
    assert seen == sorted(seen, reverse=True), "once new, it stays"
    assert {"old", "new" * 100} == set(seen)


def identity(found):
    return found.st_dev, found.st_ino


def on_disk(patch):
    """Files and folders that were brought to disk, by inode, as they come."""
    synced = []
    patch.setattr(os, "fsync", lambda handle: synced.append(identity(os.fstat(handle))))
    return synced


def test_a_state_takes_its_name_when_it_is_on_disk(tmp_path, monkeypatch):
    """Else a power failure could leave an empty file of that name."""
    synced = on_disk(monkeypatch)
    replace = Path.replace
    replaced = []

    def checked(self, target):
        assert identity(self.stat()) in synced
        synced.clear()
        replaced.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", checked)
    save_state(tmp_path, {"version": VERSION})
    assert replaced == [STATE_NAME]
    assert identity(tmp_path.stat()) in synced, "and then its name"


def test_a_checkpoint_takes_its_name_when_all_of_it_is_on_disk(tmp_path, monkeypatch):
    synced = on_disk(monkeypatch)
    rename = Path.rename
    renamed = []

    def checked(self, target):
        assert identity(self.stat()) == synced[-1], "the names in it, when all are there"
        assert {identity(file.stat()) for file in self.iterdir()} <= set(synced)
        assert {file.name for file in self.iterdir()} == set(FILES)
        synced.clear()
        renamed.append(Path(target).name)
        return rename(self, target)

    replace = Path.replace

    def pointed(self, target):
        if Path(target).name == "latest":
            assert identity(tmp_path.stat()) in synced, "what it points to, before it does"
        return replace(self, target)

    monkeypatch.setattr(Path, "rename", checked)
    monkeypatch.setattr(Path, "replace", pointed)
    Checkpoints(tmp_path).save(4, tensors(4), STATE)
    assert renamed == ["step_00000004"]
    assert (tmp_path / "latest").exists()


def test_the_hash_is_of_the_whole_file(tmp_path):
    """Of a file larger than any buffer too: the last byte counts."""
    weight = torch.zeros(700_000)
    path = Checkpoints(tmp_path).save(1, {"net": {"weight": weight}}, {})
    file = path / "net.safetensors"
    with file.open("r+b") as handle:
        handle.seek(-4, os.SEEK_END)
        handle.write(struct.pack("<f", 1e-30))
    with pytest.raises(CheckpointError, match=r"net\.safetensors.*SHA-256"):
        load_tensors(path, "net")
