"""Runs of tiny networks of every kind, of which nothing is as it was initialized."""

import json

import torch
from torch import nn

from biggan_sn.checkpoint import Checkpoints, find
from biggan_sn.config import Config, DataConfig, LipschitzConfig, ModelConfig
from biggan_sn.models.latent import Latents
from biggan_sn.models.zoo import BUILDERS, put_constraints
from biggan_sn.nn.constraint import settle
from biggan_sn.nn.layers import SelfAttention
from biggan_sn.nn.norm import standing_statistics
from biggan_sn.training.records import SCALARS
from biggan_sn.training.saving import state_of

CLASSES = ("cat", "dog", "owl")
STEP = 7
SIDES = {"generator": "generator", "ema": "generator", "discriminator": "discriminator"}
MODELS = {
    "sngan": {"channels": 2},
    "sagan": {"channels": 2, "generator_attention": (16,)},
    "biggan": {"channels": 2, "shared_dim": 5, "generator_attention": (16,)},
    "biggan_deep": {"channels": 4, "shared_dim": 6, "generator_attention": (16,)},
    "virtual_batch": {
        "name": "biggan",
        "channels": 2,
        "shared_dim": 4,
        "norm": "virtual_batch",
        "reference_images": 3,
    },
}


def config_for(kind="biggan", rows=("spectral_norm",), resolution=32, **model):
    return Config(
        data=DataConfig(resolution=resolution, num_classes=len(CLASSES)),
        model=ModelConfig(**{"name": kind, "z_dim": 8, **MODELS[kind], **model}),
        lipschitz=LipschitzConfig(generator=rows, discriminator=("spectral_norm",)),
        batch_size=4,
        steps=STEP,
        seed=3,
    )


def make_run(folder, config, moments=True):
    """A run of one checkpoint with an evaluation; returns the checkpoint."""
    torch.manual_seed(5)
    tensors = {part: _network(config, side).state_dict() for part, side in SIDES.items()}
    for side in BUILDERS:
        names = [name for name in tensors[side] if name.endswith(("original", "weight", "bias"))]
        names += [name for name in tensors[side] if name.endswith("gamma")]
        kept = {
            f"{name}/{slot}": torch.rand_like(tensors[side][name])
            for name in names
            for slot in ("exp_avg", "exp_avg_sq")
        }
        kept |= {f"{name}/step": torch.tensor(float(STEP)) for name in names}
        tensors[f"{side}_optimizer"] = kept if moments else {}
    state = state_of(config, 1, 0, 0, {}, CLASSES, "")
    Checkpoints(folder / "checkpoints").save(STEP, tensors, state)
    scores = [{"step": STEP - 1, "evaluation/fid": 9.0}, {"step": STEP, "evaluation/fid": 8.5}]
    scores[1]["evaluation/kid"] = float("nan")
    lines = [*scores, {"step": STEP, "d_loss": 1.0}]
    (folder / SCALARS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return find(folder)


@torch.no_grad()
def _network(config, side):
    """With other weights than any initializer draws, and statistics of its own images."""
    network = BUILDERS[side](config)
    for parameter in network.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter) * parameter.abs().mean())
    for module in network.modules():
        if isinstance(module, SelfAttention):
            module.gamma.fill_(0.7)
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            module.weight.uniform_(0.8, 1.2)
            module.bias.uniform_(-0.2, 0.2)
    put_constraints(network, config, side)
    settle(network)
    if side == "generator":
        latents = Latents(1, network.z_dim, len(CLASSES), "statistics")
        with standing_statistics(network):
            network(latents.z(range(32)), latents.y(range(32)))
    return network
