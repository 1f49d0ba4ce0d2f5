"""Statistics of any images by any number of processes: the same bits, wherever the images lie."""

import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image

from biggan_sn.config import DataConfig, EvaluationConfig
from biggan_sn.evaluation import evaluating, reference
from biggan_sn.evaluation.collecting import Alone, Task, walk
from biggan_sn.evaluation.evaluating import Evaluation
from biggan_sn.evaluation.extractors import EXTRACTORS, Extractor
from biggan_sn.evaluation.images import Stored
from biggan_sn.evaluation.metrics import METRICS, Metric
from biggan_sn.evaluation.opening import holds_images, open_images
from biggan_sn.evaluation.statistics import holds_statistics, load_statistics
from biggan_sn.training.world import World
from data_tools.make_shards import write_shards

CPU = torch.device("cpu")
ALONE = Alone(CPU)
NAMES = ("fid", "is", "precision_recall", "density_coverage", "class_fid", "variety")


def colours(images):
    """Features [N, 5] and logits [N, 3], by rules that hang on every pixel."""
    pixels = images.double().flatten(1) / 255
    ramp = torch.linspace(0, 7, pixels.shape[1], dtype=torch.float64)
    waves = [(pixels * (ramp * k).sin()).mean(1) for k in range(1, 9)]
    found = torch.stack(waves, 1).float()
    return found[:, :5], 10 * found[:, 5:]


@pytest.fixture(autouse=True)
def _quick_row(monkeypatch):
    monkeypatch.setitem(EXTRACTORS, "colours", row)


def row(weights, device):
    return Extractor("colours", colours, 5, 3, "ab" * 32, ("cat", "dog", "owl"))


def noise(count, seed=0, side=8):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def stored(pixels, **others):
    def read(number, out):
        out[:] = pixels[number]

    labels = np.arange(len(pixels)) % 3
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Stored(labels, ("cat", "dog", "owl"), pixels.shape[1:3], read,
                  lambda: {"images": digest}, **others)  # fmt: skip


def gathered(task, crew=ALONE):
    return task.statistics(walk(task, task.beginning(crew), crew, lambda state: None))


def same(left, right):
    for name, value in vars(left).items():
        np.testing.assert_array_equal(value, getattr(right, name), err_msg=name)


