"""How long training stands still for a checkpoint, written at once or behind its back.

python -m tests.experiments.saving FOLDER [--config configs/imagenet128_biggan.yaml] [--rounds 5]

FOLDER is on the disk in question. The tensors have the sizes of that run's and arbitrary values.
"""

import argparse
import shutil
import statistics
import threading
import time
from pathlib import Path

import torch

from biggan_sn.checkpoint import Checkpoints, Tensors, load_tensors
from biggan_sn.cli import parsers
from biggan_sn.cli.common import config_of
from biggan_sn.models.zoo import BUILDERS
from biggan_sn.training.saving import Writer


def tensors_of_size(config_path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Both networks, Adam's two moments of each, and the average."""
    parser = parsers()[1]["train"]
    given = ["--config", str(config_path), "--run_dir", "none"]
    config = config_of(parser, parser.parse_args(given))
    with torch.device("meta"):
        shapes = {
            side: {name: tensor.shape for name, tensor in build(config).state_dict().items()}
            for side, build in BUILDERS.items()
        }
    groups = {side: shapes[side] for side in BUILDERS} | {"ema": shapes["generator"]}
    for side in BUILDERS:
        groups[f"{side}_optimizer"] = {
            f"{name}/{slot}": shape
            for name, shape in shapes[side].items()
            for slot in ("exp_avg", "exp_avg_sq")
        }
    return {
        group: {name: torch.randn(shape) for name, shape in tensors.items()}
        for group, tensors in groups.items()
    }


class Steps:
    """A loop of short steps beside the writing, as training is; notes its longest pause."""

    def __enter__(self) -> "Steps":
        self.longest, self._on = 0.0, True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        last = time.perf_counter()
        while self._on:
            time.sleep(1e-3)
            now = time.perf_counter()
            self.longest, last = max(self.longest, now - last), now

    def __exit__(self, *error: object) -> None:
        self._on = False
        self._thread.join()


def measure(folder: Path, tensors: Tensors, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, both ways in turn."""
    at_once = Checkpoints(folder / "at_once", keep=1, keep_best=0)
    checkpoints = Checkpoints(folder / "behind", keep=1, keep_best=0)
    writer = Writer(checkpoints)
    found: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(seconds)

    for number in range(rounds):
        start = time.perf_counter()
        at_once.save(number, tensors, {})
        note("written at once: training stands still", time.perf_counter() - start)
        start = time.perf_counter()
        writer.save(number, tensors, {}, None)
        note("behind its back: training stands still", time.perf_counter() - start)
        with Steps() as steps:
            writer.wait()
        note("behind its back: until it is on disk", time.perf_counter() - start)
        note("meanwhile: longest pause of another thread", steps.longest)
        start = time.perf_counter()
        for name in tensors:
            load_tensors(checkpoints.path_of(number), name)
        note("loaded, sizes and hashes checked", time.perf_counter() - start)
    writer.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs/imagenet128_biggan.yaml"))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    tensors = tensors_of_size(given.config)
    size = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    print(f"{given.config}: {size / 1e9:.2f} GB")
    for name, seconds in measure(given.folder, tensors, given.rounds).items():
        low, high = min(seconds), max(seconds)
        print(f"{name:45} {statistics.median(seconds):7.3f} s ({low:.3f} to {high:.3f})")
    for part in ("at_once", "behind"):
        shutil.rmtree(given.folder / part)


if __name__ == "__main__":
    main()
