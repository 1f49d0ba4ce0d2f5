"""What a run writes for people: a progress bar, plain lines, TensorBoard; JSON is the record."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from biggan_sn.evaluation.pictures import Pixels
from biggan_sn.models.bound import LipschitzBound
from biggan_sn.nn.spectrum import Spectrum
from biggan_sn.run_folder import JOURNAL
from biggan_sn.training.monitor import (
    Measured,
    board_layout,
    board_scalars,
    heat_maps,
    worst_layers,
)
from biggan_sn.training.pace import Speed
from biggan_sn.training.records import COLLAPSE, SCALARS, SPECTRA, Record, append, rollbacks


class Logs:
    """The logs of one run, from its rank 0. All step numbers count updates of G done.

    Args:
        folder: the run's folder.
        step: where the run starts or goes on; records of later steps are dropped, so that no
            step is there twice.
        steps: where it will end.
        spectra: those that will be logged, by the networks' short names.
        attempt: the present one; alarms of earlier ones stay in the record.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        steps: int,
        spectra: Mapping[str, Spectrum],
        attempt: int = 0,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # optional at heart, and slow to import

        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in (SCALARS, SPECTRA, COLLAPSE, JOURNAL) if step == attempt == 0 else ():
            if (folder / name).exists():  # of a run that lost its checkpoints, or never had one
                (folder / name).replace(folder / f"{name}.old")
        for name in (SCALARS, SPECTRA):
            _cut(folder / name, lambda line: int(json.loads(line)["step"]), step)
        _cut(folder / COLLAPSE, partial(_alarm_step, attempt=attempt), step)
        _cut(folder / JOURNAL, _journal_step, step)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self.board.add_custom_scalars({"the game": GAME} | board_layout(spectra))
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=steps, initial=step, unit="step", disable=not self.terminal, dynamic_ncols=True
        )
        self.steps = steps
        self._begun = (time.monotonic(), step)

    def close(self) -> None:
        """Brings everything to disk."""
        self.bar.close()
        self.board.close()

    def say(self, message: str) -> None:
        """A plain line: to the journal, and to the terminal or the job's output."""
        with (self.folder / JOURNAL).open("a") as journal:
            journal.write(message + "\n")
        if self.terminal:
            self.bar.write(message, file=sys.stderr)
        else:
            print(message, flush=True)  # noqa: T201

    def scalars(
        self,
        step: int,
        losses: Mapping[str, float],
        speed: Speed,
        others: Mapping[str, float],
    ) -> None:
        """Scalars of one step. The bar moves here, or without a terminal a line appears, and shows
        the losses, without the others."""
        values = {**losses, **others}
        for name, value in values.items():
            self.board.add_scalar(f"train/{name}", value, step)
        for name, value in speed.record().items():
            self.board.add_scalar(f"speed/{name}", value, step)
        append(self.folder / SCALARS, {"step": step, **values, "speed": speed.record()})
        shown = " ".join(f"{name} {value:+.3f}" for name, value in losses.items())
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix_str(shown)
        line = (
            f"step {step:>7}/{self.steps}  {speed.images_per_second:7.1f} images/s  "
            f"ETA {self._remaining(step)}  {speed.held_up()}{shown}"
        )
        with (self.folder / JOURNAL).open("a") as journal:
            journal.write(line + "\n")
        if not self.terminal:
            print(line, flush=True)  # noqa: T201

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """What an evaluation found."""
        for name, value in scores.items():
            self.board.add_scalar(f"evaluation/{name}", value, step)
        named = {f"evaluation/{name}": value for name, value in scores.items()}
        append(self.folder / SCALARS, {"step": step, **named})
        shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        self.say(f"step {step:>7}/{self.steps}  evaluation: {shown}")

    def spectra(self, step: int, now: Measured, bound: LipschitzBound, draw: bool = True) -> None:
        """Singular values: curves, a table of the worst layers, and heat-maps if asked."""
        lipschitz = {**bound.layers, "total": bound.total}
        record = {"step": step, **now.sigmas, "lengths": now.lengths, "lipschitz": lipschitz}
        append(self.folder / SPECTRA, record)
        for name, value in board_scalars(now.sigmas, bound).items():
            self.board.add_scalar(name, value, step)
        self.board.add_text("spectra/worst_layers", worst_layers(now.sigmas), step)
        if draw:
            self._draw_spectra(step)

    def _draw_spectra(self, step: int) -> None:
        for name, picture in heat_maps(self.folder).items():
            self.picture(step, name, picture)

    def signs(self, step: int, levels: Mapping[str, float]) -> None:
        """How near each sign of collapse is to an alarm, which is at 1."""
        for name, level in levels.items():
            self.board.add_scalar(f"collapse/{name}", level, step)

    def alarm(self, alarm: Record) -> None:
        """An alarm, with its evidence: in the record, on the board, and to whoever reads along."""
        step = alarm["step"]
        append(self.folder / COLLAPSE, {"event": "alarm", **alarm})
        self.say(
            f"step {step:>7}/{self.steps}  ALARM, {alarm['channel']}: {alarm['reason']}; "
            f"calm until step {alarm['since']}; to do: {alarm['action']}"
        )
        evidence = "\n".join(f"- {sign} at {level:.0%}" for sign, level in alarm["levels"].items())
        text = f"{alarm['channel']}: {alarm['reason']}; to do: {alarm['action']}\n\n{evidence}"
        self.board.add_text("collapse/alarms", text, step)
        self._draw_spectra(step)

    def decision(self, step: int, text: str) -> None:
        """That the run was taken back. The board forgets what it showed of later steps, earlier
        decisions too: so it is told all."""
        self.say(text)
        past = [
            f"- from step {r['from']} to {r['to']}: {r['reason']}" for r in rollbacks(self.folder)
        ]
        self.board.add_text("collapse/rollbacks", "\n".join(past), step)

    def picture(self, step: int, name: str, pixels: Pixels) -> None:
        """An image for TensorBoard, and the newest of its name as a PNG in the run's folder."""
        self.board.add_image(name, pixels, step, dataformats="HWC")
        path = self.folder / "pictures" / f"{name.replace('/', '_')}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)

    def _remaining(self, step: int) -> str:
        since, first = self._begun
        seconds = (time.monotonic() - since) / max(1, step - first) * (self.steps - step)
        hours, rest = divmod(math.ceil(seconds), 3600)
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


