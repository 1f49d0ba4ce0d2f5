"""What turns images into features for metrics: networks whose weights are known by their hash."""

import hashlib
import io
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from biggan_sn.data.digits import NUM_CLASSES, STACKED_CLASSES
from biggan_sn.data.digits import RESOLUTION as DIGITS_RESOLUTION
from biggan_sn.data.loader import normalize
from biggan_sn.evaluation.digits import FEATURES, trained_network
from biggan_sn.evaluation.fidelity import torch_fidelity
from biggan_sn.tables import lookup

INCEPTION_LAYERS = {"2048": 2048, "logits_unbiased": 1008}  # names and sizes of what it gives
# How the SHA-256 of torch-fidelity's weights begins, as torch hub's way to name files has it
INCEPTION_DIGEST = "6726825d"
# Models and numbers of their features; where torch hub keeps the code that builds them
DINO = {"dinov2_vits14": 384, "dinov2_vitb14": 768, "dinov2_vitl14": 1024, "dinov2_vitg14": 1536}
DINO_CODE = "facebookresearch_dinov2_main"
DINO_CODE_URL = "https://github.com/facebookresearch/dinov2/archive/refs/heads/main.zip"
THUMBNAIL = 8  # pixels a side
DINO_WEIGHTS_URL = "https://dl.fbaipublicfiles.com/dinov2"


class Extractor(NamedTuple):
    """A network, frozen.

    Args:
        name: its row.
        extract: images uint8 [N, 3, H, W] -> features [N, dim] and logits [N, logits], float32,
            on its device. ValueError: it is not for images of this size.
        dim: number of features.
        logits: number of classes that it tells apart; 0 if it is no classifier.
        digest: SHA-256 of its weights.
        classes: names of its classes, where they are those of a data set.
        side: H = W of the images it is for; 0 for any.
    """

    name: str
    extract: Callable[[Tensor], tuple[Tensor, Tensor]]
    dim: int
    logits: int
    digest: str
    classes: tuple[str, ...] = ()
    side: int = 0

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError if it is not for images of this size."""
        if self.side and (height, width) != (self.side, self.side):
            raise ValueError(
                f"the extractor {self.name!r} is for images of {self.side} pixels, not "
                f"{width}x{height}; for any are inception and, without a download, thumbnails"
            )


def open_extractor(name: str, weights: str | Path | None, device: torch.device) -> Extractor:
    """The extractor called `name`.

    Args:
        name: a row of EXTRACTORS.
        weights: the file of its weights; nothing for where it usually is.
        device: where it works.

    Raises:
        ValueError: there is none of this name, or no weights of it, or they are not safe to open.
    """
    return lookup(EXTRACTORS, name, "extractor")(Path(weights) if weights else None, device)


def _open_inception(weights: Path | None, device: torch.device) -> Extractor:
    """Inception's 2048 pooled features and 1008 logits without bias (Szegedy et al. 2016), as the
    FID of Heusel et al. (2017) and the score of Salimans et al. (2016) have them: torch-fidelity's
    network, which does what TensorFlow's does."""
    theirs = torch_fidelity("feature_extractor_inceptionv3")
    url = theirs.URL_INCEPTION_V3
    usual = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    path = weights or usual
    if not path.is_file():
        raise ValueError(
            f"{path}: no weights of Inception there: download {url} and put it there, or name the "
            "file that has them (--weights, or evaluation.weights); for a first idea without a "
            "download: --extractor thumbnails (evaluation.extractor)"
        )
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    # Opened by torch-fidelity as a pickle, which may run code.
    safe = io.BytesIO(data) if digest.startswith(INCEPTION_DIGEST) else _plain(path, data)
    try:
        inception = theirs.FeatureExtractorInceptionV3("inception", list(INCEPTION_LAYERS), safe)
        network = inception.to(device)
    except (RuntimeError, TypeError, AttributeError) as error:
        line = str(error).partition("\n")[0]
        raise ValueError(
            f"{path}: not the weights of torch-fidelity's Inception ({line})"
        ) from error

    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), _exact():
            features, logits = network(images.to(device))
        return features, logits

    features, logits = INCEPTION_LAYERS.values()
    return Extractor("inception", extract, features, logits, digest)


