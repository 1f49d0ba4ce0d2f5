"""Nearest real images against brute force over all of them, and what is said of what was found."""

import csv
import os
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biggan_sn.evaluation import neighbours
from biggan_sn.evaluation.extractors import Extractor
from biggan_sn.evaluation.images import Stored
from biggan_sn.evaluation.neighbours import (
    BATCH,
    COLUMNS,
    MEASURES,
    Found,
    Neighbours,
    check_real,
    describe,
    distances,
    draw_neighbours,
    find_neighbours,
    summarize,
    write_table,
)

CLASSES = ("cat", "dog")


def stored(images, read=None, labels=None):
    """A set of images uint8 [N, 3, H, W]."""
    pixels = images.permute(0, 2, 3, 1).numpy()
    labels = np.arange(len(pixels)) % 2 if labels is None else np.array(labels)

    def copy(number, out):
        out[:] = pixels[number]

    return Stored(labels, CLASSES, pixels.shape[1:3], read or copy, dict, threads=2)


def features_of(images):
    """Whole numbers, so that equal distances are equal to the last bit: uint8 -> [N, 3]."""
    levels = images.flatten(1).double()
    return torch.stack([levels[:, :5].sum(1), levels[:, 3], 7 - levels.sum(1)], 1)


def extractor(features=features_of, seen=None):
    def extract(images):
        if seen is not None:
            seen.append(len(images))
        found = features(images).float()
        return found, found[:, :0]

    return Extractor("stub", extract, 3, 0, "")


def brute_force(some, others, nearest, own=()):
    """Distances and numbers [measures, N, nearest] of the nearest, by numpy, in float64."""
    a, b = (images.flatten(1).numpy().astype(np.float64) for images in (some, others))
    levels = ((a[:, None] - b[None]) ** 2).mean(2) / 127.5**2
    a, b = (features_of(images).numpy() for images in (some, others))
    apart = np.sqrt(np.stack([levels, ((a[:, None] - b[None]) ** 2).sum(2)]))
    for row, number in enumerate(own):
        apart[:, row, number] = np.inf
    order = np.argsort(apart, 2, kind="stable")[:, :, :nearest]
    return np.take_along_axis(apart, order, 2), order


def assert_found(found, expected):
    np.testing.assert_allclose(found.distances.numpy(), expected[0], rtol=1e-12, atol=0)
    assert found.numbers.tolist() == expected[1].tolist()


def images_of(count, levels, seed, side=2):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, side, side)
    return torch.randint(0, levels, shape, dtype=torch.uint8, generator=generator)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(0, 10**6))
def test_brute_force_finds_the_same(data, seed):
    """Few levels of few pixels, so that many images are equally far, and many are the same."""
    total, count = data.draw(st.integers(2, 14)), data.draw(st.integers(1, 6))
    nearest, batch = data.draw(st.integers(1, total)), data.draw(st.integers(1, 16))
    levels = data.draw(st.sampled_from([2, 3, 256]))
    real, samples = images_of(total, levels, seed), images_of(count, levels, seed + 1)
    found = find_neighbours(samples, stored(real), extractor(), nearest, batch)
    assert_found(found.samples, brute_force(samples, real, nearest))
    yardstick = np.arange(min(count, total)) * total // min(count, total)
    expected = brute_force(real[yardstick], real, nearest, own=yardstick)
    assert_found(found.real, expected)


@pytest.mark.parametrize("batch", [1, 7, 64, 150])
def test_many_images_in_batches_of_any_size(batch):
    real, samples = images_of(150, 256, 1, side=8), images_of(5, 256, 2, side=8)
    found = find_neighbours(samples, stored(real), extractor(), 6, batch)
    assert_found(found.samples, brute_force(samples, real, 6))
    yardstick = [0, 30, 60, 90, 120]
    assert_found(found.real, brute_force(real[yardstick], real, 6, own=yardstick))


def test_a_copy_is_found_at_distance_0_whatever_rounds():
    """An extractor whose features hang on an image's place in the batch, as they do to the last
    bit: still the same pixels are the same image. Large and bright, where sums in fp32 cancel."""

    def jittery(images):
        return features_of(images) + torch.arange(len(images))[:, None] * 1e-3

    real = images_of(20, 256, 3, side=64) // 8 + 224
    samples = torch.stack([real[13], real[17], real[4]])
    samples[2, 1, 5, 6] -= 1
    found = find_neighbours(samples, stored(real), extractor(jittery), 2, batch=8).samples
    assert found.numbers[:, :, 0].tolist() == [[13, 17, 4]] * 2
    assert found.distances[:, :2, 0].eq(0).all()
    assert found.distances[:, :, 1].min() > 0
    one_level = (1 / samples[0].numel()) ** 0.5 / 127.5
    assert found.distances[0, 2, 0].item() == pytest.approx(one_level, rel=1e-12)
    assert found.distances[1, 2, 0] > 0, "not the same pixels"


