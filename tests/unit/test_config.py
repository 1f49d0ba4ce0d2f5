"""The knobs: their way to disk and back, what they refuse, and what a run may change."""

import json
from dataclasses import fields, is_dataclass, replace

import pytest
import yaml

from biggan_sn import config_io
from biggan_sn.cli import main
from biggan_sn.config import (
    AugmentConfig,
    CheckpointConfig,
    CollapseConfig,
    Config,
    ConsistencyConfig,
    DataConfig,
    EMAConfig,
    EvaluationConfig,
    FeatureMatchingConfig,
    FinetuneConfig,
    LeCamConfig,
    LipschitzConfig,
    LogsConfig,
    LrDecayConfig,
    ModelConfig,
    MonitorConfig,
    PlayerConfig,
    RegularizersConfig,
    Sigma0Config,
    SpectrumConfig,
    SpeedConfig,
    TopKConfig,
)
from biggan_sn.config_io import changes, from_dict, to_dict

SECTIONS = {field.name for field in fields(Config) if is_dataclass(getattr(Config(), field.name))}

# Every field with another value than its default, so that one that is lost on the way is seen.
UNUSUAL = Config(
    data=DataConfig(
        "somewhere",
        64,
        7,
        ("b", "a"),
        100,
        True,
        16,
        3,
        "read {url}",
        "skip",
        0.1,
        flip=True,
        shift=3,
        threads=5,
        prefetch=1,
        heldout="else",
    ),
    model=ModelConfig(
        "sagan",
        8,
        6,
        (4, 2, 2, 1),
        (16, 32),
        (32,),
        20,
        0,
        False,
        "normal",
        16,
        "stddev",
        "virtual_batch",
        8,
    ),
    finetune=FinetuneConfig("another", ("linear",), ("blocks.0", "blocks.1")),
    spectrum=SpectrumConfig(4, 7),
    lipschitz=LipschitzConfig((), ("spectral_norm", "other"), 3, 1e-4, 1.5, 0.1),
    sigma0=Sigma0Config(5.0, 2.5, only_first=True, two_sided=True),
    objective="wgan",
    real_label=0.9,
    fgan_saturating=True,
    penalties={"r1": 0.1, "gp": 10.0},
    penalty_every=16,
    regularizers=RegularizersConfig({"orthogonal": 1e-4}, {"orthonormal": 1e-3}),
    feature_matching=FeatureMatchingConfig(("linear",), 0.5, alone=True),
    augment=AugmentConfig(("color", "flip"), 0.5, 0.4, 99, 3),
    consistency=ConsistencyConfig(1.0, 2.0, 3.0, 4.0, 0.1, ("cutout",)),
    lecam=LeCamConfig(0.5, 0.9, 7),
    top_k=TopKConfig(0.5, 0.9, 8),
    generator=PlayerConfig(1e-3, (0.5, 0.9), 1e-8, 4),
    discriminator=PlayerConfig(2e-3, (0.1, 0.99), 1e-7, 2),
    lr_decay=LrDecayConfig(3, 20),
    ema=EMAConfig(0.99, 5),
    monitor=MonitorConfig(3),
    collapse=CollapseConfig(
        5,
        "off",
        "stop",
        "warn",
        1,
        {"generator.lr": 0.5},
        {"penalties.r1": 2.0},
        8,
        20.0,
        2.0,
        0.9,
        0.1,
        0.2,
        3.0,
    ),
    checkpoint=CheckpointConfig(10, 5, 1, 0),
    evaluation=EvaluationConfig(7, ("fid", "kid"), 64, "digits", "w.pth", "real", 99),
    logs=LogsConfig(1, 0, 2, 3),
    speed=SpeedConfig(("discriminator", "generator"), "forms.json", compile=True, cuda_graphs=True),
    steps=11,
    d_steps=3,
    batch_size=32,
    precision="bf16",
    seed=12,
    timeout=60.0,
)


def flat(values, prefix=""):
    """(name, value) of every knob; a dict of names and weights is one knob."""
    for name, value in values.items():
        if name in SECTIONS and not prefix:
            yield from flat(value, f"{name}.")
        else:
            yield prefix + name, value


def test_the_unusual_config_is_unusual():
    usual = dict(flat(to_dict(Config())))
    assert [name for name, value in flat(to_dict(UNUSUAL)) if usual[name] == value] == []


@pytest.mark.parametrize("config", [Config(), UNUSUAL], ids=["defaults", "unusual"])
@pytest.mark.parametrize("form", [json, yaml], ids=["json", "yaml"])
def test_round_trip(config, form):
    text = form.dumps(to_dict(config)) if form is json else form.safe_dump(to_dict(config))
    back = from_dict(form.loads(text) if form is json else form.safe_load(text))
    assert back == config
    assert hash(back.model.generator_attention) == hash(config.model.generator_attention)


