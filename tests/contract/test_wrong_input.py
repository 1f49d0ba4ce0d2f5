"""Wrong input: exit code 2, one line that names what is wrong, and nothing left behind.

All goes through the real entry point. Mistakes in a config must be found before torch is imported,
for that takes seconds, and longer on a shared disk.
"""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from biggan_sn.cli import VERBS, main
from biggan_sn.data.shards import build_index, save_index
from data_tools.make_shards import write_shards
from tests.forging import forge


@dataclass(frozen=True)
class Mistake:
    """Arguments of a verb, a word that the message must hold, and what they need around them."""

    arguments: tuple[str, ...]
    names: str
    file: bytes | None = None  # content of the config "{config}"
    environment: dict[str, str] = field(default_factory=dict)


def train(*options, names, **around):
    return Mistake(("train", "--run_dir", "{run}", *options), names, **around)


def in_file(text, names):
    text = text if isinstance(text, bytes) else text.encode()
    return train("--config", "{config}", names=names, file=text)


def interpolate(*options):
    return ("interpolate", "{run}", "--out", "{here}/x.png", *options)


def neighbours(*options):
    return ("neighbours", "{run}", "--out", "{here}/x.png", *options)


def export(out):
    return ("export", "{run}", out)


# Mistakes that are found without importing torch.
EARLY = {
    "unknown verb": Mistake(("trian",), "trian"),
    "unknown option before the verb": Mistake(("--fast", "train"), "--fast"),
    "no run_dir": Mistake(("train",), "missing: --run_dir"),
    "run_dir without value": Mistake(("train", "--run_dir"), "--run_dir"),
    "stray word": train("now", names="now"),
    "unknown option": train("--data.resolutoin", "64", names="--data.resolution"),
    "unknown option with =": train("--data.resolutoin=64", names="--data.resolutoin"),
    "resolution 100": train("--data.resolution", "100", names="data.resolution"),
    "word for a number": train("--data.resolution", "big", names="data.resolution"),
    "broken number": train("--steps", "1.5", names="steps"),
    "word for a truth value": train("--data.flip", "maybe", names="data.flip"),
    "ratio below 1": train("--sigma0.ratio", "0.9", names="sigma0.ratio"),
    "rollback to nowhere": Mistake(("rollback", "run"), "missing: --to"),
    "report of nothing": Mistake(("report",), "missing: RUN"),
    "status of nothing": Mistake(("status",), "missing: RUN"),
    "status of no run": Mistake(("status", "{here}"), "{here}: not the folder of a run"),
    "status of no runs": Mistake(("status", "{here}", "{run}"), "{here}, {run}: not the folders"),
    "no time between two looks": Mistake(("status", "{here}", "--watch", "0"), "--watch"),
    "words for another shell": Mistake(("completion", "fish"), "'fish'"),
    "spectrum without runs": Mistake(("spectrum",), "missing: RUN"),
    "spectra as a PDF": Mistake(("spectrum", "run", "--out", "spectra.pdf"), "--out"),
    "steps 0": train("--steps", "0", names="steps"),
    "negative lr": train("--generator.lr=-1", names="generator"),
    "nan": train("--generator.lr", "nan", names="generator.lr"),
    "decay before its start": train(
        "--lr_decay.start", "9", "--lr_decay.end", "8", names="lr_decay.end"
    ),
    "a run longer than its rates": train("--lr_decay.end", "8", "--steps", "9", names="steps 9"),
    "one beta": train("--discriminator.betas", "[0.5]", names="discriminator.betas"),
    "beta 1": train("--discriminator.betas", "[0, 1]", names="betas"),
    "precision": train("--precision", "fp8", names="fp8"),
    "negative seed": train("--seed=-1", names="seed"),
    "negative weight": train("--penalties", "{gp: -1}", names="penalties.gp"),
    "word for a list": train("--lipschitz.generator", "no", names="lipschitz.generator"),
    "attention of G": train("--model.generator_attention", "[7]", names="resolution 7"),
    "attention of D": train("--model.discriminator_attention", "[128]", names="resolution 128"),
    "no loss for G": train("--feature_matching.alone", "true", names="feature_matching.layers"),
    "augmentation twice": train(
        "--augment.transforms", "[flip, flip]", names="augment.transforms must name each once"
    ),
    "target of nothing": train("--augment.target", "0.6", names="augment.target must have"),
    "augmentation that never comes": train("--augment.p", "0", names="augment.p must be above 0"),
    "consistency without a neighbour": train(
        *("--consistency.real", "10", "--consistency.transforms", "[]"),
        names="consistency.transforms must name one",
    ),
    "odd microbatch": train("--discriminator.microbatch", "3", names="discriminator.microbatch 3"),
    "odd ranks": train(
        "--batch_size", "10", names="batch_size 10", environment={"WORLD_SIZE": "4"}
    ),
    "no config": train("--config", "{run}.yaml", names="{run}.yaml"),
    "no config of this name": train("--config", "digits32_bigan", names="digits32_biggan or"),
    "a config that is not there, to show": Mistake(("configs", "show", "adda"), "layers/ada"),
    "no config to show": Mistake(("configs", "show"), "name a config"),
    "no such thing to do with configs": Mistake(("configs", "shw"), "did you mean 'show'?"),
    "a game that is not there": Mistake(
        ("arena", "--games", "ring", "--methods", "x", "--out", "{here}/a"), "arena/games/ring8"
    ),
    "config is a folder": train("--config", "{here}", names="{here}"),
    "unknown key in a file": in_file("data: {resolutoin: 64}", names="data.resolutoin"),
    "unknown section in a file": in_file("objektive: hinge", names="objektive"),
    "resolution 100 in a file": in_file("data: {resolution: 100}", names="data.resolution"),
    "wrong type in a file": in_file("steps: many", names="steps"),
    "three betas in a file": in_file("generator: {betas: [0, 1, 2]}", names="generator.betas"),
    "bench of what cannot be": Mistake(("bench", "--data.resolution", "100"), "data.resolution"),
    "sample without a place to go": Mistake(("sample", "{run}"), "missing: --out"),
    "word for a truncation": Mistake(
        ("sample", "{run}", "--out", "{run}", "--truncation", "much"), "truncation"
    ),
    "interpolation without a place": Mistake(("interpolate", "{run}"), "missing: --out"),
    "interpolation of one step": Mistake(interpolate("--steps", "1"), "--steps"),
    "interpolation of no row": Mistake(interpolate("--rows", "0"), "--rows"),
    "interpolation as a JPEG": Mistake(interpolate("--out", "{here}/x.jpg"), "must be a .png"),
    "interpolation to nowhere": Mistake(
        interpolate("--out", "{run}/x.png"), "{run}/x.png: there is no folder {run}"
    ),
    "neighbours as arrays": Mistake(neighbours("--out", "{here}/x.npz"), "must be a .png"),
    "neighbours to nowhere": Mistake(neighbours("--out", "{run}/x.png"), "no folder {run}"),
    "no neighbour": Mistake(neighbours("--nearest", "0"), "--nearest"),
    "neighbours of nothing": Mistake(neighbours("--per_class", "0"), "--per_class"),
    "word for a neighbour": Mistake(neighbours("--nearest", "few"), "nearest"),
    "export without a place": Mistake(("export", "{run}"), "missing: OUT"),
    "word for a truncation to export": Mistake(
        (*export("{here}/x"), "--truncations", "much"), "truncations"
    ),
    "word for passes": Mistake((*export("{here}/x"), "--standing_statistics", "few"), "standing"),
    "evaluate without a checkpoint": Mistake(("evaluate",), "missing: RUN"),
    # ------------------------------------------------------------------ not yet as they should be
    "broken YAML": in_file("data: {resolution: 64\nmodel: [", names="{config}"),
    "empty YAML": in_file("", names="{config}"),
    "a list for a config": in_file("- 1\n", names="{config}"),
    "not even text": in_file(bytes(range(128, 256)), names="{config}"),
    "number for a section": in_file("data: 3", names="data"),
    "empty section": in_file("data:\n", names="{config}"),
    "key given twice": in_file("seed: 1\nseed: 2\nbatch_size: -1", names="seed"),
    "abbreviated option": train("--step", "3", "--seed=-1", names="--step"),
    "word for WORLD_SIZE": train(names="WORLD_SIZE", environment={"WORLD_SIZE": "two"}),
}


