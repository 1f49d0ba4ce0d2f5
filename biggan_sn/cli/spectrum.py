"""The verb `spectrum`."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from biggan_sn.models.discriminator import Discriminator
    from biggan_sn.models.generator import Generator


def declare(parser: ArgumentParser) -> None:
    """Certify the norms of every layer of a checkpoint, or draw the spectra of several runs."""
    parser.add_argument(
        "checkpoints",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="runs' folders, or checkpoints in them",
    )
    parser.add_argument(
        "--network", default="discriminator", help="which: discriminator or generator"
    )
    parser.add_argument("--layers", default="*", help="a pattern of layer names, as 'blocks.0.*'")
    parser.add_argument(
        "--out", type=Path, default=None, help="draw all singular values to this PNG instead"
    )


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Prints a table per checkpoint, or draws one chart of all; returns the exit code."""
    if parsed.out is not None and parsed.out.suffix != ".png":
        raise ValueError(f"--out must be a .png, got {parsed.out}")
    from biggan_sn.checkpoint import find
    from biggan_sn.evaluation.spectra import load_player

    checkpoints = [find(path) for path in parsed.checkpoints]
    networks = [load_player(checkpoint, parsed.network) for checkpoint in checkpoints]
    if parsed.out is None:
        for checkpoint, network in zip(checkpoints, networks, strict=True):
            _print_audit(checkpoint, network, parsed.layers)
    else:
        _draw(parsed.checkpoints, networks, parsed.layers, parsed.out)
        print(parsed.out)
    return 0


def _print_audit(checkpoint: Path, network: "Generator | Discriminator", pattern: str) -> None:
    """Bounds of every layer, as a table that is also Markdown."""
    from biggan_sn.evaluation.spectra import audit
    from biggan_sn.models.bound import compose_bound
    from biggan_sn.models.discriminator import Discriminator

    print(f"{checkpoint}\n")
    print("| layer | matrix | sigma_0 of the raw weight | of that in use | between images |")
    print("|---|---|---|---|---|")
    highest = {}
    for layer in audit(network, pattern):
        images = ""
        if layer.between_images:
            images, highest[layer.name] = _interval(layer.between_images), layer.between_images[1]
        rows, columns = layer.shape
        bounds = f"{_interval(layer.raw)} | {_interval(layer.in_use)} | {images}"
        print(f"| {layer.name} | {rows} x {columns} | {bounds} |", flush=True)
    if isinstance(network, Discriminator) and pattern == "*":
        total = compose_bound(network, highest).total
        print(f"\nLipschitz constant of D, without attention or what wraps it: <= {total:.4g}")
    print()


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.5g} to {ends[1]:.5g}"


def _draw(
    paths: list[Path], networks: "list[Generator | Discriminator]", pattern: str, out: Path
) -> None:
    """One line per run in one panel per layer."""
    from biggan_sn.evaluation.charts import spectra_chart
    from biggan_sn.evaluation.spectra import spectra_in_use

    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"{', '.join(names)}: a run is there twice")
    spectra = [spectra_in_use(network, pattern) for network in networks]
    for path, found in zip(paths, spectra, strict=True):
        if found.keys() != spectra[0].keys():
            raise ValueError(f"{path}: its layers are not those of {paths[0]}")
    out.parent.mkdir(parents=True, exist_ok=True)
    spectra_chart(dict(zip(names, spectra, strict=True)), "Singular values of weights in use", out)
