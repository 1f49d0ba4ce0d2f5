"""Layers at the end of D that compare the images of a pass, so that G cannot repeat itself.

They see images of one kind at a time, real ones or G's, and in training those of all processes that
share a pass, as batch norm does; in eval mode a process keeps to itself. Statistics are fp32 or
better. The gradient at an image then has a part from the logit of every other: penalties take that
of their sum, as Karras et al. do; gradient normalization, which needs one per logit, is refused.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from biggan_sn.nn.precision import at_least_fp32, without_autocast
from biggan_sn.nn.replicas import Sharing, gather_over_replicas, sharing_for

KERNELS, KERNEL_DIM = 100, 5  # B and C of minibatch discrimination
GROUP = 4  # images whose deviation is one


class Apart(nn.Module):
    """Every image for itself: h [N, C] as it came."""

    width = 0

    def __init__(self, features: int) -> None:
        super().__init__()

    def forward(self, h: Tensor, sizes: Sequence[int] = ()) -> Tensor:
        return h


class MinibatchLayer(nn.Module, ABC):
    """Features beside statistics of theirs: h [N, C] -> [N, C + width].

    Attributes:
        width: how many statistics each image gets.
        sharing: by the number of images of a kind here; see `share_statistics`.
    """

    width: int
    sharing: Mapping[int, Sharing] | None = None

    def __init__(self, features: int) -> None:
        super().__init__()

    def forward(self, h: Tensor, sizes: Sequence[int] = ()) -> Tensor:
        """`sizes` are those of the kinds of images in h, one after the other; by default one.

        Raises:
            ValueError: a kind of a size that nobody spoke of, in training over processes.
        """
        with without_autocast(h.device):
            h = at_least_fp32(h)
            kinds = [self._of_kind(kind) for kind in h.split(list(sizes) or [len(h)])]
            return torch.cat((h, torch.cat(kinds)), 1)

    def _of_kind(self, h: Tensor) -> Tensor:
        """Statistics [n, width] of images of one kind, h [n, C]."""
        planned = self.sharing if self.training else None
        sharing = sharing_for(planned, len(h), "minibatch layer")
        return torch.cat([self._joined(part, sharing) for part in h.chunk(sharing.parts)])

    def _joined(self, h: Tensor, sharing: Sharing) -> Tensor:
        rows = self.rows(h)
        if sharing.group is None:
            return self.compare(rows, rows, 0)
        first = torch.distributed.get_rank(sharing.group) * len(h)
        return self.compare(rows, gather_over_replicas(rows, sharing.group), first)

    def rows(self, h: Tensor) -> Tensor:
        """What is compared: [n, C] -> [n, anything]."""
        return h

    @abstractmethod
    def compare(self, mine: Tensor, together: Tensor, first: int) -> Tensor:
        """Statistics [n, width] of the images here. `together` are the rows [N, ...] of all images,
        of which those here, `mine` [n, ...], begin with number `first`."""


class MinibatchDiscrimination(MinibatchLayer):
    """o(x_i)_b = sum_j exp(-|M_ib - M_jb|_1) with M_i = f(x_i) T, over all images j of its kind, i
    among them: Salimans et al. 2016, section 3.2. T is a linear map as all others of D are, to
    constraints as well. Takes memory of n x N x B x C numbers."""

    width = KERNELS

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.kernels = nn.Linear(features, KERNELS * KERNEL_DIM, bias=False)

    def rows(self, h: Tensor) -> Tensor:
        return self.kernels(h)

    def compare(self, mine: Tensor, together: Tensor, first: int) -> Tensor:
        one, others = (x.unflatten(1, (KERNELS, KERNEL_DIM)) for x in (mine, together))
        distances = (one[:, None] - others[None]).abs().sum(3)  # [n, N, B]
        return torch.exp(-distances).sum(1)


class MinibatchStddev(MinibatchLayer):
    """The standard deviation of each feature over a group of images, averaged over the features:
    one number for the group (Karras et al. 2018, section 3), here of features summed over pixels.
    Groups are of GROUP consecutive images; what remains is a smaller one, and an image alone has
    a deviation of 0."""

    width = 1

    def compare(self, mine: Tensor, together: Tensor, first: int) -> Tensor:
        whole = len(together) // GROUP * GROUP
        groups = [together[:whole].unflatten(0, (whole // GROUP, GROUP)), together[whole:][None]]
        found = torch.cat([_deviations(g).repeat_interleave(g.shape[1]) for g in groups])
        return found[first : first + len(mine), None]


def _deviations(groups: Tensor) -> Tensor:
    """The mean over features of their standard deviations within a group: [m, n, C] -> [m]."""
    if groups.numel() == 0:
        return groups.new_zeros(len(groups))
    # Inside the root: its derivative at 0 is infinite.
    return (groups.var(1, correction=0) + 1e-8).sqrt().mean(1)


MINIBATCH_LAYERS: dict[str, Callable[[int], Apart | MinibatchLayer]] = {
    "none": Apart,
    "discrimination": MinibatchDiscrimination,
    "stddev": MinibatchStddev,
}