def cases(mistakes):
    return [pytest.param(mistake, id=name) for name, mistake in mistakes.items()]


def filled(text, folder, **places):
    places = {"run": folder / "run", "here": folder, "config": folder / "config.yaml", **places}
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", str(place))
    return text


def listing(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def check(code, out, err, named):
    """Exit code 2 and one line of error, which holds `named`."""
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("biggan-sn: error: ")
    assert named in err
    assert "Traceback" not in err


@pytest.fixture
def make(tmp_path, capsys, monkeypatch):
    """Makes a mistake and checks what comes of it; no file may come or go."""

    def make_(mistake, **places):
        if mistake.file is not None:
            (tmp_path / "config.yaml").write_bytes(mistake.file)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in mistake.environment.items():
            monkeypatch.setenv(name, value)
        before = listing(tmp_path)
        capsys.readouterr()
        code = main([filled(argument, tmp_path, **places) for argument in mistake.arguments])
        printed = capsys.readouterr()
        check(code, printed.out, printed.err, filled(mistake.names, tmp_path, **places))
        assert listing(tmp_path) == before

    return make_


@pytest.mark.parametrize("mistake", cases(EARLY))
def test_mistakes_of_arguments_and_configs(make, mistake):
    make(mistake)


def test_rank_is_named(make, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert main(["train", "--run_dir", str(tmp_path / "run"), "--batch_size", "4"]) == 2
    assert "error: rank 3: batch_size 4" in capsys.readouterr().err


# ----------------------------------------------------------------------------------- without torch

SCRIPT = """
import json, os, sys
from biggan_sn.cli import VERBS, main
for name, arguments, environment in json.load(sys.stdin):
    os.environ.update(environment)
    try:
        main(arguments)
    except (Exception, SystemExit):
        pass  # only what it imports counts here
    for variable in environment:
        del os.environ[variable]
    loaded = [module for module in ("torch", "accelerate") if module in sys.modules]
    if loaded:
        sys.exit(f"{name}: imported {loaded}")
"""


def test_help_and_mistakes_of_configs_need_no_torch(tmp_path):
    """All in one process: the first that imports torch is named."""
    inputs = [(f"help of {verb}", [verb, "--help"], {}) for verb in ("train", "sample", "bench")]
    inputs += [("help", ["--help"], {}), ("no arguments", [], {}), ("version", ["--version"], {})]
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("steps: 3\n")
    inputs.append(("status", ["status", str(tmp_path / "begun")], {}))
    for number, (name, mistake) in enumerate(EARLY.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        if mistake.file is not None:
            (folder / "config.yaml").write_bytes(mistake.file)
        arguments = [filled(argument, folder) for argument in mistake.arguments]
        inputs.append((name, arguments, mistake.environment))
    script = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(inputs),
        capture_output=True,
        text=True,
        check=False,
    )
    assert script.returncode == 0, script.stderr


def program(*arguments):
    """`python -m biggan_sn` with a record of all it imports: code, output, errors, modules."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "biggan_sn", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    imported = {line.split("|")[2].strip() for line in lines if line.startswith("import time:")}
    errors = "\n".join(line for line in lines if not line.startswith("import time:"))
    assert "biggan_sn.config" in imported
    return done.returncode, done.stdout, errors, imported


def test_the_program_helps(tmp_path):
    code, out, err, imported = program("--help")
    assert (code, err) == (0, "")
    assert all(verb in out for verb in VERBS)
    assert "torch" not in imported


def test_the_program_refuses(tmp_path):
    run = tmp_path / "run"
    code, out, err, imported = program("train", "--run_dir", str(run), "--data.resolution", "100")
    check(code, out, err, "data.resolution")
    assert "torch" not in imported
    assert not run.exists()


# ----------------------------------------------------------------- what takes torch or the data

SMALL = (
    *("--data.path", "{data}", "--data.resolution", "32", "--data.num_classes", "2"),
    *("--model.channels", "2", "--model.z_dim", "8", "--model.shared_dim", "4"),
    *("--batch_size", "4", "--d_steps", "1", "--monitor.every", "1", "--logs.images", "0"),
)
SCORED = ("--evaluation.every", "1", "--evaluation.weights")
BY_DIGITS = ("--evaluation.every", "1", "--evaluation.extractor", "digits")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of eight images of two classes."""

    def samples():
        for number in range(8):
            out = io.BytesIO()
            Image.new("RGB", (32, 32), (30 * number, 0, 0)).save(out, "PNG")
            yield out.getvalue(), "png", number % 2

    folder = tmp_path_factory.mktemp("data") / "reds"
    write_shards(samples(), 8, folder, 4, ("even", "odd"))
    return folder


LATE = {
    "objective": train("--objective", "hing", names="'hinge'"),
    "feature matching of no layer": train(
        "--feature_matching.layers", "[blocks.9]", names="no layer 'blocks.9'; it has blocks.0"
    ),
    "choosing by logits that G has not": train(
        *("--feature_matching.layers", "[blocks.1]", "--feature_matching.alone", "true"),
        *("--top_k.share", "0.5"),
        names="top_k.share",
    ),
    "neighbour": train("--consistency.transforms", "[flop]", names="'flip'"),
    "target of logits without a middle": train(
        *("--augment.transforms", "[bgc]", "--augment.target", "0.6", "--objective", "wgan"),
        names="augment.target: under the objective wgan",
    ),
    "augmentation": train("--augment.transforms", "[colour]", names="'color'"),
    "a label where there are none": train("--real_label", "0.9", names="hinge has no labels"),
    "saturating what is not f-GAN": train("--fgan_saturating", "true", names="fgan_saturating"),
    "wgan with a D that nothing holds": train(
        *("--objective", "wgan", "--lipschitz.discriminator", "[]"), names="weight_clipping"
    ),
    "architecture": train("--model.name", "bigan", names="'biggan'"),
    "norm": train("--model.norm", "virtual", names="'virtual_batch'"),
    "minibatch layer": train("--model.minibatch_layer", "stdev", names="'stddev'"),
    "gradient normalization of images that meet": train(
        "--model.minibatch_layer",
        "stddev",
        "--lipschitz.discriminator",
        "[gradient_normalization]",
        names="must not have batch norms or a minibatch layer",
    ),
    "penalty": train("--penalties", "{r9: 1}", names="'r9'"),
    "regularizer": train("--regularizers.generator", "{ortho: 1}", names="'orthogonal'"),
    "constraint": train("--lipschitz.generator", "[spectral]", names="'spectral_norm'"),
    "two constraints on one weight": train(
        "--lipschitz.discriminator",
        "[spectral_norm, weight_norm]",
        names="spectral_norm and weight_norm",
    ),
    "gradient normalization of G": train(
        "--lipschitz.generator", "[gradient_normalization]", names="lipschitz.generator"
    ),
    "initialization": train("--model.initialization", "orthogonl", names="'orthogonal'"),
    "z_dim in unequal parts": train("--model.z_dim", "7", names="z_dim 7"),
    "frozen layer that D has not": train(
        *("--finetune.frozen_discriminator", "[blocks.1, blocks.9]"),
        names="finetune.frozen_discriminator: there is no layer 'blocks.9'; there are blocks.0, ",
    ),
    "frozen layer that G has not": train(
        *("--finetune.frozen_generator", "[embed]"),
        names="there is no layer 'embed'; there are shared, linear, blocks.0, ",
    ),
    "all of D frozen": train(
        *("--finetune.frozen_discriminator", "[blocks, linear, embed]"),
        names="finetune.frozen_discriminator: nothing would be left to train",
    ),
    "no run to begin with": train(
        *(*SMALL, "--finetune.source", "{here}/none"),
        names="finetune.source: {here}/none: no checkpoint there",
    ),
    "an import that begins with something else": Mistake(
        ("import", "--format", "studiogan", "{here}", "{run}", "--finetune.source", "{here}"),
        "finetune.source: an import begins with what it imports",
    ),
    "no data.path": train(names="data.path"),
    "no such data": train("--data.path", "{here}/none", names="{here}/none"),
    "no shards": train("--data.path", "{here}", names="{here}: no .tar shards"),
    "num_classes": train(*SMALL, "--data.num_classes", "3", names="data.num_classes"),
    "resolution of the data": train(
        *SMALL, "--data.resolution", "64", "--model.z_dim", "10", names="data.resolution"
    ),
    "bench of nothing": Mistake(("bench", "--rounds", "0"), "--rounds"),
    "bench of an unknown field": Mistake(("bench", "--against", "objektive=wgan"), "objektive"),
    "no checkpoint to sample": Mistake(("sample", "{here}", "--out", "{run}"), "{here}"),
    "no checkpoint to sweep": Mistake(("sweep", "{run}", "--out", "{run}"), "{run}"),
    "no checkpoint to certify": Mistake(("spectrum", "{run}"), "{run}"),
    "no checkpoint to export": Mistake(export("{here}/x"), "{run}"),
    "no run to report": Mistake(("report", "{run}"), "{run}"),
    "no run to inspect": Mistake(("inspect", "{run}"), "{run}"),
    "no run to roll back": Mistake(("rollback", "{run}", "--to", "3"), "{run}"),
    "no checkpoint to interpolate": Mistake(interpolate(), "{run}"),
    "no checkpoint to compare": Mistake(neighbours(), "{run}"),
    "no checkpoint to evaluate": Mistake(("evaluate", "{run}"), "{run}"),
    "extractor": train(*SMALL, "--evaluation.extractor", "digit", names="'digits'"),
    "metric": train(*SMALL, "--evaluation.metrics", "[fit]", names="'fid'"),
    "no weights of the extractor": train(*SMALL, *SCORED, "{here}/w.pth", names="{here}/w.pth"),
    "no real images": train(
        *SMALL, *BY_DIGITS, "--evaluation.real", "{here}/no", names="{here}/no"
    ),
    "metric of other classes": train(
        *SMALL,
        *BY_DIGITS,
        "--evaluation.metrics",
        "[fid, class_accuracy]",
        names="'class_accuracy'",
    ),
    "run_dir is a file": train(*SMALL, "--run_dir", "{config}", names="{config}", file=b"mine"),
}


@pytest.mark.parametrize("mistake", cases(LATE))
def test_mistakes_of_names_and_data(make, mistake, data):
    make(mistake, data=data)


def test_damaged_shard_stops_training(make, tmp_path, data):
    bad = tmp_path / "bad"
    shutil.copytree(data, bad)
    shard = bad / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    make(train(*SMALL, names=str(shard)), data=bad)


# ------------------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, data):
    """A run of one step, and its checkpoint."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    small = [filled(argument, folder, data=data) for argument in SMALL]
    assert main(["train", "--run_dir", str(folder), *small, "--steps", "1"]) == 0
    return folder


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the run, to damage."""
    shutil.copytree(finished_run, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


STEP = "checkpoints/step_00000001"
GO_ON = ("train", "--run_dir", "{run}", "--steps", "2")
SAMPLE = ("sample", "{run}", "--out", "{here}/samples.png")
EVALUATE = ("evaluate", "{run}")


def test_the_run_is_good(run, tmp_path):
    """Without damage, none of these is refused: the mistakes below are what is."""
    assert main([filled(argument, tmp_path) for argument in (*SAMPLE, "--per_class", "1")]) == 0
    assert main([filled(argument, tmp_path) for argument in GO_ON]) == 0


@pytest.mark.parametrize("verb", [GO_ON, SAMPLE, EVALUATE], ids=["train", "sample", "evaluate"])
@pytest.mark.parametrize("text", [b"", b"{", b'{"version": 1', bytes(200), b"\xff\xfe"], ids=repr)
def test_corrupt_state(make, run, verb, text):
    (run / STEP / "state.json").write_bytes(text)
    make(Mistake(verb, f"{STEP}/state.json: cannot be read"))


@pytest.mark.parametrize("verb", [GO_ON, SAMPLE, EVALUATE], ids=["train", "sample", "evaluate"])
@pytest.mark.parametrize("version", [0, 4, 6, "5", None])
def test_foreign_version(make, run, verb, version):
    forge(run / STEP, version=version)
    make(Mistake(verb, f"{STEP}/state.json: checkpoint version {version}"))


def test_state_is_a_list(make, run):
    (run / STEP / "state.json").write_text("[]")
    make(Mistake(SAMPLE, f"{STEP}/state.json"))


@pytest.mark.parametrize("missing", ["step", "position", "data"])
def test_incomplete_state(make, run, missing):
    forge(run / STEP, missing)
    make(Mistake(GO_ON, STEP))


def test_config_of_a_checkpoint_from_the_future(make, run):
    state = json.loads((run / STEP / "state.json").read_text())
    state["config"]["model"]["transformer"] = True
    forge(run / STEP, config=state["config"])
    make(Mistake(SAMPLE, "transformer"))


TENSORS = ("generator", "discriminator", "ema", "generator_optimizer", "discriminator_optimizer",
           "spectra", "collapse")  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("damage", ["cut", "cut in the header", "garbage", "empty", "missing"])
def test_damaged_tensors(make, run, name, damage):
    path = run / STEP / f"{name}.safetensors"
    whole = path.read_bytes()
    damages = {"cut": whole[:-1], "cut in the header": whole[:50], "garbage": b"\xff" * 500,
               "empty": b""}  # fmt: skip
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(damages[damage])
    told = "cannot be read" if damage == "missing" else "not as it was written"
    make(Mistake(GO_ON, f"{STEP}/{name}.safetensors: {told}"))
    if name == "ema":
        make(Mistake(SAMPLE, f"{STEP}/{name}.safetensors: {told}"))
    if damage != "missing":  # and if the damage was there before the fingerprint
        forge(run / STEP)
        make(Mistake(GO_ON, f"{STEP}/{name}.safetensors: cannot be read"))


@pytest.mark.parametrize("verb", [GO_ON, SAMPLE])
def test_a_single_bit_is_noticed(make, run, verb):
    path = run / STEP / "ema.safetensors"
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)
    make(Mistake(verb, f"{STEP}/ema.safetensors: not as it was written (SHA-256)"))
    path.write_bytes(contents[:-1])
    make(Mistake(verb, f"{STEP}/ema.safetensors: not as it was written (size)"))


@pytest.mark.parametrize("verb", [GO_ON, SAMPLE, EVALUATE], ids=["train", "sample", "evaluate"])
def test_a_state_that_was_edited_is_noticed(make, run, verb):
    path = run / STEP / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "position": state["position"] + 1}))
    make(Mistake(verb, f"{STEP}/state.json: not as it was written (SHA-256)"))


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_another_network(make, run, name):
    other = "generator" if name == "discriminator" else "discriminator"
    shutil.copy(run / STEP / f"{other}.safetensors", run / STEP / f"{name}.safetensors")
    forge(run / STEP)
    make(Mistake(GO_ON, f"{STEP}/{name}.safetensors"))
    if name == "ema":
        make(Mistake(SAMPLE, f"{STEP}/{name}.safetensors: not of this network"))


