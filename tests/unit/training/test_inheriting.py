"""What of one network fits another, and what becomes of the rows of classes."""

from dataclasses import replace

import pytest
import torch

from biggan_sn.config import Config, DataConfig, ModelConfig
from biggan_sn.models.zoo import BUILDERS
from biggan_sn.nn.names import plain, tables_of
from biggan_sn.training.inheriting import (
    find_fit,
    first_misfit,
    match_classes,
    part_of,
    renumber,
)

CHUNK = 20  # of z, for each block and the first layer


def network(side, resolution, name="biggan", classes=7, **model):
    blocks = {32: 3, 64: 4, 128: 5, 256: 6, 512: 7}[resolution]
    z_dim = CHUNK * (blocks + 1) if name == "biggan" else CHUNK
    config = Config(
        data=DataConfig(resolution=resolution, num_classes=classes),
        model=ModelConfig(name=name, channels=8, z_dim=z_dim),
    )
    config = replace(config, model=replace(config.model, **model))
    with torch.device("meta"):
        return BUILDERS[side](config)


def shapes(network):
    return {name: tensor.shape for name, tensor in plain(network.state_dict()).items()}


def fit(there, here, classes=7):
    return find_fit(shapes(there), shapes(here), tables_of(here), classes)


def taken(found):
    return {part_of(here): part_of(there) for here, there in found.origins.items()}


def blocks(*numbers):
    return {f"blocks.{number}" for number in numbers}


@pytest.mark.parametrize("side", BUILDERS)
@pytest.mark.parametrize("name", ["biggan", "biggan_deep", "sagan", "sngan"])
def test_another_number_of_classes_fits_whole(side, name):
    here = network(side, 32, name, classes=3)
    found = fit(network(side, 32, name), here)
    assert found.origins == {name: name for name in shapes(here)}
    assert (found.new, found.share) == ((), 1)


def test_a_table_of_another_number_of_rows_than_there_are_classes_is_none():
    found = fit(network("discriminator", 32), network("discriminator", 32, classes=3), classes=6)
    assert found.new == ("embed",)
    assert found.share == 1, "tables do not count"


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        (64, 128, {"blocks.4", "norm", "conv"}),
        (128, 64, {"norm", "conv"}),
        # Widths 16 16 8 4 2 1, and 16 16 8 8 4 2 1.
        (128, 256, {*blocks(2, 3, 4, 5)}),
        (256, 512, {"blocks.6"}),
    ],
)
def test_blocks_of_g_count_from_4x4(before, after, new):
    found = fit(network("generator", before), network("generator", after))
    assert set(found.new) == new
    assert all(here == there for here, there in taken(found).items())
    assert found.share > 0.5


@pytest.mark.parametrize(
    ("before", "after", "shift", "new"),
    [
        (64, 128, 0, {"blocks.5"}),  # 1 2 4 8 16 (16)
        (128, 64, 0, set()),
        (128, 256, 1, {*blocks(0, 1, 2, 3, 4)}),  # 1 2 4 8 [16 16] and 1 2 4 8 8 [16 16]
        (256, 512, 1, {*blocks(0, 1)}),  # 1 2 4 8 8 16 16 and 1 1 2 4 8 8 16 16
        (512, 256, -1, {*blocks(0)}),
    ],
)
def test_blocks_of_d_count_from_the_end_at_which_more_fits(before, after, shift, new):
    found = fit(network("discriminator", before), network("discriminator", after))
    assert set(found.new) == new
    for here, there in taken(found).items():
        if here.startswith("blocks."):
            assert int(here[7:]) == int(there[7:]) + shift
        else:
            assert here == there
    assert {"linear", "embed"} <= taken(found).keys()
    assert ("blocks.7 (its blocks.6)" in found.parts()) == (after == 512)


def test_attention_moves_with_its_block():
    before = network("discriminator", 256, discriminator_attention=(64,))  # after block 1
    after = network("discriminator", 512, discriminator_attention=(64,))  # after block 2
    assert taken(fit(before, after))["attention.2"] == "attention.1"
    without = network("discriminator", 256)
    found = fit(without, network("discriminator", 256, discriminator_attention=(64,)))
    assert found.new == ("attention.1",)


@pytest.mark.parametrize("side", BUILDERS)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"channels": 12}),
        ({}, {"name": "biggan_deep"}),
        ({"resolution": 32}, {"resolution": 64}),
    ],
    ids=["width", "architecture", "resolution"],
)
def test_other_networks_do_not_fit(side, before, after):
    one, other = (network(side, **{"resolution": 64} | how) for how in (before, after))
    assert fit(one, other).share < 0.25
    assert first_misfit(shapes(one), shapes(one)) == "all fit"


def test_another_z_leaves_g_with_little():
    one, other = network("generator", 64), network("generator", 64, z_dim=120)
    found = fit(one, other)
    assert found.share < 0.25
    assert {"linear", *blocks(0, 1, 2, 3)} == set(found.new)
    told = first_misfit(shapes(one), shapes(other))
    assert told == "linear.weight is [2048, 20] there and [2048, 24] here"


def test_a_part_comes_whole_or_not_at_all():
    """The norm of a block whose convolutions are of another width."""
    one, other = network("generator", 128), network("generator", 256)
    name = "blocks.2.norm1.gain.weight"
    assert shapes(one)[name] == shapes(other)[name]
    assert name not in fit(one, other).origins


def test_classes_match_by_name():
    assert match_classes("abc", "cxa") == [2, None, 0]
    assert match_classes("abc", "xyz") == [None, None, None]


def test_classes_without_names_match_by_number_where_there_are_as_many():
    assert list(match_classes("012", "cat", named=False)) == [0, 1, 2]
    assert match_classes("0123", "012", named=False) == [None, None, None]


TABLE = torch.tensor([[1.0, 2.0], [3.0, 8.0]], dtype=torch.float64)


def test_known_rows_go_with_their_names_and_new_ones_are_the_mean():
    found = renumber(TABLE, [None, 1, 0, None])
    assert found.tolist() == [[2, 5], [3, 8], [1, 2], [2, 5]]
    assert found.dtype == torch.float64


def test_new_rows_of_a_table_that_is_divided_as_a_whole_change_nothing_for_known_ones():
    found = renumber(TABLE, [1, None, 0], apart=False)
    assert found.tolist() == [[3, 8], [0, 0], [1, 2]]
    norms = [torch.linalg.matrix_norm(table, 2) for table in (found, TABLE)]
    torch.testing.assert_close(*norms, rtol=1e-14, atol=0)


def test_a_table_without_any_known_class_is_no_zero():
    assert renumber(TABLE, [None] * 3, apart=False).tolist() == [[2, 5]] * 3