# ------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_against_numpy(batch):
    pixels = noise(50)
    found = gathered(Task(stored(pixels), row(None, CPU), batch=batch))
    features, logits = colours(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    exact = features.double().numpy()
    np.testing.assert_array_equal(found.features, features)
    np.testing.assert_array_equal(found.logits, logits)
    np.testing.assert_allclose(found.mu, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.sigma, np.cov(exact, rowvar=False), rtol=1e-9)
    assert found.labels.tolist() == [n % 3 for n in range(50)]
    assert found.counts.tolist() == [17, 17, 16]
    assert (found.images, found.height, found.width) == (50, 8, 8)


@pytest.mark.parametrize(("kept", "numbers"), [(4, [0, 2, 5, 7]), (0, range(10)), (99, range(10))])
def test_features_that_are_kept(kept, numbers):
    whole, part = (gathered(Task(stored(noise(10)), row(None, CPU), n, 3)) for n in (0, kept))
    numbers = list(numbers)
    assert part.numbers.tolist() == numbers
    np.testing.assert_array_equal(part.features, whole.features[numbers])
    np.testing.assert_array_equal(part.logits, whole.logits[numbers])
    np.testing.assert_array_equal(part.labels, whole.labels[numbers])
    np.testing.assert_array_equal(part.sigma, whole.sigma)


def _rank(rank, ranks, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet{ranks}", rank=rank, world_size=ranks
    )
    EXTRACTORS["colours"] = row
    world = World(rank, ranks)
    section = EvaluationConfig(0, NAMES, 2, "colours", "", str(folder / "real.npz"))
    evaluation = Evaluation(section, DataConfig(), world)
    scores = evaluation.scores(stored(noise(171, 1)))
    assert (scores is None) == (rank > 0)
    assert bool(evaluation.describe_real()) == (rank == 0)
    done = []
    task = Task(stored(noise(171, 1)), row(None, CPU))
    walk(task, task.beginning(world), world, lambda state: done.append(state.done))
    assert done == [min(171, step) for step in range(64 * ranks, 171 + 64 * ranks, 64 * ranks)]
    if rank == 0:
        (folder / f"{ranks}.json").write_text(json.dumps(scores))
    dist.destroy_process_group()


def test_any_number_of_processes_finds_the_same(tmp_path, monkeypatch):
    """Batches of 64 of 171 samples and of 130 real images: some processes have none at times."""
    np.savez(tmp_path / "real.npz", images=noise(130, 2), labels=np.arange(130) % 3)
    references = []
    for ranks in (1, 2, 3):
        monkeypatch.setenv("BIGGAN_SN_CACHE", str(tmp_path / f"cache{ranks}"))
        mp.spawn(_rank, (ranks, tmp_path), nprocs=ranks)
        (found,) = (tmp_path / f"cache{ranks}").iterdir()
        references.append(load_statistics(found))
    texts = {(tmp_path / f"{ranks}.json").read_text() for ranks in (1, 2, 3)}
    assert len(texts) == 1
    assert set(json.loads(texts.pop())) > {"fid", "is", "precision", "class_fid"}
    for other in references[1:]:
        same(references[0], other)


# --------------------------------------------------------------------------------- the cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGGAN_SN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def looks(monkeypatch):
    """A list that fills with the sizes of the batches that are extracted."""
    sizes = []

    def extract(images):
        sizes.append(len(images))
        return colours(images)

    monkeypatch.setitem(EXTRACTORS, "colours", lambda *_: row(None, CPU)._replace(extract=extract))
    return sizes


def test_references_are_made_once_for_the_same_content(cache, looks, monkeypatch):
    def find(images, kept=0):
        looks.clear()
        task = Task(images, EXTRACTORS["colours"](None, CPU), kept)
        found = reference.reference(task, ALONE)
        return found, sum(looks)

    first, looked = find(stored(noise(70)))
    again, once_more = find(stored(noise(70)))
    assert (looked, once_more) == (70, 0)
    same(first, again)
    assert len(list(cache.iterdir())) == 1
    other = noise(70)
    other[69, 7, 7, 2] ^= 1  # one bit
    assert find(stored(other))[1] == 70
    assert find(stored(noise(70)), kept=9)[1] == 70
    changed = row(None, CPU)._replace(digest="other")
    monkeypatch.setitem(EXTRACTORS, "colours", lambda *_: changed)
    reference.reference(Task(stored(noise(70)), changed), ALONE)
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-99], lambda data: b"x"])
def test_a_damaged_reference_is_made_anew(cache, looks, damage):
    task = Task(stored(noise(70)), EXTRACTORS["colours"](None, CPU))
    first = reference.reference(task, ALONE)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    same(first, reference.reference(task, ALONE))
    assert sum(looks) == 140
    reference.reference(task, ALONE)
    assert sum(looks) == 140


def test_a_reference_that_was_stopped_goes_on(cache, looks, monkeypatch):
    monkeypatch.setattr(reference, "SAVE_EVERY", 0.0)

    def stopping(images):
        if len(looks) == 2:
            raise KeyboardInterrupt
        looks.append(len(images))
        return colours(images)

    images = stored(noise(300))
    task = Task(images, row(None, CPU)._replace(extract=stopping))
    with pytest.raises(KeyboardInterrupt):
        reference.reference(task, ALONE)
    (part,) = cache.iterdir()
    assert part.name.endswith(".npz.part")
    looks.clear()
    found = reference.reference(Task(images, EXTRACTORS["colours"](None, CPU)), ALONE)
    assert sum(looks) == 300 - 128
    same(found, gathered(Task(images, row(None, CPU))))


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("BIGGAN_SN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert reference.cache_folder() == tmp_path / "biggan_sn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert reference.cache_folder() == tmp_path / ".cache" / "biggan_sn"


# ----------------------------------------------------------------------- images of every kind


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def kinds(tmp_path):
    """The same ten images, of three classes, as everything that can be opened."""
    pixels, names = noise(10), ("cat", "dog", "owl")
    order = sorted(range(10), key=lambda n: (n % 3, n))
    for n in order:
        folder = tmp_path / "tree" / names[n % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{n}.png").write_bytes(png(pixels[n]))
    (tmp_path / "ours").mkdir()
    (tmp_path / "flat").mkdir()
    for n in order:
        (tmp_path / "ours" / f"class{n % 3:04d}_{n:06d}.png").write_bytes(png(pixels[n]))
        (tmp_path / "flat" / f"{order.index(n)}.PNG").write_bytes(png(pixels[n]))
    samples = ((png(pixels[n]), "png", n % 3) for n in order)
    write_shards(samples, 10, tmp_path / "shards", 4, names)
    labels = np.array([n % 3 for n in order])
    np.savez(tmp_path / "ours.npz", images=pixels[order], labels=labels)
    np.savez_compressed(tmp_path / "theirs.npz", arr_0=pixels[order], arr_1=labels)
    np.savez(tmp_path / "bare.npz", arr_0=pixels[order])
    return tmp_path, pixels[order], labels


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("tree", ("cat", "dog", "owl")),
        ("ours", ("0", "1", "2")),
        ("flat", ()),
        ("ours.npz", ("0", "1", "2")),
        ("theirs.npz", ("0", "1", "2")),
        ("bare.npz", ()),
    ],
)
def test_images_of_every_kind(kinds, name, classes):
    folder, pixels, labels = kinds
    assert holds_images(folder / name)
    images = open_images(folder / name)
    assert images.size == (8, 8)
    assert images.classes == classes
    assert images.labels.tolist() == (labels.tolist() if classes else [-1] * 10)
    found = torch.cat(list(images.batches([range(7), range(7, 10)])))
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), pixels)
    assert found.is_contiguous()


