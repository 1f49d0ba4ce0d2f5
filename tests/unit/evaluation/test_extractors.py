"""Features are those of the networks they are named after, and weights are opened with care."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from biggan_sn.data.digits import load_digits
from biggan_sn.data.loader import normalize
from biggan_sn.evaluation import extractors
from biggan_sn.evaluation.digits import trained_network
from biggan_sn.evaluation.extractors import open_extractor

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Random weights of Inception, such that its features differ, in a file of torch's."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = theirs.FeatureExtractorInceptionV3("random", ["2048", "logits_unbiased"])
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            nn.init.kaiming_normal_(parameter, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def images():
    """uint8 [6, 3, 32, 32]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="session")
def inception(weights):
    return open_extractor("inception", weights, CPU)


def test_inception_is_torch_fidelity_s(inception, weights, images):
    from torch_fidelity.utils import create_feature_extractor

    layers, file = ["2048", "logits_unbiased"], str(weights)
    theirs = create_feature_extractor(
        "inception-v3-compat", layers, cuda=False, feature_extractor_weights_path=file
    )
    expected, expected_logits = theirs(images)
    found, logits = inception.extract(images)
    assert torch.equal(logits, expected_logits)
    assert logits.shape == (6, inception.logits) == (6, 1008)
    assert found.shape == (6, inception.dim) == (6, 2048)
    assert found.dtype == torch.float32 and not found.requires_grad
    assert torch.equal(found, expected)
    assert expected.std(0).mean() > 1e-3 * expected.mean()  # and they tell images apart
    assert inception.name == "inception"
    assert inception.digest == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_weights_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "weights-inception-2015-12-05-6726825d.pth"
    usual = tmp_path / "hub" / "checkpoints" / name
    url = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{name}"
    with pytest.raises(
        ValueError,
        match=f"^{usual}: no weights .*{url} .*evaluation.weights\\).*--extractor thumbnails",
    ) as caught:
        open_extractor("inception", None, CPU)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError, match=f"^{tmp_path / 'mine.pth'}: no weights"):
        open_extractor("inception", tmp_path / "mine.pth", CPU)


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_hostile_weights_do_not_run(tmp_path):
    path, intruded = tmp_path / "hostile.pth", tmp_path / "intruded"
    state = {"fc.weight": Intruder(intruded)}
    torch.save(state, path)
    archive = path.read_bytes()
    for content in (archive, pickle.dumps(state)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{path}: damaged, or not only weights") as caught:
            open_extractor("inception", path, CPU)
        assert len(str(caught.value).splitlines()) == 1
        assert not intruded.exists()
    path.write_bytes(archive)
    torch.load(path, weights_only=False)
    assert intruded.exists()  # it would have


@pytest.mark.parametrize(
    "content", [b"", b"garbage", {"fc.weight": torch.zeros(3)}, {}, torch.zeros(3), [1, 2]]
)
def test_weights_of_something_else(tmp_path, content):
    path = tmp_path / "other.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=f"^{path}: ") as caught:
        open_extractor("inception", path, CPU)
    assert len(str(caught.value).splitlines()) == 1


def test_official_weights_are_known_by_their_hash(weights, monkeypatch):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setattr(extractors, "INCEPTION_DIGEST", digest[:8])
    monkeypatch.setattr(extractors, "_plain", lambda *_: pytest.fail("not needed"))
    assert open_extractor("inception", weights, CPU).digest == digest


def test_digits():
    pixels = load_digits()[1].images[:20]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    extractor = open_extractor("digits", None, CPU)
    expected, expected_logits = trained_network()(normalize(images))
    features, logits = extractor.extract(images)
    assert torch.equal(features, expected) and torch.equal(logits, expected_logits)
    assert extractor.classes == tuple("0123456789") and extractor.logits == 10
    assert (extractor.dim, expected.shape) == (64, (20, 64))
    assert extractor.digest == open_extractor("digits", None, CPU).digest
    assert len(extractor.digest) == 64
    with pytest.raises(ValueError, match="for images of 32 pixels, not 16x8"):
        extractor.extract(images[:, :, :8, :16])


def test_digits_have_no_file(tmp_path):
    with pytest.raises(ValueError, match="trained anew"):
        open_extractor("digits", tmp_path / "w.pth", CPU)


@pytest.mark.parametrize("side", [8, 20, 64])
def test_thumbnails_are_means_of_parts(side):
    extractor = open_extractor("thumbnails", None, CPU)
    images = torch.randint(256, (3, 3, side, side), dtype=torch.uint8)
    features, logits = extractor.extract(images)
    assert features.shape == (3, extractor.dim) == (3, 192)
    assert logits.shape == (3, extractor.logits) == (3, 0)
    edges = [(i * side // 8, -(-(i + 1) * side // 8)) for i in range(8)]
    for row, (top, bottom) in enumerate(edges):
        for column, (left, right) in enumerate(edges):
            part = images[:, :, top:bottom, left:right].double().mean((2, 3)) / 127.5 - 1
            found = features.unflatten(1, (3, 8, 8))[:, :, row, column].double()
            torch.testing.assert_close(found, part, rtol=0, atol=1e-6)
    extractor.check_size(side, side)
    with pytest.raises(ValueError, match="'thumbnails' has no weights"):
        open_extractor("thumbnails", Path("w.pth"), CPU)


def test_who_is_for_which_images():
    digits = open_extractor("digits", None, CPU)
    digits.check_size(32, 32)
    with pytest.raises(ValueError, match="'digits' is for images of 32 pixels, not 48x64"):
        digits.check_size(64, 48)
    with pytest.raises(ValueError, match="'stacked_digits' is for images of 32 pixels"):
        open_extractor("stacked_digits", None, CPU).check_size(64, 64)


def test_unknown_extractor():
    with pytest.raises(ValueError, match="unknown extractor 'digit'; did you mean 'digits'"):
        open_extractor("digit", None, CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["inception", "digits"])
def test_a_gpu_gives_what_a_cpu_gives(name, weights, images):
    files = {"inception": weights}
    cpu, gpu = (
        open_extractor(name, files.get(name), torch.device(device)) for device in ("cpu", "cuda")
    )
    found = gpu.extract(images)[0]
    assert found.device.type == "cuda" and gpu.digest == cpu.digest
    expected = cpu.extract(images)[0].numpy()
    # Far below what TF32 would leave of it.
    np.testing.assert_allclose(found.cpu().numpy(), expected, atol=1e-5 * np.abs(expected).max())
    assert torch.equal(found, gpu.extract(images)[0])


# A stand-in for the authors' code, which torch hub keeps in a folder of its own.
HUBCONF = """
dependencies = ["torch"]
import torch

class Means(torch.nn.Module):
    def forward(self, images):  # as DINOv2: [N, 3, 224, 224], by the mean and deviation of ImageNet
        return images.mean((2, 3)).repeat(1, 128)

def dinov2_vits14(pretrained=True):
    assert pretrained
    return Means()
"""


def test_dino(tmp_path, monkeypatch, images):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    code = tmp_path / "hub" / "facebookresearch_dinov2_main"
    weights = tmp_path / "hub" / "checkpoints" / "dinov2_vits14_pretrain.pth"
    with pytest.raises(ValueError, match=f"^{code}: not there: download https://github.com/.*zip"):
        open_extractor("dinov2_vits14", None, CPU)
    code.mkdir(parents=True)
    (code / "hubconf.py").write_text(HUBCONF)
    with pytest.raises(ValueError, match=f"^{weights}: not there: download https://.*vits14_pre"):
        open_extractor("dinov2_vits14", None, CPU)
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"w\.pth: .* are looked for at .*vits14_pretrain"):
        open_extractor("dinov2_vits14", tmp_path / "w.pth", CPU)
    extractor = open_extractor("dinov2_vits14", None, CPU)
    assert extractor.digest == hashlib.sha256(b"weights").hexdigest()
    plain = torch.full((2, 3, 32, 32), 51, dtype=torch.uint8)
    features, logits = extractor.extract(plain)
    assert features.shape == (2, extractor.dim) == (2, 384)
    assert logits.shape == (2, extractor.logits) == (2, 0)
    expected = (0.2 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(features[0, :3], expected, rtol=1e-5)
    assert extractor.extract(images)[0].std() > 0
