"""What the parser complains of, in words of people: no Python, the nearest option, the file."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from biggan_sn.cli.common import values_of

TYPE_ERROR = re.compile(
    r"""Parser key "(?P<key>\S+)"(?: element \d+)?:\s+"""
    r"""Expected a <class '(?P<type>\w+)'>\. Got value: (?P<value>.*)"""
)
UNKNOWN = re.compile(r".* does not accept option '(?P<key>\S+)'")
MISSING = re.compile(r"the following arguments are required: (?P<names>.*)")
WANTED = {
    "tuple": "a list, as '[one, two]'",
    "dict": "names with values, as '{one: 1, two: 2}'",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}


def plainly(message: str, arguments: Sequence[str], parser: ArgumentParser) -> str:
    """The complaint of a parser about these arguments, of which the first is the verb."""
    # The parser calls the --run_dir of train "train.run_dir", and the verb a subcommand.
    verb = arguments[0]
    message = message.replace(f"{verb}.", "").replace(f"Subcommand '{verb}'", verb)
    if missing := MISSING.fullmatch(message):
        names = missing["names"].split(", ")
        return f"missing: {' '.join(_as_typed(name, parser) for name in names)}"
    if wrong := TYPE_ERROR.match(message):
        wanted = WANTED.get(wrong["type"], wrong["type"])
        place = _place(wrong["key"], arguments)
        return f"{place}{wrong['key']} must be {wanted}, got {wrong['value']}"
    if unknown := UNKNOWN.fullmatch(message):
        place, option = _place(unknown["key"], arguments), f"--{unknown['key']}"
        return f"{place}{message}{_nearest([option], parser)}"
    words = message.split()
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    return message + (_nearest(options, parser) if words[:1] == ["unrecognized"] else "")


def _nearest(wrong: Sequence[str], parser: ArgumentParser) -> str:
    """The known option that is meant; nothing where none is near."""
    known = [option for action in parser._actions for option in action.option_strings]
    near = [match for word in wrong for match in get_close_matches(word, known, n=1, cutoff=0.7)]
    return f"; did you mean {near[0]}?" if near else ""


def _place(key: str, arguments: Sequence[str]) -> str:
    """The last config that has this key, if no option has it."""
    if any(argument.partition("=")[0] == f"--{key}" for argument in arguments):
        return ""
    for path in reversed(values_of("--config", list(arguments))):
        section = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        for part in key.split("."):
            section = section.get(part, None) if isinstance(section, dict) else None
        if section is not None:
            return f"{path}: "
    return ""


def _as_typed(name: str, parser: ArgumentParser) -> str:
    """An argument as it stands on a command line: by its option, or as help calls it."""
    action = {action.dest: action for action in parser._actions}.get(name)
    if action is None:
        return name
    return action.option_strings[0] if action.option_strings else str(action.metavar or name)
