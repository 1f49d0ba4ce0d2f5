"""How different the pictures of one class are."""

import torch
from torch import Tensor


def diversity(images: Tensor, labels: Tensor) -> float:
    """Mean root-mean-square pixel difference of two images of one class, averaged over classes.

    images [N, 3, H, W] in [-1, 1], labels [N]. 0 where every class has one picture for ever; nan
    where no class has two images.
    """
    scale = images[0].numel() ** 0.5
    classes = [images[labels == label].flatten(1) for label in labels.unique()]
    means = [torch.pdist(members).mean() / scale for members in classes if len(members) > 1]
    return torch.stack(means).mean().item() if means else float("nan")
