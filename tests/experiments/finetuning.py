"""Five digits and then ten: fine-tuning beside training from scratch, by users' command.

python -m tests.experiments.finetuning OUT [--config FILE ...] [--first 500] [--steps 300]

From the repository's root, after `source launch/digits.sh`. May be stopped and run again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from biggan_sn.cli import main as biggan_sn
from biggan_sn.training.records import SCALARS, read

FIVE = ("--data.classes", '["0", "1", "2", "3", "4"]', "--data.num_classes", "5")
LOOKS = 3  # at the scores, on the way
CONFIG = "configs/digits32_sngan.yaml"
LAYER = "configs/layers/finetune.yaml"


def experiment(
    out: Path, first: int, steps: int, given: Sequence[str] = ("--config", CONFIG)
) -> dict[str, list[tuple[int, float, float]]]:
    """Three runs in the folder `out`. Of the two that train on ten digits, by name: the step, the
    FID and the share of samples that are classified as asked for, at every look."""

    def train(name: str, length: int, *options: str) -> Path:
        run = out / name
        arguments = (*given, *options, "--steps", str(length), "--run_dir", str(run))
        if code := biggan_sn(["train", *arguments]):
            raise SystemExit(code)
        return run

    looking = ("--evaluation.every", str(steps // LOOKS))
    five = train("five", first, *FIVE, "--evaluation.every", "0")
    begun = ("--config", LAYER, "--finetune.source", str(five))
    runs = {
        "fine-tuned": train("ten", steps, *begun, *looking),
        "from scratch": train("scratch", steps, *looking),
    }
    return {name: _scores(run) for name, run in runs.items()}


def _scores(run: Path) -> list[tuple[int, float, float]]:
    names = ("step", "evaluation/fid", "evaluation/accuracy")
    return [tuple(r[n] for n in names) for r in read(run / SCALARS) if "evaluation/fid" in r]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", nargs="+", default=[CONFIG])
    parser.add_argument("--first", type=int, default=500, help="steps on five digits")
    parser.add_argument("--steps", type=int, default=300, help="steps on ten")
    given = parser.parse_args()
    configs = [word for path in given.config for word in ("--config", path)]
    for name, rows in experiment(given.out, given.first, given.steps, configs).items():
        for step, fid, accuracy in rows:
            print(f"{name:13} step {step:5}: FID {fid:6.1f}, as wanted {accuracy:4.0%}")


if __name__ == "__main__":
    main()
