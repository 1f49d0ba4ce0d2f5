"""Every command in a fenced block of a README is one that there is, with options that there are.

What they do is what other tests are about; here nobody finds a README that is behind the code.
"""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from biggan_sn.cli import parsers
from biggan_sn.cli.common import with_configs_found
from biggan_sn.cli.train import with_config_of_run
from tests.training.jobs import around, write_tiny_config

ROOT = Path(__file__).parents[2]
HERE = ("biggan_sn", "configs", "data_tools", "launch", "slurm", "tests")
READMES = sorted({ROOT / "README.md", *(p for part in HERE for p in (ROOT / part).rglob("*.md"))})
PROGRAMS = ("biggan-sn", "python", "bash", "sbatch", "source", "pip", "tensorboard")
TRAINS = ("launch/local.sh", "slurm/train.sbatch")  # their arguments are those of `train`
VERBS = {"slurm/evaluate.sbatch": "evaluate", "slurm/sweep.sbatch": "sweep"}


def commands():
    """(README, command line) of all fenced blocks without a language."""
    for path in READMES:
        if "shipped" in path.parts:  # links to what is seen at the top
            continue
        for block in re.findall(r"^```\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            text = block.replace("\\\n", " ")
            if found := re.search(r'^m="(.*)"$', text, re.MULTILINE):
                text = text.replace("$m ", f"{found[1]} ")
            for line in text.splitlines():
                words = re.sub(r"^([A-Z_]+=\S+ )*", "", line).split()
                if words and words[0] in PROGRAMS:
                    yield pytest.param(line, id=f"{path.relative_to(ROOT)}: {line[:60]}")


def arguments_of(line):
    """As a shell splits it; `...` stands for what the reader knows."""
    words = shlex.split(line.replace("$(biggan-sn configs path)", "."), comments=True)
    while "=" in words[0]:
        words.pop(0)
    return [name for word in words for name in expanded(word)]


def expanded(word):
    """The names of files that a pattern stands for."""
    return [str(found) for found in sorted(Path().glob(word))] if "*" in word else [word]


def check_command(arguments):
    """That `biggan-sn` takes these; with `...` among them, that it knows the options."""
    parser, verbs = parsers()
    if "..." not in arguments:
        parsed = parser.parse_args(with_configs_found(with_config_of_run(arguments)))
        assert parsed.subcommand == arguments[0]
        return
    known = {name for action in verbs[arguments[0]]._actions for name in action.option_strings}
    assert {word for word in arguments if word.startswith("--")} <= known


def check_script(path, rest):
    script = path.removeprefix("./")
    assert (ROOT / script).is_file()
    if script in TRAINS:
        check_command(["train", *rest])
    elif script in VERBS:
        check_command([VERBS[script], *rest])
    elif script == "launch/node.sh":
        check_command(rest)
    else:
        assert not rest


@pytest.mark.parametrize("line", list(commands()))
def test_command(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *rest = arguments_of(line)
    if program == "biggan-sn":
        check_command(rest)
    elif program == "bash":
        check_script(rest[0], rest[1:])
    elif program == "sbatch":
        at = next(i for i, word in enumerate(rest) if word.endswith(".sbatch"))
        check_script(rest[at], rest[at + 1 :])
    elif program == "python" and rest[0] == "mine.py":
        check_command(rest[1:])  # what else that has, the test below sees
    elif program == "python":
        assert rest[0] == "-m"
        import_module(rest[1])._parse(rest[2:])


def test_an_objective_of_ones_own_trains(tmp_path, shards):
    """As README has it: the file, and the line that starts it."""
    text = (ROOT / "README.md").read_text()
    (block,) = [b for b in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "wide" in b]
    (tmp_path / "mine.py").write_text(block)
    (line,) = re.findall(r"^python (mine\.py .*)$", text, re.M)
    write_tiny_config(tmp_path / "tiny.yaml", shards, every=5, steps=2)
    words = line.replace("configs/digits32_sngan.yaml", "tiny.yaml").split()
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=around(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "objective: wide_hinge" in (tmp_path / "runs" / "wide" / "config.yaml").read_text()
    assert "runs/wide: finished" in done.stdout


def test_commands_are_found():
    assert len(list(commands())) > 50
