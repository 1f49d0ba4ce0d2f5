"""Statistics against numpy's of all features at once, and what is refused."""

import os

import numpy as np
import pytest
import torch

from biggan_sn.data.digits import load_digits
from biggan_sn.data.loader import normalize
from biggan_sn.data.shards import load_index
from biggan_sn.evaluation.digits import trained_network
from biggan_sn.evaluation.extractors import EXTRACTORS
from biggan_sn.evaluation.moments import merge, no_moments
from tests.unit.data_tools.features import IMAGES, colours, noise_set, refused, row, run
from tests.unit.data_tools.shardsets import CLASSES, SIDE, file_of, noise, write_set


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    return noise_set(tmp_path_factory.mktemp("stats") / "set")


@pytest.fixture(autouse=True)
def _quick_row(monkeypatch):
    monkeypatch.setitem(EXTRACTORS, "colours", row(0))


def stats_of(folder, out, *options):
    assert run(folder, out, *options) == 0
    with np.load(out) as stored:
        return dict(stored)


def truth():
    """All features, float32 [30, 5], in order."""
    images = torch.from_numpy(np.stack([noise(n) for n in range(IMAGES)]))
    return colours(images.permute(0, 3, 1, 2).contiguous()).numpy()


# ------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("batch", [1, 4, 7, 30, 64])
def test_against_numpy(shards, tmp_path, batch):
    found = stats_of(shards, tmp_path / "s.npz", "--batch", batch)
    features = truth()
    np.testing.assert_array_equal(found["features"], features)
    exact = features.astype(np.float64)
    np.testing.assert_allclose(found["mu"], exact.mean(0), rtol=1e-10)
    np.testing.assert_allclose(found["sigma"], np.cov(exact, rowvar=False), rtol=1e-10)
    assert found["mu"].dtype == found["sigma"].dtype == np.float64
    assert list(tmp_path.iterdir()) == [tmp_path / "s.npz"]


def test_what_else_is_in_it(shards, tmp_path):
    found = stats_of(shards, tmp_path / "s.npz", "--features", 7)
    numbers = [0, 4, 8, 12, 17, 21, 25]  # spread evenly
    assert found["numbers"].tolist() == numbers
    np.testing.assert_array_equal(found["features"], truth()[numbers])
    index = load_index(shards)
    assert found["labels"].tolist() == index.label[numbers].tolist()
    assert (found["labels"].dtype, found["features"].dtype) == (np.int64, np.float32)
    assert found["counts"].tolist() == [18, 6, 6]
    assert found["classes"].tolist() == list(CLASSES)
    assert (found["images"], found["height"], found["width"]) == (IMAGES, SIDE, SIDE)
    np.testing.assert_array_equal(found["logits"], truth()[numbers, :2])
    assert (found["extractor"], found["weights"]) == ("colours", "none")
    assert found["fingerprint"] == index.fingerprint
    whole = stats_of(shards, tmp_path / "all.npz")
    np.testing.assert_array_equal(found["sigma"], whole["sigma"])  # those are of all images


def test_moments_far_from_zero():
    """Where a sum of squares would have no digit left."""
    random = np.random.default_rng(0)
    features = 1e6 + random.normal(size=(500, 6)) @ random.normal(size=(6, 6)) * 1e-3
    moments = no_moments(6, torch.device("cpu"))
    for part in np.split(features, [1, 2, 50, 51, 300]):
        before = [moments.mean.clone(), moments.scatter.clone()]
        after = merge(moments, torch.from_numpy(part))
        assert torch.equal(before[0], moments.mean) and torch.equal(before[1], moments.scatter)
        moments = after
    centred = features - 1e6
    scale = np.cov(centred, rowvar=False).max()
    np.testing.assert_allclose(moments.mean.numpy(), features.mean(0), rtol=1e-14)
    covariance = np.cov(features, rowvar=False)
    np.testing.assert_allclose(moments.covariance.numpy(), covariance, atol=1e-10 * scale)
    assert moments.images == 500


def test_fid_of_torch_fidelity(tmp_path):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    train, heldout = load_digits()
    images, labels = heldout.images[:150], heldout.labels[:150]
    samples = [
        (f"{n:04d}", "png", file_of(image, "PNG"), label)
        for n, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    folder = write_set(tmp_path / "set", samples, classes=tuple("0123456789"))
    found = stats_of(folder, tmp_path / "s.npz", "--extractor", "digits", "--batch", 64)
    network = trained_network()

    def features(pixels):
        return network(normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2)))[0].double()

    generated = fid_features_to_statistics(features(train.images[:200]))
    ours = fid_statistics_to_metric(generated, {k: found[k] for k in ("mu", "sigma")}, False)
    theirs = fid_statistics_to_metric(
        generated, fid_features_to_statistics(features(images)), False
    )
    assert ours == pytest.approx(theirs, rel=1e-5)  # float32 features, of another batch size
    assert found["features"].shape == (150, 64)


def test_threads_change_nothing(shards, tmp_path):
    for threads in (1, 3):
        run(shards, tmp_path / f"{threads}.npz", "--threads", threads)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "3.npz").read_bytes()


# ------------------------------------------------------------------------------------ wrong input


def test_wrong_input(shards, tmp_path, capsys):
    out = tmp_path / "s.npz"
    refused(capsys, "nowhere: no such folder", tmp_path / "nowhere", out)
    for option in ("--batch", "--features", "--threads", "--resolution"):
        refused(capsys, f"{option} must be 1 or more, got 0", shards, out, option, 0)
    refused(capsys, "unknown extractor 'colour'; did you", shards, out, "--extractor", "colour")
    refused(capsys, "no device 'nonsense' on this", shards, out, "--device", "nonsense")
    refused(capsys, "'meta' will not do, only cpu and cuda", shards, out, "--device", "meta")
    refused(capsys, r"s.txt does not end with .npz", shards, tmp_path / "s.txt")
    refused(capsys, "no such folder", shards, tmp_path / "nowhere" / "s.npz")
    refused(capsys, "32x32 pixels, but", shards, out, "--resolution", 16)
    (tmp_path / "s.npz.part").unlink()
    out.write_text("precious")
    refused(capsys, "s.npz is there already", shards, out)
    assert out.read_text() == "precious"


def test_digits_want_32_pixels(tmp_path, capsys):
    small = [(f"{n}", "png", file_of(noise(n, 16), "PNG"), n % 3) for n in range(9)]
    folder = write_set(tmp_path / "small", small)
    refused(capsys, "for images of 32 pixels, not 16x16", folder, tmp_path / "s.npz",
            "--extractor", "digits")  # fmt: skip
    assert not list(tmp_path.glob("*.part")), "which would stand in the way of the right one"


def test_features_that_are_not_finite(shards, tmp_path, capsys, monkeypatch):
    quick = row(0)(None, None)
    nan = quick._replace(extract=lambda images: [x * float("nan") for x in quick.extract(images)])
    monkeypatch.setitem(EXTRACTORS, "colours", lambda *_: nan)
    refused(capsys, "features of images 0 to 3 are not finite", shards, tmp_path / "s.npz")


def test_full_disk(shards, tmp_path, capsys, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(capsys, "No space left", shards, tmp_path / "s.npz")
    assert list(tmp_path.iterdir()) == []
