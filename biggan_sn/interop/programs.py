"""The averaged generator as a program that runs without this package: torch.export and ONNX.

z [N, z_dim] fp32 and classes y [N] int64 -> images [N, 3, H, W], for any N. Every layer is computed
operation by operation, as papers count it: which cheaper form pays depends on the size of a batch,
which a program does not know, and runtimes join operations in ways of their own. What was written
is read again and held against the generator, and does not stay if it differs.
"""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from biggan_sn.interop.contents import Contents
from biggan_sn.models.card import Standing
from biggan_sn.models.generator import Generator
from biggan_sn.models.latent import Latents
from biggan_sn.nn.forms import operations_in_turn

TOLERANCE = 1e-4  # of pixels in [-1, 1]
BATCHES = (1, 2, 7)  # sizes of the batches that are compared
PROGRAM, ONNX = "generator.pt2", "generator.onnx"
INPUTS, OUTPUTS = ("z", "y"), ("images",)

Draw = Callable[[Tensor, Tensor], Tensor]  # z, y -> images


def write_program(contents: Contents, folder: Path) -> list[str]:
    """Writes what `torch.export.load(...).module()` makes a module of.

    Raises:
        ValueError: its images are not those of the generator.
    """
    generator = _chosen(contents)
    torch.export.save(_trace(generator), str(folder / PROGRAM))
    program = torch.export.load(str(folder / PROGRAM)).module()
    return [_compare(PROGRAM, generator, program, contents)]


def write_onnx(contents: Contents, folder: Path) -> list[str]:
    """Writes one file for any runtime of ONNX.

    Raises:
        ValueError: its images are not those of the generator.
    """
    import onnxruntime

    generator = _chosen(contents)
    torch.onnx.export(
        _trace(generator),
        f=str(folder / ONNX),
        input_names=INPUTS,
        output_names=OUTPUTS,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(folder / ONNX), providers=["CPUExecutionProvider"])

    def draw(z: Tensor, y: Tensor) -> Tensor:
        found = session.run(None, dict(zip(INPUTS, (z.numpy(), y.numpy()), strict=True)))
        return torch.from_numpy(found[0])

    return [_compare(ONNX, generator, draw, contents)]


def _chosen(contents: Contents) -> Generator:
    """The generator with the statistics of the truncation that was asked for, if one was."""
    generator = deepcopy(contents.generator)
    for statistics in contents.statistics.values():
        generator.load_state_dict(statistics, strict=False)
    return generator


def _trace(generator: Generator) -> ExportedProgram:
    """Its program, without the paths of this machine."""
    plain = deepcopy(generator)
    for module in plain.modules():
        if isinstance(module, nn.Conv2d):  # other layouts than this one are not stored
            module.weight.data = module.weight.data.contiguous()
    images = Dim("images", min=1)
    example = (torch.zeros(2, plain.z_dim), torch.zeros(2, dtype=torch.int64))
    with operations_in_turn(plain):
        program = torch.export.export(plain, example, dynamic_shapes=({0: images}, {0: images}))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _compare(what: str, generator: Generator, draw: Draw, contents: Contents) -> str:
    """A line of how near they are.

    Raises:
        ValueError: not near enough.
    """
    gap = max(_gap(generator, draw, images, *contents.statistics) for images in BATCHES)
    if not gap <= TOLERANCE:
        raise ValueError(
            f"{what}: its images are up to {gap:.1e} from the generator's, in [-1, 1]; no more "
            f"than {TOLERANCE:.0e} is allowed, so it was not kept"
        )
    return f"{what}: images are up to {gap:.1e} from the generator's, in [-1, 1]"


@torch.no_grad()
def _gap(generator: Generator, draw: Draw, images: int, standing: Standing | None = None) -> float:
    latents = Latents(0, generator.z_dim, generator.num_classes, f"export of {images}")
    truncation, mode = (standing.truncation, standing.mode) if standing else (None, "resample")
    z, y = latents.z(range(images), truncation, mode), latents.y(range(images))
    return float((generator(z, y) - draw(z, y)).abs().max())