def _open_dino(model: str, dim: int, weights: Path | None, device: torch.device) -> Extractor:
    """DINOv2's features of the whole image (Oquab et al. 2024), which agree with people more often
    than Inception's (Stein et al. 2023): the authors' network, through torch-fidelity."""
    theirs = torch_fidelity("feature_extractor_dinov2")
    hub = Path(torch.hub.get_dir())
    code, usual = hub / DINO_CODE, hub / "checkpoints" / f"{model}_pretrain.pth"
    if weights:
        raise ValueError(f"{weights}: the weights of {model!r} are looked for at {usual} only")
    for path, url in ((code, DINO_CODE_URL), (usual, f"{DINO_WEIGHTS_URL}/{model}/{usual.name}")):
        if not path.exists():
            raise ValueError(
                f"{path}: not there: download {url}, unpack it if it is a zip, and put it there "
                "under this name"
            )
    names = {meta: name for name, meta in theirs.MODEL_METADATA.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are about to download and run code")
        network = theirs.FeatureExtractorDinoV2(names[model], ["dinov2"]).to(device)

    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), _exact():
            (features,) = network(images.to(device))
        return features, features[:, :0]

    return Extractor(model, extract, dim, 0, hashlib.sha256(usual.read_bytes()).hexdigest())


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
    """The 64 features and 10 logits of the digits network, for images of 32 pixels."""
    if weights:
        raise ValueError(f"{weights}: the extractor 'digits' is trained anew, and has no file")
    network = deepcopy(trained_network()).to(device)
    digest = hashlib.sha256()
    for tensor in trained_network().state_dict().values():
        digest.update(tensor.numpy().tobytes())

    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        opened.check_size(*images.shape[2:])
        with torch.no_grad(), _exact():
            features, logits = network(normalize(images.to(device)))
        return features, logits

    classes, side = tuple(map(str, range(NUM_CLASSES))), DIGITS_RESOLUTION
    opened = Extractor("digits", extract, FEATURES, NUM_CLASSES, digest.hexdigest(), classes, side)
    return opened


def _open_stacked_digits(weights: Path | None, device: torch.device) -> Extractor:
    """The features of the digit in each colour, one after the other, and logits of the 1000
    combinations, the log of their probability."""
    digits = _open_digits(weights, device)

    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        grey = images.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
        features, logits = (found.unflatten(0, (-1, 3)) for found in digits.extract(grey))
        red, green, blue = logits.log_softmax(2).unbind(1)
        joint = red[:, :, None, None] + green[:, None, :, None] + blue[:, None, None, :]
        return features.flatten(1), joint.flatten(1)

    classes = tuple(f"{number:03d}" for number in range(STACKED_CLASSES))
    return digits._replace(
        name="stacked_digits",
        extract=extract,
        dim=3 * digits.dim,
        logits=STACKED_CLASSES,
        classes=classes,
    )


def _open_thumbnails(weights: Path | None, device: torch.device) -> Extractor:
    """The mean colours of the 8 x 8 parts of an image, in [-1, 1]: no network and no weights, so
    its scores are no one else's, and blind to all detail. Copies and lost modes it does see."""
    if weights:
        raise ValueError(f"{weights}: the extractor 'thumbnails' has no weights")

    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        small = F.adaptive_avg_pool2d(normalize(images.to(device)).float(), THUMBNAIL)
        features = small.flatten(1)
        return features, features[:, :0]

    digest = hashlib.sha256(f"thumbnails of {THUMBNAIL}".encode()).hexdigest()
    return Extractor("thumbnails", extract, 3 * THUMBNAIL**2, 0, digest)


EXTRACTORS: dict[str, Callable[[Path | None, torch.device], Extractor]] = {
    "inception": _open_inception,
    "digits": _open_digits,
    "stacked_digits": _open_stacked_digits,
    "thumbnails": _open_thumbnails,
    **{model: partial(_open_dino, model, dim) for model, dim in DINO.items()},
}
