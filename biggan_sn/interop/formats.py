"""The programs whose weights can be imported, and what a run can be exported as."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from biggan_sn.interop import biggan_pytorch, mmgeneration, pretrained_biggan, studiogan
from biggan_sn.interop.contents import Contents
from biggan_sn.interop.giving_back import write_networks
from biggan_sn.interop.programs import write_onnx, write_program
from biggan_sn.interop.renaming import Keys
from biggan_sn.interop.sources import Source
from biggan_sn.interop.tensors import write_tensors


class Format(NamedTuple):
    """A row.

    Args:
        find: a file or folder -> what is in it.
        keys: names of the tensors of generator, ema and discriminator.
        returns: it can be exported to as well; what of its files ours does not lead back to stays
            with the import.
    """

    find: Callable[[Path], Source]
    keys: Mapping[str, Keys]
    returns: bool = False


class Export(NamedTuple):
    """A row.

    Args:
        write: contents, an empty folder -> lines for a person; ValueError where it cannot be.
        truncations: whose statistics it can hold, at most; None: any number.
        needs: modules beyond those that the package itself needs.
    """

    write: Callable[[Contents, Path], list[str]]
    truncations: int | None = None
    needs: tuple[str, ...] = ()


def _keys(generator: Keys, discriminator: Keys) -> dict[str, Keys]:
    return {"generator": generator, "ema": generator, "discriminator": discriminator}


FORMATS: dict[str, Format] = {
    "biggan_pytorch": Format(
        biggan_pytorch.find,
        _keys(biggan_pytorch.GENERATOR, biggan_pytorch.DISCRIMINATOR),
        returns=True,
    ),
    "pretrained_biggan": Format(pretrained_biggan.find, {"ema": pretrained_biggan.GENERATOR}),
    "studiogan": Format(studiogan.find, _keys(studiogan.GENERATOR, studiogan.DISCRIMINATOR)),
    "mmgeneration": Format(
        mmgeneration.find, _keys(mmgeneration.GENERATOR, mmgeneration.DISCRIMINATOR)
    ),
}

EXPORTS: dict[str, Export] = {
    "safetensors": Export(write_tensors),
    "torch_export": Export(write_program, truncations=1),
    "onnx": Export(write_onnx, truncations=1, needs=("onnx", "onnxscript", "onnxruntime")),
    "biggan_pytorch": Export(write_networks, truncations=0),
}
