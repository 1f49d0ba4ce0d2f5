"""What an arena leaves behind, beside the games themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from biggan_sn.arena.charts import samples_chart, scores_chart
from biggan_sn.arena.points import POINTS
from biggan_sn.arena.schedule import Cell
from biggan_sn.arena.table import csv_of, lines_of, markdown_of
from biggan_sn.config import Config, EvaluationConfig
from biggan_sn.files import write_whole
from biggan_sn.models.points import build_point_players
from biggan_sn.training.build import check

CSV, MARKDOWN, SCORES, SAMPLES = "arena.csv", "arena.md", "scores.png", "samples.png"


def check_games(configs: Mapping[tuple[str, str, int], Config]) -> None:
    """All about them that can be wrong without playing.

    Raises:
        ValueError: names the game and the method, and what is wrong.
    """
    for (game, method, _), config in configs.items():
        try:
            if config.data.path in POINTS:
                check(config, ranks=1, make=build_point_players)
            else:
                check(config, ranks=1)
                _check_scores(config.evaluation)
        except ValueError as error:
            raise ValueError(f"{game} with {method}: {error}") from error


def _check_scores(section: EvaluationConfig) -> None:
    if not section.every or not {"fid", "modes"} <= set(section.metrics):
        raise ValueError(
            "an arena compares by fid and modes: both must be in evaluation.metrics, and "
            "evaluation.every above 0"
        )


def write_all(cells: Sequence[Cell], out: Path) -> list[str]:
    """The tables and the pictures of all games that were played; what to print of them."""
    lines = lines_of(cells)
    if not lines:
        return ["no game was played to its end"]
    table = markdown_of(lines)
    write_whole(out / CSV, csv_of(lines).encode())
    write_whole(out / MARKDOWN, table.encode())
    scores_chart(lines, out / SCORES)
    samples_chart(cells, out / SAMPLES)
    return [table, str(out)]