def test_images_of_shards(kinds):
    folder, pixels, _ = kinds
    images = open_images(folder / "shards")
    (found,) = images.batches([range(10)])
    order = [int(np.flatnonzero((pixels == one).all((1, 2, 3)))[0])
             for one in found.permute(0, 2, 3, 1).numpy()]  # fmt: skip
    assert sorted(order) == list(range(10))
    assert images.labels.tolist() == kinds[2][order].tolist()
    assert images.classes == ("cat", "dog", "owl")


def test_identity_is_that_of_the_content(kinds):
    folder, pixels, _ = kinds
    for name in ("tree", "flat", "ours.npz", "shards"):
        assert open_images(folder / name).identity() == open_images(folder / name).identity()
    before = {name: open_images(folder / name).identity() for name in ("tree", "ours.npz")}
    (folder / "tree" / "cat").rename(folder / "tree" / "ant")  # of another name only, in order
    assert open_images(folder / "tree").identity() != before["tree"]
    (folder / "tree" / "ant").rename(folder / "tree" / "cat")
    assert open_images(folder / "tree").identity() == before["tree"]
    one = next((folder / "tree").rglob("*.png"))
    one.write_bytes(png(255 - noise(1)[0]))
    np.savez(folder / "ours.npz", images=pixels[::-1], labels=np.arange(10) % 3)
    assert open_images(folder / "tree").identity() != before["tree"]
    assert open_images(folder / "ours.npz").identity() != before["ours.npz"]
    labels = np.zeros(10, int)
    np.savez(folder / "ours.npz", images=pixels[::-1], labels=labels)
    renamed = open_images(folder / "ours.npz").identity()
    np.savez(folder / "ours.npz", images=pixels[::-1], labels=labels + 1)
    assert open_images(folder / "ours.npz").identity() != renamed


def wrong(folder, name):
    """What cannot be read, by the words that say why."""
    path = folder / name
    if name == "empty":
        path.mkdir()
        return path, "neither shards nor images there"
    if name == "sizes":
        path.mkdir()
        (path / "a.png").write_bytes(png(noise(1)[0]))
        (path / "b.png").write_bytes(png(noise(1, side=9)[0]))
        return path, "b.png: 9x9 pixels, but .*a.png has 8x8"
    if name == "cut.png":
        folder = folder / "cut"
        folder.mkdir()
        (folder / "a.png").write_bytes(png(noise(1)[0])[:-40])
        return folder, "a.png: cannot be decoded"
    if name == "text":
        path.mkdir()
        (path / "a.png").write_text("no picture")
        return path, "a.png: cannot be opened as a PNG or JPEG"
    arrays = {
        "float.npz": {"images": np.zeros((3, 8, 8, 3))},
        "grey.npz": {"images": np.zeros((3, 8, 8), np.uint8)},
        "first.npz": {"images": np.zeros((3, 3, 8, 8), np.uint8)},
        "none.npz": {"images": np.zeros((0, 8, 8, 3), np.uint8)},
        "other.npz": {"pictures": np.zeros((3, 8, 8, 3), np.uint8)},
        "labels.npz": {"images": np.zeros((3, 8, 8, 3), np.uint8), "labels": np.zeros(2, int)},
        "names.npz": {"images": np.zeros((3, 8, 8, 3), np.uint8), "labels": np.array(["a"] * 3)},
        "pickle.npz": {"images": np.array([None, {}])},
    }[name]
    np.savez(path, **arrays)
    why = {"other.npz": "no array is called images", "labels.npz": "labels must be one",
           "names.npz": "labels must be one", "pickle.npz": "cannot be read"}  # fmt: skip
    return path, why.get(name, r"must be uint8 \[N, H, W, 3\], not")


