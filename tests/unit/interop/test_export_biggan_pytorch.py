"""Files for BigGAN-PyTorch: as they came, or such that it makes the images and logits of a run."""

from dataclasses import replace

import pytest
import torch

import biggan_sn
from biggan_sn.checkpoint import find, load_tensors
from biggan_sn.cli import main
from biggan_sn.config import LipschitzConfig
from biggan_sn.evaluation.spectra import load_player
from biggan_sn.interop.giving_back import check_known
from tests.reference import peers
from tests.unit.interop.conftest import QUICK
from tests.unit.interop.runs import STEP, config_for, make_run

RECORDED = sorted(path.stem for path in peers.FOLDER.glob("biggan_pytorch*.json"))
NETWORKS = {"generator": "G", "ema": "G_ema", "discriminator": "D"}


def leave(run, out):
    assert main(["export", str(run), str(out), "--format", "biggan_pytorch"]) == 0
    return {path.stem: torch.load(path, weights_only=True) for path in out.glob("*.pth")}


def same(mine, theirs):
    kinds = ((t.dtype, t.shape) for t in (mine, theirs))
    return next(kinds) == next(kinds) and torch.equal(mine, theirs)


@pytest.mark.parametrize("name", RECORDED)
def test_what_came_goes_out_again(name, imported, tmp_path):
    """Key for key and bit for bit: weights, u, sv, statistics, counters, moments, rates."""
    recorded, run, _ = imported(name)
    files = leave(run, tmp_path / "out")
    for part, file in NETWORKS.items():
        theirs = recorded.tensors(part)
        assert files[file].keys() == theirs.keys()
        assert all(same(files[file][key], theirs[key]) for key in theirs)
        trained = [[n for n in names if n.rpartition(".")[2] not in peers.BUFFERS]
                   for names in (files[file], theirs)]  # fmt: skip
        assert trained[0] == trained[1], "the order that optimizers go by"
    for part in ("generator", "discriminator"):
        mine, theirs = files[f"{NETWORKS[part]}_optim"], recorded.optimizer(part)
        assert mine["param_groups"] == theirs["param_groups"]
        assert mine["state"].keys() == theirs["state"].keys()
        for number, entry in theirs["state"].items():
            assert mine["state"][number]["step"] == entry["step"]
            assert all(same(mine["state"][number][slot], entry[slot]) for slot in peers.FACTOR)
    assert files["state_dict"]["itr"] == peers.STEPS


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("sngan", {}),
        ("sagan", {}),
        ("biggan_deep", {}),
        ("biggan", {"rows": ()}),
        ("biggan", {"resolution": 64, "z_dim": 10, "channels": 4,
                    "discriminator_channels": 8, "discriminator_attention": (16,)}),
    ],
)  # fmt: skip
def test_of_a_trained_run_it_makes_the_same(kind, model, tmp_path):
    """It has one more power iteration before it divides; the import computes as it does."""
    config = config_for(kind, **model)
    checkpoint = make_run(tmp_path / "run", config)
    files = leave(checkpoint, tmp_path / "out")
    assert ("linear.u0" in files["G"]) == bool(config.lipschitz.generator)
    again = tmp_path / "again"
    arguments = ("--format", "biggan_pytorch", str(tmp_path / "out"), str(again))
    assert main(["import", *arguments, *QUICK]) == 0
    z, y = torch.randn(5, config.model.z_dim), torch.tensor([0, 1, 2, 1, 0])
    images = biggan_sn.load_generator(checkpoint)(z, y)
    close = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(biggan_sn.load_generator(again)(z, y), images, **close)
    for side in ("generator", "discriminator"):
        inputs = (z, y) if side == "generator" else (images, y)
        outputs = [load_player(c, side)(*inputs) for c in (find(again), checkpoint)]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
        moments = [load_tensors(c, f"{side}_optimizer") for c in (find(again), checkpoint)]
        assert moments[0].keys() == moments[1].keys()
        assert all(torch.equal(moments[0][key], moments[1][key]) for key in moments[0])
        raw = [load_tensors(c, side) for c in (find(again), checkpoint)]
        name = next(key for key in raw[1] if key.startswith("blocks.1.conv1.") and key.endswith(
            ("weight", "original")))  # fmt: skip
        assert torch.equal(raw[0][name], raw[1][name])
    assert files["state_dict"]["itr"] == STEP


def test_before_the_first_step_adam_knows_nothing(tmp_path):
    checkpoint = make_run(tmp_path / "run", config_for("sngan"), moments=False)
    optimizer = leave(checkpoint, tmp_path / "out")["G_optim"]
    assert optimizer["state"] == {}
    assert optimizer["param_groups"][0]["lr"] == 5e-5


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"norm": "virtual_batch"}, "model.norm virtual_batch"),
        ({"minibatch_layer": "stddev"}, "model.minibatch_layer stddev"),
        ({"generator_widths": (4, 4, 4, 8)}, r"model.generator_widths \(4, 4, 4, 8\)"),
        ({"discriminator_attention": (16,)}, "model.discriminator_attention at 16 pixels"),
        ({"resolution": 512}, "its discriminators end at 256 pixels, not 512"),
        ({"resolution": 64, "discriminator_attention": (4,)}, "at 4 pixels"),
        ({"rows": ("weight_norm",)}, "lipschitz.generator has weight_norm"),
        ({"rows": ("conv_spectral_norm",)}, "lipschitz.generator has conv_spectral_norm"),
    ],
)
def test_networks_that_it_has_not(model, says):
    with pytest.raises(ValueError, match=says):
        check_known(config_for("biggan", **model))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ((), "lipschitz.discriminator has nothing"),
        (("spectral_norm", "gradient_normalization"), "spectral_norm, gradient_normalization"),
    ],
)
def test_discriminators_that_it_has_not(rows, says):
    config = config_for("biggan")
    with pytest.raises(ValueError, match=says):
        check_known(replace(config, lipschitz=LipschitzConfig(discriminator=rows)))


def test_what_only_changes_training_is_no_matter():
    rows = ("spectral_norm", "sigma0_clamp")
    check_known(config_for("biggan", rows=rows, resolution=256, z_dim=14))


def test_a_refusal_leaves_nothing(tmp_path, capsys):
    checkpoint = make_run(tmp_path / "run", config_for("sngan", rows=("weight_norm",)))
    before = sorted(tmp_path.rglob("*"))
    arguments = ("--format", "biggan_pytorch")
    assert main(["export", str(checkpoint), str(tmp_path / "out"), *arguments]) == 2
    assert "no networks like these" in capsys.readouterr().err
    more = (*arguments, "--truncations", "0.5")
    assert main(["export", str(checkpoint), str(tmp_path / "out"), *more]) == 2
    assert "holds the statistics of 0 at most" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
