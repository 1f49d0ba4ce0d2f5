"""How findings are said."""

import pytest

from biggan_sn.preflight.findings import FAILS, Finding, by_value, counted, size


def test_by_value_names_who_has_what():
    values, hosts = ["a", "b", "a", "a"], ["n1", "n1", "n2", "n2"]
    assert by_value(values, hosts) == "a (ranks 0, 2, 3 on n1, n2), b (rank 1 on n1)"
    assert by_value(["a"] * 3 + ["b"] * 2, ["n1"] * 3 + ["n2"] * 2) == (
        "a (ranks 0-2 on n1), b (ranks 3-4 on n2)"
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (2.18e9, "2.18 GB"), (3e15, "3e+03 TB")],
)
def test_size(number, text):
    assert size(number) == text


def test_counted():
    assert [counted(n, "process", "es") for n in (1, 2)] == ["1 process", "2 processes"]


def test_a_line_has_all():
    assert Finding("disk", FAILS, "full").line().split() == ["FAILS", "disk", "full"]