@pytest.mark.parametrize(
    "name",
    ["empty", "sizes", "cut.png", "text", "float.npz", "grey.npz", "first.npz", "none.npz",
     "other.npz", "labels.npz", "names.npz", "pickle.npz"],
)  # fmt: skip
def test_images_that_cannot_be_read(tmp_path, name):
    path, why = wrong(tmp_path, name)
    with pytest.raises(ValueError, match=why) as caught:
        list(open_images(path).batches([range(2 if name == "sizes" else 1)]))
    assert str(path) in str(caught.value)


def test_what_holds_no_images(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "pictures").mkdir()
    (tmp_path / "run" / "pictures" / "samples.png").write_bytes(png(noise(1)[0]))
    for path in (tmp_path / "run", tmp_path / "nothing", tmp_path / "no.npz"):
        assert not holds_images(path)
    with pytest.raises(ValueError, match=r"nothing: no folder of shards or images, and no \.npz"):
        open_images(tmp_path / "nothing")


# --------------------------------------------------------------------------------- evaluations


def evaluation(real="", metrics=("fid",), data=None, **others):
    section = EvaluationConfig(0, metrics, 2, "colours", "", str(real), **others)
    return Evaluation(section, data or DataConfig(), ALONE)


def test_statistics_are_as_good_as_the_images(kinds, cache):
    folder = kinds[0]
    real = open_images(folder / "tree")
    gathered(Task(real, row(None, CPU))).save(folder / "stats.npz")
    assert holds_statistics(folder / "stats.npz") and not holds_statistics(folder / "ours.npz")
    samples = stored(noise(40, 3))
    by_images = evaluation(folder / "tree", NAMES[:5]).scores(samples)
    by_statistics = evaluation(folder / "stats.npz", NAMES[:5]).scores(samples)
    assert by_images == by_statistics
    for names, more in ((("fid",), set()), (("fid", "is"), {"is"})):
        described = evaluation(folder / "stats.npz", names).describe_real()
        assert described.keys() == {"images", "fingerprint"} | more


def test_statistics_of_another_network(kinds):
    folder = kinds[0]
    other = row(None, CPU)._replace(digest="cd" * 32)
    gathered(Task(open_images(folder / "tree"), other)).save(folder / "stats.npz")
    with pytest.raises(ValueError, match=r"abababab\) and colours \(weights cdcdcdcd\)"):
        evaluation(folder / "stats.npz").scores(stored(noise(4)))


def test_damaged_statistics(kinds):
    folder = kinds[0]
    path = folder / "stats.npz"
    gathered(Task(open_images(folder / "tree"), row(None, CPU))).save(path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(folder / "cut.npz", "w") as cut:
        for name in whole.namelist():
            if name != "logits.npy":
                cut.writestr(name, whole.read(name))
    with pytest.raises(ValueError, match=r"cut.npz: not statistics .*it has no logits"):
        evaluation(folder / "cut.npz")


def test_the_training_images_are_the_default(shards, cache, monkeypatch):
    data = DataConfig(path=str(shards), resolution=32, num_classes=2, classes=("owl", "cat"))
    found = evaluation(data=data)
    assert found.describe_real()["images"] == 20
    assert found.classes == ("owl", "cat")
    with pytest.raises(ValueError, match="--real"):
        evaluation()


def test_what_is_checked_before_anything_long(kinds, monkeypatch):
    folder = kinds[0]
    monkeypatch.setattr(evaluating, "walk", lambda *_: pytest.fail("too long"))
    monkeypatch.setattr(evaluating, "reference", lambda *_: pytest.fail("too long"))
    found = evaluation(folder / "tree", ("fid", "class_fid"))
    found.check(np.arange(9) % 3, (8, 8))
    with pytest.raises(ValueError, match="'class_fid' cannot be measured: the classes"):
        found.check(np.full(9, -1), (8, 8))
    with pytest.raises(ValueError, match=r"samples of 9x8 pixels cannot be .* images of 8x8"):
        found.check(np.arange(9) % 3, (8, 9))
    with pytest.raises(ValueError, match="'fit'; did you mean 'fid'"):
        evaluation(folder / "tree", ("fit",))
    few = evaluation(folder / "tree", ("precision_recall",), features=3)
    assert (few.kept, found.kept) == (3, 10)
    with pytest.raises(ValueError, match=r"4 samples and features of 4 .* there are 9 and 3"):
        few.check(np.arange(9) % 3, (8, 8))


def test_metrics_from_outside(kinds, monkeypatch, cache):
    """A row is the whole act."""
    monkeypatch.setitem(METRICS, "brightness", Metric(lambda ours, real: {"sum": ours.images}))
    assert evaluation(kinds[0] / "tree", ("brightness",)).scores(stored(noise(4))) == {"sum": 4}