@pytest.mark.parametrize("name", TENSORS)
def test_one_tensor_is_missing(make, run, name):
    path = run / STEP / f"{name}.safetensors"
    kept = load_file(path)
    kept.pop(sorted(kept)[0])
    save_file(kept, path)
    forge(run / STEP)
    make(Mistake(GO_ON, f"{STEP}/{name}.safetensors"))


def test_tensors_of_a_wider_network(make, run):
    path = run / STEP / "ema.safetensors"
    wider = {name: tensor.repeat_interleave(2, 0) if tensor.dim() else tensor
             for name, tensor in load_file(path).items()}  # fmt: skip
    save_file(wider, path)
    forge(run / STEP)
    for verb in (GO_ON, SAMPLE):
        make(Mistake(verb, f"{STEP}/ema.safetensors: not of this network"))


def test_nothing_is_unpickled_in_the_place_of_tensors(make, run):
    import torch

    torch.save({"weight": np.zeros(3)}, run / STEP / "ema.safetensors")
    forge(run / STEP)
    make(Mistake(SAMPLE, f"{STEP}/ema.safetensors: cannot be read"))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--seed", "1"), "seed: 0 -> 1"),
        (("--config", "{config}"), "model.channels: 2 -> 96"),
        (("--steps", "0"), "steps"),
    ],
)
def test_a_run_goes_on_as_itself(make, run, options, names):
    make(Mistake(("train", "--run_dir", "{run}", *options), names, file=b"seed: 0\n"))


