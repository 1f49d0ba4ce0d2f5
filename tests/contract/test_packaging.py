"""What an installed package has, without the repository and without what need not be installed."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from biggan_sn import shipped
from biggan_sn.cli import main

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILD = "import sys, setuptools.build_meta as build; print(build.build_{}(sys.argv[1]))"


def built(kind, source, out):
    """The name of the wheel or sdist that is made of a folder, without any download."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD.format(kind), str(out)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A wheel made of an sdist made of the repository, unpacked; the repository is elsewhere."""
    folder = tmp_path_factory.mktemp("packaging")
    source, out = folder / "source", folder / "out"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source)
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("biggan_sn", "data_tools", "configs", "launch", "slurm"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=unwanted)
    out.mkdir()
    sdist = built("sdist", source, out)
    shutil.unpack_archive(sdist, folder / "unpacked", filter="data")
    shutil.rmtree(source)
    wheel = built("wheel", next((folder / "unpacked").iterdir()), out)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site, *arguments, folder, **variables):
    return subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def files(folder, pattern):
    return {path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file()}


def test_a_wheel_has_all_that_works_without_a_repository(installed):
    for package in ("biggan_sn", "data_tools"):
        ours = {path for path in files(ROOT / package, "*.py") if path.parts[0] != "shipped"}
        found = {path for path in files(installed / package, "*.py") if path.parts[0] != "shipped"}
        assert found == ours
    there = installed / "biggan_sn" / "shipped"
    for folder in ("configs", "launch", "slurm"):
        assert files(there / folder, "*.yaml") == files(ROOT / folder, "*.yaml")
    scripts = {str(path) for path in files(there, "*.sh") | files(there, "*.sbatch")}
    assert {path.partition("/")[0] for path in scripts} == {"launch", "slurm"}
    assert scripts >= {"launch/local.sh", "launch/node.sh", "slurm/job.sh", "slurm/train.sbatch"}
    assert (there / "launch" / "start.py").is_file()
    assert (there / "launch" / "constraints.txt").is_file()
    assert (installed / "biggan_sn" / "py.typed").is_file()
    (about,) = installed.glob("*.dist-info")
    assert (about / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert {p.name for p in installed.iterdir()} == {"biggan_sn", "data_tools", about.name}
    extras = set(PROJECT["optional-dependencies"])
    told = (about / "METADATA").read_text().splitlines()
    assert {line.split()[1] for line in told if line.startswith("Provides-Extra")} == extras
    required = [line for line in told if line.startswith("Requires-Dist: deepspeed")]
    assert required
    assert all("extra ==" in line for line in required)


def test_an_installed_package_finds_its_configs(installed, tmp_path):
    command = (sys.executable, "-m", "biggan_sn")
    listed = run(installed, *command, "configs", "list", folder=tmp_path)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(shipped.configs())
    options = ("--run_dir", "x", "--config", "digits32_biggan", "--config=layers/ada")
    whole = run(installed, *command, "train", *options, "--print_config", folder=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert "target: 0.6" in whole.stdout
    assert "shared_dim: 32" in whole.stdout
    place = run(installed, *command, "configs", "path", folder=tmp_path).stdout.strip()
    assert Path(place) == installed / "biggan_sn" / "shipped"
    node = (f"{place}/launch/node.sh", "train", *options, "--print_config")
    python = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    alone = {"CUDA_VISIBLE_DEVICES": "", "PATH": python}
    launched = run(installed, "bash", *node, folder=tmp_path, **alone)
    assert launched.stdout == whole.stdout, launched.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["train", "evaluate", "sweep"])
def test_batch_scripts_of_an_installed_package_find_their_way(installed, tmp_path, verb):
    """Slurm runs a copy of the script, which cannot know where it lay."""
    programs, here = tmp_path / "bin", tmp_path / "here"
    programs.mkdir()
    here.mkdir()
    (programs / "srun").write_text('#!/bin/sh\necho "$@"\n')
    python = f'#!/bin/sh\nexec {sys.executable} -m biggan_sn "$@"\n'
    (programs / "biggan-sn").write_text(python)
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    shipped_at = installed / "biggan_sn" / "shipped"
    copy = Path(shutil.copy(shipped_at / "slurm" / f"{verb}.sbatch", tmp_path / "slurm_script"))
    job = {"SLURM_SUBMIT_DIR": str(here), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a"}
    job |= {"PREFLIGHT": "no", "VIRTUAL_ENV": "x"}
    options = ("--config", "digits32_biggan", "--run_dir", "x")
    path = {"PATH": f"{programs}:/usr/bin:/bin"}
    done = run(installed, "bash", str(copy), *options, folder=tmp_path, **job, **path)
    assert done.returncode == 0, done.stderr
    node = shipped_at / "launch" / "node.sh"
    assert done.stdout.splitlines()[-1].endswith(f"bash {node} {verb} {' '.join(options)}")
    (programs / "python").write_text("#!/bin/sh\nexit 1\n")
    bare = run(installed, "bash", str(copy), *options, folder=tmp_path, **job, **path)
    assert bare.returncode == 2
    assert "no environment with biggan_sn: activate it before sbatch" in bare.stderr
    assert len(bare.stderr.splitlines()) == 1
    (programs / "biggan-sn").unlink()
    lost = run(installed, "bash", str(copy), *options, folder=tmp_path, **job, **path)
    assert lost.returncode == 2
    assert f"{here} is not the root of the repository" in lost.stderr
    assert len(lost.stderr.splitlines()) == 1


EVERYTHING = """
import importlib, pkgutil, sys
for name in sys.argv[1].split():
    sys.modules[name] = None
import biggan_sn, data_tools
for package in (biggan_sn, data_tools):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__") and ".shipped." not in module.name:
            importlib.import_module(module.name)
"""


def test_nothing_needs_torchvision_or_deepspeed_to_be_imported(tmp_path):
    missing = "torchvision deepspeed torch_fidelity onnx onnxruntime datasets"
    done = run(ROOT, sys.executable, "-c", EVERYTHING, missing, folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_scores_that_need_no_torchvision_are_found_without(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BIGGAN_SN_CACHE", str(tmp_path / "cache"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    pixels = np.random.default_rng(0).integers(256, size=(20, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=pixels)
    sides = [str(tmp_path / "x.npz"), "--real", str(tmp_path / "x.npz"), "--extractor", "digits"]
    assert main(["evaluate", *sides, "--metrics", "density_coverage"]) == 0
    assert json.loads(capsys.readouterr().out)["coverage"] == 1
    assert main(["evaluate", *sides, "--metrics", "fid", "density_coverage"]) == 2
    said = capsys.readouterr().err
    assert "torchvision" in said
    assert said.endswith("; without it: --metrics density_coverage\n")


def test_versions_that_are_known_to_work_fit_what_is_asked_for():
    lines = (ROOT / "launch" / "constraints.txt").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)  # nothing else: no address, no path
    known = {canonicalize_name(name): version for name, version in pinned.items()}
    extras = [line for rows in PROJECT["optional-dependencies"].values() for line in rows]
    for line in [*PROJECT["dependencies"], *extras]:
        asked = Requirement(line)
        if asked.name not in ("biggan_sn", "s3fs"):  # of which the tests need nothing
            assert asked.specifier.contains(known[canonicalize_name(asked.name)]), line


def test_a_config_is_said_and_shown(capsys):
    assert main(["configs", "list", "arena/games/ring"]) == 0
    said = "arena/games/ring8  Eight Gaussians on a circle (Srivastava et al. 2017): all of them"
    assert capsys.readouterr().out.startswith(said)
    assert main(["configs", "list", "layers/lecam"]) == 0
    assert capsys.readouterr().out == "layers/lecam  lecam: {weight: 0.3}\n"
    for name, path in shipped.configs().items():
        assert main(["configs", "show", name]) == 0
        assert capsys.readouterr().out == path.read_text()


def test_a_file_that_is_there_is_meant_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped.config_file("folder64_biggan") == shipped.configs()["folder64_biggan"]
    Path("folder64_biggan").mkdir()
    assert shipped.config_file("folder64_biggan") == shipped.configs()["folder64_biggan"]
    Path("digits32_biggan").write_text("steps: 1\n")
    assert shipped.config_file("digits32_biggan") == Path("digits32_biggan")
