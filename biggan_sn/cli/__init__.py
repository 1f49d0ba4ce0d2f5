"""The command `biggan-sn`: one file per verb, and the only place that parses arguments.

Nothing here imports torch before the arguments are known to be right, so help and most mistakes
answer in a fraction of a second.
"""

import atexit
import os
import string
import sys
import threading
from argparse import ArgumentError
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from inspect import cleandoc
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser, Namespace

from biggan_sn import __version__
from biggan_sn.cli import (
    arena,
    bench,
    completion,
    configs,
    draw,
    evaluate,
    export,
    import_,
    inspect,
    pictures,
    preflight,
    report,
    rollback,
    spectrum,
    status,
    sweep,
    train,
)
from biggan_sn.cli.common import (
    COLLAPSED,
    INTERRUPTED,
    check_yaml,
    complain,
    values_of,
    with_configs_found,
)
from biggan_sn.cli.complaints import plainly
from biggan_sn.cli.words import EXIT_CODES, WORDS, Formatter, examples_of
from biggan_sn.tables import lookup
from biggan_sn.training.launching import WRONG_INPUT, LostError, VerdictError


def command() -> NoReturn:
    """The process of the command: `main`, the end of all threads and what was left to the end, as
    Python has it, and then out at once. To take thousands of modules apart first is of use to no
    one, and takes as long as many a command."""
    code = main()
    threading._shutdown()  # type: ignore[attr-defined]  # also wakes the threads of idle pools
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):  # who read along has seen enough
            stream.flush()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns 0 if it did what it should, 2 if the input was wrong, 3 if another
    process of the job was lost, 4 if a training run collapsed, 130 if it was interrupted where
    nothing is to be saved."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(arguments)
    except (ArgumentError, ValueError, OSError) as error:
        complain(error)
        return WRONG_INPUT
    except VerdictError as error:
        complain(error)
        return COLLAPSED
    except LostError as error:
        complain(error)
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    parser, verbs = parsers(arguments[:1])
    if not arguments:
        parser.print_help()
        return 0
    if not arguments[0].startswith("-"):
        lookup(VERBS, arguments[0], "verb")
    arguments = with_configs_found(train.with_config_of_run(arguments))
    for path in values_of("--config", arguments):
        check_yaml(Path(path))
    try:
        parsed = parser.parse_args(arguments)
    except (ArgumentError, TypeError) as error:
        known = verbs.get(arguments[0], parser)
        raise ValueError(plainly(str(error), arguments, known)) from error
    verb = parsed.subcommand
    try:
        return VERBS[verb][1](verbs[verb], parsed[verb])
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # of several processes one says it
            left = _what_is_left(WORDS[verb].stopped, parsed[verb])
            print(f"biggan-sn: stopped; {left}", file=sys.stderr)
        raise


def _what_is_left(words: str, options: Namespace) -> str:
    """After Ctrl-C; where what the words speak of is not there, nothing is."""
    spoken_of = [options[name] for _, name, _, _ in string.Formatter().parse(words) if name]
    if not all(Path(path).exists() for path in spoken_of):
        return "nothing was begun"
    return words.format_map(options)


def parsers(
    needed: Collection[str] | None = None,
) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The parser of the command, and those of its verbs by name. Where not all verbs are needed,
    the others have no options: to declare every field of a config takes a while."""
    parser = ArgumentParser(
        prog="biggan-sn",
        description="Trains class-conditional GANs and keeps their spectra in sight.",
        epilog=EXIT_CODES,
        formatter_class=Formatter,
        version=__version__,
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(metavar="VERB", title="verbs")
    verbs = {}
    for name, (declare, _) in VERBS.items():
        about = cleandoc(declare.__doc__ or "")
        verbs[name] = ArgumentParser(
            description=about,
            epilog=examples_of(name),
            formatter_class=Formatter,
            exit_on_error=False,
            allow_abbrev=False,
        )
        if needed is None or name in needed:
            declare(verbs[name])
        commands.add_subcommand(name, verbs[name], help=about.splitlines()[0])
    return parser, verbs


Declare = Callable[[ArgumentParser], None]
Run = Callable[[ArgumentParser, Namespace], int]

VERBS: dict[str, tuple[Declare, Run]] = {
    "train": (train.declare, train.run),
    "import": (import_.declare, import_.run),
    "export": (export.declare, export.run),
    "sample": (draw.declare_sample, draw.sample),
    "sweep": (sweep.declare, sweep.run),
    "interpolate": (pictures.declare_interpolate, pictures.interpolate),
    "neighbours": (pictures.declare_neighbours, pictures.neighbours),
    "evaluate": (evaluate.declare, evaluate.run),
    "status": (status.declare, status.run),
    "inspect": (inspect.declare, inspect.run),
    "report": (report.declare, report.run),
    "rollback": (rollback.declare, rollback.run),
    "spectrum": (spectrum.declare, spectrum.run),
    "arena": (arena.declare, arena.run),
    "preflight": (preflight.declare, preflight.run),
    "bench": (bench.declare, bench.run),
    "configs": (configs.declare, configs.run),
    "completion": (completion.declare, completion.run),
}
