"""The walk from resolution and width to stages."""

import itertools

import pytest

from biggan_sn.config import RESOLUTIONS
from biggan_sn.models.plan import deep_generator_stages, discriminator_stages, generator_stages


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_stages_join_and_reach_the_resolution(resolution):
    stages = generator_stages(resolution, 8)
    assert stages[0].resolution == 8
    assert stages[-1].resolution == resolution
    for before, after in itertools.pairwise(stages):
        assert after.resolution == 2 * before.resolution
        assert after.in_channels == before.out_channels
    stages = discriminator_stages(resolution, 8)
    assert stages[0].in_channels == 3
    assert stages[-1].resolution == (8 if resolution == 32 else 4)
    assert not stages[-1].resamples
    for before, after in itertools.pairwise(stages):
        assert after.resolution * (2 if after.resamples else 1) == before.resolution
        assert after.in_channels == before.out_channels


def test_widths_at_128_are_those_of_the_paper():
    """Brock et al. 2019, table 4, in multiples of ch."""
    generator, discriminator = generator_stages(128, 1), discriminator_stages(128, 1)
    assert [(s.in_channels, s.out_channels) for s in generator] == [
        (16, 16), (16, 8), (8, 4), (4, 2), (2, 1),
    ]  # fmt: skip
    assert [s.out_channels for s in discriminator] == [1, 2, 4, 8, 16, 16]


def test_attention_comes_once_where_it_was_asked_for():
    stages = generator_stages(128, 96, (64,))
    assert [s.resolution for s in stages if s.attention] == [64]
    stages = discriminator_stages(32, 64, (8,))  # three blocks end at 8 pixels
    assert [s.attention for s in stages] == [False, True, False, False]


@pytest.mark.parametrize(("stages", "where"), [(generator_stages, 4), (discriminator_stages, 32)])
def test_attention_where_no_block_ends_is_an_error(stages, where):
    with pytest.raises(ValueError, match=f"no block ends at resolution {where}"):
        stages(32, 8, (where,))


def test_other_widths_of_a_generator():
    widths = (16, 8, 4, 2, 1)
    stages = generator_stages(64, 3, (32,), widths)
    assert [stage.in_channels for stage in stages] == [48, 24, 12, 6]
    assert [stage.out_channels for stage in stages] == [24, 12, 6, 3]
    assert deep_generator_stages(64, 3, (32,), widths)[1].out_channels == 24
    with pytest.raises(ValueError, match=r"model\.generator_widths must be 6 at 128 pixels, got 5"):
        generator_stages(128, 3, (), widths)
