"""What can be done with an import, and what of a source may be missing."""

import shutil

import numpy as np
import pytest
import torch

from biggan_sn.checkpoint import find, load_state, load_tensors
from biggan_sn.cli import main
from biggan_sn.models.loading import load_generator
from biggan_sn.nn.names import plain
from tests.reference import peers
from tests.unit.interop.conftest import QUICK
from tests.unit.interop.leaving import biggan_pytorch

SMALL = "biggan_pytorch_32"  # with the 3 classes of the shards


def import_from(source, run, *options):
    arguments = ("--format", "biggan_pytorch", str(source), str(run))
    return main(["import", *arguments, *QUICK, *options])


@pytest.fixture
def run(imported, tmp_path):
    """A copy of an import."""
    return shutil.copytree(imported(SMALL)[1], tmp_path / "run", symlinks=True)


def train(run, shards, steps):
    options = ("--checkpoint.every", "1", "--logs.images", "0", "--collapse.every", "0")
    where = ("--run_dir", str(run), "--data.path", str(shards))
    return main(["train", *where, "--steps", str(steps), *options])


def test_training_goes_on_from_its_step(run, shards):
    before = load_tensors(find(run), "ema")
    assert train(run, shards, peers.STEPS + 2) == 0
    checkpoint = find(run)
    state = load_state(checkpoint)
    assert (state["step"], state["position"]) == (peers.STEPS + 2, 4 * (peers.STEPS + 2))
    assert state["data"], "from here on they are those of this run"
    moments = load_tensors(checkpoint, "generator_optimizer")
    assert {float(t) for name, t in moments.items() if name.endswith("/step")} == {
        peers.STEPS + 2.0
    }
    after = load_tensors(checkpoint, "ema")
    for name in ("linear.parametrizations.weight.original", "norm.weight"):
        assert 0 < (after[name] - before[name]).abs().max() < 1e-3, "the average goes on"
    top = torch.linalg.matrix_norm(after["linear.parametrizations.weight.original"], 2)
    torch.testing.assert_close(after["linear.parametrizations.weight.0.sigma"], top)


def test_other_data_than_before_are_refused_once_it_was_trained(run, shards, tmp_path, capsys):
    assert train(run, shards, peers.STEPS + 1) == 0
    other = shutil.copytree(shards, tmp_path / "other")
    index = next(other.glob("*.tar"))
    index.unlink()
    assert train(run, other, peers.STEPS + 2) == 2


def test_it_can_be_sampled_and_swept(run, tmp_path):
    out = tmp_path / "samples.npz"
    assert main(["sample", str(run), "--out", str(out), "--per_class", "2"]) == 0
    assert np.load(out)["images"].shape == (6, 32, 32, 3)
    arguments = ("--out", str(tmp_path / "sweep"), "--per_class", "1", "--truncations", "0.5")
    arguments += ("--scored", "false")
    assert main(["sweep", str(run), *arguments]) == 0


def test_a_prefix_of_all_names_says_nothing(imported, tmp_path):
    """As DataParallel puts it there."""
    recorded, _, checkpoint = imported(SMALL)
    run = tmp_path / "run"
    assert import_from(biggan_pytorch(recorded, tmp_path, prefix="module."), run) == 0
    for name in ("generator", "discriminator", "ema", "generator_optimizer"):
        mine, without = load_tensors(find(run), name), load_tensors(checkpoint, name)
        assert mine.keys() == without.keys()
        assert all(torch.equal(mine[key], without[key]) for key in mine)


def test_an_average_alone_is_enough(imported, tmp_path, capsys, shards):
    """D and both optimizers begin anew."""
    recorded, _, checkpoint = imported(SMALL)
    source = biggan_pytorch(recorded, tmp_path, but=("generator", "discriminator"))
    assert import_from(source, tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("goes on from its average", "fresh weights", "step 0"))
    mine, theirs = (load_tensors(c, "ema") for c in (find(tmp_path / "run"), checkpoint))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert train(tmp_path / "run", shards, 1) == 0


