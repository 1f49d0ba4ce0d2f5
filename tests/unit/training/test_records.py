"""Records of a run: what a kill left is read as far as it is whole."""

import json

import pytest

from biggan_sn.training.records import BLOCK, append, last, newest_lines, read


@pytest.mark.parametrize("lines", [1, 2, 5000])
def test_the_last_line_is_that_of_all(tmp_path, lines):
    path = tmp_path / "scalars.jsonl"
    for step in range(lines):
        append(path, {"step": step, "loss": 1 / (step + 1)})
    assert lines < 5000 or path.stat().st_size > BLOCK
    assert last(path) == read(path)[-1] == {"step": lines - 1, "loss": 1 / lines}


def test_a_line_that_was_cut_is_none(tmp_path):
    path = tmp_path / "scalars.jsonl"
    append(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert last(path) == {"step": 1}
    path.write_text('{"st')
    assert last(path) is None and read(path) == []


@pytest.mark.parametrize("text", ["", "a", "\n", "a\n", "a\nb", "a\n\nb\n", "ab\ncdefgh\ni\njk"])
@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_lines_from_the_end_are_those_from_the_beginning(tmp_path, monkeypatch, text, block):
    """Wherever the blocks that are read begin."""
    monkeypatch.setattr("biggan_sn.training.records.BLOCK", block)
    path = tmp_path / "lines"
    path.write_text(text)
    whole = text.encode().split(b"\n")[:-1]
    assert list(newest_lines(path)) == whole[::-1]
    for most in range(len(text) + 2):
        there = text.encode()[max(0, len(text) - most) :]
        first = there.split(b"\n")[:-1] if most >= len(text) else there.split(b"\n")[1:-1]
        assert list(newest_lines(path, most)) == first[::-1]


def test_a_line_longer_than_a_block(tmp_path):
    path = tmp_path / "spectra.jsonl"
    for step in range(2):
        append(path, {"step": step, "sigmas": [0.5] * BLOCK})
    assert last(path)["step"] == 1 and [json.loads(n)["step"] for n in newest_lines(path)] == [1, 0]


def test_no_file_has_no_line(tmp_path):
    assert last(tmp_path / "scalars.jsonl") is None