# What TensorBoard's custom scalars begin with: charts, and the tags that belong in each.
GAME: dict[str, tuple[str, list[str]]] = {
    "losses": ("Multiline", ["^train/[dg]_loss$"]),
    "logits of D in training": ("Multiline", ["^train/d_(real|fake)$"]),
    "logits of D, probed": ("Multiline", ["^train/d_on_"]),
    "FID": ("Multiline", ["^evaluation/fid$"]),
    "precision and recall": ("Multiline", ["^evaluation/(precision|recall)$"]),
    "signs of collapse, an alarm at 1": ("Multiline", ["^collapse/"]),
}


def _journal_step(line: str) -> int:
    """The step a journal line speaks of; lines without one belong to every step."""
    words = line.split()
    found = words[1].partition("/")[0] if len(words) > 1 and words[0] == "step" else ""
    return int(found) if found.isdigit() else 0


def _alarm_step(line: str, attempt: int) -> int:
    """The step of an alarm of this attempt; what happened before it belongs to every step."""
    record = json.loads(line)
    return int(record["step"]) if (record["event"], record["attempt"]) == ("alarm", attempt) else 0


def _cut(path: Path, step_of: Callable[[str], int], last: int) -> None:
    """Drops the lines of steps after `last`, and a line that a kill cut short."""
    if not path.exists():
        return
    kept = [line for line in _whole_lines(path) if step_of(line) <= last]
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text("".join(kept))
    unfinished.replace(path)


def _whole_lines(path: Path) -> Iterable[str]:
    with path.open() as file:
        for line in file:
            if line.endswith("\n"):
                yield line
