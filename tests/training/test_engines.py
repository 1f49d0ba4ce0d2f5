"""Engines of several processes: each trains the run that the others train, and keeps it alike.

Trainings of GANs are chaotic: what differs by rounding today differs by a different ReLU tomorrow.
So the runs here are few steps of a kind that lets rounding be rounding (singular values apart,
no hinge, an optimizer that does not divide by small gradients), and weights are compared with how
far they moved.
"""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from biggan_sn.checkpoint import Checkpoints, load_tensors
from biggan_sn.config import (
    CheckpointConfig,
    LipschitzConfig,
    LrDecayConfig,
    PlayerConfig,
    Sigma0Config,
)
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.evaluation.sampling import Sampling, draw_classes, renew_statistics
from biggan_sn.training.build import build
from biggan_sn.training.player import Player
from biggan_sn.training.trainer import Trainer
from biggan_sn.training.world import World
from tests.training.crew import Crew

ENGINES = ("ddp", "zero1", "zero2")
ZERO = ENGINES[1:]
STEPS = 6
CALM = 2.0**8  # a loss scale under which nothing here overflows
WILD = 2.0**120  # one under which everything does

# How far apart weights, means of gradients and losses may be: in their movement, length and change.
# Measured in fp32: 3e-6, 2e-5 and 2e-5; where a ReLU fell to the other side 1e-3, 1e-2 and 6e-3
# (the penalty on D's gradient, which jumps there; everything else 3e-4).
# In bf16 2e-2, 9e-2 and 4e-2, against fp32 as well; in fp16 1e-2, 5e-2 and 2e-2.
FP32 = {"weights": 1e-2, "gradients": 1e-1, "losses": 2e-2}
BF16 = {"weights": 1e-1, "gradients": 5e-1, "losses": 2e-1}
FP16 = {"weights": 1e-1, "gradients": 5e-1, "losses": 2e-1}


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    two = Crew(2, tmp_path_factory.mktemp("crew"))
    yield two
    two.close()


@pytest.fixture(scope="module")
def results():
    """What plays came to, each played once."""
    return {}


@pytest.fixture
def config(small_config):
    """Everything on, in two microbatches on each of two processes, and a clamp that bites."""
    side = PlayerConfig(lr=1e-3, eps=1e-2, microbatch=4)
    return replace(
        small_config,
        model=replace(small_config.model, initialization="xavier"),
        lipschitz=LipschitzConfig(*ROWS["SN"]),
        sigma0=Sigma0Config(sigma_reg=1.3),
        objective="nonsaturating",
        generator=side,
        discriminator=side,
        lr_decay=LrDecayConfig(start=1, end=STEPS + 2),
        batch_size=16,
        d_steps=1,
    )


@pytest.fixture
def played(crew, results, config):
    """What a play came to on each process, by its engine and what is changed in the config."""

    def look_up(engine, job=None, **changes):
        key = f"{engine} {job} {changes}"
        if key not in results:
            results[key] = crew(job or play, engine, replace(config, **changes))
        return results[key]

    return look_up


# Constraints of G and D: from the spectrum, around D, and by iterations that keep weights at hand.
ROWS = {
    "SN": (("spectral_norm", "sigma0_clamp"), ("spectral_norm",)),
    "GN": (("spectral_norm", "sigma0_clamp"), ("spectral_norm", "gradient_normalization")),
    "iterated": (("power_iteration_norm", "sigma0_clamp"), ("conv_spectral_norm",)),
}


