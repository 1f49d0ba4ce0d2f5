"""G and D of every architecture: shapes, conditioning, and the formulas of their ends."""

import dataclasses

import pytest
import torch

from biggan_sn.config import RESOLUTIONS, Config, DataConfig, ModelConfig
from biggan_sn.models.zoo import ARCHITECTURES, build_discriminator, build_generator

Z_DIM = 5040  # splits evenly in 4 to 9 chunks


def config(resolution=32, name="biggan", **model):
    model = {"channels": 4, "z_dim": 8, "shared_dim": 6, **model}
    data = DataConfig(resolution=resolution, num_classes=5)
    return Config(data=data, model=ModelConfig(name=name, **model))


def inputs(z_dim=8, count=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, z_dim, generator=generator), torch.arange(count)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shapes(name, resolution):
    built = Config(
        data=DataConfig(resolution=resolution, num_classes=5),
        model=ModelConfig(name=name, channels=8, z_dim=Z_DIM, generator_attention=(16,)),
    )
    with torch.device("meta"):
        generator, discriminator = build_generator(built), build_discriminator(built)
        z, y = torch.empty(2, Z_DIM), torch.empty(2, dtype=torch.int64)
        images = generator(z, y)
        assert images.shape == (2, 3, resolution, resolution)
        assert discriminator(images, y).shape == (2,)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_image_depends_on_all_of_z_and_on_the_class(name):
    torch.manual_seed(0)
    row = ARCHITECTURES[name]
    shared = 6 if row.shared_dim else 0
    generator = build_generator(config(name=name, shared_dim=shared)).eval()
    z, y = inputs()
    z.requires_grad_()
    images = generator(z, y)
    assert images.abs().max() < 1
    (gradient,) = torch.autograd.grad(images.square().sum(), z)
    assert (gradient != 0).all(), "every entry of z reaches the image"
    assert not torch.allclose(images, generator(z, y.roll(1)))


def test_hierarchical_z_gives_each_block_its_chunk():
    """The first linear map sees chunk 0 only: with every norm's z part cut off, the image hangs
    on the first quarter of z alone."""
    torch.manual_seed(0)
    generator = build_generator(config()).eval()
    for block in generator.blocks:
        for norm in (block.norm1, block.norm2):
            for linear in (norm.gain, norm.bias):
                assert linear.weight.shape[1] == 6 + 2
                linear.weight.data[:, 6:] = 0
    z, y = inputs()
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(generator(z, y).square().sum(), z)
    assert (gradient[:, :2] != 0).all()
    assert (gradient[:, 2:] == 0).all()


def test_discriminator_is_linear_plus_projection_of_summed_features():
    torch.manual_seed(0)
    discriminator = build_discriminator(config())
    _, y = inputs()
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    h = images
    for block in discriminator.blocks:
        h = block(h)
    h = h.relu().sum((2, 3))
    expected = discriminator.linear(h)[:, 0] + (discriminator.embed.weight[y] * h).sum(1)
    torch.testing.assert_close(discriminator(images, y), expected)


def test_first_block_of_d_has_no_relu_and_the_last_an_identity_shortcut():
    discriminator = build_discriminator(config())
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    block = discriminator.blocks[0]
    assert not torch.allclose(block(images), block(images.relu()))
    last = discriminator.blocks[-1]
    for conv in (last.conv1, last.conv2):
        torch.nn.init.zeros_(conv.weight)
    features = torch.randn(2, 16, 8, 8)
    assert torch.equal(last(features), features)


def test_attention_is_built_where_asked():
    generator = build_generator(config(generator_attention=(16,), channels=8))
    assert list(generator.attention) == ["1"]
    discriminator = build_discriminator(config(discriminator_attention=(16,), channels=8))
    assert list(discriminator.attention) == ["0"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"z_dim": 9}, "z_dim 9 cannot be cut in 4 equal chunks; 12 can"),
        ({"shared_dim": 0, "hierarchical_z": True}, "needs model.shared_dim"),
        ({"name": "bigan"}, "did you mean 'biggan'"),
        ({"initialization": "othogonal"}, "did you mean 'orthogonal'"),
    ],
)
def test_what_cannot_be_built_says_why(model, message):
    with pytest.raises(ValueError, match=message):
        build_generator(config(**model))


def test_what_the_config_leaves_open_the_architecture_decides():
    sagan = build_generator(config(name="sagan", shared_dim=None))
    assert isinstance(sagan.blocks[0].norm1.gain, torch.nn.Embedding)
    flat = config(name="biggan", hierarchical_z=False)
    assert build_generator(flat).linear.in_features == 8
    assert dataclasses.asdict(flat.model)["shared_dim"] == 6


def deep(**model):
    return config(name="biggan_deep", hierarchical_z=False, **model)


def test_a_deep_block_of_g_keeps_the_first_channels():
    generator = build_generator(
        dataclasses.replace(deep(), data=DataConfig(resolution=64, num_classes=5))
    )
    condition = torch.randn(2, 14)
    for block, doubled in zip(generator.blocks[2:4], (False, True), strict=True):
        torch.nn.init.zeros_(block.conv4.weight)
        x = torch.randn(2, 64, 4, 4)
        wanted = x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :32] if doubled else x
        assert torch.equal(block(x, condition), wanted)


def test_every_deep_block_of_g_sees_all_of_z_and_the_class():
    torch.manual_seed(0)
    generator = build_generator(deep()).eval()
    torch.nn.init.zeros_(generator.linear.weight)
    torch.nn.init.ones_(generator.linear.bias)
    z, y = inputs()
    z.requires_grad_()
    images = generator(z, y)
    (gradient,) = torch.autograd.grad(images.square().sum(), z)
    assert (gradient != 0).all()
    assert not torch.allclose(images, generator(z, y.roll(1)))
    assert all(block.norm3.gain.weight.shape[1] == 8 + 6 for block in generator.blocks)


def test_a_deep_block_of_d_adds_the_channels_that_are_missing():
    discriminator = build_discriminator(
        dataclasses.replace(deep(), data=DataConfig(resolution=64, num_classes=5))
    )
    widens, keeps = discriminator.blocks[:2]
    for block in (widens, keeps):
        torch.nn.init.zeros_(block.conv4.weight)
    x = torch.randn(2, 4, 6, 6)
    halved = torch.nn.functional.avg_pool2d(x, 2)
    assert torch.equal(widens(x), torch.cat([halved, widens.shortcut(halved)], 1))
    x = torch.randn(2, 8, 6, 6)
    assert keeps.shortcut is None
    assert torch.equal(keeps(x), x)


@pytest.mark.parametrize("model", [{"shared_dim": 0}, {"hierarchical_z": True}])
def test_a_deep_g_that_cannot_be_is_refused(model):
    wanted = config(name="biggan_deep", **{"hierarchical_z": False, **model})
    with pytest.raises(ValueError, match="every block of a deep G sees all of z"):
        build_generator(wanted)


@pytest.mark.parametrize("build", [build_generator, build_discriminator])
def test_bottlenecks_need_some_width(build):
    with pytest.raises(ValueError, match=r"model\.channels must be 4 or more"):
        build(deep(channels=3))
