"""A look at both players: it changes nothing, and sees the same whoever looks, and when."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from torch import nn

from biggan_sn.collapse.signs import SIGNS, Look
from biggan_sn.config import CollapseConfig, LipschitzConfig
from biggan_sn.data.loader import Loader, open_dataset
from biggan_sn.nn.lipschitz import LIPSCHITZ
from biggan_sn.training.build import build
from biggan_sn.training.probe import Probe, conclude
from biggan_sn.training.world import World
from data_tools.make_shards import write_shards


def look(probe):
    """What a look says where there is one process."""
    said = conclude({name: value.item() for name, value in probe.look().items()})
    return {name: torch.tensor(value) for name, value in said.items()}


SEEN = {"d_on_train", "d_on_heldout", "d_on_fake", "diversity", "contrast"}


@pytest.fixture
def opened():
    """Probes of this test, closed after it."""
    made = []
    yield made
    for probe in made:
        probe.close()


@pytest.fixture
def probe_of(opened):
    def make(config, play, step=0):
        opened.append(Probe(config, play, World()))
        opened[-1].start(step)
        return opened[-1]

    return make


def reals_of(config, play):
    loader = Loader(open_dataset(config.data), config.data, config.seed, torch.device("cpu"))
    return loader, loader.batches(0, config.batch_size, 0, 1, play.d.microbatch)


def with_rows(config, *rows):
    """A run whose D has these rows, and G one that iterates when it is read in training."""
    return replace(config, lipschitz=LipschitzConfig(("torch_spectral_norm",), rows))


def looking_at(config, images):
    return replace(config, collapse=CollapseConfig(every=2, images=images))


def everything(play):
    """All that training goes on from."""
    parts = {"g": play.g.network, "d": play.d.network, "ema": play.ema.network}
    state = {f"{p}.{k}": v.clone() for p, n in parts.items() for k, v in n.state_dict().items()}
    for name, side in (("g", play.g), ("d", play.d)):
        state |= {f"{name} adam {k}": v.clone() for k, v in side.state().items()}
        state |= {
            f"{name} gradient {k}": p.grad.clone()
            for k, p in side.network.named_parameters()
            if p.grad is not None
        }
        modes = [module.training for module in side.network.modules()]
        wanted = [p.requires_grad for p in side.network.parameters()]
        state[f"{name} modes"] = torch.tensor(modes + wanted)
    state["random"] = torch.get_rng_state()
    return state


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("row", LIPSCHITZ)
def test_a_look_changes_nothing_and_nothing_that_comes_after(small_config, probe_of, row):
    config = with_rows(small_config, row)
    ends = []
    for looks in (0, 2):
        play = build(config, World())
        loader, reals = reals_of(config, play)
        probe = probe_of(config, play)
        for step in range(2):
            scalars = play(step, reals)
            before = everything(play)
            for _ in range(looks):
                found = look(probe)
                assert not any(value.requires_grad for value in found.values())
            assert_same(before, everything(play))
        loader.close()
        ends.append({**everything(play), **scalars})
    assert_same(*ends)


def test_started_at_any_step_it_looks_at_what_it_would_have_looked_at(small_config, probe_of):
    """`every` is 2: the looks are at steps 2, 4, 6 and so on."""
    play = build(small_config, World())
    probe = probe_of(small_config, play)
    all_along = [look(probe) for _ in range(8)]
    for step in range(12):
        carried_on = probe_of(small_config, play, step)
        for expected in all_along[step // 2 : step // 2 + 2]:
            assert_same(look(carried_on), expected)
    means = [look["d_on_fake"].item() for look in all_along]
    assert len(set(means)) == len(means), "other images every time"


def recorded(monkeypatch):
    """Batches that D judges, of each look by name: train, heldout, fake."""
    looks = []
    judge = Probe._logits

    def noting(self, batch):
        if not looks or len(looks[-1]) == 3:
            looks.append([])
        looks[-1].append(batch)
        return judge(self, batch)

    monkeypatch.setattr(Probe, "_logits", noting)
    return looks


@pytest.mark.parametrize(("images", "expected"), [(1, 2), (2, 2), (5, 6), (32, 32)])
def test_it_looks_at_pairs_of_one_class_and_as_many_images_as_asked_for(
    small_config, probe_of, monkeypatch, images, expected
):
    config = looking_at(small_config, images)
    play = build(config, World())
    batches = recorded(monkeypatch)
    probe = probe_of(config, play)
    for _ in range(3):
        probe.look()
    for train, heldout, fake in batches:
        assert [len(batch.images) for batch in (train, heldout, fake)] == [expected] * 3
        assert torch.equal(fake.labels[::2], fake.labels[1::2])
        assert (fake.images[::2] - fake.images[1::2]).abs().amax((1, 2, 3)).min() > 0
    if expected == 32:
        assert len(set(batches[0][2].labels.tolist())) == 3
    assert not torch.equal(batches[0][2].images, batches[1][2].images)


@pytest.mark.parametrize("row", ["", *LIPSCHITZ])
def test_what_it_finds_under_every_row_is_what_an_evaluation_would(
    small_config, probe_of, monkeypatch, row
):
    """Image by image, with plain loops."""
    config = with_rows(looking_at(small_config, 6), *[row] if row else [])
    play = build(config, World())
    batches = recorded(monkeypatch)
    found = look(probe_of(config, play))
    assert found.keys() == SEEN
    groups = dict(zip(("train", "heldout", "fake"), batches[0], strict=True))
    network = play.d.network.eval()
    logits, features = {}, {}
    for name, batch in groups.items():
        ones = [batch.images[i : i + 1].detach() for i in range(6)]
        logits[name] = [network(ones[i], batch.labels[i : i + 1]).item() for i in range(6)]
        features[name] = [network.features(one)[0].detach() for one in ones]
        mean = sum(logits[name]) / 6
        assert found[f"d_on_{name}"].item() == pytest.approx(mean, rel=1e-4, abs=1e-6)
        if row == "gradient_normalization":
            assert abs(mean) <= 1
    apart = {
        name: sum(math.dist(all_of[i], all_of[i + 1]) for i in (0, 2, 4)) / 3
        for name, all_of in features.items()
    }
    length = sum(one.norm().item() for one in features["train"]) / 6
    assert found["diversity"].item() == pytest.approx(apart["fake"] / apart["train"], rel=1e-4)
    assert found["contrast"].item() == pytest.approx(apart["train"] / length, rel=1e-4)


def test_train_and_heldout_are_each_of_their_own_folder(small_config, probe_of, tmp_path):
    def samples():
        for number in range(12):
            out = io.BytesIO()
            grey = np.full((32, 32, 3), 20 * number, np.uint8)
            Image.fromarray(grey).save(out, "PNG")
            yield out.getvalue(), "png", number % 3

    write_shards(samples(), 12, tmp_path / "grey", 12, ("cat", "dog", "owl"))
    noise, grey = small_config.data.path, str(tmp_path / "grey")
    play = build(small_config, World())
    found = {}
    for train, heldout in ((noise, grey), (grey, noise), (grey, grey)):
        data = replace(small_config.data, path=train, heldout=heldout)
        found[train, heldout] = look(probe_of(replace(small_config, data=data), play))
    one, other, same = found.values()
    assert one["d_on_train"].item() == pytest.approx(other["d_on_heldout"].item(), abs=1e-5)
    assert one["d_on_heldout"].item() == pytest.approx(other["d_on_train"].item(), abs=1e-5)
    assert one["d_on_train"].item() != pytest.approx(one["d_on_heldout"].item(), abs=1e-3)
    assert torch.equal(other["diversity"], same["diversity"]), "beside training images"
    assert torch.equal(other["contrast"], same["contrast"])


def test_without_heldout_images_nobody_asks_what_d_thinks_of_them(small_config, probe_of):
    config = replace(small_config, data=replace(small_config.data, heldout=""))
    assert look(probe_of(config, build(config, World()))).keys() == SEEN - {"d_on_heldout"}


def test_bf16_is_looked_at_in_fp32(small_config, probe_of):
    config = replace(small_config, precision="bf16")
    found = look(probe_of(config, build(config, World())))
    assert all(value.dtype == torch.float32 and value.isfinite() for value in found.values())


class Drawing(nn.Module):
    """Stands for a generator; `draw(z, y)` are its images."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, z, y):
        return self.draw(z, y)