def test_a_section_given_in_part_keeps_its_own_defaults():
    config = from_dict({"discriminator": {"betas": [0, 0.9]}, "generator": {"eps": 1e-8}})
    assert config.discriminator == PlayerConfig(lr=2e-4, betas=(0, 0.9))
    assert config.generator == PlayerConfig(lr=5e-5, eps=1e-8)
    assert from_dict({}) == Config()


def test_a_section_given_in_part_on_disk_and_on_the_command_line(tmp_path, capsys):
    (tmp_path / "part.yaml").write_text("discriminator: {betas: [0, 0.9]}\nmodel: {channels: 8}\n")
    options = ["--config", str(tmp_path / "part.yaml"), "--generator.eps", "1e-8"]
    with pytest.raises(SystemExit) as stop:
        main(["train", "--run_dir", str(tmp_path / "run"), *options, "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    printed.pop("run_dir")
    assert from_dict(printed) == Config(
        model=ModelConfig(channels=8),
        generator=PlayerConfig(lr=5e-5, eps=1e-8),
        discriminator=PlayerConfig(lr=2e-4, betas=(0, 0.9)),
    )


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"resolutoin": 32}, "resolutoin"),
        ({"data": {"resolutoin": 32}}, "resolutoin"),
        ({"discriminator": {"learning_rate": 1}}, "learning_rate"),
    ],
)
def test_unknown_fields_are_refused(values, name):
    with pytest.raises(ValueError, match=f"unknown field '{name}'"):
        from_dict(values)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("data", "resolution", 100),
        ("data", "resolution", 0),
        ("data", "num_classes", 0),
        ("data", "threads", 0),
        ("data", "prefetch", 0),
        ("data", "shift", -1),
        ("data", "shift", 128),
        ("model", "channels", 0),
        ("model", "z_dim", -1),
        ("model", "shared_dim", -1),
        ("model", "reference_images", 0),
        ("lipschitz", "power_iterations", 0),
        ("lipschitz", "eps", 0.0),
        ("generator", "lr", 0.0),
        ("generator", "lr", float("nan")),
        ("discriminator", "eps", -1e-8),
        ("discriminator", "betas", [0, 1]),
        ("generator", "betas", [-0.1, 0.9]),
        ("generator", "microbatch", -1),
        ("ema", "decay", 1.0),
        ("ema", "decay", -0.1),
        ("ema", "start", -1),
        ("monitor", "every", -1),
        ("spectrum", "values", 1),
        ("spectrum", "values", 9),
        ("spectrum", "depth", 0),
        ("lipschitz", "conv_gain", 0.0),
        ("lipschitz", "clip", -0.01),
        ("sigma0", "sigma_reg", 0.0),
        ("sigma0", "ratio", 0.99),
        ("collapse", "every", -1),
        ("collapse", "explosion", "maybe"),
        ("collapse", "memorization", ""),
        ("collapse", "quality", "on"),
        ("collapse", "rollbacks", -1),
        ("collapse", "images", 0),
        ("collapse", "cusum", 0.0),
        ("collapse", "growth", 1.0),
        ("collapse", "heldout_gap", 0.0),
        ("collapse", "d_loss", -0.1),
        ("collapse", "diversity", -0.1),
        ("collapse", "fid_rise", 1.0),
        ("collapse.scale", "generator.lr", 0.0),
        ("checkpoint", "every", 0),
        ("checkpoint", "keep", 0),
        ("checkpoint", "keep_spaced", -1),
        ("checkpoint", "keep_best", -1),
        ("evaluation", "every", -1),
        ("evaluation", "samples", 0),
        ("logs", "every", 0),
        ("logs", "images", -1),
        ("logs", "rows", 0),
        ("logs", "columns", 0),
        ("feature_matching", "weight", 0.0),
        ("augment", "transforms", ["flip", "color", "flip"]),
        ("augment", "p", 0.0),
        ("augment", "p", -0.1),
        ("augment", "target", 1.0),
        ("augment", "target", 0.6),
        ("augment", "images", 0),
        ("augment", "every", 0),
        ("consistency", "transforms", ["flip", "flip"]),
        ("consistency", "real", -1.0),
        ("consistency", "fake", float("nan")),
        ("consistency", "latent_d", -1.0),
        ("consistency", "latent_g", -1.0),
        ("consistency", "latent_noise", 0.0),
        ("lecam", "weight", -0.1),
        ("lecam", "decay", 1.0),
        ("lecam", "start", -1),
        ("top_k", "share", 0.0),
        ("top_k", "share", 1.1),
        ("top_k", "gamma", 1.0),
        ("top_k", "gamma", 0.0),
        ("top_k", "every", 0),
        ("augment", "p", 1.1),
        ("augment", "p", float("nan")),
        ("speed", "recompute", ["both"]),
        (None, "steps", 0),
        (None, "d_steps", 0),
        (None, "batch_size", -4),
        (None, "penalty_every", 0),
        (None, "seed", -1),
        (None, "real_label", 0.0),
        (None, "real_label", 1.1),
        (None, "precision", "fp8"),
        ("penalties", "gp", -10.0),
        ("penalties", "gp", float("nan")),
        ("regularizers.generator", "orthogonal", -1e-4),
        ("regularizers.discriminator", "orthogonal", float("nan")),
    ],
)
def test_impossible_values_are_refused_by_name(section, name, value):
    values = {name: value}
    for part in reversed(section.split(".") if section else []):
        values = {part: values}
    # A player does not know which side it is; its message names both.
    where = rf"[\w/]*{section}[\w/]*\." if section else ""
    with pytest.raises(ValueError, match=rf"^{where}{name} must "):
        from_dict(values)


