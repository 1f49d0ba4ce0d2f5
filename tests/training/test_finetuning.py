"""A run on five classes, and others that begin with it."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from biggan_sn.checkpoint import find, load_state, load_tensors
from biggan_sn.cli import main
from biggan_sn.config import (
    CheckpointConfig,
    CollapseConfig,
    Config,
    DataConfig,
    EMAConfig,
    FinetuneConfig,
    LipschitzConfig,
    LogsConfig,
    ModelConfig,
    PlayerConfig,
    RegularizersConfig,
    Sigma0Config,
)
from biggan_sn.config_io import to_dict
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.evaluation.spectra import load_player
from biggan_sn.models.loading import load_generator
from biggan_sn.nn.constraint import settle
from biggan_sn.nn.matrices import as_matrix, named_weights
from biggan_sn.nn.names import frozen_parameters, plain, plain_name, tables_of
from biggan_sn.training.heritage import begin
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World
from data_tools.make_shards import write_shards
from tests.training.crew import Crew

FIVE = tuple("dbaec")  # in another order than those of the data
TEN = tuple("abcdefghij")
SIDES = {"generator": "G", "discriminator": "D"}


@pytest.fixture(scope="module")
def ten_classes(tmp_path_factory):
    """Shards of forty random images of ten classes."""
    random = np.random.default_rng(0)

    def samples():
        for number in range(40):
            out = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(out, "PNG")
            yield out.getvalue(), "png", number % 10

    folder = tmp_path_factory.mktemp("ten") / "noise"
    write_shards(samples(), 40, folder, 20, TEN)
    return folder


@pytest.fixture(scope="module")
def five(ten_classes):
    """A config of the run to begin with."""
    side = PlayerConfig(lr=1e-2)
    return Config(
        data=DataConfig(path=str(ten_classes), resolution=32, num_classes=5, classes=FIVE),
        model=ModelConfig(channels=4, z_dim=8, shared_dim=4, discriminator_attention=(16,)),
        generator=side,
        discriminator=side,
        ema=EMAConfig(0.9, 0),
        collapse=CollapseConfig(every=2, images=4),
        checkpoint=CheckpointConfig(every=2),
        logs=LogsConfig(every=1, images=0),
        steps=3,
        d_steps=1,
        batch_size=4,
    )


@pytest.fixture(scope="module")
def sources(five, tmp_path_factory):
    """Runs to begin with, each trained once, by what is changed in their model."""
    done = {}

    def trained(**model):
        key = str(model)
        if key not in done:
            done[key] = tmp_path_factory.mktemp("source") / "run"
            config = replace(five, model=replace(five.model, **model))
            Trainer(config, done[key], World()).run()
        return done[key]

    return trained


def finetuning(five, source, classes=(), frozen=((), ()), **changes):
    """The config of a run on all ten classes, or others, that begins with `source`."""
    number = len(classes) or 10
    data = replace(five.data, classes=classes, num_classes=number)
    return replace(five, data=data, finetune=FinetuneConfig(str(source), *frozen), **changes)


ARCHITECTURES = {
    "biggan": {},
    "sngan": {"name": "sngan", "shared_dim": None},
    "biggan_deep": {"name": "biggan_deep"},
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request, sources, five, tmp_path_factory):
    """The checkpoint to begin with, and a run on ten classes before its first step."""
    model = ARCHITECTURES[request.param]
    source = sources(**model)
    config = replace(finetuning(five, source), model=replace(five.model, **model))
    return find(source), Trainer(config, tmp_path_factory.mktemp("pair"), World())


def test_all_is_taken_over_and_rows_by_name(pair):
    checkpoint, trainer = pair
    play = trainer.play
    networks = {"ema": play.ema.network, "generator": play.g.network}
    for group, network in (networks | {"discriminator": play.d.network}).items():
        theirs = plain(load_tensors(checkpoint, group))
        mine = plain(network.state_dict())
        assert mine.keys() == theirs.keys()
        tables = tables_of(network)
        assert tables
        for name, tensor in mine.items():
            if name not in tables:
                assert torch.equal(tensor, theirs[name]), (group, name)
        for table in tables:
            old, new = theirs[table], mine[table]
            assert (len(old), len(new)) == (5, 10)
            for number, letter in enumerate(TEN):
                fresh = torch.zeros_like(old[0]) if group == "discriminator" else old.mean(0)
                row = old[FIVE.index(letter)] if letter in FIVE else fresh
                assert torch.equal(new[number], row), (group, table, letter)
    one, other = (load_tensors(checkpoint, group) for group in ("ema", "generator"))
    assert any(not torch.equal(one[n], other[n]) for n in plain(one) if n in other), "they differ"


def test_sigma_is_the_largest_singular_value_before_the_first_step(pair):
    _, trainer = pair
    networks = {"G": trainer.play.g.network, "D": trainer.play.d.network}
    settled = {"average": trainer.play.ema.settled()}
    seen = 0
    for network in (networks | settled).values():
        state = network.state_dict()
        for layer, weight in named_weights(network).items():
            sigma = state.get(f"{layer}.parametrizations.weight.0.sigma")
            if sigma is not None:
                true = torch.linalg.matrix_norm(as_matrix(weight.detach()).double(), 2)
                assert float(sigma) == pytest.approx(float(true), rel=1e-5), layer
                seen += 1
    assert seen > 20


def images_and_classes():
    noise = torch.Generator().manual_seed(1)
    images = torch.rand(10, 3, 32, 32, generator=noise) * 2 - 1
    here = torch.tensor([TEN.index(letter) for letter in FIVE * 2])
    return images, here, torch.arange(5).repeat(2)


@torch.no_grad()
def test_d_says_of_known_classes_what_it_said(pair):
    checkpoint, trainer = pair
    images, here, there = images_and_classes()
    before = load_player(checkpoint, "discriminator")
    settle(before)
    wanted = before(images, there)
    torch.testing.assert_close(trainer.play.d.network(images, here), wanted, rtol=1e-4, atol=1e-5)
    without = trainer.play.d.network(images, torch.full_like(here, TEN.index("j")))
    assert (without - wanted).abs().max() > 1e-2, "classes count"
    linear = (before.linear(before.features(images))).squeeze(1)
    torch.testing.assert_close(without, linear, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_g_draws_of_known_classes_what_it_drew(pair):
    checkpoint, trainer = pair
    _, here, there = images_and_classes()
    before, _ = load_generator(checkpoint)
    z = torch.randn(10, before.z_dim, generator=torch.Generator().manual_seed(2))
    found = trainer.play.ema.generator()(z, here)
    torch.testing.assert_close(found, before(z, there), rtol=1e-4, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-2


@pytest.mark.parametrize("rows", [(), ("weight_norm",), ("gradient_normalization",)], ids=str)
@torch.no_grad()
def test_rows_of_d_that_no_norm_joins_begin_as_the_mean(sources, five, tmp_path, rows):
    lipschitz = LipschitzConfig(discriminator=rows)
    config = finetuning(five, sources(), lipschitz=lipschitz)
    network = Trainer(config, tmp_path, World()).play.d.network
    old = plain(load_tensors(find(sources()), "discriminator"))["embed.weight"]
    assert torch.equal(plain(network.state_dict())["embed.weight"][TEN.index("f")], old.mean(0))


def test_classes_of_which_none_is_known(sources, five, tmp_path):
    """All rows are alike, and none is a zero; what trains them makes them differ."""
    config = finetuning(five, sources(), classes=("f", "g"), collapse=CollapseConfig(1, images=4))
    trainer = Trainer(config, tmp_path / "run", World())
    tables = {
        "generator": plain(trainer.play.g.network.state_dict())["shared.weight"],
        "discriminator": plain(trainer.play.d.network.state_dict())["embed.weight"],
    }
    for group, table in tables.items():
        name = {"generator": "shared.weight", "discriminator": "embed.weight"}[group]
        mean = plain(load_tensors(find(sources()), group))[name].mean(0)
        assert torch.equal(table, torch.stack([mean, mean]))
    trainer.run()
    after = plain(load_tensors(find(tmp_path / "run"), "discriminator"))["embed.weight"]
    assert not torch.equal(after[0], after[1])
    assert not (tmp_path / "run" / "collapse.jsonl").exists(), "no alarm"


# ------------------------------------------------------------------------------------------ frozen

FROZEN = (("linear", "blocks.0.conv1", "blocks.1.norm1.gain"), ("blocks.0", "blocks.1", "embed"))


def is_frozen(name, side):
    layers = FROZEN[list(SIDES).index(side)]
    return any(f"{plain_name(name)}.".startswith(f"{layer}.") for layer in layers)


def beside(name):
    """Whether it is the u, v or sigma of a layer, or the name of its weight."""
    return name.partition(".parametrizations")[0]


HELD = {
    "spectral_norm": {"lipschitz": LipschitzConfig()},
    "iterated": {
        "lipschitz": LipschitzConfig(("power_iteration_norm",), ("conv_spectral_norm",)),
    },
    "clamped": {
        "lipschitz": LipschitzConfig(("spectral_norm", "sigma0_clamp"), ("sigma0_ratio_clamp",)),
        "sigma0": Sigma0Config(sigma_reg=0.5, ratio=1.01),
    },
    "clipped": {"lipschitz": LipschitzConfig((), ("weight_clipping",))},
    "regularized": {
        "regularizers": RegularizersConfig(
            *[{"orthogonal": 1.0, "sigma0": 1.0, "historical_averaging": 1.0}] * 2
        ),
        "penalties": {"r1": 1.0},
    },
    "in halves, recomputed": {
        "speed": replace(Config().speed, recompute=("generator", "discriminator")),
        "generator": PlayerConfig(lr=1e-2, microbatch=2),
        "discriminator": PlayerConfig(lr=1e-2, microbatch=2),
    },
}


def weights_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("held", HELD)
def test_what_is_frozen_stays_to_the_last_bit(sources, five, tmp_path, held):
    config = finetuning(five, sources(), frozen=FROZEN, **HELD[held])
    trainer = Trainer(config, tmp_path / "run", World())
    sides = {"generator": trainer.play.g, "discriminator": trainer.play.d}
    before = {side: weights_of(player.network) for side, player in sides.items()}
    trainer.run()
    for side, player in sides.items():
        named = dict(player.network.named_parameters())
        layers = {beside(n) for n in named if is_frozen(n, side) and "parametrizations" in n}
        for name, tensor in player.network.state_dict().items():
            same = torch.equal(tensor, before[side][name])
            if name in named:
                assert same == is_frozen(name, side), (side, name)
            elif "parametrizations" in name:
                assert same or beside(name) not in layers, f"{name} is that of a weight that stays"
        trained = {key.rpartition("/")[0] for key in player.state()}
        assert trained == {name for name in named if not is_frozen(name, side)}
        assert len(trained) < len(named)


def test_a_run_goes_on_bit_for_bit_without_the_run_it_began_with(
    sources, five, tmp_path, monkeypatch
):
    source = shutil.copytree(sources(), tmp_path / "source", symlinks=True)
    config = finetuning(five, "source", frozen=FROZEN, steps=6)
    monkeypatch.chdir(tmp_path)
    given = tmp_path / "given.yaml"
    given.write_text(yaml.safe_dump(to_dict(config)))

    def train(run, *options):
        arguments = ["--config", str(given), "--run_dir", str(tmp_path / run)]
        return main(["train", *arguments, *options])

    assert train("straight") == 0
    assert train("stopped", "--steps", "3") == 0
    shutil.rmtree(source)
    assert train("stopped") == 0, "with the same words, which name what is gone"
    for group in ("generator", "discriminator", "ema", "generator_optimizer", "spectra"):
        one, other = (load_tensors(find(tmp_path / run), group) for run in ("straight", "stopped"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), group
    assert load_state(find(tmp_path / "stopped"))["config"]["finetune"]["source"] == str(source)
    assert train("new") == 2


def test_a_run_that_has_begun_is_not_given_another_beginning(sources, five, tmp_path, capsys):
    Trainer(five, tmp_path / "run", World()).run()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(to_dict(five)))
    where = ["--run_dir", str(tmp_path / "run"), "--finetune.source", str(sources())]
    assert main(["train", *where]) == 2
    assert f"another config (finetune.source: -> {sources()})" in capsys.readouterr().err


def test_the_log_says_what_is_taken_and_what_is_new(sources, five, tmp_path):
    model = replace(five.model, discriminator_attention=(), generator_attention=(16,))
    config = replace(finetuning(five, sources()), model=model, ema=EMAConfig(0.9, 5), steps=1)
    Trainer(config, tmp_path / "run", World()).run()
    log = (tmp_path / "run" / "log.txt").read_text()
    for line in (
        f"begins with {find(sources())}",
        "of its weights are taken over: shared, linear, blocks.0, blocks.1, blocks.2, norm, conv",
        "G: new: attention.1",
        "D: 100% of its weights are taken over: blocks.0, blocks.1, blocks.2, blocks.3, linear, em",
        "classes: 5 known (a, b, c, d, e), 5 new (f, g, h, i, j)",
        "rows of new classes: the mean of all in G, 0 in D",
        "ema.start 5: until then the average is a copy of G",
    ):
        assert line in log
    assert "D: new" not in log


def test_the_images_of_a_virtual_batch_are_of_the_new_classes(sources, five, tmp_path):
    model = {"norm": "virtual_batch", "reference_images": 16}
    config = finetuning(five, sources(**model), classes=("a", "b"))
    config = replace(config, model=replace(five.model, **model))
    network = Trainer(config, tmp_path, World()).play.g.network
    assert set(network.reference_y.tolist()) == {0, 1}
    old = load_tensors(find(sources(**model)), "generator")
    assert torch.equal(network.reference_z, old["reference_z"])
    assert old["reference_y"].max() > 1


# ------------------------------------------------------------------------------- several processes


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    two = Crew(2, tmp_path_factory.mktemp("crew"))
    yield two
    two.close()


def finetune(rank, ranks, engine, config):
    """All tensors before the first step and after two of them, and the names of moments."""
    world = World(rank, ranks, engine=engine)
    index = open_dataset(config.data)
    play, _ = begin(config, world, 0, index.classes, goes_on=False)
    players = {"generator": play.g, "discriminator": play.d}

    def tensors():
        networks = {side: player.network for side, player in players.items()}
        named = {side: weights_of(n) for side, n in (networks | {"ema": play.ema.network}).items()}
        return {f"{side}/{name}": t for side, found in named.items() for name, t in found.items()}

    before = tensors()
    loader = Loader(index, config.data, config.seed, world.device)
    reals = loader.batches(0, config.batch_size, rank, ranks, play.d.microbatch)
    for number in range(2):
        play(number, reals)
    loader.close()
    moments = [f"{side}/{name}" for side, player in players.items() for name in player.state()]
    return {"before": before, "after": tensors(), "moments": sorted(moments)}


def assert_same(found, wanted, but="nothing"):
    assert found.keys() == wanted.keys()
    assert [n for n in found if not torch.equal(found[n], wanted[n]) and but not in n] == []


@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero2"])
def test_processes_begin_alike_and_what_is_frozen_stays(crew, sources, five, engine):
    config = finetuning(five, sources(), frozen=FROZEN)
    one, other = crew(finetune, engine, config)
    alone = finetune(0, 1, "ddp", config)
    assert_same(one["before"], other["before"])
    assert_same(one["after"], other["after"])
    # Who searches which layers is another, and what is found differs by rounding.
    assert_same(one["before"], alone["before"], but=".parametrizations.weight.0.")
    assert one["moments"] == alone["moments"]
    moved = {key.rpartition("/")[0] for key in one["moments"]}
    for name, tensor in one["after"].items():
        side, _, short = name.partition("/")
        if side in SIDES and plain_name(short) in plain({short: tensor}) and "num_" not in short:
            changed = not torch.equal(tensor, one["before"][name])
            assert changed == (name in moved or "running" in short), name
            assert name not in moved or not is_frozen(short, side)


# ---------------------------------------------------------------------------------------- refusals


def test_layers_that_are_not_there():
    network = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2) for _ in range(11)])})
    found = frozen_parameters(network, ("blocks.1",), "frozen")
    assert found == set(network["blocks"][1].parameters()), "and not those of blocks.10"
    with pytest.raises(ValueError, match=r"frozen: there is no layer 'blocks\.x'; .* blocks\.0, "):
        frozen_parameters(network, ("blocks.x",), "frozen")
    with pytest.raises(ValueError, match="frozen: nothing would be left to train"):
        frozen_parameters(network, ("blocks",), "frozen")


def test_a_source_that_is_read_is_not_written_to(sources, five, tmp_path):
    source = sources()
    files = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    Trainer(finetuning(five, source, steps=1), tmp_path / "run", World()).run()
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == files
    records = (tmp_path / "run" / "scalars.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in records] == [1]
