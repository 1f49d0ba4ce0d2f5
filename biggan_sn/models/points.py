"""Players for points in the plane instead of images: plain multilayer perceptrons.

A point is an image of two channels and one pixel, so that all that knows images knows points.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from biggan_sn.config import Config
from biggan_sn.nn.layers import initialize
from biggan_sn.nn.minibatch import MINIBATCH_LAYERS, Apart, MinibatchLayer
from biggan_sn.tables import lookup

PLANE = 2  # coordinates of a point
HIDDEN = 3  # layers


class PointGenerator(nn.Module):
    """z [N, z_dim] -> points [N, 2, 1, 1]; there are no classes."""

    def __init__(self, z_dim: int, width: int) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.blocks = _hidden(z_dim, width)
        self.linear = nn.Linear(width, PLANE)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        for block in self.blocks:
            z = F.relu(block(z))
        return self.linear(z)[:, :, None, None]

    def sides(self) -> dict[str, int]:
        """It has no convolution."""
        return {}


class PointDiscriminator(nn.Module):
    """Points [N, 2, 1, 1] -> logits [N]; there are no classes."""

    def __init__(
        self, width: int, make_minibatch: Callable[[int], Apart | MinibatchLayer] = Apart
    ) -> None:
        super().__init__()
        self.blocks = _hidden(PLANE, width)
        self.minibatch = make_minibatch(width)
        self.linear = nn.Linear(width + self.minibatch.width, 1)

    def forward(self, x: Tensor, y: Tensor, sizes: Sequence[int] = ()) -> Tensor:
        h = x.flatten(1)
        for block in self.blocks:
            h = F.relu(block(h))
        return self.linear(self.minibatch(h, sizes)).squeeze(1)

    def sides(self) -> dict[str, int]:
        """It has no convolution."""
        return {}


def _hidden(inputs: int, width: int) -> nn.ModuleList:
    sizes = [inputs] + [width] * HIDDEN
    return nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))


def build_point_players(config: Config) -> tuple[PointGenerator, PointDiscriminator]:
    """Both with fresh weights from torch's global generator, `model.channels` wide.

    Raises:
        ValueError: the model section asks for something that they have not.
    """
    model = config.model
    if config.finetune.source:
        raise ValueError("finetune.source: players of points begin anew; leave it out")
    if model.norm != "batch":
        raise ValueError(f"model.norm {model.norm}: a generator of points has no norms")
    make_minibatch = lookup(MINIBATCH_LAYERS, model.minibatch_layer, "minibatch layer")
    players = (
        PointGenerator(model.z_dim, model.channels),
        PointDiscriminator(model.width_of_discriminator, make_minibatch),
    )
    for network in players:
        initialize(network, model.initialization)
    return players