def test_a_run_is_not_shortened(make, run):
    forge(run / STEP, step=5)
    make(Mistake(GO_ON, f"{STEP} is past the end: steps is 2"))


def test_a_run_goes_on_with_its_own_data(make, run, data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    (other / "000001.tar").unlink()
    save_index(build_index(other, ("even", "odd")))
    make(Mistake((*GO_ON, "--data.path", "{here}/other"), "{here}/other"))


@pytest.mark.parametrize(
    "config",
    ["data: [", "data: {resolutoin: 32}"],
)
def test_damaged_config_of_a_run(make, run, config):
    (run / "config.yaml").write_text(config)
    names = "{run}/config.yaml" if "[" in config else "resolutoin"
    make(Mistake(GO_ON, names))


FINETUNE = (*SMALL, "--run_dir", "{here}/new", "--finetune.source", "{run}")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--model.channels", "3"), "channels: 2 -> 3"),
        (("--model.name", "biggan_deep", "--model.channels", "8"), "name: biggan -> biggan_deep"),
        (("--model.discriminator_channels", "5"), "of the weights of D, and at least 25% must"),
        (("--model.z_dim", "12"), "linear.weight is [128, 2] there and [128, 3] here"),
        (("--model.shared_dim", "0", "--model.hierarchical_z", "false"), "shared_dim: 4 -> 0"),
    ],
    ids=["width", "architecture", "width of D", "z", "tables"],
)
def test_a_run_of_other_networks_to_begin_with(make, run, data, options, names):
    make(train(*FINETUNE, *options, names=names), data=data)


