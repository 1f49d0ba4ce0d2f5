"""The verb `import`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from shutil import rmtree

import yaml
from jsonargparse import ArgumentParser, Namespace

from biggan_sn.cli.common import config_of
from biggan_sn.config import Config
from biggan_sn.config_io import to_dict
from biggan_sn.run_folder import CHECKPOINTS, CONFIG

PROGRAMS = "the program: biggan_pytorch, pretrained_biggan (TF-Hub's), studiogan or mmgeneration"


def declare(parser: ArgumentParser) -> None:
    """Make a run of weights that another program trained: to sample, sweep, evaluate, train on."""
    help_ = "the folder or file that the program left"
    parser.add_argument("source", type=Path, metavar="SOURCE", help=help_)
    help_ = "the run's folder; must not hold a run yet"
    parser.add_argument("run_dir", type=Path, metavar="RUN", help=help_)
    parser.add_argument("--format", required=True, help=PROGRAMS)
    parser.add_argument(
        "--bgr", type=bool, default=False, help="its images have blue first, as OpenCV's have"
    )
    parser.add_argument(
        "--truncation",
        type=float,
        default=1.0,
        help="whose statistics to take, where the source has those of several",
    )
    parser.add_argument(
        "--config", action="config", help="YAML of how to train on; the last word counts"
    )
    parser.add_class_arguments(Config)


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Imports; returns the exit code."""
    folder: Path = parsed.run_dir
    if (folder / CONFIG).exists() or any((folder / CHECKPOINTS).glob("step_*")):
        raise ValueError(f"{folder}: holds a run; an import needs a folder of its own")
    config = config_of(parser, parsed)
    from biggan_sn.files import write_whole
    from biggan_sn.interop.importing import prepare
    from biggan_sn.interop.understanding import Options

    options = Options(parsed.bgr, parsed.truncation)
    imported = prepare(parsed.format, parsed.source, config, options)
    stored = yaml.safe_dump(to_dict(imported.config), sort_keys=False)
    with _whole_or_not(folder):
        write_whole(folder / CONFIG, stored.encode())
        notes = imported.save(folder)
    for note in notes:
        print(f"{folder}: {note}")
    model, data = imported.config.model, imported.config.data
    print(
        f"{folder}: {model.name} of {data.num_classes} classes at {data.resolution} pixels, ch "
        f"{model.channels}, step {imported.step}; train on with: biggan-sn train --run_dir "
        f"{quote(str(folder))} --data.path SHARDS"
    )
    return 0


@contextmanager
def _whole_or_not(folder: Path) -> Iterator[None]:
    """Takes away what was written of a run into a folder that held none, if anything stops it."""
    was_there = folder.exists()
    try:
        yield
    except BaseException:
        (folder / CONFIG).unlink(missing_ok=True)
        rmtree(folder / CHECKPOINTS, ignore_errors=True)
        if not was_there:
            rmtree(folder, ignore_errors=True)
        raise
