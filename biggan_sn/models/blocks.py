"""The residual blocks of G and D (Brock et al. 2019, appendix B)."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from biggan_sn.models.plan import Stage
from biggan_sn.nn.norm import ConditionalBatchNorm2d, MakeNorm, batch_norm
from biggan_sn.nn.resample import ResamplingConv2d


class GeneratorBlock(nn.Module):
    """norm - ReLU - double - conv3 - norm - ReLU - conv3, plus the shortcut double - conv1.

    Shapes: x [N, C_in, H, W], condition as `make_map` takes it -> [N, C_out, 2H, 2W].
    """

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
