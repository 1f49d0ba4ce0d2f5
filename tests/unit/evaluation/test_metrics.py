"""Each metric against its formula, written out in numpy; and against torch-fidelity as a whole."""

import math
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from hypothesis import given, settings
from hypothesis import strategies as st

from biggan_sn.data.digits import load_digits
from biggan_sn.evaluation import fidelity, metrics
from biggan_sn.evaluation.collecting import Alone, Task, walk
from biggan_sn.evaluation.extractors import Extractor, open_extractor
from biggan_sn.evaluation.images import Stored
from biggan_sn.evaluation.metrics import METRICS, check_known, check_metrics, measure
from tests.unit.evaluation.sets import CLASSES, cloud, statistics_of

CPU = torch.device("cpu")
MEASURED = {
    "fid": ("fid",),
    "is": ("is", "is_std"),
    "kid": ("kid", "kid_std"),
    "precision_recall": ("precision", "recall"),
    "density_coverage": ("density", "coverage"),
    "class_fid": ("class_fid", *(f"class_fid/{name}" for name in CLASSES)),
    "class_accuracy": ("accuracy", "classes"),
    "modes": ("modes", "certain", "modes_kl"),
    "variety": ("variety",),
}


def scores(name, generated, real):
    found = measure([name], generated, real)
    assert tuple(found) == MEASURED[name]
    return found


