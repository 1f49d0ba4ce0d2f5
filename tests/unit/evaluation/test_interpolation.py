"""From one end to the other: the ends are samples to the last bit, and between them lie only the
latent vectors and class embeddings that were meant."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from biggan_sn.data.loader import to_pixels
from biggan_sn.evaluation import interpolation
from biggan_sn.evaluation.interpolation import (
    INTERPOLATIONS,
    ClassMixture,
    End,
    count_drawn,
    draw_rows,
    great_circle,
    interpolate,
    mixing,
    plan_rows,
)
from biggan_sn.evaluation.sampling import Sampling, draw_classes, latents_of, renew_statistics
from biggan_sn.models.zoo import ARCHITECTURES, build_generator

NAMES = tuple(ARCHITECTURES)
CLASSES = (2, 0, 1)


@pytest.fixture(params=NAMES)
def generator(request, small_config):
    """Every architecture: with an embedding that all share, and with a table in each norm."""
    model = replace(small_config.model, name=request.param, channels=4, shared_dim=None)
    torch.manual_seed(0)
    network = build_generator(replace(small_config, model=model)).eval().requires_grad_(False)
    for module in network.modules():  # fresh ones are so small that classes hardly differ
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    renew_statistics(network, Sampling(standing_statistics=2))
    return network


def weights_of(labels, dtype=torch.float32):
    return F.one_hot(torch.as_tensor(labels), 3).to(dtype)


# ------------------------------------------------------------------------------- mixing classes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_whole_class_is_what_its_label_gives(generator, dtype):
    generator = generator.to(dtype)
    z, y = torch.randn(7, generator.z_dim, dtype=dtype), torch.tensor([0, 1, 2, 2, 1, 0, 1])
    expected = generator(z, y)
    assert torch.equal(mixing(generator)(z, weights_of(y, dtype)), expected)
    assert not torch.allclose(generator(z, y.flip(0)), expected, atol=1e-3), "classes differ"


def test_classes_mix_beside_a_reference_batch(small_config):
    model = replace(small_config.model, norm="virtual_batch", reference_images=3)
    network = build_generator(replace(small_config, model=model)).double().requires_grad_(False)
    z, y = torch.randn(4, network.z_dim).double(), torch.tensor([0, 1, 2, 1])
    mixed = mixing(network)(z, weights_of(y, torch.float64))
    torch.testing.assert_close(mixed, network(z, y))


def test_half_and_half_is_the_class_whose_embedding_lies_between(generator):
    """The truth without any mixing: a generator whose class 0 is the mean in every table."""
    generator = generator.double()
    z = torch.randn(5, generator.z_dim, dtype=torch.float64)
    mixed = mixing(generator)(z, torch.tensor([[0.0, 0.25, 0.75]] * 5, dtype=torch.float64))
    for module in generator.modules():
        if isinstance(module, nn.Embedding):
            module.weight[0] = 0.25 * module.weight[1] + 0.75 * module.weight[2]
    torch.testing.assert_close(mixed, generator(z, torch.zeros(5, dtype=torch.int64)))


def test_mixing_changes_nothing_else(generator):
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    kinds = {name: type(module) for name, module in generator.named_modules()}
    z, y = torch.randn(3, generator.z_dim), torch.arange(3)
    images = generator(z, y)
    copy = mixing(generator)
    assert torch.equal(generator(z, y), images), "the generator itself takes labels as before"
    assert {name: type(module) for name, module in generator.named_modules()} == kinds
    assert not copy.training
    found = copy.state_dict()
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], before[name]) for name in before)
    other = {name: type(module) for name, module in copy.named_modules()}
    changed = {name for name in kinds if kinds[name] is not other[name]}
    assert changed == {name for name in kinds if kinds[name] is nn.Embedding} != set()
    assert {other[name] for name in changed} == {ClassMixture}
    for tensor in copy.state_dict().values():
        tensor.zero_()
    assert all(torch.equal(generator.state_dict()[name], before[name]) for name in before)


# ---------------------------------------------------------------------------------- great circle


vectors = st.lists(st.floats(-3, 3), min_size=4, max_size=4).map(
    lambda values: torch.tensor([values], dtype=torch.float64)
)


@settings(max_examples=60, deadline=None)
@given(vectors, vectors, st.floats(0, 1))
def test_the_way_lies_on_the_great_circle(first, last, part):
    """In their plane, at this part of the angle from the first, as long as lies between."""
    lengths = first.norm().item(), last.norm().item()
    cosine = F.cosine_similarity(first, last).item()
    assume(min(lengths) > 1e-3 and abs(cosine) < 0.999)
    angle = np.arccos(cosine)
    found = great_circle(first, last, torch.tensor([part], dtype=torch.float64))
    assert found.norm().item() == pytest.approx((1 - part) * lengths[0] + part * lengths[1])
    for end, share in ((first, part), (last, 1 - part)):
        expected = np.cos(share * angle)
        assert F.cosine_similarity(found, end).item() == pytest.approx(expected, abs=1e-9)


def test_equally_long_ones_go_as_white_has_it():
    first, last = torch.tensor([[2.0, 0, 0]]), torch.tensor([[0, 2.0, 0]])
    middle = great_circle(first, last, torch.tensor([0.5]))
    torch.testing.assert_close(middle, torch.tensor([[2.0, 2.0, 0]]) / 2**0.5)
    third = great_circle(first, last, torch.tensor([1 / 3]))
    torch.testing.assert_close(third, torch.tensor([[3**0.5, 1.0, 0]]))


def test_each_row_goes_its_own_way():
    first = torch.tensor([[1.0, 0], [0, 2.0], [3, 0]])
    last = torch.tensor([[0, 1.0], [0, 4.0], [-3, 0]])
    found = great_circle(first, last, torch.tensor([1.0, 0.5, 0.25]))
    expected = torch.tensor([[0, 1.0], [0, 3.0], [1.5, 0]])
    torch.testing.assert_close(found, expected, msg="turned; as straight on; through the middle")


def test_the_same_at_both_ends_stays():
    z = torch.randn(200, 8)  # rounding makes the cosine of some larger than 1
    found = great_circle(z, z, torch.linspace(0, 1, 200))
    torch.testing.assert_close(found, z, rtol=1e-6, atol=0)
    assert found.dtype == torch.float32
    assert great_circle(z * 0, z * 0, torch.ones(200)).eq(0).all()


# --------------------------------------------------------------------------------- rows and ends


def test_rows_take_the_classes_in_turn():
    assert plan_rows("z", CLASSES, 4) == [
        (End(2, 2, 0), End(2, 2, 1)),
        (End(0, 0, 0), End(0, 0, 1)),
        (End(1, 1, 0), End(1, 1, 1)),
        (End(2, 2, 2), End(2, 2, 3)),
    ]
    assert plan_rows("class", CLASSES, 4) == [
        (End(2, 2, 0), End(0, 2, 0)),
        (End(0, 0, 0), End(1, 0, 0)),
        (End(1, 1, 0), End(2, 1, 0)),
        (End(2, 2, 1), End(0, 2, 1)),
    ]
    assert plan_rows("both", CLASSES, 4) == [
        (End(2, 2, 0), End(0, 0, 0)),
        (End(0, 0, 0), End(1, 1, 0)),
        (End(1, 1, 0), End(2, 2, 0)),
        (End(2, 2, 1), End(0, 0, 1)),
    ]


@pytest.mark.parametrize("between", INTERPOLATIONS)
@pytest.mark.parametrize("rows", [2, 5])
def test_ends_are_samples_to_the_last_bit(generator, between, rows):
    """More images than a batch, so that rounding would tell if they were drawn in another way."""
    sampling = Sampling(seed=7, truncation=0.8)
    ends = plan_rows(between, CLASSES, rows)
    images = interpolate(generator, ends, 15, CLASSES, sampling)
    assert images.shape == (rows, 15, 3, 32, 32) and images.dtype == torch.uint8
    per_class = 1 + max(end.number for pair in ends for end in pair)
    samples, labels = draw_classes(generator, CLASSES, per_class, sampling)
    seen = 0
    for row, pair in enumerate(ends):
        for place, end in zip((0, 14), pair, strict=True):
            if end.of == end.label:
                sample = samples[labels == end.label][end.number]
                assert torch.equal(images[row, place], sample), (row, place)
                seen += 1
    assert seen == {"z": 2 * rows, "class": rows, "both": 2 * rows}[between]


@pytest.mark.parametrize("between", INTERPOLATIONS)
def test_ends_are_not_drawn_anew(generator, between, monkeypatch):
    """Rounding would tell only seldom: here all that the mixing copy draws is black."""
    nothing = torch.zeros(3, 4, 3, 32, 32, dtype=torch.uint8)
    monkeypatch.setattr(interpolation, "_between", lambda *_: nothing.clone())
    ends = plan_rows(between, CLASSES, 3)
    images = interpolate(generator, ends, 4, CLASSES, Sampling(seed=1))
    drawn = images.amax((2, 3, 4)) > 0
    for row, (first, last) in enumerate(ends):
        assert drawn[row].tolist() == [first.of == first.label, False, False, last.of == last.label]


@pytest.mark.parametrize("between", INTERPOLATIONS)
def test_what_lies_between(generator, between):
    """By a generator in double precision, the table's own mixture put in its tables by hand."""
    torch.set_default_dtype(torch.float64)
    try:
        generator = generator.double()
        sampling = Sampling(seed=3, truncation=0.6)
        ends = plan_rows(between, CLASSES, 4)
        images = interpolate(generator, ends, 5, CLASSES, sampling)
        tables = [m for m in generator.modules() if isinstance(m, nn.Embedding)]
        kept = [table.weight.clone() for table in tables]
        for row, (first, last) in enumerate(ends):
            z = [latents_of(generator, torch.tensor([end.of]), torch.tensor([end.number]), sampling)
                 for end in (first, last)]  # fmt: skip
            for step in range(5):
                part = step / 4
                for table, weight in zip(tables, kept, strict=True):
                    table.weight[0] = (1 - part) * weight[first.label] + part * weight[last.label]
                here = great_circle(*z, torch.tensor([part]))
                expected = to_pixels(generator(here, torch.tensor([0])))[0].int()
                assert (images[row, step].int() - expected).abs().max() <= 1, (row, step)
            for table, weight in zip(tables, kept, strict=True):
                table.weight.copy_(weight)
    finally:
        torch.set_default_dtype(torch.float32)
    away = (images[:, 1:].int() - images[:, :-1].int()).abs().amax((2, 3, 4))
    assert (away > 2).all(), "every step changes something"


