"""The programs whose weights can be imported."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from biggan_sn.interop import biggan_pytorch, mmgeneration, pretrained_biggan, studiogan
from biggan_sn.interop.renaming import Keys
from biggan_sn.interop.sources import Source


class Format(NamedTuple):
    """A row.

    Args:
        find: a file or folder -> what is in it.
        keys: names of the tensors of generator, ema and discriminator.
    """

    find: Callable[[Path], Source]
    keys: Mapping[str, Keys]


def _keys(generator: Keys, discriminator: Keys) -> dict[str, Keys]:
    return {"generator": generator, "ema": generator, "discriminator": discriminator}


FORMATS: dict[str, Format] = {
    "biggan_pytorch": Format(
        biggan_pytorch.find, _keys(biggan_pytorch.GENERATOR, biggan_pytorch.DISCRIMINATOR)
    ),
    "pretrained_biggan": Format(pretrained_biggan.find, {"ema": pretrained_biggan.GENERATOR}),
    "studiogan": Format(studiogan.find, _keys(studiogan.GENERATOR, studiogan.DISCRIMINATOR)),
    "mmgeneration": Format(
        mmgeneration.find, _keys(mmgeneration.GENERATOR, mmgeneration.DISCRIMINATOR)
    ),
}
