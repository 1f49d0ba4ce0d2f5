"""What the command says of itself is so: examples, exit codes, completion, what Ctrl-C leaves."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from biggan_sn.cli import VERBS, main, parsers
from biggan_sn.cli.common import COLLAPSED, INTERRUPTED
from biggan_sn.cli.words import WORDS
from biggan_sn.training.launching import LOST, WRONG_INPUT

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def parser():
    return parsers()[0]


@pytest.fixture(scope="module")
def helps():
    """What `biggan-sn VERB --help` prints, by verb."""
    parser, verbs = parsers()
    return {"": parser.format_help()} | {name: each.format_help() for name, each in verbs.items()}


def examples_in(text):
    """The command lines under `examples:`, as a shell would split them."""
    shown = text.partition("\nexamples:\n")[2].splitlines()
    lines = [shlex.split(line, comments=True) for line in shown]
    # The completion's command stands in $(...), for the shell to read what it prints.
    return [shlex.split(line[1].strip("$()")) if line[0] == "eval" else line for line in lines]


def test_every_verb_has_its_words():
    assert list(WORDS) == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_examples_in_help_are_right(verb, helps, parser, monkeypatch):
    monkeypatch.chdir(ROOT)  # they name files in configs/
    examples = examples_in(helps[verb])
    assert examples
    for program, *arguments in examples:
        assert (program, arguments[0]) == ("biggan-sn", verb)
        if "--print_config" in arguments:  # which ends the command itself
            with pytest.raises(SystemExit) as end:
                parser.parse_args(arguments)
            assert end.value.code == 0
        else:
            assert parser.parse_args(arguments).subcommand == verb


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_speaks_of_no_python(verb, helps):
    assert "<class" not in helps[verb]


def test_help_names_the_exit_codes(helps):
    told = re.findall(r"^  (\d+) ", helps[""].partition("exit codes:\n")[2], re.MULTILINE)
    assert list(map(int, told)) == [0, 1, WRONG_INPUT, LOST, COLLAPSED, INTERRUPTED]


@pytest.mark.parametrize(("verb", "rank"), [*((verb, "0") for verb in VERBS), ("sweep", "1")])
def test_ctrl_c_says_what_is_left(verb, rank, monkeypatch, capsys):
    def stop(parser, parsed):
        raise KeyboardInterrupt

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setitem(VERBS, verb, (VERBS[verb][0], stop))
    _, *arguments = examples_in("\nexamples:\n" + WORDS[verb].examples[0])[0]
    assert main(arguments) == INTERRUPTED
    said = capsys.readouterr().err
    if rank == "0":
        assert re.fullmatch(r"biggan-sn: stopped; [^{}\n]+\n", said)
        if "{" in WORDS[verb].stopped:
            assert "nothing was begun" in said, "there is no such folder"
    else:
        assert said == ""


def test_ctrl_c_speaks_of_what_is_there(tmp_path, monkeypatch, capsys):
    def stop(parser, parsed):
        parsed.run_dir.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, "train", (VERBS["train"][0], stop))
    assert main(["train", "--run_dir", str(tmp_path / "run")]) == INTERRUPTED
    assert f"stopped; {tmp_path / 'run'} is as its newest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("train", "--penalties", "r1"), "penalties must be names with values, as '{"),
        (("train", "--data.classes", "cat"), "data.classes must be a list, as '[one, two]', got c"),
        (("train", "--steps", "many"), "steps must be a whole number, got many"),
        (("train", "--fgan_saturating", "x"), "fgan_saturating must be true or false, got x"),
        (("sample", "--per_class", "x"), "per_class must be a whole number, got x"),
        (("train",), "missing: --run_dir"),
        (("sample",), "missing: RUN --out"),
    ],
)
def test_complaints_speak_no_python(arguments, told, capsys):
    given = {"train": ("--run_dir", "x"), "sample": ("x", "--out", "y")}[arguments[0]]
    more = given if len(arguments) > 1 else ()
    assert main([*arguments, *more]) == WRONG_INPUT
    assert capsys.readouterr().err.startswith(f"biggan-sn: error: {told}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("objectve: hinge", "train does not accept option 'objectve'; did you mean --objective?"),
        ("generator: {lr: fast}", "generator.lr must be a number, got fast"),
        ("lipschitz: {generator: sn}", "lipschitz.generator must be a list, as '[one, two]', got"),
    ],
)
def test_complaints_name_the_file_of_several(text, told, tmp_path, capsys):
    first, last = tmp_path / "first.yaml", tmp_path / "last.yaml"
    first.write_text("generator: {lr: 1e-4}\nlipschitz: {generator: []}\n")
    last.write_text(text)
    given = ("--config", str(first), "--config", str(last), "--run_dir", "x")
    assert main(["train", *given]) == WRONG_INPUT
    assert f"error: {last}: {told}" in capsys.readouterr().err
    option = ("--config", str(first), "--run_dir", "x", "--generator.lr", "slow")
    assert main(["train", *option]) == WRONG_INPUT
    assert "error: generator.lr must be a number, got slow" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- completion


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The file that bash is to read."""
    pytest.importorskip("shtab", reason="completion needs shtab")
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    path = tmp_path_factory.mktemp("completion") / "bash"
    parser = parsers()[0]
    path.write_text(parser.get_completion_script("shtab-bash"))
    return path


