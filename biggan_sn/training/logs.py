"""What a run writes for people: a progress bar, plain lines, TensorBoard; JSON is the record."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from biggan_sn.evaluation.pictures import Pixels
from biggan_sn.models.bound import LipschitzBound
from biggan_sn.nn.spectrum import Spectrum
from biggan_sn.training.monitor import (
    SPECTRA,
    Sigmas,
    alarms,
    board_layout,
    board_scalars,
    heat_maps,
    worst_layers,
)

SCALARS = "scalars.jsonl"  # one line per logged step
JOURNAL = "log.txt"


class Logs:
    """The logs of one run, from its rank 0. All step numbers count updates of G done.

    Args:
        folder: the run's folder.
        step: where the run starts or goes on; records of later steps are dropped, so that no
            step is there twice.
        steps: where it will end.
        spectra: those that will be logged, by the networks' short names.
    """

    def __init__(
        self, folder: Path, step: int, steps: int, spectra: Mapping[str, Spectrum]
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # optional at heart, and slow to import

        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in (SCALARS, SPECTRA, JOURNAL) if step == 0 else ():
            if (folder / name).exists():  # of a run that lost its checkpoints, or never had one
                (folder / name).replace(folder / f"{name}.old")
        for name in (SCALARS, SPECTRA):
            _cut(folder / name, lambda line: int(json.loads(line)["step"]), step)
        _cut(folder / JOURNAL, _journal_step, step)
        self._spectra = _last_spectra(folder / SPECTRA)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self.board.add_custom_scalars(board_layout(spectra))
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

    def scalars(self, step: int, values: Mapping[str, float], images_per_second: float) -> None:
        """Scalars of one step. The bar moves here; without a terminal a line appears."""
        for name, value in values.items():
            self.board.add_scalar(f"train/{name}", value, step)
        self.board.add_scalar("speed/images_per_second", images_per_second, step)
        self._record(SCALARS, {"step": step, **values, "images_per_second": images_per_second})
        shown = " ".join(f"{name} {value:+.3f}" for name, value in values.items())
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix_str(shown)
        line = (
            f"step {step:>7}/{self.steps}  {images_per_second:7.1f} images/s  "
            f"ETA {self._remaining(step)}  {shown}"
        )
        with (self.folder / JOURNAL).open("a") as journal:
            journal.write(line + "\n")
        if not self.terminal:
            print(line, flush=True)  # noqa: T201

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """What an evaluation found."""
        for name, value in scores.items():
            self.board.add_scalar(f"evaluation/{name}", value, step)
        self._record(SCALARS, {"step": step, **{f"evaluation/{k}": v for k, v in scores.items()}})
        shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        self.say(f"step {step:>7}/{self.steps}  evaluation: {shown}")

    def spectra(
        self, step: int, now: Sigmas, bound: LipschitzBound, growth: float, draw: bool = True
    ) -> None:
        """Singular values: curves, a table of the worst layers, and alarms, which are sounded where
        a sigma_0 is more than `growth` times that of the measurement before. Heat-maps if asked,
        and with every alarm."""
        found = alarms(self._spectra, now, growth)
        self._spectra = now
        lipschitz = {**bound.layers, "total": bound.total}
        record = {"step": step, **now, "lipschitz": lipschitz, "alarms": found}
        self._record(SPECTRA, record)
        for name, value in board_scalars(now, bound).items():
            self.board.add_scalar(name, value, step)
        self.board.add_scalar("alarms/number", len(found), step)
        self.board.add_text("spectra/worst_layers", worst_layers(now), step)
        for text in found:
            self.say(f"step {step:>7}/{self.steps}  ALARM: {text}")
        if found:
            self.board.add_text("alarms", "\n".join(f"- {text}" for text in found), step)
        for name, picture in heat_maps(self.folder).items() if draw or found else ():
            self.picture(step, name, picture)

    def picture(self, step: int, name: str, pixels: Pixels) -> None:
        """An image for TensorBoard, and the newest of its name as a PNG in the run's folder."""
        self.board.add_image(name, pixels, step, dataformats="HWC")
        path = self.folder / "pictures" / f"{name.replace('/', '_')}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)

    def _record(self, name: str, document: Mapping[str, object]) -> None:
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(document) + "\n")

    def _remaining(self, step: int) -> str:
        since, first = self._begun
        seconds = (time.monotonic() - since) / max(1, step - first) * (self.steps - step)
        hours, rest = divmod(math.ceil(seconds), 3600)
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def _journal_step(line: str) -> int:
    """The step a journal line speaks of; lines without one belong to every step."""
    words = line.split()
    found = words[1].partition("/")[0] if len(words) > 1 and words[0] == "step" else ""
    return int(found) if found.isdigit() else 0


def _last_spectra(path: Path) -> Sigmas | None:
    """What was measured last; None before the first time."""
    lines = path.read_text().splitlines() if path.exists() else []
    if not lines:
        return None
    record = json.loads(lines[-1])
    return {network: record[network] for network in ("G", "D")}


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


def mean_over_ranks(values: Mapping[str, Tensor], ranks: int) -> dict[str, float]:
    """Scalars of this rank -> their mean over all. Every rank must call it."""
    stacked = torch.stack(list(values.values()))
    if ranks > 1:
        torch.distributed.all_reduce(stacked)
    return dict(zip(values, (stacked / ranks).tolist(), strict=True))