@pytest.mark.parametrize(
    ("batch_size", "microbatch", "ranks", "expected"),
    [(24, 0, 1, 24), (24, 0, 3, 8), (24, 4, 3, 4), (24, 24, 1, 24), (24, 1, 24, 1)],
)
def test_microbatch(batch_size, microbatch, ranks, expected):
    config = Config(batch_size=batch_size, discriminator=PlayerConfig(microbatch=microbatch))
    assert config.microbatch("discriminator", ranks) == expected
    assert config.microbatch("generator", ranks) == batch_size // ranks


@pytest.mark.parametrize(
    ("batch_size", "microbatch", "ranks", "named"),
    [(24, 0, 5, "5 processes"), (24, 5, 1, "microbatch 5"), (24, 16, 2, "microbatch 16")],
)
def test_microbatch_that_does_not_divide(batch_size, microbatch, ranks, named):
    config = Config(batch_size=batch_size, generator=PlayerConfig(microbatch=microbatch))
    with pytest.raises(ValueError, match=f"batch_size {batch_size} is not divisible .*{named}"):
        config.microbatch("generator", ranks)


# What may change when a run goes on. This is a promise to users, so it is written down twice.
FREE = {
    *("steps", "timeout"),
    *("data.path", "data.threads", "data.prefetch", "data.heldout"),
    *("data.connections", "data.command", "data.damaged", "data.damaged_share"),
    *("generator.microbatch", "discriminator.microbatch", "model.norm_batch"),
    "monitor.every",
    *(f"collapse.{field.name}" for field in fields(CollapseConfig)),
    *(f"checkpoint.{field.name}" for field in fields(CheckpointConfig)),
    *(f"evaluation.{field.name}" for field in fields(EvaluationConfig)),
    *("logs.every", "logs.images", "logs.rows", "logs.columns"),
    *(f"speed.{field.name}" for field in fields(SpeedConfig)),
}


def test_changes_names_every_fixed_field_and_no_free_one():
    before, after = dict(flat(to_dict(Config()))), dict(flat(to_dict(UNUSUAL)))
    found = {line.split(":")[0]: line for line in changes(Config(), UNUSUAL)}
    fixed = (
        set(before) - FREE - {"penalties", "regularizers.generator", "regularizers.discriminator"}
    )
    assert set(found) == fixed | {
        "penalties.r1",
        "penalties.gp",
        "regularizers.generator.orthogonal",
        "regularizers.discriminator.orthonormal",
    }
    for name in fixed:
        assert found[name] == f"{name}: {before[name]} -> {after[name]}"
    assert found["penalties.gp"] == "penalties.gp: None -> 10.0"


def test_nothing_changed():
    assert changes(UNUSUAL, from_dict(json.loads(json.dumps(to_dict(UNUSUAL))))) == []


def test_free_to_change_is_by_whole_names(monkeypatch):
    # That `data` is free must not free a `data_order`.
    monkeypatch.setattr(config_io, "FREE_TO_CHANGE", ("d", "monitor.eve", "ema"))
    after = replace(Config(), d_steps=1, monitor=MonitorConfig(every=1), ema=EMAConfig(0.5))
    assert changes(Config(), after) == ["d_steps: 2 -> 1", "monitor.every: 100 -> 1"]
