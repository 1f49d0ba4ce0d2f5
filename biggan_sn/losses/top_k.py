"""Top-k training: G learns from those of its images that D takes for real the most."""

import torch.distributed as dist
from torch import Tensor

from biggan_sn.config import TopKConfig
from biggan_sn.nn.replicas import gather_over_replicas


class TopK:
    """Sinha et al. 2020, algorithm 1: the others would lead G away from the modes of the data.

    Chosen are images of one pass over all processes, so that their number, not who has them, says
    what is trained. The mean over them is then the same on every process, and its gradient at an
    image the number of processes times what it would be on one, which the mean of all processes'
    gradients undoes.

    Args:
        config: how many, step by step.
        ranks: number of processes.
    """

    def __init__(self, config: TopKConfig, ranks: int) -> None:
        self._config = config
        self._ranks = ranks

    def __call__(self, step: int, *logits: Tensor) -> tuple[Tensor, ...]:
        """The logits [k] of those fake images for which the first of `logits` [N] is largest, and
        all others at their places; as they are where all count. Every process must call it."""
        share = self._config.at(step)
        if share == 1:
            return logits
        whole = [self._together(kind) for kind in logits]
        count = max(1, int(share * len(whole[0]) + 1e-9))  # 0.29 x 100 is 29, rounding or not
        chosen = whole[0].topk(count).indices
        return tuple(kind[chosen] for kind in whole)

    def _together(self, logits: Tensor) -> Tensor:
        """Those of all processes, one after the other."""
        if self._ranks == 1:
            return logits
        assert dist.group.WORLD is not None
        return gather_over_replicas(logits[:, None], dist.group.WORLD).squeeze(1)
