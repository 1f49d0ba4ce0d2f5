"""What a run is made with is told, and nothing about whose machine it is."""

import json
import os
import socket
import subprocess
from importlib.metadata import version

import pytest
import torch

import biggan_sn
from biggan_sn.training import environment
from biggan_sn.training.world import World


def git(folder, *arguments):
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.invalid")
    around = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True, capture_output=True, text=True, env=around,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path):
    """A package in a git checkout."""
    folder = tmp_path / "checkout" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    git(folder.parent, "init", "-q")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "-qm", "first")
    return folder


def test_the_commit(package):
    commit = git(package, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert environment.commit_of(package) == commit
    (package / "new.py").write_text("")
    (package.parent / "elsewhere.txt").write_text("")
    assert environment.commit_of(package) == commit, "only what is part of it counts"
    (package / "__init__.py").write_text("changed = 1")
    assert environment.commit_of(package) == f"{commit} with changes"


def test_the_checkout_of_another_project_says_nothing(package):
    inside = package.parent / "venv" / "package"
    inside.mkdir(parents=True)
    (inside / "__init__.py").write_text("")
    assert environment.commit_of(inside) == ""


def test_no_checkout(tmp_path):
    assert environment.commit_of(tmp_path) == ""


def test_no_git(package, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment.commit_of(package) == ""


def test_within_a_hook_of_another_checkout(package, monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    assert environment.commit_of(package) == git(package, "rev-parse", "HEAD")


def test_what_is_told(tmp_path):
    environment.write(tmp_path, environment.describe(World()))
    written = json.loads((tmp_path / "environment.json").read_text())
    assert written.keys() == {"versions", "devices", "processes", "engine", "commit"}
    versions = written["versions"]
    assert versions["torch"] == torch.__version__
    assert versions["biggan_sn"] == biggan_sn.__version__
    assert versions["accelerate"] == version("accelerate")
    assert {"python", "CUDA", "deepspeed"} <= versions.keys()
    assert sum(written["devices"].values()) == written["processes"] == 1
    assert socket.gethostname() not in json.dumps(written)


def test_devices_of_all_processes_are_counted(monkeypatch):
    names = ["H200", "H200", "A100", "H200"]
    monkeypatch.setattr(World, "tell", lambda self, text: names)
    found = environment.describe(World(ranks=4, rank=1))
    assert found["devices"] == {"H200": 3, "A100": 1}
    assert found["processes"] == 4
    assert found["commit"] == "", "only the leading process asks git"


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("no_such_package",))
    assert environment.versions(torch.device("cpu"))["no_such_package"] == "none"
