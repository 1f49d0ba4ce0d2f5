"""Augmentations against formulas of the papers, image by image in numpy, and what they promise of
random numbers and derivatives."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.special import ndtri
from scipy.stats import chisquare

from biggan_sn.data import colours, diffaugment, geometry
from biggan_sn.data.augment import AUGMENTATIONS, Augmentation, Transform, augment
from biggan_sn.data.chance import Chance
from biggan_sn.positions import uniform

SIDE = 12
CHANCE = Chance(7, "a test", range(40, 56))


# ------------------------------------------------- each transform, of one image [3, H, H], in numpy


def flip(image, u):
    return image[:, :, ::-1] if u < 0.5 else image


def brightness(image, u):
    return image + (u - 0.5)


def saturation(image, u):
    grey = (image[0] + image[1] + image[2]) / 3
    return np.stack([grey + 2 * u * (channel - grey) for channel in image])


def contrast(image, u):
    return image.mean() + (image - image.mean()) * (0.5 + u)


def translation(image, down, right):
    """Zhao et al. 2020: within [-1/8, 1/8] of the size, padded with zeros."""
    side = image.shape[1]
    most = round(side / 8 + 1e-9)
    steps = list(range(-most, most + 1))
    down, right = (steps[int(u * len(steps))] for u in (down, right))
    padded = np.pad(image, ((0, 0), (most, most), (most, most)))
    rolled = np.roll(padded, (down, right), (1, 2))
    return rolled[:, most : most + side, most : most + side]


def cutout(image, down, right):
    """Zhao et al. 2020: a random square of half the size."""
    side = image.shape[1]
    size = side // 2
    middles = [int(u * (side + 1)) for u in (down, right)]
    cut = image.copy()
    for row in range(side):
        for column in range(side):
            if all(
                m - size // 2 <= x < m + size // 2
                for m, x in zip(middles, (row, column), strict=True)
            ):
                cut[:, row, column] = 0
    return cut


PIXELS = {
    "flip": [flip],
    "color": [brightness, saturation, contrast],
    "translation": [translation],
    "cutout": [cutout],
}


# Where the point (x, y), in sides from the middle, was before the transform.


def mirror(x, y, u):
    return (-x, y) if u < 0.5 else (x, y)


def quarter_turns(x, y, u):
    for _ in range(int(4 * u)):
        x, y = -y, x
    return x, y


def whole_shift(x, y, u, v):
    pixels = [round((2 * number - 1) * SIDE / 8) for number in (u, v)]
    return x - pixels[0] / SIDE, y - pixels[1] / SIDE


def scale(x, y, u):
    return x / 2 ** (0.2 * ndtri(u)), y / 2 ** (0.2 * ndtri(u))


def turn(x, y, u):
    angle = (2 * u - 1) * np.pi
    return x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)


def stretch(x, y, u):
    return x / 2 ** (0.2 * ndtri(u)), y * 2 ** (0.2 * ndtri(u))


def shift(x, y, u, v):
    return x - ndtri(u) / 8, y - ndtri(v) / 8


# What becomes of a colour (r, g, b).
GREY = np.ones(3) / np.sqrt(3)


def brighter(colour, u):
    return colour + 0.2 * ndtri(u)


def more_contrast(colour, u):
    return colour * 2 ** (0.5 * ndtri(u))


def luma_flip(colour, u):
    return colour - 2 * (colour @ GREY) * GREY if u < 0.5 else colour


def hue(colour, u):
    angle = (2 * u - 1) * np.pi
    along = (colour @ GREY) * GREY
    return along + (colour - along) * np.cos(angle) + np.cross(GREY, colour) * np.sin(angle)


def more_saturation(colour, u):
    along = (colour @ GREY) * GREY
    return along + (colour - along) * 2 ** ndtri(u)


BLIT = [mirror, quarter_turns, whole_shift]
GENERAL = [scale, turn, stretch, turn, shift]
PLANE = {"blit": BLIT, "bg": [*BLIT, *GENERAL], "bgc": [*BLIT, *GENERAL]}
COLOURS = {"bgc": [brighter, more_contrast, luma_flip, hue, more_saturation]}


def numbers_of(act):
    return act.__code__.co_argcount - (2 if act in PLANE["bg"] else 1)


def resampled(image, maps):
    """Every pixel goes back the way it came, the last transform first."""
    middles = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    y, x = np.meshgrid(middles, middles, indexing="ij")
    for act, u in reversed(maps):
        x, y = act(x, y, *u)
    places = (np.stack([y, x]) + 0.5) * SIDE - 0.5
    return np.stack([map_coordinates(c, places, order=1, mode="reflect") for c in image])


def by_hand(name, image, u, p):
    """A row, of one image [3, H, H], by its numbers u."""
    u = iter(u)

    def dealt(acts):
        for act in acts:
            on = next(u) < (1 - np.sqrt(1 - p) if act is turn else p)
            numbers = [next(u) for _ in range(numbers_of(act))]
            if on:
                yield act, numbers

    if maps := list(dealt(PLANE.get(name, []))):
        image = resampled(image, maps)
    for act, numbers in dealt(COLOURS.get(name, [])):
        image = np.apply_along_axis(act, 0, image, *numbers)
    for act, numbers in dealt(PIXELS.get(name, [])):
        image = act(image, *numbers)
    assert next(u, None) is None, "all numbers are used"
    return image


def images(side=SIDE, count=16):
    generator = torch.Generator().manual_seed(3)
    return 2 * torch.rand(count, 3, side, side, generator=generator, dtype=torch.float64) - 1


def rows(*names):
    return {name: AUGMENTATIONS[name] for name in names}


@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_against_the_formulas_of_the_papers(name, p):
    width = sum(
        1 + numbers_of(act) for table in (PLANE, COLOURS, PIXELS) for act in table.get(name, [])
    )
    u = uniform(7, f"a test/{name}", CHANCE.positions, width)
    expected = [by_hand(name, i, n, p) for i, n in zip(images().numpy(), u, strict=True)]
    for given in (p, torch.tensor(p, dtype=torch.float64)):
        found = augment(images(), rows(name), CHANCE, given)
        torch.testing.assert_close(found, torch.tensor(np.stack(expected)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_gradients_against_finite_differences(name):
    chance = Chance(7, "a test", range(3))
    small = images(6, 3).requires_grad_()
    with torch.no_grad():
        assert not torch.equal(augment(small, rows(name), chance, 0.7), small)
    done = partial(augment, rows=rows(name), chance=chance, p=0.7)
    assert torch.autograd.gradcheck(done, small, fast_mode=True)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_without_probability_nothing_happens_to_the_last_bit(name):
    for kind in (torch.float32, torch.float64):
        before = images().to(kind)
        nothing = torch.tensor(0.0, dtype=torch.float64)
        assert torch.equal(augment(before, rows(name), CHANCE, nothing), before)
        found = augment(before, rows(name), CHANCE, 0.9)
        assert found.dtype == kind and found.shape == before.shape
        assert not torch.equal(found, before)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_numbers_belong_to_positions(name):
    """So it is all the same who has which images, and in how many pieces."""
    whole = augment(images(), rows(name), CHANCE, 0.8)
    first = CHANCE.positions.start
    for size in (1, 4):
        parts = [
            augment(part, rows(name), Chance(7, "a test", range(i, i + size)), 0.8)
            for i, part in zip(range(first, first + 16, size), images().split(size), strict=True)
        ]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-14)
    for other in (Chance(8, "a test", CHANCE.positions), Chance(7, "b", CHANCE.positions)):
        assert not torch.equal(augment(images(), rows(name), other, 0.8), whole)


def test_rows_are_done_in_their_order():
    both = augment(images(), rows("cutout", "bgc"), CHANCE)
    then = augment(augment(images(), rows("cutout"), CHANCE), rows("bgc"), CHANCE)
    assert torch.equal(both, then)
    assert not torch.equal(both, augment(images(), rows("bgc", "cutout"), CHANCE))


# -------------------------------------------------------------------------- of many images, counted

MANY = 3000
TRANSFORMS = {
    f"{name} {part} {number}": (part, transform)
    for name in ("flip", "color", "translation", "cutout", "bgc")
    for part in Augmentation._fields
    for number, transform in enumerate(getattr(AUGMENTATIONS[name], part))
}
# What some of them do to one image in two, in four, or in so many steps along each of two axes:
# at 8 pixels a step up, none or down. Steps of ADA's are rounded, so that none is as likely as one.
IN_VAIN = {"flip": 1 / 2, "mirror": 1 / 2, "luma_flip": 1 / 2, "quarter_turns": 1 / 4,
           "translation": 1 / 9, "whole_shift": 1 / 4}  # fmt: skip


@pytest.mark.parametrize("p", [0.2, 1.0])
@pytest.mark.parametrize("case", TRANSFORMS)
def test_every_transform_is_done_with_its_probability(case, p):
    part, transform = TRANSFORMS[case]
    before = images(8, 1).expand(MANY, -1, -1, -1)
    row = {"one": Augmentation(**{part: (transform,)})}
    after = augment(before, row, Chance(1, case, range(MANY)), torch.tensor(p))
    changed = ((after - before).abs() > 1e-9).flatten(1).any(1).double().mean().item()
    likely = 1 - np.sqrt(1 - p) if transform.act is geometry.turn else p
    expected = likely * (1 - IN_VAIN.get(transform.act.__name__, 0))
    spread = np.sqrt(expected * (1 - expected) / MANY)
    assert abs(changed - expected) <= 4 * spread


def test_two_turns_are_one_or_more_with_the_probability():
    twice = (AUGMENTATIONS["bg"].plane[4], AUGMENTATIONS["bg"].plane[6])
    assert [t.act for t in twice] == [geometry.turn] * 2
    before = images(8, 1).expand(MANY, -1, -1, -1)
    after = augment(before, {"turns": Augmentation(twice)}, Chance(2, "", range(MANY)), 0.3)
    changed = ((after - before).abs() > 1e-9).flatten(1).any(1).double().mean().item()
    assert abs(changed - 0.3) < 4 * np.sqrt(0.3 * 0.7 / MANY)


def test_every_shift_is_as_likely_as_any_other():
    dot = torch.zeros(1, 3, 16, 16)
    dot[:, :, 8, 8] = 1
    moved = augment(dot.expand(MANY, -1, -1, -1), rows("translation"), Chance(3, "", range(MANY)))
    places = moved[:, 0].flatten(1).argmax(1)
    down, right = places // 16 - 8, places % 16 - 8
    counts = torch.bincount((down + 2) * 5 + right + 2)
    assert len(counts) == 25 and chisquare(counts.numpy()).pvalue > 0.01


def test_the_square_of_cutout_has_half_the_side_and_is_anywhere():
    kept = augment(
        torch.ones(1, 3, 16, 16).expand(MANY, -1, -1, -1),
        rows("cutout"),
        Chance(4, "", range(MANY)),
    )[:, 0]
    heights, widths = ((kept == 0).any(axis).sum(1) for axis in (2, 1))
    assert torch.equal((kept == 0).sum((1, 2)), heights * widths)
    assert (heights.max(), heights.min()) == (8, 4)  # up to half of it may lie outside
    middles = torch.bincount((kept == 0).any(2).double().argmax(1)[heights == 8], minlength=9)
    assert chisquare(middles.numpy()).pvalue > 0.01


def test_quarter_turns_are_those_of_numpy():
    before = images()
    for number, u in enumerate((0.1, 0.3, 0.6, 0.9)):
        maps = geometry.quarter_turns(torch.full((16, 1), u, dtype=torch.float64), before)
        found = geometry.resample(before, maps).numpy()
        expected = np.rot90(before.numpy(), number, (2, 3))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_whole_shifts_move_pixels_and_mirror_the_edge():
    before = images()
    u = torch.tensor([0.99, 0.01], dtype=torch.float64).expand(16, 2)  # right, up
    found = geometry.resample(before, geometry.whole_shift(u, before)).numpy()
    most = round(0.98 * SIDE / 8)
    assert most == 1
    padded = np.pad(before.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), "symmetric")
    np.testing.assert_allclose(found, padded[:, :, 2:, :-2], rtol=0, atol=1e-12)


def test_colours_keep_what_they_promise():
    """Hue and saturation keep the grey of a pixel; luma flip turns it round and keeps the hue."""
    before = images()
    u = torch.rand(16, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for act in (colours.hue, colours.saturation):
        after = colours.recolour(before, act(u, before))
        torch.testing.assert_close(after.mean(1), before.mean(1))
        assert (after - before).abs().max() > 0.1
    after = colours.recolour(before, colours.luma_flip(0.4 * u, before))
    torch.testing.assert_close(after.mean(1), -before.mean(1))
    torch.testing.assert_close(after - after.mean(1, True), before - before.mean(1, True))


def test_a_row_from_outside():
    AUGMENTATIONS["dark"] = Augmentation(pixels=(Transform(lambda u, images: images - 1, 0),))
    try:
        dark = augment(images(), rows("dark"), CHANCE)
        assert torch.equal(dark, images() - 1)
    finally:
        del AUGMENTATIONS["dark"]


def test_half_of_all_images_are_mirrored_exactly():
    u = torch.tensor([[0.4], [0.6]], dtype=torch.float64)
    before = images(count=2)
    after = diffaugment.flip(u, before)
    assert torch.equal(after[0], before[0].flip(2)) and torch.equal(after[1], before[1])
