"""One import of each recorded program for all tests."""

import pytest

from biggan_sn.checkpoint import find
from biggan_sn.cli import main
from tests.reference import peers
from tests.unit.interop.leaving import LEAVE, format_of

QUICK = ("--batch_size", "4", "--steps", "2000", "--d_steps", "1")


@pytest.fixture(scope="session")
def imported(tmp_path_factory):
    """Imports once, by name: the record, the run and its checkpoint."""
    done = {}

    def import_(name):
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            recorded = peers.Recorded(name)
            source = LEAVE[format_of(name)](recorded, folder)
            run = folder / "run"
            arguments = ["import", "--format", format_of(name), str(source), str(run), *QUICK]
            assert main([*arguments, *recorded.about.get("options", [])]) == 0
            done[name] = recorded, run, find(run)
        return done[name]

    return import_
