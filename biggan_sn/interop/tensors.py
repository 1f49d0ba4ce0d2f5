"""The averaged generator as plain tensors, which `biggan_sn.load_generator` reads."""

from pathlib import Path

from safetensors.torch import save_file

from biggan_sn.interop.contents import Contents
from biggan_sn.models.loading import TENSORS


def write_tensors(contents: Contents, folder: Path) -> list[str]:
    """Writes every weight with sigma divided in, the statistics of training and, under a prefix,
    those of each truncation."""
    tensors = dict(contents.generator.state_dict())
    for standing, statistics in contents.statistics.items():
        tensors |= {f"{standing.prefix}{name}": tensor for name, tensor in statistics.items()}
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    file = folder / TENSORS
    save_file(plain, file, metadata={"format": "pt"})
    file.chmod(folder.stat().st_mode & 0o666)  # it had left it to its owner alone
    return []