@pytest.mark.parametrize("between", INTERPOLATIONS)
def test_all_that_is_drawn_is_counted(generator, between):
    counts = []
    ends = plan_rows(between, CLASSES, 9)
    interpolate(generator, ends, 8, CLASSES, Sampling(), counts.append)
    assert len(counts) > 2, "on the way"
    assert sum(counts) == count_drawn(ends, 8, CLASSES)


def test_the_generator_is_as_it_was(generator):
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    interpolate(generator, plan_rows("both", CLASSES, 3), 3, CLASSES, Sampling())
    after = generator.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    draw_classes(generator, [0], 1, Sampling())


def test_mistakes():
    with pytest.raises(ValueError, match="did you mean 'class'"):
        plan_rows("clas", CLASSES, 3)
    for between in ("class", "both"):
        with pytest.raises(ValueError, match="nothing lies between class 4 and itself"):
            plan_rows(between, (4,), 3)
    with pytest.raises(ValueError, match="class 4 and itself"):
        plan_rows("both", (1, 4, 4), 3)
    assert len(plan_rows("z", (4,), 3)) == 3


# --------------------------------------------------------------------------------------- picture


def test_the_picture_shows_every_step_of_every_row():
    levels = torch.arange(6, dtype=torch.uint8).mul(40)
    images = levels.view(2, 3, 1, 1, 1).expand(-1, -1, 3, 64, 64)
    names = ["cat", "dog", "a class with a long name"]
    pair = [(End(0, 0, 0), End(1, 1, 0)), (End(1, 1, 0), End(2, 2, 0))]
    pixels = draw_rows(images, pair, names)
    alike = draw_rows(images, [(End(0, 0, 0), End(0, 0, 1)), (End(1, 1, 0), End(1, 1, 1))], names)
    for sheet in (pixels, alike):
        left = sheet.shape[1] - 3 * 66 + 2 if sheet is alike else first_column(sheet)
        for row in range(2):
            for step in range(3):
                corner = sheet[2 + 66 * row :, left + 66 * step :][:64, :64]
                assert (corner == images[row, step].permute(1, 2, 0).numpy()).all()
    assert pixels.shape[1] > alike.shape[1] + 100, "the right end has a name where it is another"
    ink = (pixels < 100).all(2)
    edge = first_column(pixels)
    assert ink[:66, : edge - 2].any() and ink[66:, : edge - 2].any(), "both rows are named"


@pytest.mark.parametrize(
    ("between", "left", "right"),
    [("z", "cab", ()), ("class", "cab", "abc"), ("both", "cab", "abc")],
)
def test_rows_are_named_by_the_classes_they_show(monkeypatch, between, left, right):
    given = []
    monkeypatch.setattr(interpolation, "sheet", lambda *arguments: given.extend(arguments))
    draw_rows(torch.zeros(3, 2, 3, 4, 4), plan_rows(between, CLASSES, 3), "abc")
    assert given[1:] == [list(left), list(right) if right else ()]


def first_column(sheet):
    """Where the first picture begins: black from top to bottom."""
    return int((sheet[2:66] == 0).all((0, 2)).argmax())