def completed(script, *words):
    """What bash offers for the last of these words, through the function that is registered."""
    program = f"""
    . {script}
    function=$(complete -p biggan-sn | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
    COMP_LINE={shlex.quote(" ".join(words))} COMP_POINT=${{#COMP_LINE}}
    $function biggan-sn {shlex.quote(words[-1])} {shlex.quote(words[-2])}
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    command = ["bash", "--norc", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return sorted(set(done.stdout.split()))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["eval"], ["evaluate"]),
        ([""], sorted(VERBS)),
        (["rollback", "--t"], ["--to"]),
        (["train", "--data.pa"], ["--data.path"]),
        (["train", "--data.flip", "t"], ["true"]),
        (["train", "--config", "configs/digits32_sn"], ["configs/digits32_sngan.yaml"]),
        (["status", "config"], ["configs"]),
        (["completion", "z"], ["zsh"]),
    ],
    ids=" ".join,
)
def test_bash_completes(script, words, offered):
    assert completed(script, "biggan-sn", *words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_verb_prints_the_script(shell, capsys):
    pytest.importorskip("shtab", reason="completion needs shtab")
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in VERBS)
    assert ("#compdef biggan-sn" in printed) == (shell == "zsh")


def test_without_shtab_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("biggan_sn.cli.completion.find_spec", lambda name: None)
    assert main(["completion", "bash"]) == WRONG_INPUT
    assert "pip install 'biggan_sn[completion]'" in capsys.readouterr().err


LAST_WORDS = """
import atexit, threading, time
from concurrent.futures import ThreadPoolExecutor
from biggan_sn import cli

def main():
    threading.Thread(target=lambda: (time.sleep(0.2), print("a thread"))).start()
    atexit.register(print, "what was left to the end")
    cli.pool = ThreadPoolExecutor(1)  # that some library keeps, its thread waiting for more
    cli.pool.submit(print, "the verb").result()
    return 7

cli.main = main
cli.command()
"""


def test_the_process_says_all_before_it_ends():
    """Though it does not end as Python would have it."""
    line = (sys.executable, "-c", LAST_WORDS)
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    said = ["the verb", "a thread", "what was left to the end"]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (7, said, "")


def test_who_reads_only_the_beginning_hears_no_complaint():
    line = (sys.executable, "-m", "biggan_sn", "configs", "path")
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(line, cwd=ROOT, env=buffered, **pipes) as job:
        job.stdout.close()
        assert job.stderr.read() == b""
    assert job.returncode == 0
