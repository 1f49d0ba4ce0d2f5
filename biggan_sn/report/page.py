"""The page: its sections one after another, with their style and script inside it."""

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from biggan_sn import __version__
from biggan_sn.evaluation.charts import COLOURS
from biggan_sn.files import write_whole
from biggan_sn.report.charts import curves
from biggan_sn.report.events import events
from biggan_sn.report.markup import NOTHING, Html, element, join, paragraph, text, void
from biggan_sn.report.overview import head
from biggan_sn.report.pictures import samples
from biggan_sn.report.reading import History, read_run
from biggan_sn.report.settings import environment, settings
from biggan_sn.report.spectra import spectra
from biggan_sn.report.sweeps import SWEEP, Sweep, read_sweep
from biggan_sn.report.trade_off import trade_off

PAGE, SWEEPS = "report.html", "sweep"  # in a run's folder


class Subject(NamedTuple):
    """What a page is of: the run, its sweep if there is one, and what is to be said where there
    is none."""

    run: History
    sweep: Sweep | None
    no_sweep: str


class Section(NamedTuple):
    """A row: its place on the page, its heading, and what makes it; nothing leaves it out."""

    name: str
    heading: str
    make: Callable[[Subject], Html]


def write_report(
    run: Path, sweep: Path | None = None, out: Path | None = None, now: float | None = None
) -> Path:
    """Writes the page of the run in a folder, whole or not at all, and returns where it is.

    Args:
        run: its folder.
        sweep: folder of its sweep; None takes that in its folder, if there is one.
        out: the page; None puts it into the run's folder.
        now: the time, in seconds since 1970; None asks the clock.

    Raises:
        ValueError: there is no run, or no sweep where one was named.
        OSError: the page cannot be written.
    """
    path = run / PAGE if out is None else out
    if path.is_dir():
        raise ValueError(f"{path}: a folder; the page goes into a file")
    if sweep is not None and not (sweep / SWEEP).is_file():
        raise ValueError(f"{sweep}: not the folder of a sweep; it has no {SWEEP}")
    subject = Subject(read_run(run, now), *_sweep(run / SWEEPS if sweep is None else sweep))
    # Names of files may hold bytes that are no text.
    write_whole(path, page(subject).encode("utf-8", "replace"))
    return path


def _sweep(folder: Path) -> tuple[Sweep | None, str]:
    try:
        return read_sweep(folder), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError) as error:
        return None, f"There is a sweep that cannot be read: {error}."


def page(subject: Subject) -> Html:
    """The whole document."""
    made = {section: section.make(subject) for section in SECTIONS}
    shown = {section: content for section, content in made.items() if content}
    links = [
        element("li", element("a", text(section.heading), {"href": f"#{section.name}"}))
        for section in shown
    ]
    body = [
        head(subject.run, subject.sweep),
        element("nav", element("ul", join(links)), {"aria-label": "sections"}),
        element("main", join(_section(*pair) for pair in shown.items())),
        element("footer", text(f"biggan_sn {__version__}")),
    ]
    whole = [
        Html("<!doctype html>"),
        element("html", join([_head(subject.run), element("body", join(body))]), {"lang": "en"}),
    ]
    return join([*whole, NOTHING])


def _section(section: Section, content: Html) -> Html:
    name = f"{section.name}-heading"
    heading = element("h2", text(section.heading), {"id": name})
    attributes = {"id": section.name, "aria-labelledby": name}
    return element("section", join([heading, content]), attributes)


def _head(run: History) -> Html:
    style, script = _style(), _resource("script.js")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    # Whatever the data hold: nothing is fetched, and no script runs but this one.
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    narrow = "width=device-width, initial-scale=1"
    parts = [
        void("meta", {"charset": "utf-8"}),
        void("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        void("meta", {"name": "viewport", "content": narrow}),
        void("meta", {"name": "color-scheme", "content": "light dark"}),
        void("link", {"rel": "icon", "href": "data:,"}),
        element("title", text(f"{run.name}: step {run.step}, {run.state}")),
        element("style", Html(style)),
        element("script", Html(script)),
    ]
    return element("head", join(parts))


def _style() -> str:
    """With the colours of all charts of this package."""
    colours = "".join(f"--c{number}:{colour};" for number, colour in enumerate(COLOURS))
    return f":root{{{colours}}}\n{_resource('style.css')}"


def _resource(name: str) -> str:
    """A file of this package."""
    return files("biggan_sn.report").joinpath(name).read_text(encoding="utf-8")


def _sweep_section(subject: Subject) -> Html:
    if subject.sweep is not None:
        return trade_off(subject.sweep)
    return paragraph(subject.no_sweep) if subject.no_sweep else NOTHING


def _damaged(subject: Subject) -> Html:
    return join(
        paragraph(f"{count} lines of {name} cannot be read and are left out.")
        for name, count in subject.run.damaged.items()
    )


SECTIONS = (
    Section("damaged", "What cannot be read", _damaged),
    Section("samples", "Samples", lambda subject: samples(subject.run)),
    Section("sweep", "Truncation sweep", _sweep_section),
    Section("curves", "Curves", lambda subject: curves(subject.run)),
    Section("spectra", "Spectra", lambda subject: spectra(subject.run)),
    Section("alarms", "Alarms and rollbacks", lambda subject: events(subject.run)),
    Section("config", "Config", lambda subject: settings(subject.run)),
    Section("environment", "Environment", lambda subject: environment(subject.run)),
)
