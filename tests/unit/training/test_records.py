"""Records of a run: what a kill left is read as far as it is whole."""

import pytest

from biggan_sn.training.records import LONGEST, append, last, read


@pytest.mark.parametrize("lines", [1, 2, 5000])
def test_the_last_line_is_that_of_all(tmp_path, lines):
    path = tmp_path / "scalars.jsonl"
    for step in range(lines):
        append(path, {"step": step, "loss": 1 / (step + 1)})
    assert lines < 5000 or path.stat().st_size > LONGEST
    assert last(path) == read(path)[-1] == {"step": lines - 1, "loss": 1 / lines}


def test_a_line_that_was_cut_is_none(tmp_path):
    path = tmp_path / "scalars.jsonl"
    append(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert last(path) == {"step": 1}
    path.write_text('{"st')
    assert last(path) is None and read(path) == []


def test_no_file_has_no_line(tmp_path):
    assert last(tmp_path / "scalars.jsonl") is None