@pytest.mark.parametrize("name", ["state.json", "generator.safetensors", "ema.safetensors"])
def test_a_damaged_run_to_begin_with(make, run, data, name):
    path = run / STEP / name
    path.write_bytes(path.read_bytes()[:-9])
    make(train(*FINETUNE, names=f"{STEP}/{name}"), data=data)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--classes", "0", "2"), "2 is out of range"),
        (("--classes", "0,1"), "unknown class '0,1'"),
        (("--classes=-1",), "-1"),
        (("--truncation=-1",), "truncation"),
        (("--mode", "clmap"), "'clamp'"),
        (("--device", "toaster"), "'toaster'"),
        (("--per_class", "0"), "--per_class"),
        (("--standing_statistics=-1",), "standing_statistics"),
        (("--seed=-1",), "seed"),
        (("--checkpoint", "{run}"), "--checkpoint"),
    ],
)
def test_mistakes_of_sampling(make, run, options, names):
    make(Mistake((*SAMPLE, *options), names))


@pytest.mark.parametrize("out", ["{config}/samples.png", "{config}"])
def test_samples_that_have_no_place(make, run, out):
    make(Mistake(("sample", "{run}", "--out", out, "--per_class", "1"), "{config}", file=b"mine"))


@pytest.mark.parametrize(
    ("out", "options", "names"),
    [
        ("x", ("--format", "onx"), "did you mean 'onnx'?"),
        ("x", ("--mode", "clmap"), "'clamp'"),
        ("x", ("--truncations", "0.5", "0"), "truncation must be positive"),
        ("x", ("--truncations", ".inf"), "--truncations inf: must be finite"),
        ("x", ("--truncations", "1", "--standing_statistics", "0"), "--standing_statistics of 1"),
        ("x", ("--truncations", "1", "--standing_statistics=-1"), "standing_statistics"),
        ("x", ("--truncations", "1", "--seed=-1"), "seed"),
        ("x", ("--truncations", "1", "2", "--format", "torch_export"), "1 at most, got 2"),
        ("x", ("--truncations", "1", "--format", "biggan_pytorch"), "0 at most, got 1"),
        ("run/config.yaml/x/y", (), "{run}/config.yaml is a file"),
        ("run", (), "{run}: is there already"),
        ("run/config.yaml", (), "{run}/config.yaml: is there already"),
    ],
)
def test_mistakes_of_exports(make, run, out, options, names):
    make(Mistake((*export(f"{{here}}/{out}"), *options), names))


