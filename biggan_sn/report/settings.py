"""The config of a run, what differs from the defaults first, and what it was made with."""

import json
from typing import Any

from biggan_sn.config_io import differences
from biggan_sn.report.markup import Html, element, join, paragraph, table, text
from biggan_sn.report.reading import History
from biggan_sn.run_folder import CONFIG


def settings(run: History) -> Html:
    """Of a run without a readable config, a sentence."""
    if not run.config:
        return paragraph(f"{CONFIG} is not there or cannot be read.")
    rows = [
        [text(name), _value(value), _value(default)]
        for name, (value, default) in differences(run.config).items()
    ]
    whole = [
        element("summary", text("The whole config")),
        element("pre", element("code", text(run.config_text))),
    ]
    changed = paragraph("All settings are the defaults.")
    if rows:
        changed = table("What differs from the defaults", ["setting", "here", "default"], rows)
    return join([changed, element("details", join(whole))])


def _value(value: Any) -> Html:
    """As it could be typed behind an option."""
    shown = value if isinstance(value, str) and value else json.dumps(value, default=str)
    return element("code", text(shown))


def environment(run: History) -> Html:
    """Versions, devices and commit at the newest start."""
    if not run.environment:
        return paragraph("Not recorded: the run was made before environments were.")
    versions, devices = (run.environment.get(name) for name in ("versions", "devices"))
    told = dict(versions) if isinstance(versions, dict) else {}
    if isinstance(devices, dict):
        told["devices"] = ", ".join(f"{count} x {device}" for device, count in devices.items())
    told |= {name: run.environment.get(name) for name in ("processes", "engine", "commit")}
    rows = [[text(name), text(value or "not known")] for name, value in told.items()]
    return table("At the newest start of the run", ["what", "which"], rows)
