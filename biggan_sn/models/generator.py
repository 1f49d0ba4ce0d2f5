"""The generator: a latent vector and a class -> an image."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan_sn.models.blocks import BottleneckGeneratorBlock, GeneratorBlock
from biggan_sn.models.plan import IMAGE_CHANNELS, SMALLEST, Stage
from biggan_sn.nn.layers import SelfAttention
from biggan_sn.nn.norm import MakeNorm, batch_norm


class Generator(nn.Module):
    """G of BigGAN, of BigGAN-deep if `deep`, and of SAGAN and SNGAN with all switches off.

    With `shared_dim`, one class embedding feeds linear maps in every conditional norm; with 0,
    every norm has class tables of its own. With `hierarchical_z`, z is cut in equal chunks: the
    first feeds the first linear map, the others join the class embedding block by block
    (Brock et al. 2019, appendix B); otherwise the first linear map sees all of z. In a `deep` G
    blocks are bottlenecks, and the first linear map and each block see all of z and the class.

    `make_norm` builds its norms. Those that need a reference batch get the images of `reference`,
    z [R, z_dim] and classes [R], before all others in every pass; it stays with the weights.

    Raises:
        ValueError: z cannot be cut evenly, is cut without a shared embedding to join, or where
            every block is to have all of it.
    """

    reference_z: Tensor | None
    reference_y: Tensor | None

    def __init__(
        self,
        stages: Sequence[Stage],
        num_classes: int,
        z_dim: int,
        shared_dim: int,
        hierarchical_z: bool,
        deep: bool = False,
        make_norm: MakeNorm = batch_norm,
        reference: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.z_dim = z_dim
        self.resolution = stages[-1].resolution
        self.deep = deep
        self.chunks = len(stages) + 1 if hierarchical_z else 1
        _check_latents(z_dim, self.chunks, shared_dim, deep)
        chunk = condition_dim = z_dim // self.chunks
        make_map: Callable[[int], nn.Module] = partial(nn.Embedding, num_classes)
        if shared_dim:
            condition_dim = shared_dim + (chunk if hierarchical_z or deep else 0)
            make_map = partial(nn.Linear, condition_dim, bias=False)
        first, last = stages[0].in_channels, stages[-1].out_channels
        self.shared = nn.Embedding(num_classes, shared_dim) if shared_dim else nn.Identity()
        self.linear = nn.Linear(condition_dim if deep else chunk, first * SMALLEST**2)
        make_block = BottleneckGeneratorBlock if deep else GeneratorBlock
        self.blocks = nn.ModuleList(make_block(stage, make_map, make_norm) for stage in stages)
        self.attention = nn.ModuleDict(
            {str(i): SelfAttention(s.out_channels) for i, s in enumerate(stages) if s.attention}
        )
        self.norm = make_norm(last, True)
        self.conv = nn.Conv2d(last, IMAGE_CHANNELS, 3, padding=1)
        z, y = reference or (None, None)
        device = self.conv.weight.device
        self.register_buffer("reference_z", z if z is None else z.to(device))
        self.register_buffer("reference_y", y if y is None else y.to(device))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """z [N, z_dim], y [N] classes -> images [N, 3, H, W] in (-1, 1)."""
        images = z.shape[0]
        if self.reference_z is not None and self.reference_y is not None:
            z, y = torch.cat((self.reference_z, z)), torch.cat((self.reference_y, y))
        first, conditions = self._inputs(z, self.shared(y))
        h = self.linear(first).unflatten(1, (-1, SMALLEST, SMALLEST))
        for i, (block, condition) in enumerate(zip(self.blocks, conditions, strict=True)):
            h = block(h, condition)
            if str(i) in self.attention:
                h = self.attention[str(i)](h)
        h = F.relu(self.norm(h))
        return torch.tanh(self.conv(h[h.shape[0] - images :]))

    def _inputs(self, z: Tensor, embedded: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Of the first linear map, and of the norms of each block."""
        if self.deep:
            whole = torch.cat((z, embedded), 1)
            return whole, [whole] * len(self.blocks)
        first, *others = z.chunk(self.chunks, 1)
        conditions = [torch.cat((embedded, chunk), 1) for chunk in others]
        return first, conditions or [embedded] * len(self.blocks)

    def sides(self) -> dict[str, int]:
        """H = W of the images that each convolution sees, by its name."""
        found = {"conv": self.resolution}
        side = SMALLEST
        for i, block in enumerate(self.blocks):
            assert isinstance(block, GeneratorBlock | BottleneckGeneratorBlock)
            found |= {f"blocks.{i}.{name}": s for name, s in block.sides(side).items()}
            side *= 2 if block.doubles else 1
        return found


def _check_latents(z_dim: int, chunks: int, shared_dim: int, deep: bool) -> None:
    """Raises ValueError as `Generator` says."""
    if chunks > 1 and not shared_dim:
        raise ValueError("model.hierarchical_z needs model.shared_dim above 0")
    if deep and (chunks > 1 or not shared_dim):
        raise ValueError(
            "model: every block of a deep G sees all of z and a shared embedding: "
            "model.hierarchical_z must be false, and model.shared_dim above 0"
        )
    if z_dim % chunks:
        could = z_dim + -z_dim % chunks
        raise ValueError(f"model.z_dim {z_dim} cannot be cut in {chunks} equal chunks; {could} can")