def frechet(a, b):
    """Heusel et al. (2017), eq. 6, by the matrix square root."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s @ t).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root)


def distances(a, b):
    return np.sqrt(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(2))


def test_fid_of_two_gaussians_in_one_dimension():
    # (m - n)^2 + (s - t)^2, with the statistics given.
    ours = statistics_of(cloud(0, dim=2), mu=np.array([1.0, 5.0]), sigma=np.diag([4.0, 1.0]))
    real = statistics_of(cloud(1, dim=2), mu=np.array([3.0, 5.0]), sigma=np.diag([9.0, 0.25]))
    assert scores("fid", ours, real)["fid"] == pytest.approx(4 + 1 + 0.25, abs=1e-9)
    assert scores("fid", real, real)["fid"] == pytest.approx(0, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.2, 3), st.floats(-2, 2))
def test_fid_by_the_matrix_square_root(seed, spread, centre):
    ours, real = cloud(seed, 50), cloud(seed + 1, 40, spread=spread, centre=centre)
    found = scores("fid", statistics_of(ours), statistics_of(real))["fid"]
    assert found == pytest.approx(frechet(ours, real), rel=1e-6)


def test_fid_of_each_class():
    ours, real = cloud(2, 60), cloud(3, 45, spread=1.5)
    found = scores("class_fid", statistics_of(ours), statistics_of(real))
    expected = [frechet(ours[label::3], real[label::3]) for label in range(3)]
    assert [found[f"class_fid/{name}"] for name in CLASSES] == pytest.approx(expected, rel=1e-6)
    assert found["class_fid"] == pytest.approx(np.mean(expected), rel=1e-6)


def test_fid_of_a_class_that_is_hardly_there():
    few = statistics_of(cloud(0, 30), labels=[0] * 29 + [2])
    whole = statistics_of(cloud(1, 30))
    for pair in ((few, whole), (whole, few)):
        with pytest.raises(ValueError, match=r"class 'bee' has features of \d+ samples and \d+"):
            measure(["class_fid"], *pair)


def test_inception_score():
    # All surely of one class each, in equal numbers: as many as there are classes. All alike: 1.
    sure = 50 * np.eye(3, dtype=np.float32)[np.arange(3000) % 3]
    real = statistics_of(cloud(0))
    found = scores("is", statistics_of(cloud(0, 3000), logits=sure), real)
    assert found["is"] == pytest.approx(3, abs=0.05)
    assert 0 < found["is_std"] < 0.05
    alike = np.zeros((30, 3), np.float32) + np.array([1, 2, 3], np.float32)
    found = scores("is", statistics_of(cloud(0, 30), logits=alike), real)
    assert found == {"is": pytest.approx(1), "is_std": pytest.approx(0, abs=1e-9)}
    # One part of ten: exp of the mean divergence from the mean, by hand.
    logits = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = scores("is", statistics_of(cloud(0, 2), logits=logits), real)
    assert found["is"] == pytest.approx(1), "two parts of one sample each"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "SPLITS", 1)
        found = scores("is", statistics_of(cloud(0, 2), logits=logits), real)
    expected = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert found["is"] == pytest.approx(expected, rel=1e-6)


def test_kid_of_all_at_once(monkeypatch):
    # One subset a hundred times over has no deviation.
    monkeypatch.setattr(fidelity, "SUBSET", 30)
    ours, real = cloud(0, 40), cloud(1, 30, centre=0.5)

    def kernel(a, b):
        return (a.astype(np.float64) @ b.T / 4 + 1) ** 3

    def off_diagonal(matrix):
        return (matrix.sum() - np.trace(matrix)) / (len(matrix) * (len(matrix) - 1))

    real_whole = statistics_of(real)
    expected = off_diagonal(kernel(real, real)) - 2 * kernel(real, ours[:30]).mean()
    expected += off_diagonal(kernel(ours[:30], ours[:30]))
    found = scores("kid", statistics_of(ours[:30]), real_whole)
    assert found["kid"] == pytest.approx(expected, rel=1e-4)
    assert found["kid_std"] == pytest.approx(0, abs=1e-5)
    assert scores("kid", statistics_of(ours), real_whole)["kid_std"] > 1e-3, "30 out of 40"
    monkeypatch.setattr(fidelity, "SUBSET", 1000)
    assert scores("kid", statistics_of(ours[:30]), real_whole) == pytest.approx(found, rel=1e-5)


def test_kid_is_unbiased_for_any_size_of_subset(monkeypatch):
    """So that few images give the same number, but for its spread."""
    sides = statistics_of(cloud(0, 2000)), statistics_of(cloud(1, 2000, centre=0.5))
    found = []
    for size in (50, 1000):
        monkeypatch.setattr(fidelity, "SUBSET", size)
        found.append(scores("kid", *sides))
    few, many = found
    assert few["kid_std"] > 2 * many["kid_std"]
    assert few["kid"] == pytest.approx(many["kid"], abs=3 * few["kid_std"] / 10), "of a hundred"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.3, 2), st.integers(8, 40), st.integers(8, 40))
def test_neighbours_by_counting(seed, spread, count, real_count):
    ours, real = cloud(seed, count, 3, spread), cloud(seed + 1, real_count, 3)
    generated, reference = statistics_of(ours), statistics_of(real)
    between = distances(real, ours)

    def radii(points, nearest):
        return np.sort(distances(points, points), 1)[:, nearest]

    found = scores("precision_recall", generated, reference)
    near = radii(real, 3)[:, None], radii(ours, 3)[None]
    assert found["precision"] == pytest.approx((between <= near[0]).any(0).mean())
    assert found["recall"] == pytest.approx((between <= near[1]).any(1).mean())
    found = scores("density_coverage", generated, reference)
    inside = between < radii(real, 5)[:, None]
    assert found["density"] == pytest.approx(inside.sum() / (5 * count))
    assert found["coverage"] == pytest.approx(inside.any(1).mean())


def test_neighbours_in_parts(monkeypatch):
    ours, real = statistics_of(cloud(0, 50)), statistics_of(cloud(1, 40, spread=2.0))
    whole = scores("density_coverage", ours, real)
    assert 0 < whole["coverage"] < 1 and whole["density"] > 0
    monkeypatch.setattr(metrics, "ROWS", 7)
    assert scores("density_coverage", ours, real) == whole


def test_most_of_either_side(monkeypatch):
    """All distances between more would not be taken: of each side as many, spread evenly."""
    ours, real = cloud(0, 50), cloud(1, 40)
    monkeypatch.setattr(fidelity, "MOST", 20)
    kept = (ours[np.arange(20) * 50 // 20], real[::2])
    names = ["precision_recall", "density_coverage"]
    found = measure(names, statistics_of(ours), statistics_of(real))
    assert found == measure(names, *map(statistics_of, kept))


def test_classes_that_are_seen():
    #          ape, ape, ape, ape, ape, ape, ape, bee, bee, (cow: never)
    seen = [0, 0, 0, 0, 0, 0, 0, 1, 1]
    asked = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    generated = statistics_of(cloud(0, 9), np.eye(3, dtype=np.float32)[seen], asked)
    found = scores("class_accuracy", generated, statistics_of(cloud(1)))
    assert found == {"accuracy": pytest.approx(3 / 9), "classes": 2.0}
    # 100 samples of 3 classes: an equal share is 33.3, a fifth of it 6.7.
    for there, expected in ((7, 3.0), (6, 2.0)):
        seen = [0] * 50 + [1] * (50 - there) + [2] * there
        logits = np.eye(3, dtype=np.float32)[seen]
        found = scores("class_accuracy", statistics_of(cloud(0, 100), logits), generated)
        assert found["classes"] == expected


def test_variety():
    real = cloud(0, 90)
    reference = statistics_of(real)
    assert scores("variety", reference, reference)["variety"] == 1
    centres = 10 * np.arange(3)[np.arange(90) % 3, None]
    assert scores("variety", statistics_of(real / 2 + centres), reference)[
        "variety"
    ] == pytest.approx(0.5, rel=1e-5), "how far classes are apart does not matter"
    same = statistics_of(real[np.arange(90) % 3])
    assert scores("variety", same, reference)["variety"] == 0, "each class one picture for ever"
    # Root of the mean square over pairs of one class, the classes weighed alike.
    ours = cloud(5, 20, spread=3.0)
    labels = np.array([0] * 4 + [1] * 10 + [2] * 6)
    squares = []
    for label in range(3):
        members = ours[labels == label]
        between = distances(members, members) ** 2
        squares.append(between.sum() / (len(members) * (len(members) - 1)))
    of_real = [distances(real[i::3], real[i::3]) ** 2 for i in range(3)]
    whole = np.mean([square.sum() / (30 * 29) for square in of_real])
    found = scores("variety", statistics_of(ours, labels=labels), reference)
    assert found["variety"] == pytest.approx((np.mean(squares) / whole) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_a_generator_that_diverged(name, monkeypatch):
    """Nothing raises, and nothing looks good."""
    monkeypatch.setattr(fidelity, "SUBSET", 50)
    features, logits = cloud(0), np.full((60, 3), np.nan, np.float32)
    features[7, 2] = np.nan
    found = scores(name, statistics_of(features, logits), statistics_of(cloud(1)))
    if name in ("fid", "is", "kid", "class_fid", "variety"):
        assert math.isnan(next(iter(found.values())))


def test_what_cannot_be_compared():
    ours, real = statistics_of(cloud(0)), statistics_of(cloud(1))
    other = statistics_of(cloud(1), weights="fedcba9876543210")
    with pytest.raises(ValueError, match=r"01234567\) and made up \(weights fedcba98\)"):
        measure(["fid"], ours, other)
    with pytest.raises(ValueError, match="at least two"):
        measure(["fid"], ours, statistics_of(cloud(1), images=1))
    with pytest.raises(ValueError, match="'fit'; did you mean 'fid'"):
        measure(["fit"], ours, real)


def test_what_cannot_be_measured():
    classifier = Extractor("net", lambda images: images, 4, 3, "", CLASSES)
    blind = classifier._replace(logits=0, classes=())

    def labels(count, classes=3):
        return np.arange(count) % classes

    many, unknown = labels(3000), np.full(3000, -1)
    for known in (many, unknown):
        names = ["fid", "is", "kid", "precision_recall"]
        check_metrics(names, classifier, CLASSES, known, many)
        check_metrics(["fid", "kid", "density_coverage"], blind, (), known, unknown)
    check_metrics(list(METRICS), classifier, CLASSES, many, many)
    for name, least in (("fid", 2), ("kid", 2), ("precision_recall", 4)):
        check_metrics([name], classifier, CLASSES, labels(least), labels(least))
        for few in ((least - 1, least), (least, least - 1)):
            told = f"it needs {least} samples and .* there are {few[0]} and {few[1]}$"
            with pytest.raises(ValueError, match=told):
                check_metrics([name], classifier, CLASSES, *map(labels, few))
    few = (labels(3), labels(3))
    with pytest.raises(ValueError, match=r"without it: --metrics fid is$"):
        check_metrics(["fid", "precision_recall", "is"], classifier, CLASSES, *few)
    check_metrics(["class_fid"], classifier, CLASSES, labels(6), labels(6))
    for pair in ((labels(5), many), (many, labels(5)), (many, labels(2000, 2))):
        told = r"it needs 2 samples and features of 2 real images of each class, and there are"
        with pytest.raises(ValueError, match=told):
            check_metrics(["class_fid"], classifier, CLASSES, *pair)
    refused = [
        ("is", blind, True, CLASSES, "'net' tells no classes apart"),
        ("class_fid", classifier, False, CLASSES, "not known"),
        ("class_fid", classifier, True, (), "not known"),
        ("variety", classifier, False, CLASSES, "not known"),
        ("class_accuracy", classifier, False, CLASSES, "not known"),
        ("class_accuracy", classifier, True, CLASSES[:2], "of 2 classes, and those of 'net' are"),
        ("class_accuracy", blind, True, CLASSES, "those of 'net' are others"),
        ("class_accuracy", classifier, True, (), "the classes of the images are not known"),
        ("fit", classifier, True, CLASSES, "did you mean 'fid'"),
    ]
    for name, extractor, labelled, classes, why in refused:
        known = many if labelled else unknown
        with pytest.raises(ValueError, match=why):
            check_metrics(["fid", name], extractor, classes, known, many)


def test_without_torchvision_only_torch_fidelitys_metrics_are_missed(monkeypatch):
    check_known(list(METRICS))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    own = ["density_coverage", "class_accuracy", "modes", "variety"]
    check_known(own)
    for name in sorted(set(METRICS) - set(own)):
        told = f"^the metric '{name}' cannot be measured: .*torchvision.*; without it: --metrics "
        with pytest.raises(ValueError, match=told + " ".join(own) + "$"):
            check_known([name, *own])
    for name in ("inception", "dinov2_vits14"):
        with pytest.raises(ValueError, match="pip install torch-fidelity, and the torchvision"):
            open_extractor(name, None, CPU)
    assert open_extractor("digits", None, CPU).dim == 64
    others = sorted(set(METRICS) - set(own))
    real = statistics_of(cloud(0))
    for name in own:
        measure([name], real, real)
    for name in others:
        with pytest.raises(ValueError, match="torchvision"):
            measure([name], real, real)


# ------------------------------------------------------------------------------ torch-fidelity


@pytest.fixture(scope="module")
def extractor():
    return open_extractor("digits", None, CPU)


def stored(images, labels):
    def read(number, pixels):
        pixels[:] = images[number]

    return Stored(labels, tuple("0123456789"), (32, 32), read, lambda: {"images": ""}, 1)


def its_own(extractor):
    """An extractor of ours as one of torch-fidelity's."""

    class Digits(torch_fidelity.FeatureExtractorBase):
        def __init__(self, name, features_list, **others):
            super().__init__(name, features_list)
            self.eval()

        @staticmethod
        def get_provided_features_list():
            return ("64", "logits")

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return {"isc": "logits"}.get(metric, "64")

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, images):
            found = dict(zip(("64", "logits"), extractor.extract(images), strict=True))
            return tuple(found[name] for name in self.features_list)

    return Digits


