"""One lookup for all tables, so that every wrong name gets the same kind of answer."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

Row = TypeVar("Row")


def lookup(table: Mapping[str, Row], name: str, kind: str) -> Row:
    """The row called `name`.

    Raises:
        ValueError: there is no such row; the message names `kind`, the nearest row and all rows.
    """
    if name in table:
        return table[name]
    nearest = get_close_matches(name, table, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"unknown {kind} {name!r}{hint} ({', '.join(sorted(table))})")


def weighted_rows(
    table: Mapping[str, Row], weights: Mapping[str, float], kind: str
) -> list[tuple[Row, float]]:
    """The rows named whose weight is above 0, and their weights.

    Raises:
        ValueError: a name that is no row; see `lookup`.
    """
    rows = [(lookup(table, name, kind), weight) for name, weight in weights.items()]
    return [(row, weight) for row, weight in rows if weight > 0]
