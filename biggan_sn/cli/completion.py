"""The verb `completion`."""

from importlib.util import find_spec

from jsonargparse import ArgumentParser, Namespace

SHELLS = ("bash", "zsh")


def declare(parser: ArgumentParser) -> None:
    """Print a script that completes verbs, options and files in a shell."""
    parser.add_argument("shell", choices=SHELLS, help="for which")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Prints the script; returns the exit code."""
    from biggan_sn.cli import parsers

    if find_spec("shtab") is None:
        raise ValueError("completion needs shtab: pip install 'biggan_sn[completion]'")
    print(parsers()[0].get_completion_script(f"shtab-{parsed.shell}"))
    return 0
