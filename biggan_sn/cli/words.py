"""What help and Ctrl-C say of each verb, beside what its own file does."""

from argparse import Action
from typing import NamedTuple

from jsonargparse import DefaultHelpFormatter


class Words(NamedTuple):
    """Of a verb.

    Args:
        examples: command lines that are right as they stand.
        stopped: what is left after Ctrl-C, and how to go on; options in braces are filled in.
    """

    examples: tuple[str, ...]
    stopped: str


AGAIN = "the same command does it again"
GOES_ON = "what is in {out} is kept, and the same command goes on"
ONLY_LOOKED = "it only looked"

WORDS: dict[str, Words] = {
    "train": Words(
        (
            "biggan-sn train --config configs/digits32_biggan.yaml --run_dir runs/digits --seed 1",
            "biggan-sn train --run_dir runs/digits",
            "biggan-sn train --config configs/digits32_biggan.yaml --run_dir runs/wgan "
            "--objective wgan --penalties '{wgan_gp: 10}' --print_config",
        ),
        "{run_dir} is as its newest checkpoint has it, and the same command goes on",
    ),
    "import": Words(
        (
            "biggan-sn import weights/BigGAN_I128 runs/i128 --format biggan_pytorch "
            "--config configs/imagenet128_biggan.yaml",
        ),
        f"nothing was written; {AGAIN}",
    ),
    "export": Words(
        (
            "biggan-sn export runs/digits exports/digits --truncations 0.5 1.0",
            "biggan-sn export runs/digits exports/onnx --format onnx",
        ),
        f"nothing was written; {AGAIN}",
    ),
    "sample": Words(
        (
            "biggan-sn sample runs/digits --out samples.png",
            "biggan-sn sample runs/digits --out samples.npz --classes 3 7 --per_class 100 "
            "--truncation 0.5",
        ),
        "what {out} has is not all; the same command draws the same images",
    ),
    "sweep": Words(
        (
            "biggan-sn sweep runs/digits --out runs/digits/sweep",
            "biggan-sn sweep runs/digits --out grids --scored false --truncations 0.3 0.6 1.0",
        ),
        GOES_ON,
    ),
    "interpolate": Words(
        ("biggan-sn interpolate runs/digits --out rows.png --between z --rows 4",),
        f"nothing was written; {AGAIN}",
    ),
    "neighbours": Words(
        ("biggan-sn neighbours runs/digits --out neighbours.png --per_class 2",),
        f"no picture was written; {AGAIN}",
    ),
    "evaluate": Words(
        (
            "biggan-sn evaluate runs/digits",
            "biggan-sn evaluate samples.npz --real data/digits/heldout --metrics fid is "
            "--out scores.json",
        ),
        "no score was written; what was gathered of the real images is kept, and the same command "
        "goes on from there",
    ),
    "status": Words(
        (
            "biggan-sn status runs/digits runs/wgan",
            "biggan-sn status runs/digits --watch 10",
            "biggan-sn status runs/digits --json",
        ),
        ONLY_LOOKED,
    ),
    "inspect": Words(("biggan-sn inspect runs/digits",), ONLY_LOOKED),
    "report": Words(
        ("biggan-sn report runs/digits --out digits.html",), f"no page was written; {AGAIN}"
    ),
    "rollback": Words(
        ("biggan-sn rollback runs/digits --to 1200 --reason 'rates too high'",),
        "{run_dir} is a whole run: `biggan-sn status` says of which step; it can be taken back "
        "again",
    ),
    "spectrum": Words(
        (
            "biggan-sn spectrum runs/digits --layers 'blocks.0.*'",
            "biggan-sn spectrum runs/digits runs/wgan --out spectra.png",
        ),
        ONLY_LOOKED,
    ),
    "arena": Words(
        (
            "biggan-sn arena --games configs/arena/games/ring8.yaml --methods "
            "configs/arena/methods/hinge.yaml --seeds 0 1 --out arena",
        ),
        GOES_ON,
    ),
    "preflight": Words(
        (
            "biggan-sn preflight --config configs/imagenet128_biggan.yaml --run_dir runs/big "
            "--data.path data/train128",
        ),
        "nothing was begun",
    ),
    "bench": Words(
        (
            "biggan-sn bench --config configs/digits32_biggan.yaml --json before.json",
            "biggan-sn bench --config configs/digits32_biggan.yaml --against d_steps=1",
            "biggan-sn bench --config configs/imagenet128_biggan.yaml --count_only",
        ),
        "the lines printed are right; no file was written",
    ),
    "configs": Words(
        (
            "biggan-sn configs list layers/",
            "biggan-sn configs show digits32_biggan",
            "biggan-sn configs path",
        ),
        ONLY_LOOKED,
    ),
    "completion": Words(
        (
            'eval "$(biggan-sn completion bash)"  # in ~/.bashrc',
            'eval "$(biggan-sn completion zsh)"  # in ~/.zshrc, after compinit',
        ),
        ONLY_LOOKED,
    ),
}

EXIT_CODES = """exit codes:
  0    it did what it should; a run that was told to stop is saved
  1    a fault of the program
  2    the input was wrong; one line says what
  3    another process of the job was lost
  4    the run collapsed
  130  interrupted, where nothing was to be saved"""


def examples_of(verb: str) -> str:
    """For the end of its help."""
    return "\n  ".join(["examples:", *WORDS[verb].examples])


class Formatter(DefaultHelpFormatter):
    """Help whose paragraphs stay apart, and whose lists, indented, stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = text.split("\n\n")
        fill = super()._fill_text
        return "\n\n".join(b if "\n  " in b else fill(b, width, indent) for b in blocks)

    def _expand_help(self, action: Action) -> str:
        return super()._expand_help(action).replace("<class 'Path'>", "path")
