"""The weights of a network as matrices [C_out, everything else] (Miyato et al. 2018, 2.1)."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

MATRIX_LAYERS = (nn.Conv2d, nn.Linear, nn.Embedding)


def matrix_layers(network: nn.Module, embeddings: bool = True) -> dict[str, nn.Module]:
    """Every convolution, linear map and (if asked) embedding by its name."""
    kinds = MATRIX_LAYERS if embeddings else MATRIX_LAYERS[:2]
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def named_weights(network: nn.Module, embeddings: bool = True) -> dict[str, Tensor]:
    """The raw weight of each matrix layer by layer name: what the optimizer moves, before any
    constraint."""
    return {name: raw_weight(layer) for name, layer in matrix_layers(network, embeddings).items()}


def raw_weight(module: nn.Module) -> Tensor:
    """The weight of a layer before any constraint on it."""
    # Where there is a constraint, to read `module.weight` would work out what comes of it.
    constrained = parametrize.is_parametrized(module, "weight")
    weight = chain_of(module).original if constrained else module.weight
    assert isinstance(weight, Tensor)
    return weight


def chain_of(module: nn.Module) -> parametrize.ParametrizationList:
    """The constraints on the weight of a parametrized layer."""
    assert isinstance(module.parametrizations, nn.ModuleDict)
    chain = module.parametrizations["weight"]
    assert isinstance(chain, parametrize.ParametrizationList)
    return chain


def as_matrix(weight: Tensor) -> Tensor:
    """A weight as the matrix [C_out, everything else], the input channels last in its columns: for
    the channels-last weights of convolutions that is a view, where any other order would copy."""
    if weight.dim() == 4:
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)


def as_weight(matrix: Tensor, weight: Tensor) -> Tensor:
    """The inverse of `as_matrix`: rows of it, [m, columns], in the shape [m, ...] of `weight`."""
    if weight.dim() == 4:
        channels, height, width = weight.shape[1:]
        return matrix.view(-1, height, width, channels).permute(0, 3, 1, 2)
    return matrix


def irregular_vector(size: int, like: Tensor) -> Tensor:
    """A fixed vector [size] of length 1: alike on all ranks, orthogonal to no weight in use."""
    entries = torch.cos(torch.arange(1, size + 1, dtype=torch.float64, device=like.device) ** 2)
    return (entries / entries.norm()).to(like)
