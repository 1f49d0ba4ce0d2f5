"""The verb `configs`."""

from collections.abc import Callable

from jsonargparse import ArgumentParser, Namespace

from biggan_sn import shipped
from biggan_sn.tables import lookup


def declare(parser: ArgumentParser) -> None:
    """List and show the configs that come with the package: list, show NAME, path [NAME].

    A name stands wherever --config wants a file: biggan-sn train --config digits32_biggan. `path`
    says where a file lies, or without a name the folder with configs, launch and slurm.
    """
    parser.add_argument("action", help="list, show or path")
    parser.add_argument("name", nargs="?", default=None, help="of a config, as the list has it")


def run(parser: ArgumentParser, parsed: Namespace) -> int:
    """Prints what was asked for; returns the exit code."""
    print(lookup(ACTIONS, parsed.action, "action")(parsed.name), end="")
    return 0


def _list(name: str | None) -> str:
    """Names and what they are, those that begin with `name`."""
    known = {key: path for key, path in shipped.configs().items() if key.startswith(name or "")}
    width = max(map(len, known), default=0)
    return "".join(f"{key:{width}}  {shipped.summary(path)}\n" for key, path in known.items())


def _show(name: str | None) -> str:
    if name is None:
        raise ValueError("configs show: name a config; biggan-sn configs list names them all")
    return shipped.config_file(name).read_text(encoding="utf-8")


def _path(name: str | None) -> str:
    return f"{shipped.FOLDER if name is None else shipped.config_file(name)}\n"


ACTIONS: dict[str, Callable[[str | None], str]] = {"list": _list, "show": _show, "path": _path}
