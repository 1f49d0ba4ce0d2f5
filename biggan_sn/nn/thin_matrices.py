"""Many matrices of few columns and various lengths in one tensor, so that one call serves all.

One by one they would cost several small calls for every layer of a network, and the time of a GPU
would go to starting them.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 256  # of a piece; what a matrix lacks to the next multiple is filled up with zeros


class Layout(NamedTuple):
    """How matrices of certain lengths lie in pieces, one after the other.

    Args:
        lengths: rows of each matrix.
        pieces: how many each takes.
        owner: [pieces of all], the number of the matrix that each is of.
        ends: [number of matrices + 1], where the pieces of one matrix end and the next begin.
    """

    lengths: tuple[int, ...]
    pieces: tuple[int, ...]
    owner: Tensor
    ends: Tensor


@lru_cache(maxsize=64)  # a network has two to four, and asks for them at every step
def layout_of(lengths: tuple[int, ...], device: torch.device) -> Layout:
    """That of matrices with so many rows."""
    pieces = tuple(-(-length // ROWS) for length in lengths)
    owner = torch.tensor([number for number, count in enumerate(pieces) for _ in range(count)])
    ends = torch.tensor(list(accumulate(pieces, initial=0)))
    return Layout(lengths, pieces, owner.to(device), ends.to(device))


class ThinMatrices:
    """Matrices A_i [n_i, width], cut into pieces of as many rows.

    What comes of a matrix depends on no other: not its rounding, nor whether another is finite.
    Iterating gives the matrices, as views.

    Args:
        pieces: [pieces of all, ROWS, width], zero below the last row of each matrix.
        layout: whose they are.
    """

    def __init__(self, pieces: Tensor, layout: Layout) -> None:
        self.pieces = pieces
        self.layout = layout

    @classmethod
    def of(cls, matrices: Sequence[Tensor]) -> "ThinMatrices":
        """Copies of matrices of one width, device and type."""
        first = matrices[0]
        layout = layout_of(tuple(len(matrix) for matrix in matrices), first.device)
        zeros = first.new_zeros(ROWS, first.shape[1])
        filled = []
        for matrix, pieces in zip(matrices, layout.pieces, strict=True):
            filled += [matrix, zeros[: pieces * ROWS - len(matrix)]]
        return cls(torch.cat(filled).view(-1, *zeros.shape), layout)

    def __iter__(self) -> Iterator[Tensor]:
        rows = self.pieces.flatten(0, 1)
        padded = rows.split([pieces * ROWS for pieces in self.layout.pieces])
        for matrix, length in zip(padded, self.layout.lengths, strict=True):
            yield matrix[:length]

    def dot(self, other: "ThinMatrices") -> Tensor:
        """A_i^T B_i, [number of matrices, width, width of the others]."""
        products = torch.bmm(self.pieces.mT, other.pieces)
        # Adds the pieces of each matrix in their order, so the result is the same every time.
        return torch.segment_reduce(products, "sum", offsets=self.layout.ends, unsafe=True)

    def gram(self) -> Tensor:
        """A_i^T A_i in fp64."""
        double = ThinMatrices(self.pieces.double(), self.layout)
        return double.dot(double)

    def times(self, small: Tensor) -> "ThinMatrices":
        """A_i S_i for small matrices S_i [number of matrices, width, columns]."""
        return ThinMatrices(torch.bmm(self.pieces, self._of_pieces(small)), self.layout)

    def less(self, other: "ThinMatrices", small: Tensor) -> "ThinMatrices":
        """A_i - B_i S_i for small matrices S_i [number of matrices, width of B_i, width]."""
        factors = self._of_pieces(small)
        pieces = torch.baddbmm(self.pieces, other.pieces, factors, alpha=-1)
        return ThinMatrices(pieces, self.layout)

    @staticmethod
    def beside(parts: "Sequence[ThinMatrices]") -> "ThinMatrices":
        """The columns of all parts, side by side."""
        if len(parts) == 1:
            return parts[0]
        return ThinMatrices(torch.cat([part.pieces for part in parts], -1), parts[0].layout)

    def where(self, chosen: Tensor, others: "ThinMatrices") -> "ThinMatrices":
        """The columns that are `chosen`, [number of matrices, width], the rest from others."""
        keep = chosen[self.layout.owner][:, None]
        return ThinMatrices(torch.where(keep, self.pieces, others.pieces), self.layout)

    def only(self, chosen: Tensor) -> "ThinMatrices":
        """The first columns, [number of matrices, columns] of them, zero where not `chosen`."""
        drop = ~chosen[self.layout.owner][:, None]
        pieces = self.pieces[..., : chosen.shape[1]].masked_fill(drop, 0)
        return ThinMatrices(pieces, self.layout)

    def _of_pieces(self, small: Tensor) -> Tensor:
        """For each piece the one for its matrix, in the precision of these."""
        return small.to(self.pieces.dtype)[self.layout.owner]