def of_class_alone(z, y):
    grid = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    return grid * (1 + y[:, None, None, None])


def noise_of_eight_bits(z, y):
    """Like the images of the shards; from z, so that each is the same whenever it is drawn."""
    random = torch.Generator().manual_seed(int(1e6 * z[0, 0].abs()))
    return torch.randint(0, 256, (len(z), 3, 32, 32), generator=random) / 127.5 - 1


@pytest.mark.parametrize(
    ("draw", "least", "most"), [(of_class_alone, 0.0, 0.0), (noise_of_eight_bits, 0.8, 1.25)]
)
def test_diversity_is_none_without_z_and_one_if_images_are_like_real_ones(
    small_config, probe_of, draw, least, most
):
    config = looking_at(small_config, 64)
    config = replace(config, data=replace(config.data, flip=False, shift=0))
    play = build(config, World())
    play.g.network = Drawing(draw)
    diversity = look(probe_of(config, play))["diversity"].item()
    assert least <= diversity <= most


def test_contrast_is_none_for_a_d_that_cannot_see(small_config, probe_of):
    config = with_rows(small_config)
    blind = []
    for part in ("sees no image", "is dead"):
        play = build(config, World())
        with torch.no_grad():
            if part == "is dead":
                play.d.network.blocks[-1].conv2.bias.fill_(-1e6)
            else:
                first = play.d.network.blocks[0]
                first.conv1.weight.zero_()
                first.shortcut.weight.zero_()
                first.shortcut.bias.fill_(1.0)
        blind.append({k: v.item() for k, v in look(probe_of(config, play)).items()})
    assert blind[0]["contrast"] == pytest.approx(0, abs=1e-6)
    assert blind[1]["contrast"] == 0
    limits = CollapseConfig()
    for found in blind:
        memory = {}
        levels = [SIGNS["blindness"].read(Look(i, found), memory, limits) for i in range(5)]
        assert levels[-1] == 1
    assert math.isnan(blind[1]["diversity"])


