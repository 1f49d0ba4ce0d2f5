"""The truncation sweep: what is gained in quality and lost in variety (Brock et al. 2019,
figures 16 and 17).

Each point is on the disk before the next begins, so a sweep that was stopped goes on where it was.
"""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from biggan_sn.data.loader import normalize
from biggan_sn.evaluation.charts import sweep_chart
from biggan_sn.evaluation.collecting import Crew
from biggan_sn.evaluation.diversity import diversity
from biggan_sn.evaluation.evaluating import Evaluation
from biggan_sn.evaluation.images import Drawn
from biggan_sn.evaluation.metrics import overall
from biggan_sn.evaluation.pictures import Pixels, grid, strip
from biggan_sn.evaluation.sampling import Sampling, draw_classes, renew_statistics
from biggan_sn.files import write_whole
from biggan_sn.models.generator import Generator
from biggan_sn.progress import Advance

RECORD, TABLE, GRIDS, CURVES = "sweep.json", "sweep.csv", "sweep.png", "curves.png"
KNOBS = ("truncation", "mode", "standing_statistics", "seed")  # of a Sampling

Point = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """What is swept.

    Args:
        generator: with the statistics of training.
        names: of all classes.
        classes: which are in the grids.
        per_class: images of each in a grid.
        samplings: one for each point.
        evaluation: what scores samples; None scores nothing.
        about: all that the points depend on, for the record: none of another sweep is taken for
            one of this.
    """

    generator: Generator
    names: Sequence[str]
    classes: Sequence[int]
    per_class: int
    samplings: Sequence[Sampling]
    evaluation: Evaluation | None
    about: Mapping[str, Any]

    @property
    def samples(self) -> int:
        """How many each point is scored by."""
        return self.evaluation.section.samples if self.evaluation else 0

    @property
    def images(self) -> int:
        """How many are drawn for the scores of all points, and for their standing statistics."""
        return sum(map(self._images, self.samplings))

    def _images(self, sampling: Sampling) -> int:
        return sampling.renewing + self.samples

    def __call__(
        self,
        out: Path,
        crew: Crew,
        say: Callable[[str], object] = lambda line: None,
        advance: Advance = lambda count: None,
    ) -> Mapping[str, Any]:
        """Writes to the folder `out`: sweep.json and sweep.csv with all points, a grid of each, all
        grids in sweep.png, a row for each kind of truncation, and curves.png if there are scores.
        `say` hears of each point, `advance` of the images drawn, those of points that are there
        first. Every process of the crew must call it. Returns the record, on the first process.

        Raises:
            ValueError: there is another sweep in `out`; an image cannot be read.
        """
        done = _points_of(out, self.about) if crew.leads else {}
        there = crew.most(*(int(sampling in done) for sampling in self.samplings))
        real = self.evaluation.describe_real() if self.evaluation else {}
        if done:
            _points_of(out, {**self.about, "real": real})  # now that it is known what they are
        advance(sum(map(self._images, compress(self.samplings, there))))
        trained = {name: buffer.clone() for name, buffer in self.generator.named_buffers()}
        for sampling, is_there in zip(self.samplings, there, strict=True):
            if is_there:
                continue
            self.generator.load_state_dict(trained, strict=False)
            renew_statistics(self.generator, sampling, advance)
            point = self._point(sampling, out, crew, advance)
            if crew.leads:
                done[sampling] = point
                self._write(out, done, real)
                say(f"{_line(point)}: {len(done)} points of {len(self.samplings)}")
        self.generator.load_state_dict(trained, strict=False)
        return self._finish(out, done, real) if crew.leads else {}

    def _point(self, sampling: Sampling, out: Path, crew: Crew, advance: Advance) -> Point:
        """One point, with its grid on the disk; nothing on other processes than the first."""
        scores = {}
        if self.evaluation:
            drawn = Drawn(self.generator, self.samples, sampling, self.names)
            scores = overall(self.evaluation.scores(drawn, advance) or {})
        if not crew.leads:
            return {}
        images, labels = draw_classes(self.generator, self.classes, self.per_class, sampling)
        picture = out / f"grid_{_title(sampling).replace(' ', '_')}.png"
        Image.fromarray(grid(images, len(self.classes))).save(picture)
        return {
            **{knob: getattr(sampling, knob) for knob in KNOBS},
            "diversity": diversity(normalize(images), labels),
            "scores": scores,
            "grid": picture.name,
        }

    def _write(self, out: Path, done: Mapping[Sampling, Point], real: Point) -> Point:
        """The record of the points so far, in the order asked for; others that are there stay."""
        others = [sampling for sampling in done if sampling not in self.samplings]
        order = [*(s for s in self.samplings if s in done), *others]
        points = [done[sampling] for sampling in order]
        best = best_points(points, real.get("is"))
        record = {**self.about, "real": real, "best": best, "points": points}
        write_whole(out / RECORD, json.dumps(record, indent=1).encode())
        return record

    def _finish(self, out: Path, done: Mapping[Sampling, Point], real: Point) -> Point:
        record = self._write(out, done, real)
        points = [done[sampling] for sampling in self.samplings]
        Image.fromarray(_all_grids(points, out)).save(out / GRIDS)
        _write_table(out / TABLE, record)
        if self.evaluation:
            sweep_chart(record, out / CURVES)
        return record