DIGITS = ("--extractor", "digits", "--samples")


@pytest.mark.parametrize(
    ("verb", "options", "names"),
    [
        ("sweep", ("--out", "{here}/sweep", "--truncations", "1", "0"), "truncation"),
        ("sweep", ("--out", "{here}/sweep", "--modes", "x"), "'x'"),
        ("sweep", ("--out", "{here}/sweep", "--weights", "{here}/w"), "{here}/w"),
        ("evaluate", ("--extractor", "dogits"), "'digits'"),
        ("evaluate", ("--metrics", "fit"), "'fid'"),
        ("evaluate", ("--samples", "1"), "evaluation.samples"),
        ("evaluate", ("--weights", "{here}/w"), "{here}/w"),
        ("evaluate", ("--extractor", "digits", "--real", "{here}/r"), "{here}/r"),
        ("evaluate", ("--extractor", "digits", "--metrics", "class_accuracy"), "classes"),
        ("evaluate", ("--out", "{here}/none/s.json"), "{here}/none"),
        ("evaluate", ("--out", "{run}"), "--out"),
        ("evaluate", (*DIGITS, "3", "--metrics", "precision_recall"), "needs 4 samples"),
        ("evaluate", (*DIGITS, "3", "--metrics", "fid", "precision_recall"), "--metrics fid"),
        ("sweep", ("--out", "{run}/config.yaml"), "{run}/config.yaml is a file"),
    ],
)
def test_mistakes_of_sweeps_and_scores(make, run, verb, options, names):
    make(Mistake((verb, "{run}", *options), names))


