"""What the verbs share: options and YAML to a config, processes, complaints."""

import gc
import os
import sys
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, Namespace

from biggan_sn.config import Config
from biggan_sn.config_io import after_rollbacks, to_dict, values_after_rollbacks
from biggan_sn.models.plan import discriminator_stages, generator_stages
from biggan_sn.shipped import config_file

COLLAPSED, INTERRUPTED = 4, 130  # exit codes; 1 is that of a fault of ours


@contextmanager
def quick_imports() -> Iterator[None]:
    """No search for garbage meanwhile: in modules that are being imported there is none to find,
    and it takes a fifth of the time that a run takes to its first step."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def complain(error: Exception) -> None:
    """One line on stderr."""
    rank = os.environ.get("RANK")
    where = f"rank {rank}: " if rank is not None else ""
    print(f"biggan-sn: error: {where}{' '.join(str(error).split())}", file=sys.stderr)


def values_of(option: str, arguments: list[str]) -> list[str]:
    """All values given to `option`, as `--option value` or `--option=value`."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    spread = [value for name, value in pairs if name == option and value]
    return spread + [a.partition("=")[2] for a in arguments if a.startswith(f"{option}=")]


def with_configs_found(arguments: list[str]) -> list[str]:
    """The same arguments, with a path wherever --config has the name of a config that comes along.

    Raises:
        ValueError: there is neither a file nor a config of this name.
    """
    found = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before == "--config":
            found.append(str(config_file(argument)))
        elif argument.startswith("--config="):
            found.append(f"--config={config_file(argument.partition('=')[2])}")
        else:
            found.append(argument)
    return found


def config_of(parser: ArgumentParser, parsed: Namespace) -> Config:
    """The config, with everything checked that needs no torch."""
    built = parser.instantiate(parsed)
    config = Config(**{field.name: built[field.name] for field in fields(Config)})
    _check_rollbacks(parser, config)
    config.microbatch("generator", ranks())
    config.microbatch("discriminator", ranks())
    model, resolution = config.model, config.data.resolution
    generator_stages(resolution, model.channels, model.generator_attention, model.generator_widths)
    discriminator_stages(resolution, model.width_of_discriminator, model.discriminator_attention)
    return config


def _check_rollbacks(parser: ArgumentParser, config: Config) -> None:
    """Raises ValueError if a rollback would give a field something wrong."""
    values = values_after_rollbacks(config, 1)
    if values == to_dict(config):
        return
    try:
        parser.parse_object({**values, "run_dir": "."})
    except (ArgumentError, TypeError) as error:
        raise ValueError(f"collapse, after a rollback: {error}") from error
    for attempt in range(1, config.collapse.rollbacks + 1):
        after_rollbacks(config, attempt)


def ranks() -> int:
    """How many processes the launcher says there are."""
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdigit() or int(size) < 1:
        raise ValueError(f"the environment variable WORLD_SIZE must be a number, got {size!r}")
    return int(size)


def check_yaml(path: Path) -> None:
    """Finds what a parser would pass in silence, or complain of without naming the file.

    Raises:
        ValueError: not YAML, a key that is there twice, or something else where a section belongs.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path}: a config is a list of `section: ...` or `name: value` lines")
    _check_keys(root, path)
    sections = {name for name, value in to_dict(Config()).items() if isinstance(value, dict)}
    for key, value in root.value:
        if key.value in sections and not isinstance(value, yaml.MappingNode):
            raise ValueError(f"{path}: {key.value} is a section; give its fields, or leave it out")


def _check_keys(node: yaml.MappingNode, path: Path) -> None:
    seen = set()
    for key, value in node.value:
        if key.value in seen:
            line = key.start_mark.line + 1
            raise ValueError(f"{path}, line {line}: {key.value!r} is there twice")
        seen.add(key.value)
        if isinstance(value, yaml.MappingNode):
            _check_keys(value, path)
