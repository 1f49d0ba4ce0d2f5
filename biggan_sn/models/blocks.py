"""The residual blocks of G and D (Brock et al. 2019, appendix B)."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan_sn.models.plan import Stage
from biggan_sn.nn.norm import ConditionalBatchNorm2d, MakeNorm, batch_norm
from biggan_sn.nn.resample import ResamplingConv2d, double, halve

NARROWING = 4  # of a bottleneck
HALVING = 0.5  # the norm of the 2x2 mean


class GeneratorBlock(nn.Module):
    """norm - ReLU - double - conv3 - norm - ReLU - conv3, plus the shortcut double - conv1.

    Shapes: x [N, C_in, H, W], condition as `make_map` takes it -> [N, C_out, 2H, 2W].
    """

    doubles = True

    def __init__(
        self,
        stage: Stage,
        make_map: Callable[[int], nn.Module],
        make_norm: MakeNorm = batch_norm,
    ) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm2d(stage.in_channels, make_map, make_norm)
        self.conv1 = ResamplingConv2d("double", stage.in_channels, stage.out_channels, 3)
        self.norm2 = ConditionalBatchNorm2d(stage.out_channels, make_map, make_norm)
        self.conv2 = nn.Conv2d(stage.out_channels, stage.out_channels, 3, padding=1)
        self.shortcut = ResamplingConv2d("double", stage.in_channels, stage.out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x, condition)))
        h = self.conv2(F.relu(self.norm2(h, condition)))
        return h + self.shortcut(x)

    def sides(self, side: int) -> dict[str, int]:
        """H = W of what each convolution sees in a block that sees `side` pixels."""
        return {"conv1": 2 * side, "conv2": 2 * side, "shortcut": side}


class BottleneckGeneratorBlock(nn.Module):
    """norm - ReLU - conv1 to a quarter of the width - norm - ReLU - [double] - conv3 - norm -
    ReLU - conv3 - norm - ReLU - conv1; the shortcut is the first channels of x, [doubled].
    Brock et al. 2019, appendix B (BigGAN-deep).

    Shapes: x [N, C_in, H, W], condition as `make_map` takes it -> [N, C_out, 2H, 2W], or H x W.
    """

    def __init__(
        self,
        stage: Stage,
        make_map: Callable[[int], nn.Module],
        make_norm: MakeNorm = batch_norm,
    ) -> None:
        super().__init__()
        hidden = stage.in_channels // NARROWING
        self.doubles = stage.resamples
        self.channels = stage.out_channels
        self.norm1 = ConditionalBatchNorm2d(stage.in_channels, make_map, make_norm)
        self.conv1 = nn.Conv2d(stage.in_channels, hidden, 1)
        self.norm2 = ConditionalBatchNorm2d(hidden, make_map, make_norm)
        self.conv2: nn.Conv2d = (
            ResamplingConv2d("double", hidden, hidden, 3)
            if self.doubles
            else nn.Conv2d(hidden, hidden, 3, padding=1)
        )
        self.norm3 = ConditionalBatchNorm2d(hidden, make_map, make_norm)
        self.conv3 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.norm4 = ConditionalBatchNorm2d(hidden, make_map, make_norm)
        self.conv4 = nn.Conv2d(hidden, stage.out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x, condition)))
        h = self.conv2(F.relu(self.norm2(h, condition)))
        h = self.conv3(F.relu(self.norm3(h, condition)))
        h = self.conv4(F.relu(self.norm4(h, condition)))
        shortcut = x[:, : self.channels]
        return h + (double(shortcut) if self.doubles else shortcut)

    def sides(self, side: int) -> dict[str, int]:
        """H = W of what each convolution sees in a block that sees `side` pixels."""
        after = 2 * side if self.doubles else side
        return {"conv1": side, "conv2": after, "conv3": after, "conv4": after}


class DiscriminatorBlock(nn.Module):
    """[ReLU] - conv3 - ReLU - conv3 - [halve], plus the shortcut conv1 - [halve].

    The first block of D sees the image and has no ReLU before it. A block that neither changes
    the width nor halves has the identity for its shortcut, as the last one of D. `hidden` is the
    width between the two convolutions: that of the output in BigGAN, that of the input in SNGAN.
    Shapes: [N, C_in, H, W] -> [N, C_out, H/2, W/2], or H x W.
    """

    def __init__(self, stage: Stage, hidden: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.halves = stage.resamples
        self.conv1 = nn.Conv2d(stage.in_channels, hidden, 3, padding=1)
        self.conv2 = self._last(hidden, stage.out_channels, 3)
        self.shortcut: nn.Module = nn.Identity()
        if stage.resamples or stage.in_channels != stage.out_channels:
            self.shortcut = self._last(stage.in_channels, stage.out_channels, 1)

    def _last(self, in_channels: int, out_channels: int, size: int) -> nn.Conv2d:
        """The convolution at the end of a path, with what comes after it."""
        if self.halves:
            return ResamplingConv2d("halve", in_channels, out_channels, size)
        return nn.Conv2d(in_channels, out_channels, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else F.relu(x))
        return self.conv2(F.relu(h)) + self.shortcut(x)

    def sides(self, side: int) -> dict[str, int]:
        """H = W of what each convolution sees in a block that sees `side` pixels."""
        return {"conv1": side, "conv2": side, "shortcut": side // 2 if self.halves else side}

    def bound(self, norms: Mapping[str, float]) -> float:
        """A Lipschitz constant of the block from the norms of its convolutions: ReLU has 1, and
        paths that are added add theirs."""
        paths = norms["conv1"] * norms["conv2"] + norms.get("shortcut", 1.0)
        return paths * (HALVING if self.halves else 1.0)


class BottleneckDiscriminatorBlock(nn.Module):
    """ReLU - conv1 to a quarter of the width - ReLU - conv3 - ReLU - conv3 - ReLU - [halve] -
    conv1; the shortcut is x, [halved], and conv1 of that for the channels that x has not.
    Brock et al. 2019, appendix B (BigGAN-deep).

    Shapes: [N, C_in, H, W] -> [N, C_out, H/2, W/2], or H x W.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        hidden = stage.out_channels // NARROWING
        missing = stage.out_channels - stage.in_channels
        self.halves = stage.resamples
        self.conv1 = nn.Conv2d(stage.in_channels, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv3 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv4 = nn.Conv2d(hidden, stage.out_channels, 1)
        self.shortcut = nn.Conv2d(stage.in_channels, missing, 1) if missing else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(x))
        h = self.conv2(F.relu(h))
        h = F.relu(self.conv3(F.relu(h)))
        if self.halves:
            h, x = halve(h), halve(x)
        if self.shortcut is not None:
            x = torch.cat((x, self.shortcut(x)), 1)
        return x + self.conv4(h)

    def sides(self, side: int) -> dict[str, int]:
        """H = W of what each convolution sees in a block that sees `side` pixels."""
        after = side // 2 if self.halves else side
        found = {"conv1": side, "conv2": side, "conv3": side, "conv4": after}
        return found | ({"shortcut": after} if self.shortcut is not None else {})

    def bound(self, norms: Mapping[str, float]) -> float:
        """As that of `DiscriminatorBlock`; what stands side by side adds its square."""
        straight = math.prod(norms[f"conv{i}"] for i in (1, 2, 3, 4))
        beside = math.hypot(1.0, norms.get("shortcut", 0.0))
        return (straight + beside) * (HALVING if self.halves else 1.0)
