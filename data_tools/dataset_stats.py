"""Reference statistics of a data set for metrics: mean, covariance and some of the features.

python -m data_tools.dataset_stats FOLDER --out FILE.npz
python -m data_tools.dataset_stats data/digits32/train --out digits.npz --extractor digits
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from biggan_sn.data.looking import find_resolution
from biggan_sn.data.shards import ShardIndex, load_index
from data_tools.work import default_processes, exit_code

if TYPE_CHECKING:
    import torch

SUFFIX = ".npz"
DEVICES = ("cpu", "cuda")  # others lack float64, or give no result


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the statistics.

    Returns:
        0 if all went well, 1 if the device failed, 2 if the input is wrong, 130 if it was stopped.
    """
    parsed = _parse(arguments)
    return exit_code("dataset_stats", lambda: _run(parsed))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dataset_stats", description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, help="of .tar shards and their index.npz")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="to write")
    parser.add_argument(
        "--extractor",
        default="inception",
        help="inception (default), dinov2_vits14, dinov2_vitb14, dinov2_vitl14, "
        "dinov2_vitg14, digits, stacked_digits or thumbnails",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of the extractor")
    parser.add_argument("--resolution", type=int, help="of the images; default what they have")
    parser.add_argument(
        "--features", type=int, default=10_000, help="images whose features are kept; default 10000"
    )
    parser.add_argument("--batch", type=int, default=64, help="images at a time; default 64")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--threads",
        type=int,
        default=default_processes(),
        help="that decode images; default %(default)s, as many as cores",
    )
    return parser.parse_args(arguments)


def _run(parsed: argparse.Namespace) -> int:
    _check_options(parsed)
    index = load_index(parsed.folder)
    if index.url:
        raise ValueError(f"{parsed.folder}: its shards are at {index.url}: copy them here first")
    resolution = parsed.resolution or _resolution(index)
    from biggan_sn.evaluation.collecting import Alone, Task  # seconds, and errors come first
    from biggan_sn.evaluation.extractors import open_extractor
    from biggan_sn.evaluation.opening import shard_images
    from biggan_sn.evaluation.reference import make_statistics

    device = _device(parsed.device)
    task = Task(
        images=shard_images(index, resolution, threads=parsed.threads),
        extractor=open_extractor(parsed.extractor, parsed.weights, device),
        kept=parsed.features,
        batch=parsed.batch,
    )
    task.extractor.check_size(resolution, resolution)
    make_statistics(task, parsed.out, Alone(device))
    print(
        f"{parsed.out}: mean and covariance of {len(index)} images, features of "
        f"{len(task.chosen)} ({task.extractor.dim} each, {task.extractor.name})"
    )
    return 0


def _device(name: str) -> "torch.device":
    """The device called `name`.

    Raises:
        ValueError: there is none, or one that will not do.
    """
    from biggan_sn.evaluation.sampling import find_device

    device = find_device(name)
    if device.type not in DEVICES:
        raise ValueError(f"--device: {name!r} will not do, only {' and '.join(DEVICES)}")
    return device


def _check_options(parsed: argparse.Namespace) -> None:
    """Raises ValueError for what does not go."""
    for option in ("features", "batch", "threads"):
        if (value := getattr(parsed, option)) < 1:
            raise ValueError(f"--{option} must be 1 or more, got {value}")
    if parsed.resolution is not None and parsed.resolution < 1:
        raise ValueError(f"--resolution must be 1 or more, got {parsed.resolution}")
    if parsed.out.suffix != SUFFIX:
        raise ValueError(f"--out: {parsed.out} does not end with {SUFFIX}")
    if not parsed.out.parent.is_dir():
        raise ValueError(f"--out: {parsed.out.parent}: no such folder")
    if parsed.out.exists():
        raise ValueError(f"--out: {parsed.out} is there already: remove it, or name another")


def _resolution(index: ShardIndex) -> int:
    resolution = find_resolution(index)
    if resolution is None:
        raise ValueError(
            f"{index.root}: none of its images can be read; "
            f"what is wrong says: python -m data_tools.verify_shards {index.root}"
        )
    return resolution


if __name__ == "__main__":
    raise SystemExit(main())