def test_distances_of_features_do_not_cancel():
    """Far from zero and near to one another."""
    pixels = torch.zeros(2, 12, dtype=torch.float64)
    pixels[1] = 1
    features = torch.tensor([[1e8, 1e8], [1e8 + 3e-4, 1e8 + 4e-4]], dtype=torch.float64)
    here = neighbours.Described(pixels, features)
    apart = distances(here, here)
    expected = (features[1] - features[0]).norm().item()
    assert apart[1, 0, 1].item() == pytest.approx(expected, rel=1e-12)
    assert apart[:, [0, 1], [0, 1]].eq(0).all()


def test_pixels_are_in_units_of_images_from_minus_1_to_1():
    black, white = (torch.full((1, 3, 4, 4), value, dtype=torch.uint8) for value in (0, 255))
    half = black.clone()
    half[:, :, :2] = 255
    described = [describe(images, extractor(), 2) for images in (black, white, half)]
    assert distances(described[0], described[1])[0].item() == pytest.approx(2)
    assert distances(described[0], described[2])[0].item() == pytest.approx(2**0.5)


def test_real_images_come_by_once(capsys):
    """But for those of the yardstick, which are read first."""
    real, reads = images_of(40, 256, 5), []

    def read(number, out):
        reads.append(number)
        out[:] = real[number].permute(1, 2, 0).numpy()

    find_neighbours(images_of(3, 256, 6), stored(real, read), extractor(), 2, batch=8)
    assert sorted(reads) == sorted([0, 13, 26, *range(40)])


def test_the_extractor_sees_batches_of_one_size():
    seen = []
    real = stored(images_of(21, 256, 5))
    find_neighbours(images_of(3, 256, 6), real, extractor(seen=seen), 2, batch=8)
    assert seen == [8] * 4, "6 queries, then 21 images"


def test_progress_is_told(monkeypatch):
    told = []

    class Bar:
        def __init__(self, total):
            told.append(total)

        def __enter__(self):
            return told.append

        def __exit__(self, *_):
            told.append("done")

    monkeypatch.setattr("biggan_sn.evaluation.neighbours.show_progress", Bar)
    real = stored(images_of(21, 256, 5))
    find_neighbours(images_of(1, 256, 6), real, extractor(), 2, batch=8)
    assert told == [21, 8, 8, 5, "done"]


def test_it_stops_when_it_is_told_to():
    real, reads = images_of(400, 256, 5), []

    def read(number, out):
        reads.append(number)
        if number == 30:
            os.kill(os.getpid(), signal.SIGINT)
        out[:] = real[number].permute(1, 2, 0).numpy()

    with pytest.raises(KeyboardInterrupt):
        find_neighbours(images_of(1, 256, 6), stored(real, read), extractor(), 2, batch=8)
    assert len(reads) < 200


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_no_numbers(value):
    def broken(images):
        return torch.where(images.flatten(1)[:, :3] == 255, value, 1.0)

    real = images_of(9, 255, 5)
    real[7, 0, 0, 0] = 255
    with pytest.raises(ValueError, match="not finite: are these the weights of stub"):
        find_neighbours(images_of(1, 255, 6), stored(real), extractor(broken), 2, batch=8)