def test_without_an_average_it_is_a_copy(imported, tmp_path, capsys):
    recorded, *_ = imported(SMALL)
    source = biggan_pytorch(recorded, tmp_path, but=("ema",))
    (source / "D_optim.pth").unlink()
    assert import_from(source, tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "begins anew as a copy" in said
    assert "no optimizer of the discriminator" in said
    assert find(tmp_path / "run").name == f"step_{peers.STEPS:08d}"
    z, y, _ = recorded.inputs()
    images = peers.shown(load_generator(find(tmp_path / "run"))[0](z[:1], y[:1])).detach()
    torch.testing.assert_close(
        images, torch.from_numpy(recorded.outputs["generator"]), rtol=0, atol=1e-4
    )


def test_a_copy_by_its_suffix_and_options_of_training(imported, tmp_path):
    recorded, *_ = imported(SMALL)
    source = biggan_pytorch(recorded, tmp_path)
    for path in list(source.glob("*.pth")):
        path.rename(path.with_stem(f"{path.stem}_best0"))
    rates = ("--generator.lr", "0.01", "--penalties.r1", "2")
    assert import_from(source / "G_best0.pth", tmp_path / "run", *rates) == 0
    config = load_state(find(tmp_path / "run"))["config"]
    assert config["generator"]["lr"] == 0.01
    assert config["discriminator"]["lr"] == peers.RATES["lr"]
    assert config["penalties"] == {"r1": 2}
    assert config["ema"]["start"] == peers.STEPS


def test_blue_first(imported, tmp_path):
    recorded, *_ = imported(SMALL)
    assert import_from(biggan_pytorch(recorded, tmp_path), tmp_path / "run", "--bgr", "true") == 0
    z, y, _ = recorded.inputs()
    images = peers.shown(load_generator(find(tmp_path / "run"))[0](z, y)).detach()
    torch.testing.assert_close(
        images.flip(1), torch.from_numpy(recorded.outputs["ema"]), rtol=0, atol=1e-4
    )


def test_layers_that_stay_have_no_moments(imported, tmp_path, shards):
    recorded, *_ = imported(SMALL)
    frozen = ("--finetune.frozen_discriminator", "[blocks.0, embed]")
    run = tmp_path / "run"
    assert import_from(biggan_pytorch(recorded, tmp_path), run, *frozen) == 0
    before = load_tensors(find(run), "discriminator")
    assert train(run, shards, peers.STEPS + 1) == 0
    moved = {key.rpartition("/")[0] for key in load_tensors(find(run), "discriminator_optimizer")}
    for name, tensor in load_tensors(find(run), "discriminator").items():
        if name.endswith((".original", ".bias")):
            stays = name.startswith(("blocks.0.", "embed."))
            assert (name in moved, torch.equal(tensor, before[name])) == (not stays, stays), name


def test_another_run_begins_with_it(imported, tmp_path, shards):
    """It knows its classes by number alone, and there are as many."""
    _, source, checkpoint = imported(SMALL)
    assert main(["train", *fine_tuning(source, tmp_path / "run", shards)]) == 0
    begun = tmp_path / "run" / "checkpoints" / "step_00000000"
    for group in ("generator", "discriminator", "ema"):
        mine, theirs = (plain(load_tensors(path, group)) for path in (begun, checkpoint))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "classes: 3 known (cat, dog, owl), 0 new" in log


def fine_tuning(source, run, shards):
    """Options of a run of the same networks that begins with an import."""
    stored = source / "config.yaml"
    return (
        *("--config", str(stored), "--run_dir", str(run), "--data.path", str(shards)),
        *("--finetune.source", str(source), "--steps", "1", "--collapse.every", "0"),
        *("--logs.images", "0", "--checkpoint.every", "1"),
    )
