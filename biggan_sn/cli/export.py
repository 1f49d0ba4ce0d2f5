"""The verb `export`."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from biggan_sn.cli.draw import CHECKPOINT, MODES

FORMATS = "safetensors (for biggan_sn.load_generator), torch_export, onnx or biggan_pytorch"


def declare(parser: ArgumentParser) -> None:
    """Write the averaged generator for use elsewhere: plain weights and a card, or a program."""
    parser.add_argument("checkpoint", type=Path, metavar="RUN", help=CHECKPOINT)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    parser.add_argument("--format", default="safetensors", help=FORMATS)
    help_ = "truncations whose own statistics of batch norms go along; beside those of training, "
    help_ += "or, in a program, instead of them"
    parser.add_argument("--truncations", type=float, nargs="+", default=[], help=help_)
    parser.add_argument("--mode", default="resample", help=f"kind of truncation: {MODES}")
    help_ = "passes that these are the mean of"
    parser.add_argument("--standing_statistics", type=int, default=16, help=help_)
    parser.add_argument("--seed", type=int, default=0, help="of the latent vectors of those")
    parser.add_argument("--licence", default=None, help="of the weights, for the card")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Exports; returns the exit code."""
    from biggan_sn.checkpoint import find
    from biggan_sn.interop.exporting import Options, export
    from biggan_sn.models.card import Standing
    from biggan_sn.models.latent import TRUNCATIONS
    from biggan_sn.tables import lookup

    lookup(TRUNCATIONS, parsed.mode, "truncation mode")
    standing = [
        Standing(truncation, parsed.mode, parsed.standing_statistics, parsed.seed)
        for truncation in parsed.truncations
    ]
    checkpoint = find(parsed.checkpoint)
    options = Options(tuple(dict.fromkeys(standing)), parsed.licence)
    for note in export(parsed.format, checkpoint, parsed.out, options):
        print(note)
    print(parsed.out)
    return 0