DIGITS = ("--extractor", "digits")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (interpolate("--classes", "0", "2"), "2 is out of range"),
        (interpolate("--classes", "1"), "nothing lies between class 1 and itself"),
        (interpolate("--between", "clas"), "did you mean 'class'?"),
        (interpolate("--mode", "clmap"), "'clamp'"),
        (interpolate("--device", "toaster"), "'toaster'"),
        (neighbours(*DIGITS, "--classes", "2"), "2 is out of range"),
        (neighbours(*DIGITS, "--nearest", "9"), "9 nearest of 8 real images"),
        (neighbours("--extractor", "digts"), "did you mean 'digits'?"),
        (neighbours(*DIGITS, "--weights", "{config}"), "has no file"),
        (neighbours("--weights", "{run}/none.pth"), "{run}/none.pth: no weights"),
        (neighbours(*DIGITS, "--real", "{here}/none"), "{here}/none"),
        (neighbours(*DIGITS, "--real", "{config}"), "{config}"),
        (neighbours(*DIGITS, "--truncation=-1"), "truncation"),
    ],
)
def test_mistakes_of_pictures(make, run, arguments, names):
    make(Mistake(arguments, names))


def test_neighbours_among_images_of_another_size(make, run, tmp_path):
    np.savez(tmp_path / "small.npz", images=np.zeros((4, 16, 16, 3), np.uint8))
    names = "16x16 pixels, but the generator draws 32x32"
    make(Mistake(neighbours(*DIGITS, "--real", "{here}/small.npz"), names))


@pytest.mark.parametrize("verb", [interpolate, neighbours])
@pytest.mark.parametrize("name", ["x.png", "x.csv"])
def test_pictures_in_the_place_of_folders(make, run, tmp_path, verb, name):
    (tmp_path / name).mkdir()
    if (verb, name) != (interpolate, "x.csv"):
        make(Mistake(verb(), f"{{here}}/{name}"))


def test_neighbours_of_a_run_whose_data_are_gone(make, run):
    state = json.loads((run / STEP / "state.json").read_text())
    state["config"]["data"]["path"] = str(run / "gone")
    forge(run / STEP, config=state["config"])
    make(Mistake(neighbours(*DIGITS), "{run}/gone"))
