"""Feature matching: G's images shall be to D's layers, in the mean, what real ones are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from biggan_sn.config import FeatureMatchingConfig
from biggan_sn.nn.precision import at_least_fp32
from biggan_sn.nn.replicas import mean_over_replicas

Features = dict[str, Tensor]  # by the name of the layer
_SILENT = (nn.ModuleList, nn.ModuleDict, nn.Embedding)  # never called, or not with an image


class FeatureMatching:
    """|mean f(real) - mean f(fake)|_2^2, summed over layers f of D: Salimans et al. 2016, eq. 1.

    Means are over the images of a pass on all processes, fp32 or better; that of real images is
    over D's whole last batch. Where nothing is asked for, nothing is done.

    Args:
        discriminator: whose layers; it is not changed.
        config: which, and what the term counts.
        ranks: number of processes.

    Attributes:
        layers: by name.

    Raises:
        ValueError: D has no such layer; names those that it has.
    """

    def __init__(
        self, discriminator: nn.Module, config: FeatureMatchingConfig, ranks: int = 1
    ) -> None:
        there = _layers(discriminator)
        for name in config.layers:
            if name not in there:
                raise ValueError(
                    f"feature_matching.layers: D has no layer {name!r}; it has {', '.join(there)}"
                )
        self.layers = {name: there[name] for name in config.layers}
        self._config = config
        self._ranks = ranks

    @contextmanager
    def watching(
        self, discriminator: nn.Module
    ) -> Iterator[tuple[Callable[..., Tensor], Features]]:
        """What to call in place of D, and what its layers then make of the images. It is D itself
        where no layer is asked for, else D without a compiler, which would not show them."""
        features: Features = {}

        def keep(name: str, layer: nn.Module, inputs: object, output: Tensor) -> None:
            features[name] = output

        hooks = [
            layer.register_forward_hook(partial(keep, name)) for name, layer in self.layers.items()
        ]
        try:
            yield discriminator.forward if self.layers else discriminator, features
        finally:
            for hook in hooks:
                hook.remove()

    def means(self, features: Mapping[str, Tensor]) -> Features:
        """Their means over the images of this pass on all processes: [N, ...] -> [...]. Every
        process must call it."""
        return {
            name: mean_over_replicas(at_least_fp32(feature).mean(0), self._ranks)
            for name, feature in features.items()
        }

    def loss(self, fake: Mapping[str, Tensor], real: Sequence[Features]) -> Tensor | float:
        """The term at its weight, 0 where no layer is asked for.

        Args:
            fake: D's features of G's images, of one pass.
            real: means of those of real images, of passes of one size.

        Raises:
            ValueError: there are no real images, for D has had no turn.
        """
        if self.layers and not real:
            raise ValueError("feature_matching: G's update needs the real images of a turn of D")
        found = self.means(fake)
        terms = [
            (torch.stack([means[name] for means in real]).mean(0) - found[name]).square().sum()
            for name in self.layers
        ]
        return sum((self._config.weight * term for term in terms), start=0.0)

    def joined(self, adversarial: Tensor, term: Tensor | float) -> Tensor:
        """G's loss: both, or the term alone."""
        if self._config.alone:
            assert isinstance(term, Tensor)  # the config sees to it
            return term
        return adversarial + term


def _layers(discriminator: nn.Module) -> dict[str, nn.Module]:
    """All that has weights and sees the image, by its name in the state_dict."""
    return {
        name: module
        for name, module in discriminator.named_modules()
        if name
        and not isinstance(module, _SILENT)
        and "parametrizations" not in name.split(".")
        and next(module.parameters(), None) is not None
    }
