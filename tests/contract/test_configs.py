"""Every YAML in configs/ parses, and builds on the meta device; the schema has no unions."""

import dataclasses
import re
import types
import typing
from pathlib import Path

import pytest
import yaml

from biggan_sn.bench.counts import count
from biggan_sn.cli import VERBS, main, parsers
from biggan_sn.cli.common import config_of
from biggan_sn.collapse.signs import SIGNS
from biggan_sn.config import (
    AugmentConfig,
    CollapseConfig,
    Config,
    EvaluationConfig,
    LipschitzConfig,
    ModelConfig,
    RegularizersConfig,
)
from biggan_sn.config_io import from_dict, to_dict
from biggan_sn.data.augment import AUGMENTATIONS
from biggan_sn.evaluation.extractors import EXTRACTORS
from biggan_sn.evaluation.metrics import METRICS
from biggan_sn.losses.objectives import OBJECTIVES
from biggan_sn.losses.penalties import PENALTIES
from biggan_sn.losses.regularizers import REGULARIZERS
from biggan_sn.models.latent import TRUNCATIONS
from biggan_sn.models.zoo import ARCHITECTURES
from biggan_sn.nn.layers import INITIALIZERS
from biggan_sn.nn.lipschitz import LIPSCHITZ
from biggan_sn.nn.minibatch import MINIBATCH_LAYERS
from biggan_sn.nn.norm import NORMS
from biggan_sn.training.build import check

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


SN = ("spectral_norm",)


def spectral(config, architecture, g=SN, d=SN):
    """A game of hinge losses between networks that these constraints hold."""
    lipschitz = config.lipschitz
    held = (lipschitz.generator, lipschitz.discriminator) == (g, d)
    return held and config.model.name == architecture and config.objective == "hinge"


def unheld(config):
    """Neither network is held by anything but penalties."""
    return not config.lipschitz.generator and not config.lipschitz.discriminator


# What the name of a config promises, by the second part of it.
METHODS = {
    "sngan": lambda c: spectral(c, "sngan", g=()),
    "sagan": lambda c: (
        spectral(c, "sagan") and c.model.generator_attention and c.model.discriminator_attention
    ),
    "biggan": lambda c: spectral(c, "biggan"),
    "biggan_deep": lambda c: spectral(c, "biggan_deep"),
    "gngan": lambda c: spectral(c, "biggan", d=("gradient_normalization",)),
    "wgan_gp": lambda c: c.objective == "wgan" and c.penalties["wgan_gp"] > 0 and unheld(c),
    "improved": lambda c: (
        (c.model.minibatch_layer == "discrimination" or bool(c.feature_matching.layers))
        and c.model.norm == "virtual_batch"
        and c.real_label < 1
        and c.lipschitz.discriminator == ("weight_norm",)
    ),
    "r3gan": lambda c: (
        c.objective == "relativistic_paired_nonsaturating"
        and c.penalties["r1"] == c.penalties["r2"] > 0
        and unheld(c)
    ),
}


def parse(*arguments):
    parser = parsers()[1]["train"]
    return config_of(parser, parser.parse_args([*arguments, "--run_dir", "x"]))


def test_there_are_configs_and_the_readme_names_each():
    readme = (CONFIGS[0].parent / "README.md").read_text()
    assert CONFIGS
    assert all(path.name in readme for path in CONFIGS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_parses_builds_and_survives_a_round_trip(path):
    config = parse("--config", str(path))
    check(config, ranks=1)
    assert from_dict(to_dict(config)) == config
    dataset = path.name.partition("_")[0]
    resolution = int("".join(c for c in dataset if c.isdigit()) or 0)
    assert resolution in (config.data.resolution, 10), "the name says the resolution"
    method = path.stem.partition("_")[2]
    for whose in ("_studiogan", "_reference"):
        method = method.removesuffix(whose)
    assert METHODS[method](config)


MEMORY = re.compile(r"# Memory that preflight counts, bf16: ([\d.]+) GiB in passes of (\d+) images")


def test_configs_of_imagenet_say_what_memory_they_need():
    """Counted; here again for one of them."""
    said = {path.stem: MEMORY.search(path.read_text()) for path in CONFIGS}
    assert all(said[name] for name in said if name.startswith("imagenet"))
    name = "imagenet64_wgan_gp"
    gigabytes, images = said[name].groups()
    given = ("--config", str(CONFIGS[0].parent / f"{name}.yaml"))
    config = parse(*given, "--batch_size", images, "--precision", "bf16")
    assert count(config).peak_bytes / 2**30 == pytest.approx(float(gigabytes), abs=0.05)


def test_every_method_has_a_config_for_digits_and_one_for_cifar():
    named = {path.stem for path in CONFIGS}
    assert named >= {f"{data}_{method}" for data in ("digits32", "cifar10") for method in METHODS}


LAYERS = sorted((CONFIGS[0].parent / "layers").glob("*.yaml"))


@pytest.mark.parametrize("path", LAYERS, ids=lambda path: path.name)
def test_layer_changes_what_it_says_of_another_config(path):
    base = next(config for config in CONFIGS if config.name == "digits32_biggan.yaml")
    config = parse("--config", str(base), "--config", str(path))
    check(config, ranks=1)
    assert config.data == parse("--config", str(base)).data
    for section, values in yaml.safe_load(path.read_text()).items():
        found = to_dict(config)[section]
        assert (found.items() >= values.items()) if isinstance(values, dict) else found == values


def test_the_readme_names_every_kind_of_layer():
    readme = (CONFIGS[0].parent / "README.md").read_text()
    assert LAYERS
    assert all(path.stem in readme for path in LAYERS)


def test_no_field_is_a_union_of_sections():
    """A parser cannot tell which section of a union is meant, and may silently take another."""

    def walk(schema):
        hints = typing.get_type_hints(schema)
        for field in dataclasses.fields(schema):
            kind = hints[field.name]
            if isinstance(kind, types.UnionType):
                assert not any(dataclasses.is_dataclass(k) for k in typing.get_args(kind))
            if dataclasses.is_dataclass(kind):
                walk(kind)

    walk(Config)


def test_every_field_is_documented():
    def walk(schema):
        for field in dataclasses.fields(schema):
            if dataclasses.is_dataclass(field.type):
                walk(field.type)
            else:
                assert f"{field.name}:" in schema.__doc__, f"{schema.__name__}.{field.name}"

    walk(Config)


def test_every_verb_explains_itself():
    assert all(declare.__doc__ for declare, _ in VERBS.values())


@pytest.mark.parametrize(
    ("schema", "table"),
    [
        (Config, OBJECTIVES),
        (Config, PENALTIES),
        (RegularizersConfig, REGULARIZERS),
        (ModelConfig, ARCHITECTURES),
        (ModelConfig, INITIALIZERS),
        (ModelConfig, MINIBATCH_LAYERS),
        (ModelConfig, NORMS),
        (LipschitzConfig, LIPSCHITZ),
        (AugmentConfig, AUGMENTATIONS),
        (EvaluationConfig, METRICS),
        (EvaluationConfig, EXTRACTORS),
        (CollapseConfig, SIGNS),
    ],
)
def test_help_names_every_row_of_every_table(schema, table):
    words = set(re.findall(r"[a-z0-9_]+", schema.__doc__))
    assert words >= table.keys()


def test_help_names_the_kinds_of_truncation(capsys):
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    assert set(re.findall(r"[a-z_]+", capsys.readouterr().out)) >= TRUNCATIONS.keys()