def test_real_images_that_cannot_be_compared():
    real = stored(images_of(4, 256, 0, side=8))
    check_real(real, 8, 4)
    with pytest.raises(ValueError, match="8x8 pixels, but the generator draws 16x16"):
        check_real(real, 16, 1)
    with pytest.raises(ValueError, match="5 nearest of 4 real images"):
        check_real(real, 8, 5)
    with pytest.raises(ValueError, match=r"1 nearest of 1 real images.* two at least"):
        check_real(stored(images_of(1, 256, 0, side=8)), 8, 1)
    wide = stored(torch.zeros(4, 3, 8, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="16x8 pixels"):
        check_real(wide, 8, 1)
    with pytest.raises(ValueError, match="the generator draws 2x2"):
        find_neighbours(images_of(1, 256, 0), real, extractor(), 1)


# ------------------------------------------------------------------------------ what is said of it


def found_of(distances, numbers):
    return Found(torch.tensor(distances, dtype=torch.float64), torch.tensor(numbers))


SAMPLES = found_of(
    [[[0.0, 0.3], [0.2, 0.4], [0.003, 0.5], [0.004, 0.9]], [[0, 3], [8, 9], [6, 7], [1, 7]]],
    [[[3, 1], [0, 2], [1, 0], [2, 3]], [[3, 0], [1, 2], [1, 2], [0, 1]]],
)
REAL = found_of([[[0.1], [0.3]], [[2], [6]]], [[[1], [0]], [[1], [0]]])


def test_summary():
    summary = summarize(Neighbours(SAMPLES, REAL))
    np.testing.assert_allclose(summary.samples, [(0.003 + 0.004) / 2, (1 + 6) / 2])
    np.testing.assert_allclose(summary.real, [0.2, 4])
    np.testing.assert_allclose(summary.ratio, [0.0175, 0.875])
    assert summary.copies == 2, "1/255 lies between 0.003 and 0.004"
    assert summary.line(4) == (
        "median distance of 4 samples to the nearest real image: "
        "by pixels (RMS of images in [-1, 1]) 0.0035, real to real 0.2, ratio 0.0175; "
        "by features (Euclidean) 3.5, real to real 4, ratio 0.875; 2 copies"
    )


def test_real_images_that_are_all_there_twice_are_no_yardstick():
    twice = found_of([[[0.0], [0.0]], [[0], [0]]], [[[1], [0]], [[1], [0]]])
    assert np.isinf(summarize(Neighbours(SAMPLES, twice)).ratio).all()
    assert np.isnan(summarize(Neighbours(twice, twice)).ratio).all()


def test_table(tmp_path):
    real = stored(images_of(4, 256, 0), labels=[0, 1, -1, 1])
    names = ("owl", "fox", "eel")
    write_table(SAMPLES, [0, 0, 2, 2], [0, 1, 0, 1], names, real, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open() as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 1 + 4 * 2 * 2
    assert rows[1] == ["0", "owl", "0", "pixels", "1", "0.0", "3", "1", "dog"]
    assert rows[2] == ["0", "owl", "0", "pixels", "2", "0.3", "1", "1", "dog"]
    assert rows[3] == ["0", "owl", "0", "features", "1", "0.0", "3", "1", "dog"]
    assert rows[6] == ["0", "owl", "1", "pixels", "2", "0.4", "2", "", ""], "of no known class"
    assert rows[11] == ["2", "eel", "0", "features", "1", "6.0", "1", "1", "dog"]
    assert rows[15] == ["2", "eel", "1", "features", "1", "1.0", "0", "0", "cat"]


def test_picture_shows_what_was_found_beside_each_sample():
    """Every picture is of one level, 64 pixels large: 10 and on for the samples, 100 and on for
    the real ones."""

    def flat(levels):
        values = torch.tensor(levels, dtype=torch.uint8)
        return values.view(-1, 1, 1, 1).expand(-1, 3, 32, 32).contiguous()

    samples, real = flat([50, 60, 70, 80]), stored(flat([100, 110, 120, 130]))
    pixels = draw_neighbours(samples, ["0 owl", "0 owl", "2 eel", "2 eel"], SAMPLES, real)
    tops = [26 + row * (64 + 2 + 18) for row in range(4)]
    assert pixels.shape[0] == tops[-1] + 64 + 2 + 18
    for row, top in enumerate(tops):
        line = pixels[top + 32, :, 0]
        shown = [int(level) for level in line if 50 <= level <= 130]
        # ink of the row's name may be of any level, but not 64 times
        levels = [level for level, count in runs(shown) if count >= 64]
        expected = [samples[row, 0, 0, 0].item()]
        expected += [100 + 10 * n for by in SAMPLES.numbers[:, row].tolist() for n in by]
        assert levels == expected
    under = pixels[tops[0] + 64 : tops[1]]
    assert (under < 100).any(), "distances below"
    assert (pixels[:26] < 100).any(), "headings above"
    assert (pixels[tops[2] : tops[2] + 64, :40] < 100).any(), "names at the left"


def test_every_picture_has_its_distance_below(monkeypatch):
    given = []
    monkeypatch.setattr(neighbours, "sheet", lambda *arguments: given.extend(arguments))
    draw_neighbours(images_of(4, 256, 1), list("abcd"), SAMPLES, stored(images_of(4, 256, 2)))
    (sample, pixels, features), labels = given
    assert labels == list("abcd")
    assert sample.heading == "sample" and not sample.captions
    assert pixels.heading == "nearest by pixels (RMS of images in [-1, 1])"
    assert pixels.captions[0] == ["0.00", "0.300"] and pixels.captions[2] == ["0.00300", "0.500"]
    assert features.heading == "nearest by features (Euclidean)"
    assert features.captions[1] == ["8.00", "9.00"]


def runs(levels):
    """Level and length of each run of 64 of one level."""
    found = []
    for level in levels:
        if found and found[-1][0] == level and found[-1][1] < 64:
            found[-1][1] += 1
        else:
            found.append([level, 1])
    return found


def test_measures_are_in_the_order_of_the_distances():
    assert tuple(MEASURES) == ("pixels", "features")
    assert BATCH == 64
