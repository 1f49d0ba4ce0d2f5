"""Lipschitz constraints, put on finished networks from outside.

The networks are plain layers and never say "spectral". A row of LIPSCHITZ acts in one of four
places: on the weight of each layer, which `constrain` parametrizes; around D, which
`constrain_output` wraps; and after each optimizer step, on all parameters or on sigma_0, which a
`Constraint` does.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrizations, parametrize

from biggan_sn.config import LipschitzConfig, Sigma0Config
from biggan_sn.nn.conv_norm import conv_map
from biggan_sn.nn.matrices import matrix_layers
from biggan_sn.nn.minibatch import MinibatchLayer
from biggan_sn.nn.parametrizations import ConvSpectralNorm, SpectralNorm, WeightNorm
from biggan_sn.nn.precision import Critic, at_least_fp32, inner_gradient
from biggan_sn.tables import lookup

_JOINING = (_NormBase, MinibatchLayer)  # what lets the images of a batch see one another


class Lipschitz(NamedTuple):
    """A row. What is None is not done.

    Args:
        weight: parametrizes the weight of a layer; gets the side of the images it sees, 0 for
            none. A network takes one such row at most.
        output: wraps D: critic -> critic.
        project: changes the parameters that move after an optimizer step, in place.
        limit: sigmas [L, k] of L weights -> [L], what sigma_0 is clamped to after a step.
    """

    weight: Callable[[nn.Module, int, LipschitzConfig], None] | None = None
    output: Callable[[Critic], Critic] | None = None
    project: Callable[[Sequence[Tensor], LipschitzConfig], None] | None = None
    limit: Callable[[Tensor, Sigma0Config], Tensor] | None = None


def rows_of(names: Sequence[str]) -> list[Lipschitz]:
    """The rows called `names`.

    Raises:
        ValueError: there is no such row, or they exclude one another.
    """
    rows = [lookup(LIPSCHITZ, name, "lipschitz constraint") for name in names]
    on_weight = [name for name, row in zip(names, rows, strict=True) if row.weight]
    if len(on_weight) > 1:
        raise ValueError(f"lipschitz: a weight takes one of {' and '.join(on_weight)}, not both")
    return rows


def constrain(
    network: nn.Module,
    names: Sequence[str],
    config: LipschitzConfig,
    embeddings: bool,
    sides: Mapping[str, int] | None = None,
) -> None:
    """Parametrizes every convolution and linear map of `network` as the rows called `names` say,
    and its embeddings if asked (D: yes; G: no, Brock et al. 2019), in place.

    Args:
        network: plain layers.
        names: rows of LIPSCHITZ.
        config: their knobs.
        embeddings: whether they take part.
        sides: H = W of the images that each convolution sees, by its name, for rows that ask.

    Raises:
        ValueError: see `rows_of`.
    """
    for row in rows_of(names):
        if row.weight:
            for name, layer in matrix_layers(network, embeddings).items():
                row.weight(layer, (sides or {}).get(name, 0), config)


def unconstrain(network: nn.Module) -> None:
    """Gives `network` plain weights with which it computes the same, sigma divided in; in place."""
    for module in [m for m in network.modules() if parametrize.is_parametrized(m, "weight")]:
        weight = module.weight
        assert isinstance(weight, Tensor)
        # Not remove_parametrizations: copies share their class with the original, and it would
        # take the weight from that class.
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        module.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)


def constrain_output(discriminator: nn.Module, names: Sequence[str]) -> None:
    """Puts around the logits of `discriminator`, images and labels -> logits, what the rows called
    `names` say, in place. Copies made later have it too.

    Raises:
        ValueError: D has batch norms or a minibatch layer, whose outputs depend on the other images
            of a batch, so that no image has a gradient of its own.
    """
    wraps = {n: row.output for n, row in zip(names, rows_of(names), strict=True) if row.output}
    joining = [name for name, m in discriminator.named_modules() if isinstance(m, _JOINING)]
    if wraps and joining:
        raise ValueError(
            f"{next(iter(wraps))}: D must not have batch norms or a minibatch layer, in which no "
            f"image has a gradient of its own; it has {joining[0]}"
        )

    def forward(
        discriminator: nn.Module, images: Tensor, labels: Tensor, sizes: Sequence[int] = ()
    ) -> Tensor:
        def plain(images: Tensor) -> Tensor:
            return at_least_fp32(type(discriminator).forward(discriminator, images, labels))

        critic: Critic = plain
        for wrap in wraps.values():
            critic = wrap(critic)
        return critic(images)

    if wraps:
        discriminator.forward = MethodType(forward, discriminator)


def _put(layer: nn.Module, parametrization: nn.Module) -> None:
    # unsafe: spare the trial call; the maps keep shape and type by construction
    parametrize.register_parametrization(layer, "weight", parametrization, unsafe=True)


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight.detach()


def _spectral_norm(layer: nn.Module, side: int, config: LipschitzConfig) -> None:
    _put(layer, SpectralNorm(_weight(layer), config.eps, searches=True))


def _power_iteration_norm(layer: nn.Module, side: int, config: LipschitzConfig) -> None:
    _put(layer, SpectralNorm(_weight(layer), config.eps, searches=False))


def _torch_spectral_norm(layer: nn.Module, side: int, config: LipschitzConfig) -> None:
    parametrizations.spectral_norm(layer, "weight", config.power_iterations, config.eps)


def _conv_spectral_norm(layer: nn.Module, side: int, config: LipschitzConfig) -> None:
    """On kernels of more than one pixel; the norm of any other map is that of its matrix."""
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size == (1, 1):
        _spectral_norm(layer, side, config)
        return
    assert side, "nobody said what images this convolution sees"
    norm = ConvSpectralNorm(_weight(layer), conv_map(layer, side), config.conv_gain, config.eps)
    _put(layer, norm)


def _weight_norm(layer: nn.Module, side: int, config: LipschitzConfig) -> None:
    _put(layer, WeightNorm(config.eps))


@torch.no_grad()
def _clip(parameters: Sequence[Tensor], config: LipschitzConfig) -> None:
    """Every parameter to [-clip, clip]: Arjovsky et al. 2017, algorithm 1."""
    torch._foreach_clamp_min_(list(parameters), -config.clip)
    torch._foreach_clamp_max_(list(parameters), config.clip)


def gradient_normalization(critic: Critic) -> Critic:
    """D(x) / (|grad D(x)| + |D(x)|), which lies in [-1, 1]: Wu et al. 2021.

    On each linear piece of a D made of ReLUs it is 1-Lipschitz; at their borders it may jump.
    """

    def normalized(images: Tensor) -> Tensor:
        logits, slope = inner_gradient(critic, images)
        # Inside the root: its derivative at 0 is infinite.
        length = (slope.square().sum((1, 2, 3)) + 1e-12).sqrt()
        return logits / (length + logits.abs())

    return normalized


def _fixed(sigmas: Tensor, config: Sigma0Config) -> Tensor:
    return torch.full_like(sigmas[:, 0], config.sigma_reg)


def _ratio(sigmas: Tensor, config: Sigma0Config) -> Tensor:
    """r * sigma_1; none for a weight that has no sigma_1, as D's one row."""
    return torch.where(sigmas[:, 1] > 0, config.ratio * sigmas[:, 1], torch.inf)


# spectral_norm takes the top singular vectors from the network's spectrum. power_iteration_norm has
# them from power iteration alone, once per optimizer step (Miyato et al. 2018, algorithm 1), and
# torch_spectral_norm in every forward pass: both are here to be compared with. The clamps are those
# of Brock et al. 2019, section 4.1, on the raw weights. Under a norm that divides by sigma_0,
# sigma0_clamp only changes the effective learning rate, sigma0_ratio_clamp the function too.
LIPSCHITZ: dict[str, Lipschitz] = {
    "spectral_norm": Lipschitz(weight=_spectral_norm),
    "power_iteration_norm": Lipschitz(weight=_power_iteration_norm),
    "torch_spectral_norm": Lipschitz(weight=_torch_spectral_norm),
    "conv_spectral_norm": Lipschitz(weight=_conv_spectral_norm),
    "weight_norm": Lipschitz(weight=_weight_norm),
    "weight_clipping": Lipschitz(project=_clip),
    "sigma0_clamp": Lipschitz(limit=_fixed),
    "sigma0_ratio_clamp": Lipschitz(limit=_ratio),
    "gradient_normalization": Lipschitz(output=gradient_normalization),
}