def best_points(points: Sequence[Point], real_is: float | None) -> dict[str, int]:
    """Numbers of the points that Brock et al. (2019, table 2) report: fid, that with the best FID;
    real_is, the one nearest to the Inception score of real images; is, that with the best one.
    What was not measured is left out."""
    fids, scores = (
        {i: p["scores"][name] for i, p in enumerate(points) if _finite(p["scores"].get(name))}
        for name in ("fid", "is")
    )
    truncated = [point["truncation"] is not None for point in points]  # comes after its equal
    best = {}
    if fids:
        best["fid"] = min(fids, key=lambda i: (fids[i], truncated[i]))
    if scores and real_is is not None:
        best["real_is"] = min(scores, key=lambda i: (abs(scores[i] - real_is), truncated[i]))
    if scores:
        best["is"] = min(scores, key=lambda i: (-scores[i], truncated[i]))
    return best


def describe(record: Mapping[str, Any]) -> list[str]:
    """Lines for people: the best points, and the one without truncation."""
    points = record["points"]
    chosen = {TOLD[name]: points[number] for name, number in record["best"].items()}
    plain = [point for point in points if point["truncation"] is None and point["scores"]]
    for point in plain[:1]:
        chosen["no truncation"] = point
    titles = dict.fromkeys(chosen, "") | {TOLD["real_is"]: f" ({record['real'].get('is', 0):.4g})"}
    return [f"{title + titles[title]:<30} {_line(point)}" for title, point in chosen.items()]


TOLD = {"fid": "best FID", "real_is": "IS nearest to the real", "is": "best IS"}


def _line(point: Point) -> str:
    scores = "  ".join(f"{key} {value:.4g}" for key, value in point["scores"].items())
    return f"{_title(_sampling(point)):<16} {scores}"


def _all_grids(points: Sequence[Point], out: Path) -> Pixels:
    """The grids of all points, a row for each kind of truncation."""
    rows = []
    for mode in dict.fromkeys(point["mode"] for point in points):
        row = [point for point in points if point["mode"] == mode]
        grids = [np.asarray(Image.open(out / point["grid"])) for point in row]
        rows.append(strip(grids, [_title(_sampling(point)) for point in row]))
    width = max(row.shape[1] for row in rows)
    margins = [((0, 8), (0, width - row.shape[1]), (0, 0)) for row in rows]
    padded = [np.pad(*pair, constant_values=255) for pair in zip(rows, margins, strict=True)]
    return np.concatenate(padded)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _points_of(out: Path, about: Mapping[str, Any]) -> dict[Sampling, Point]:
    """The points that are there already.

    Raises:
        ValueError: they are of another sweep, or damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / RECORD
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text())
        done = {_sampling(point): point for point in record["points"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}): remove it to begin anew") from error
    now = json.loads(json.dumps(about))
    now.pop("checkpoint", "")  # wherever it lies, its weights are known by their hash
    if different := [key for key in now if record.get(key) != now[key]]:
        raise ValueError(
            f"{path}: another sweep is there, of another {' and '.join(different)}: name another "
            f"--out, or remove {out}"
        )
    return {s: point for s, point in done.items() if (out / point["grid"]).is_file()}


def _sampling(point: Point) -> Sampling:
    return Sampling(**{knob: point[knob] for knob in KNOBS})


def _title(sampling: Sampling) -> str:
    if sampling.truncation is None:
        return "no truncation"
    return f"{sampling.mode} {sampling.truncation:g}"


def _write_table(path: Path, record: Mapping[str, Any]) -> None:
    """A line for each point; `best` names what it is the best of."""
    points = record["points"]
    names = list(dict.fromkeys(name for point in points for name in point["scores"]))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*KNOBS, "diversity", *names, "best"])
        for number, point in enumerate(points):
            best = " ".join(name for name, of in record["best"].items() if of == number)
            values = [point["scores"].get(name) for name in names]
            writer.writerow([*(point[k] for k in KNOBS), point["diversity"], *values, best])
