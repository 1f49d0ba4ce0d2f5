"""What turns images into features for metrics: networks whose weights are known by their hash."""

import hashlib
import io
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from biggan_sn.data.digits import RESOLUTION as DIGITS_RESOLUTION
from biggan_sn.data.loader import normalize
from biggan_sn.evaluation.digits import FEATURES, trained_network
from biggan_sn.tables import lookup

INCEPTION_FEATURES = 2048
# How the SHA-256 of torch-fidelity's weights begins, as torch hub's way to name files has it
INCEPTION_DIGEST = "6726825d"


class Extractor(NamedTuple):
    """A network, frozen.

    Args:
        name: its row.
        features: images uint8 [N, 3, H, W] -> features float32 [N, dim], on its device.
            ValueError: it is not for images of this size.
        dim: number of features.
        digest: SHA-256 of its weights.
    """

    name: str
    features: Callable[[Tensor], Tensor]
    dim: int
    digest: str


def open_extractor(name: str, weights: Path | None, device: torch.device) -> Extractor:
    """The extractor called `name`.

    Args:
        name: a row of EXTRACTORS.
        weights: the file of its weights; where it usually is, by default.
        device: where it works.

    Raises:
        ValueError: there is none of this name, or no weights of it, or they are not safe to open.
    """
    return lookup(EXTRACTORS, name, "extractor")(weights, device)


def _open_inception(weights: Path | None, device: torch.device) -> Extractor:
    """Inception's 2048 pooled features (Szegedy et al. 2016), as the FID of Heusel et al. (2017)
    has them: torch-fidelity's network, which does what TensorFlow's does."""
    from torch_fidelity.feature_extractor_inceptionv3 import (
        URL_INCEPTION_V3,
        FeatureExtractorInceptionV3,
    )

    usual = Path(torch.hub.get_dir(), "checkpoints", Path(URL_INCEPTION_V3).name)
    path = weights or usual
    if not path.is_file():
        raise ValueError(
            f"{path}: no weights of Inception there: download {URL_INCEPTION_V3} and put it "
            f"there, or name the file that has them with --weights"
        )
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    # Opened by torch-fidelity as a pickle, which may run code.
    safe = io.BytesIO(data) if digest.startswith(INCEPTION_DIGEST) else _plain(path, data)
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048"], safe).to(device)
    except (RuntimeError, TypeError, AttributeError) as error:
        line = str(error).partition("\n")[0]
        raise ValueError(
            f"{path}: not the weights of torch-fidelity's Inception ({line})"
        ) from error

    def features(images: Tensor) -> Tensor:
        with torch.no_grad(), _exact():
            found: Tensor = network(images.to(device))[0]
        return found

    return Extractor("inception", features, INCEPTION_FEATURES, digest)


def _plain(path: Path, data: bytes) -> io.BytesIO:
    """The tensors of a file of unknown origin, written anew without anything else.

    Raises:
        ValueError: it holds something else, or is damaged.
    """
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's unpickler trips over
        raise ValueError(
            f"{path}: damaged, or not only weights: its SHA-256 does not begin with "
            f"{INCEPTION_DIGEST}, and to open it might run code, so it is not opened"
        ) from error
    plain = io.BytesIO()
    torch.save(state, plain)
    plain.seek(0)
    return plain


def _exact() -> Any:
    """The same bits for the same images, and all of those of float32: by default a GPU's
    convolutions keep 10 bits of a factor."""
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )


def _open_digits(weights: Path | None, device: torch.device) -> Extractor:
    """The 64 features of the digits network, for images of 32 pixels."""
    if weights:
        raise ValueError(f"{weights}: the extractor 'digits' is trained anew, and has no file")
    network = deepcopy(trained_network()).to(device)
    digest = hashlib.sha256()
    for tensor in trained_network().state_dict().values():
        digest.update(tensor.numpy().tobytes())

    def features(images: Tensor) -> Tensor:
        if images.shape[2:] != (DIGITS_RESOLUTION, DIGITS_RESOLUTION):
            height, width = images.shape[2:]
            raise ValueError(
                f"the extractor 'digits' is for images of {DIGITS_RESOLUTION} pixels, "
                f"not {width}x{height}"
            )
        with torch.no_grad(), _exact():
            found: Tensor = network(normalize(images.to(device)))[0]
        return found

    return Extractor("digits", features, FEATURES, digest.hexdigest())


EXTRACTORS: dict[str, Callable[[Path | None, torch.device], Extractor]] = {
    "inception": _open_inception,
    "digits": _open_digits,
}