class Dataset(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        return self.images[number]


def test_all_of_torch_fidelity(extractor):
    """`calculate_metrics` on the same images: its own walk, batches and statistics."""
    train, held_out = load_digits()
    images = train.images[:350].astype(np.int64) + np.arange(350)[:, None, None, None] % 40
    images = images.clip(0, 255).astype(np.uint8)
    torch_fidelity.register_feature_extractor("digits-of-the-test", its_own(extractor))
    expected = torch_fidelity.calculate_metrics(
        input1=Dataset(images), input2=Dataset(held_out.images), cuda=False, verbose=False,
        isc=True, fid=True, kid=True, prc=True, kid_subset_size=300, save_cpu_ram=True,
        feature_extractor="digits-of-the-test", cache=False, batch_size=64,
    )  # fmt: skip
    sides = []
    for pixels, labels in ((images, train.labels[:350]), (held_out.images, held_out.labels)):
        task = Task(stored(pixels, labels), extractor)
        crew = Alone(CPU)
        sides.append(task.statistics(walk(task, task.beginning(crew), crew, lambda state: None)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "SUBSET", 300)
        found = measure(["fid", "is", "kid", "precision_recall"], *sides)
    theirs = {
        "fid": "frechet_inception_distance",
        "is": "inception_score_mean",
        "is_std": "inception_score_std",
        "kid": "kernel_inception_distance_mean",
        "kid_std": "kernel_inception_distance_std",
        "precision": "precision",
        "recall": "recall",
    }
    assert found == {ours: pytest.approx(expected[key], rel=1e-6) for ours, key in theirs.items()}


def test_each_failure_shows(extractor):
    """What digits score that are real, of a few classes, of one picture each, or noise."""
    train, held_out = load_digits()
    random = np.random.default_rng(0)

    def measured(images, labels):
        sides = []
        for pixels, classes in ((images, labels), (held_out.images, held_out.labels)):
            task = Task(stored(pixels, classes), extractor)
            crew = Alone(CPU)
            state = walk(task, task.beginning(crew), crew, lambda state: None)
            sides.append(task.statistics(state))
        names = [name for name in METRICS if name not in ("class_fid", "kid")]
        return measure(names, *sides)

    images, labels = train.images[:400], train.labels[:400]
    real = measured(images, labels)
    assert real["accuracy"] > 0.98 and real["classes"] == 10
    assert real["precision"] > 0.7 and real["recall"] > 0.7 and real["coverage"] > 0.8
    assert real["variety"] == pytest.approx(1, abs=0.1)
    firsts = np.array([np.flatnonzero(labels == label)[0] for label in range(10)])
    repeated = measured(*(side[np.repeat(firsts, 40)] for side in (images, labels)))
    assert repeated["variety"] == 0 and repeated["recall"] < 0.1
    assert repeated["fid"] > 5 * real["fid"]
    few = measured(images[labels < 3], labels[labels < 3])
    assert few["classes"] == 3 and few["coverage"] < 0.5 * real["coverage"]
    assert few["is"] < 0.6 * real["is"]
    noise = measured(random.integers(0, 256, images.shape, dtype=np.uint8), labels)
    assert noise["precision"] < 0.05 and noise["fid"] > 10 * real["fid"]
    assert measured(images, (labels + 1) % 10)["accuracy"] < 0.05, "the wrong classes"


def test_modes_by_hand():
    """Of five classes four are seen, one of them without being certain."""
    certain, doubtful = math.log(9.1 * 4), math.log(8.9 * 4)  # of 4 others with logit 0
    logits = np.zeros((8, 5), np.float32)
    for sample, (label, logit) in enumerate(
        [(0, certain), (0, certain), (0, 20), (0, 20), (2, certain), (2, doubtful), (3, 50)]
    ):
        logits[sample, label] = logit
    logits[7, 4] = doubtful
    ours = statistics_of(cloud(0, count=8), logits=logits)
    found = scores("modes", ours, statistics_of(cloud(1)))
    assert found["modes"] == 3 and found["certain"] == 6 / 8
    shares = np.array([4, 2, 1, 1]) / 8
    assert found["modes_kl"] == pytest.approx((shares * np.log(shares * 5)).sum(), rel=1e-12)


def test_modes_of_all_alike():
    logits = 100 * np.eye(5, dtype=np.float32)[np.arange(20) % 5]
    found = scores(
        "modes", statistics_of(cloud(0, count=20), logits=logits), statistics_of(cloud(1))
    )
    assert found == {"modes": 5, "certain": 1, "modes_kl": pytest.approx(0, abs=1e-12)}