def tensors(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def without_scale(named):
    return {name: value for name, value in named.items() if "_scale" not in name}


def players(step):
    return {"g": step.g, "d": step.d}


def play(rank, ranks, engine, config, before=None, meddle=None):
    """A few steps. Returns all there is to know of them, with clones of all tensors."""
    world = World(rank, ranks, engine=engine)
    step = build(config, world)
    loader = Loader(open_dataset(config.data), config.data, config.seed, world.device)
    reals = loader.batches(0, config.batch_size, rank, ranks, step.d.microbatch)
    start = {name: tensors(player.network) for name, player in players(step).items()}
    bites = watch_clamp(step.g_constraint.spectrum)
    if meddle:
        meddle(step)
    curve = []
    for number in range(STEPS):
        if before:
            before(number, step, world)
        curve.append({name: float(x) for name, x in step(number, reals).items()})
    loader.close()
    networks = {"g": step.g.network, "d": step.d.network, "ema": step.ema.network}
    moments = {name: player.state() for name, player in players(step).items()}
    return {
        "curve": curve,
        "start": start | {"ema": start["g"]},
        "end": {name: tensors(network) for name, network in networks.items()},
        "parameters": {
            name: [n for n, _ in net.named_parameters()] for name, net in networks.items()
        },
        "moments": {name: {k: v.clone() for k, v in x.items()} for name, x in moments.items()},
        "bites": bites,
    }


def watch_clamp(spectrum):
    """The list that gets, at each clamp, how much it takes off every sigma_0."""
    bites, clamp = [], spectrum.clamp

    def watched(limits, only_first):
        bites.append((spectrum.triplets.sigmas[:, 0] - limits).clamp_min(0))
        clamp(limits, only_first)

    spectrum.clamp = watched
    return bites


def length(tensors_):
    return torch.stack([tensor.double().norm() for tensor in tensors_]).norm()


def distance(found, wanted, side):
    """How far apart two plays end, over how far one moved."""
    names = found["parameters"][side]
    one, other, start = found["end"][side], wanted["end"][side], wanted["start"][side]
    apart = length([one[name] - other[name] for name in names])
    return float(apart / length([other[name] - start[name] for name in names]))


def moments_apart(found, wanted, side):
    """How far apart the means of the gradients are, over their length."""
    one, other = found["moments"][side], wanted["moments"][side]
    assert one.keys() == other.keys()
    names = [name for name in one if name.endswith("/exp_avg")]
    assert all(one[n] == other[n] for n in one if n.endswith("/step"))
    return float(length([one[n] - other[n] for n in names]) / length([other[n] for n in names]))


def curves_apart(found, wanted):
    """How far apart the curves are, over how much they change; the worst of all."""
    one, other = (
        torch.tensor([list(step.values()) for step in x["curve"]], dtype=torch.float64)
        for x in (found, wanted)
    )
    assert found["curve"][0].keys() == wanted["curve"][0].keys()
    change = (other - other.mean(0)).norm(dim=0)
    still = change == 0
    assert torch.equal(one[:, still], other[:, still])
    return float(((one - other).norm(dim=0) / change)[~still].max())


def assert_same_play(found, wanted, weights, gradients, losses):
    """Closer than three tolerances say."""
    for side in ("g", "d", "ema"):
        assert distance(found, wanted, side) < weights, side
    for side in ("g", "d"):
        assert moments_apart(found, wanted, side) < gradients, side
    assert curves_apart(found, wanted) < losses


def assert_same_bits(found, wanted):
    for side in found["end"]:
        for name, tensor in found["end"][side].items():
            assert torch.equal(tensor, wanted["end"][side][name]), (side, name)


@pytest.mark.parametrize("engine", ZERO)
@pytest.mark.parametrize("rows", ROWS)
def test_zero_trains_what_ddp_trains(played, engine, rows):
    changes = {} if rows == "SN" else {"lipschitz": LipschitzConfig(*ROWS[rows])}
    found, wanted = (played(e, **changes)[0] for e in (engine, "ddp"))
    assert_same_play(found, wanted, **FP32)


@pytest.mark.parametrize("engine", ZERO)
def test_zero_trains_what_ddp_trains_in_bf16(played, engine):
    found, wanted = (played(e, precision="bf16")[0] for e in (engine, "ddp"))
    assert_same_play(found, wanted, **BF16)


def test_bf16_is_what_it_says(played):
    """Close to fp32, and not the same."""
    found, wanted = played("ddp", precision="bf16")[0], played("ddp")[0]
    assert_same_play(found, wanted, **BF16)
    assert curves_apart(found, wanted) > 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_the_clamp_bites_at_every_step_and_holds(config, played, engine):
    """So that an engine that steps from weights of its own would show."""
    mine = played(engine)[0]
    first, *others = mine["bites"]
    assert (first > 0.1).sum() > 10
    assert all(bite.max() > 1e-4 for bite in others)
    sigmas = [x for name, x in mine["end"]["g"].items() if name.endswith(".sigma")]
    assert max(sigmas) < config.sigma0.sigma_reg + 1e-5


@pytest.mark.parametrize("norm_batch", [0, 4], ids=["", "groups"])
@pytest.mark.parametrize("engine", ENGINES)
def test_all_processes_hold_the_same_bits(config, played, engine, norm_batch):
    """Weights, u, v, sigma, statistics and the average; `groups` has a batch norm per process."""
    changes = {"model": replace(config.model, norm_batch=norm_batch)} if norm_batch else {}
    one, other = played(engine, **changes)
    assert_same_bits(one, other)
    assert any(name.endswith("running_var") for name in one["end"]["ema"])
    assert any(name.endswith(".u") for name in one["end"]["d"])


def test_groups_of_a_batch_norm_are_not_all_of_a_pass(config, played):
    groups = played("ddp", model=replace(config.model, norm_batch=4))
    assert distance(groups[0], played("ddp")[0], "g") > 1e-2


def draw_alone(number, step, world):
    """Samples on the leading process, as the average has its statistics and with standing ones."""
    if number in (2, 4) and world.leads:
        for passes in (0, 2):
            sampling = Sampling(standing_statistics=passes)
            generator = step.ema.generator()
            renew_statistics(generator, sampling)
            images, _ = draw_classes(generator, range(3), 2, sampling)
            assert len(images) == 6


def play_and_draw(rank, ranks, engine, config):
    return play(rank, ranks, engine, config, before=draw_alone)


@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_samples_drawn_on_one_process_change_nothing(played, engine):
    for found, wanted in zip(played(engine, play_and_draw), played(engine), strict=True):
        assert_same_bits(found, wanted)
        assert found["curve"] == wanted["curve"]


class Overflows:
    """Makes gradients overflow, and watches what the optimizers make of it.

    Args:
        sides: whose gradients overflow at a step.
    """

    def __init__(self, sides):
        self.sides = sides
        self.seen = []

    def meddle(self, step):
        for name, player in players(step).items():
            player.scale.value = CALM
            player.engine.step = self._watched(name, player, player.engine.step)

    def before(self, number, step, world):
        for name, player in players(step).items():
            player.scale.value = WILD if name in self.sides.get(number, ()) else CALM

    def _watched(self, name, player, take_step):
        def watched(scale):
            before = self._state(player)
            taken = take_step(scale)
            after = self._state(player)
            same = before.keys() == after.keys() and all(
                torch.equal(before[key], after[key]) for key in before
            )
            self.seen.append((name, scale, taken, same))
            return taken

        return watched

    @staticmethod
    def _state(player):
        moments = without_scale(player.state())
        return {k: v.clone() for k, v in (tensors(player.network) | moments).items()}


OVERFLOWS = {2: "d", 3: "g"}


def play_and_overflow(rank, ranks, engine, config):
    overflows, scales = Overflows(OVERFLOWS), []

    def before(number, step, world):
        scales.append([player.scale.value for player in players(step).values()])
        overflows.before(number, step, world)

    found = play(rank, ranks, engine, config, before, overflows.meddle)
    return found | {"seen": overflows.seen, "scales": scales}


def play_without(rank, ranks, engine, config):
    """The run of fp32 that leaves out the same optimizer steps by being told to."""
    number, take = [-1], {}

    def before(step_number, step, world):
        number[0] = step_number

    def meddle(step):
        for name, player in players(step).items():
            take[name] = player.engine.step
            player.engine.step = lambda scale, name=name: (
                name not in OVERFLOWS.get(number[0], "") and take[name](scale)
            )

    return play(rank, ranks, engine, config, before, meddle)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_that_overflows_is_left_out_and_the_run_goes_on(played, engine):
    found = played(engine, play_and_overflow, precision="fp16")
    sides = [(number, name) for number in range(STEPS) for name in "dg"]
    for mine in found:
        assert [name for name, *_ in mine["seen"]] == [name for _, name in sides]
        for (number, name), (_, scale, taken, same) in zip(sides, mine["seen"], strict=True):
            wild = name in OVERFLOWS.get(number, "")
            assert (scale, taken, same) == (WILD if wild else CALM, not wild, wild)
        scales = [[CALM, CALM] for _ in range(STEPS)]  # of G and D
        scales[3], scales[4] = [CALM, WILD / 2], [WILD / 2, CALM]
        assert mine["scales"] == scales
    assert_same_bits(*found)
    wanted = played("ddp", play_without)[0]
    found[0]["moments"] = {side: without_scale(x) for side, x in found[0]["moments"].items()}
    found[0]["curve"] = [without_scale(losses) for losses in found[0]["curve"]]
    assert_same_play(found[0], wanted, **FP16)


def tiny_player(world, microbatch, scaled=False):
    """One with a network of few layers, and a batch of eight images for each process."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 1))
    config = PlayerConfig(lr=1e-2, eps=1e-2)
    return Player(network, config, 8 * world.ranks, microbatch, world, scaled)


def tiny_turn(player, factor=1.0):
    images = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with player.turn():
        for share in player.microbatches():
            out = player.model(images[share.start : share.stop])
            player.descend(factor * out.square().mean())


def overflow_on_one(rank, ranks, engine):
    """The scale after each of three turns, and the weights at the end, where one process alone
    overflows."""
    player, found = tiny_player(World(rank, ranks, engine=engine), 4, scaled=True), []
    for sick in (None, 0, 1):
        tiny_turn(player, 1e37 if rank == sick else 1.0)
        found.append(player.scale.value)
    return found, tensors(player.network)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_overflows_on_one_process_counts_on_all(crew, engine):
    for scales, after in crew(overflow_on_one, engine):
        assert scales == [2.0**16, 2.0**15, 2.0**14]
        assert all(tensor.isfinite().all() for tensor in after.values())


def not_a_number(rank, ranks, engine):
    """The weights after a turn without a loss scale whose gradients are no numbers."""
    player = tiny_player(World(rank, ranks, engine=engine), 4)
    tiny_turn(player, torch.nan)
    return tensors(player.network)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_scale_no_step_is_left_out(crew, engine):
    """Else a run that is lost would seem to train for ever."""
    for after in crew(not_a_number, engine):
        assert all(tensor.isnan().all() for tensor in after.values())


def break_off(player):
    with player.turn():
        next(player.microbatches())
        player.descend(player.model(torch.ones(2, 3, 4, 4)).square().mean())
        raise KeyboardInterrupt


def interrupted(rank, ranks, engine, microbatch, times):
    """The weights after two turns, with so many between them that break off after one pass."""
    player = tiny_player(World(rank, ranks, engine=engine), microbatch)
    tiny_turn(player)
    for _ in range(times):
        with pytest.raises(KeyboardInterrupt):
            break_off(player)
    tiny_turn(player)
    return tensors(player.network)


@pytest.mark.parametrize("microbatch", [8, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_broken_turn_gathered_is_forgotten(crew, engine, microbatch):
    found, wanted = (crew(interrupted, engine, microbatch, times)[0] for times in (2, 0))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def reductions(rank, ranks, engine):
    """How many messages a turn takes, by its number of microbatches, and what it makes."""
    found = {}
    for microbatch in (8, 2):
        player = tiny_player(World(rank, ranks, engine=engine), microbatch)
        for _ in range(3):  # the first turns have more to say
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                tiny_turn(player)
        names = [event.name for event in seen.events() if event.name.startswith("gloo:")]
        found[microbatch] = (sorted(names), tensors(player.network))
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_meet_once_per_turn(crew, engine):
    for found in crew(reductions, engine):
        (one, after_one), (four, after_four) = found[8], found[2]
        assert one
        assert four == one
        for name in after_one:
            torch.testing.assert_close(after_four[name], after_one[name], rtol=0, atol=1e-6)


def train(rank, ranks, engine, config, folder):
    Trainer(config, folder, World(rank, ranks, engine=engine)).run()


GROUPS = ("generator", "discriminator", "ema", "generator_optimizer", "discriminator_optimizer",
          "spectra", "collapse")  # fmt: skip


@pytest.fixture
def straight(crew, results, config, tmp_path_factory):
    """The folder of a run of eight steps that nothing disturbed, by engine."""

    def look_up(engine):
        key = f"straight {engine}"
        if key not in results:
            results[key] = tmp_path_factory.mktemp("straight") / engine
            crew(train, engine, long(config), results[key])
        return results[key]

    return look_up


def long(config):
    return replace(config, steps=8, checkpoint=CheckpointConfig(every=4))


def newest(folder):
    return Checkpoints(folder / "checkpoints").newest()


def contents(folder):
    """All tensors of the newest checkpoint, by group."""
    return {group: load_tensors(newest(folder), group) for group in GROUPS}


def as_play(folder, start):
    """A run as `play` returns it."""
    found = contents(folder)
    names = {"g": "generator", "d": "discriminator"}
    moments = {side: found[f"{name}_optimizer"] for side, name in names.items()}
    end = {side: found[name] for side, name in {**names, "ema": "ema"}.items()}
    return start | {"end": end, "moments": moments, "curve": losses(folder)}


def losses(folder):
    lines = [json.loads(line) for line in (folder / "scalars.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == list(range(1, len(steps) + 1))
    return [{k: v for k, v in line.items() if k.endswith("_loss")} for line in lines]


@pytest.mark.parametrize(
    ("first", "second"),
    [("ddp", "zero1"), ("zero1", "ddp"), ("zero2", "ddp"), *((e, e) for e in ENGINES)],
)
def test_a_run_goes_on_under_any_engine(crew, config, played, straight, tmp_path, first, second):
    """Eight steps, the process dies after the checkpoint at four, and others go on."""
    folder = tmp_path / "run"
    shutil.copytree(straight(first), folder, symlinks=True)
    shutil.rmtree(newest(folder))
    assert newest(folder).name == "step_00000004"
    crew(train, second, long(config), folder)
    assert newest(folder).name == "step_00000008"
    if first == second:
        found, wanted = contents(folder), contents(straight(first))
        for group in GROUPS:
            assert found[group].keys() == wanted[group].keys()
            for name in found[group]:
                same = torch.allclose(
                    found[group][name], wanted[group][name], rtol=0, atol=0, equal_nan=True
                )
                assert same, (group, name)
        assert losses(folder) == losses(straight(first))
    else:
        start = played("ddp")[0]
        wanted = as_play(straight("ddp"), start)
        assert_same_play(as_play(folder, start), wanted, **FP32)


@pytest.mark.parametrize("engine", ZERO)
def test_checkpoints_do_not_tell_what_engine_made_them(straight, engine):
    def form(folder):
        files = sorted(path.name for path in newest(folder).iterdir())
        found = contents(folder)
        return files, {
            group: {name: (tensor.shape, tensor.dtype) for name, tensor in tensors_.items()}
            for group, tensors_ in found.items()
        }

    assert form(straight(engine)) == form(straight("ddp"))
