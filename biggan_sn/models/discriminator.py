"""The discriminator: an image and a class -> one logit."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from biggan_sn.models.blocks import BottleneckDiscriminatorBlock, DiscriminatorBlock
from biggan_sn.models.plan import IMAGE_CHANNELS, Stage
from biggan_sn.nn.layers import SelfAttention
from biggan_sn.nn.minibatch import Apart, MinibatchLayer


class Discriminator(nn.Module):
    """D with projection (Miyato and Koyama 2018, eq. 9): linear(h) + <embed(y), h>, where h are
    the features of the image, summed over all pixels. `wide` blocks are BigGAN's; in a `deep` D
    they are bottlenecks, and a convolution of the image comes first (BigGAN-deep). With a layer of
    MINIBATCH_LAYERS the linear map, not the embedding, sees beside h what that makes of all h.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        num_classes: int,
        wide: bool,
        deep: bool = False,
        make_minibatch: Callable[[int], Apart | MinibatchLayer] = Apart,
    ) -> None:
        super().__init__()
        features = stages[-1].out_channels
        self.resolution = stages[0].resolution * (2 if stages[0].resamples else 1)
        self.stem = nn.Conv2d(IMAGE_CHANNELS, stages[0].in_channels, 3, padding=1) if deep else None
        self.blocks = nn.ModuleList(
            BottleneckDiscriminatorBlock(s)
            if deep
            else DiscriminatorBlock(s, s.out_channels if wide else s.in_channels, first=i == 0)
            for i, s in enumerate(stages)
        )
        self.attention = nn.ModuleDict(
            {str(i): SelfAttention(s.out_channels) for i, s in enumerate(stages) if s.attention}
        )
        self.minibatch = make_minibatch(features)
        self.linear = nn.Linear(features + self.minibatch.width, 1)
        self.embed = nn.Embedding(num_classes, features)

    def forward(self, x: Tensor, y: Tensor, sizes: Sequence[int] = ()) -> Tensor:
        """x [N, 3, H, W] in [-1, 1], y [N] classes -> logits [N]. `sizes` are those of the kinds of
        images, real and G's, that lie one after the other in x; by default all are of one kind."""
        h = self.features(x)
        return self.linear(self.minibatch(h, sizes)).squeeze(1) + (self.embed(y) * h).sum(1)

    def features(self, x: Tensor) -> Tensor:
        """x [N, 3, H, W] in [-1, 1] -> [N, C], summed over all pixels."""
        h = x if self.stem is None else self.stem(x)
        for i, block in enumerate(self.blocks):
            h = block(h)
            if str(i) in self.attention:
                h = self.attention[str(i)](h)
        return F.relu(h).sum((2, 3))

    def sides(self) -> dict[str, int]:
        """H = W of the images that each convolution sees, by its name."""
        found = {} if self.stem is None else {"stem": self.resolution}
        side = self.resolution
        for i, block in enumerate(self.blocks):
            assert isinstance(block, DiscriminatorBlock | BottleneckDiscriminatorBlock)
            found |= {f"blocks.{i}.{name}": s for name, s in block.sides(side).items()}
            side //= 2 if block.halves else 1
        return found
