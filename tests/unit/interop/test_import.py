"""Imports of what other programs left: the same images, logits and moments as theirs."""

import pytest
import torch
import yaml

from biggan_sn.checkpoint import load_state, load_tensors
from biggan_sn.evaluation.spectra import load_player
from biggan_sn.models.loading import load_generator
from biggan_sn.models.zoo import BUILDERS
from tests.reference import peers

RECORDED = sorted(path.stem for path in peers.FOLDER.glob("*.json"))
CLOSE = 1e-4


def difference(images, recorded):
    return (peers.shown(images) - torch.from_numpy(recorded)).abs().max().item()


@pytest.mark.parametrize("name", RECORDED)
def test_images_are_theirs(name, imported):
    recorded, _, checkpoint = imported(name)
    z, y, _ = recorded.inputs()
    generator, _ = load_generator(checkpoint)
    trained = load_player(checkpoint, "generator")
    with torch.no_grad():
        assert difference(generator(z, y), recorded.outputs["ema"]) < CLOSE
        assert difference(trained(z[:1], y[:1]), recorded.outputs["generator"]) < CLOSE
    assert recorded.outputs["ema"].std() > 0.1, "a picture in which errors show"


@pytest.mark.parametrize("name", RECORDED)
def test_logits_are_theirs(name, imported):
    recorded, _, checkpoint = imported(name)
    if "logits" not in recorded.outputs:
        pytest.skip("it has no discriminator")
    _, y, images = recorded.inputs()
    logits = load_player(checkpoint, "discriminator")(images, y)
    theirs = torch.from_numpy(recorded.outputs["logits"])
    assert (logits - theirs).abs().max().item() < CLOSE * theirs.abs().max().item()


@pytest.mark.parametrize("name", RECORDED)
def test_the_config_is_what_the_program_was_told(name, imported):
    recorded, run, checkpoint = imported(name)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config == load_state(checkpoint)["config"]
    assert config["data"]["resolution"] == recorded.about["resolution"]
    assert config["data"]["num_classes"] == recorded.about["num_classes"]
    for key, value in recorded.about["model"].items():
        assert config["model"][key] == value, key
    assert config["batch_size"] == 4


@pytest.mark.parametrize("name", RECORDED)
def test_adam_goes_on_with_its_moments(name, imported):
    """Theirs are parts of the weights they belong to; so must ours be."""
    recorded, run, checkpoint = imported(name)
    if not recorded.about["orders"]:
        pytest.skip("it has no optimizers")
    assert checkpoint.name == f"step_{peers.STEPS:08d}"
    config = yaml.safe_load((run / "config.yaml").read_text())
    for side in BUILDERS:
        weights = load_tensors(checkpoint, side)
        moments = load_tensors(checkpoint, f"{side}_optimizer")
        assert {key.rpartition("/")[2] for key in moments} == {"step", *peers.FACTOR}
        for key, moment in moments.items():
            name, _, slot = key.rpartition("/")
            if slot == "step":
                assert moment == peers.STEPS
            else:
                torch.testing.assert_close(moment, peers.FACTOR[slot] * weights[name].abs())
        rates = {key: config[side][key] for key in peers.RATES}
        assert rates == peers.RATES | {"betas": list(peers.RATES["betas"])}