def test_a_seeing_d_has_contrast(small_config, probe_of):
    assert look(probe_of(small_config, build(small_config, World())))["contrast"] > 0.05


# ------------------------------------------------------------------------------------ two processes


def looks(config, world):
    """Three looks in float64, the last two after a new start."""
    torch.set_default_dtype(torch.float64)
    play = build(config, world)
    probe = Probe(config, play, world)
    probe.start(0)
    found = [look(probe)]
    probe.start(config.collapse.every)
    found += [look(probe), look(probe)]
    probe.close()
    torch.set_default_dtype(torch.float32)
    return found


def _rank(rank, config, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(looks(config, World(rank, 2)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_together_see_what_one_process_sees(small_config, tmp_path):
    side = replace(small_config.generator, microbatch=0)
    config = replace(looking_at(small_config, 8), generator=side, discriminator=side)
    mp.spawn(_rank, (config, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    one = looks(config, World())
    for here, there, both in zip(*ranks, one, strict=True):
        assert here.keys() == there.keys() == both.keys() == SEEN
        for name in SEEN:
            mean = (here[name] + there[name]) / 2
            if name.startswith("d_on_"):
                torch.testing.assert_close(mean, both[name], rtol=0, atol=1e-9)
                assert not torch.equal(here[name], there[name]), "each has its own images"
            else:  # of two ratios
                assert 0.5 < mean / both[name] < 2


def test_it_takes_no_more_images_at_once_than_training_and_finds_the_same(
    small_config, probe_of, monkeypatch
):
    config = with_rows(looking_at(small_config, 16), "gradient_normalization")
    play = build(config, World())
    sizes = {"g": [], "d": []}
    for side, most in (("g", play.g), ("d", play.d)):
        forward = most.network.forward

        def noting(x, y, *sizes_of_kinds, side=side, forward=forward):
            sizes[side].append(len(x))
            return forward(x, y, *sizes_of_kinds)

        monkeypatch.setattr(most.network, "forward", noting)
    in_parts = look(probe_of(config, play))
    assert (max(sizes["g"]), max(sizes["d"])) == (4, 2)
    assert (sum(sizes["g"]), sum(sizes["d"])) == (16, 48)
    play.g.microbatch = play.d.microbatch = 100
    for name, value in look(probe_of(config, play)).items():
        torch.testing.assert_close(value, in_parts[name], rtol=1e-4, atol=1e-6)
