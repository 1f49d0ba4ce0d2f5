"""How near to 1 spectral normalisation holds the norms of weights while they move."""

import torch
from torch.nn.utils import parametrize

from biggan_sn.models.bound import reading
from biggan_sn.nn.matrices import as_matrix, matrix_layers
from biggan_sn.training.step import GANStep


@torch.no_grad()
def worst_norm_error(step: GANStep) -> float:
    """The largest | |W| - 1 | over the parametrized weights W that both networks use, by full
    decomposition."""
    errors = [0.0]
    for network in (step.g.network, step.d.network):
        with reading(network):
            for layer in matrix_layers(network).values():
                if parametrize.is_parametrized(layer, "weight"):
                    assert isinstance(layer.weight, torch.Tensor)
                    norm = torch.linalg.matrix_norm(as_matrix(layer.weight).double(), 2)
                    errors.append(abs(float(norm) - 1))
    return max(errors)
