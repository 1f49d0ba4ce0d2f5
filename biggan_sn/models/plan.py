"""Resolution and width -> the stages of G and D. Pure arithmetic: no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

IMAGE_CHANNELS = 3
SMALLEST = 4  # G starts from SMALLEST x SMALLEST pixels


@dataclass(frozen=True)
class Stage:
    """One residual block, and the self-attention after it.

    Args:
        in_channels, out_channels: width before and after the block.
        resamples: the block doubles (G) or halves (D) the resolution.
        resolution: side of its output, pixels.
        attention: self-attention follows the block.
    """

    in_channels: int
    out_channels: int
    resamples: bool
    resolution: int
    attention: bool


# Widths in multiples of the base width (Brock et al. 2019, appendix B; RECIPES of the field).
# G: the input and then the output of each block, all of which double the resolution.
# D: the output of each block, and how many of the first blocks halve the resolution.
GENERATOR_WIDTHS: dict[int, tuple[int, ...]] = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
DISCRIMINATOR_WIDTHS: dict[int, tuple[tuple[int, ...], int]] = {
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
    512: ((1, 1, 2, 4, 8, 8, 16, 16), 7),
}


def generator_stages(
    resolution: int, channels: int, attention: Sequence[int] = (), widths: Sequence[int] = ()
) -> tuple[Stage, ...]:
    """The blocks of G, from 4x4 to `resolution`; with other `widths` than the paper's if given.

    Raises:
        ValueError: attention at a resolution where no block ends, or not as many widths.
    """
    known = GENERATOR_WIDTHS[resolution]
    widths = widths or known
    if len(widths) != len(known):
        raise ValueError(
            f"model.generator_widths must be {len(known)} at {resolution} pixels, got {len(widths)}"
        )
    resolutions = [SMALLEST * 2 ** (i + 1) for i in range(len(widths) - 1)]
    _check_attention("generator", attention, resolutions)
    return tuple(
        Stage(channels * before, channels * after, True, side, side in attention)
        for (before, after), side in zip(pairwise(widths), resolutions, strict=True)
    )


def discriminator_stages(
    resolution: int, channels: int, attention: Sequence[int] = ()
) -> tuple[Stage, ...]:
    """The blocks of D, from the image down. Where several blocks end at one resolution,
    attention follows the first of them.

    Raises:
        ValueError: attention at a resolution where no block ends.
    """
    multiples, halvings = DISCRIMINATOR_WIDTHS[resolution]
    widths = [IMAGE_CHANNELS, *(channels * multiple for multiple in multiples)]
    return _descent(resolution, widths, halvings, attention)


def _descent(
    resolution: int, widths: Sequence[int], halvings: int, attention: Sequence[int]
) -> tuple[Stage, ...]:
    """A stage from each width to the next; the first `halvings` of them halve the resolution."""
    resolutions = [resolution // 2 ** min(i + 1, halvings) for i in range(len(widths) - 1)]
    _check_attention("discriminator", attention, resolutions)
    return tuple(
        Stage(before, after, i < halvings, side, side in attention and resolutions.index(side) == i)
        for i, ((before, after), side) in enumerate(zip(pairwise(widths), resolutions, strict=True))
    )


def deep_generator_stages(
    resolution: int, channels: int, attention: Sequence[int] = (), widths: Sequence[int] = ()
) -> tuple[Stage, ...]:
    """The blocks of BigGAN-deep's G: for each one of BigGAN another before it, which changes
    neither the width nor the resolution.

    Raises:
        ValueError: as `generator_stages`.
    """
    pairs = (
        (
            replace(
                stage,
                out_channels=stage.in_channels,
                resamples=False,
                resolution=stage.resolution // 2,
                attention=False,
            ),
            stage,
        )
        for stage in generator_stages(resolution, channels, attention, widths)
    )
    return tuple(stage for pair in pairs for stage in pair)


def deep_discriminator_stages(
    resolution: int, channels: int, attention: Sequence[int] = ()
) -> tuple[Stage, ...]:
    """The blocks of BigGAN-deep's D, after a convolution from the image to the first width: two for
    each change of width, of which the first changes all and attention follows the second.

    Raises:
        ValueError: attention at a resolution where no block ends.
    """
    multiples, halvings = DISCRIMINATOR_WIDTHS[resolution]
    widths = [channels * multiple for multiple in multiples]
    pairs = (
        (
            replace(stage, attention=False),
            replace(stage, in_channels=stage.out_channels, resamples=False),
        )
        for stage in _descent(resolution, widths, halvings, attention)
    )
    return tuple(stage for pair in pairs for stage in pair)


def _check_attention(network: str, attention: Sequence[int], resolutions: list[int]) -> None:
    for wanted in attention:
        if wanted not in resolutions:
            there = ", ".join(str(side) for side in dict.fromkeys(resolutions))
            raise ValueError(
                f"model.{network}_attention: no block ends at resolution {wanted}; "
                f"its blocks end at {there}"
            )
