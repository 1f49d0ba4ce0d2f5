"""What a check found, and how it is shown."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OK, NOTE, FAILS = "ok", "note", "FAILS"  # a note is worth a look, but no reason not to train


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        what: was looked at.
        verdict: OK, NOTE or FAILS.
        text: what was found, and where it is wrong what to do.
    """

    what: str
    verdict: str
    text: str

    def line(self) -> str:
        """For people."""
        return f"{self.verdict:<6}{self.what:<10}{self.text}"


def by_value(values: Sequence[str], hosts: Sequence[str]) -> str:
    """Who has which of several values: 'a (ranks 0-7 on node1), b (ranks 8-15 on node2)'.

    Args:
        values: that of each rank.
        hosts: where each is.
    """
    holders: Mapping[str, list[int]] = defaultdict(list)
    for rank, value in enumerate(values):
        holders[value].append(rank)
    parts = []
    for value, ranks in holders.items():
        where = ", ".join(dict.fromkeys(hosts[rank] for rank in ranks))
        parts.append(f"{value} ({_shown(ranks)} on {where})")
    return ", ".join(parts)


def _shown(ranks: list[int]) -> str:
    """'rank 3', 'ranks 0-7' where all between are meant, 'ranks 0, 2, 3'."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]}-{ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks))}"


def counted(number: int, noun: str, plural: str = "s") -> str:
    """'1 node', '2 nodes'."""
    return f"{number} {noun}{plural if number > 1 else ''}"


def size(number: float) -> str:
    """Bytes, for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
