"""Alarms and rollbacks, and what each of them says."""

from biggan_sn.report.markup import Html, paragraph, table, text
from biggan_sn.report.reading import History, number
from biggan_sn.training.records import Record

HEAD = ("step", "attempt", "what", "reason", "calm until step", "to do", "signs")


def events(run: History) -> Html:
    """A table of all, oldest first; alarms that a rollback gave up are there too, and say so."""
    if not run.events:
        return paragraph("None.")
    standing = run.alarms
    rows = []
    for event in run.events:
        if event["event"] == "rollback":
            rows.append(_rollback(event))
        else:
            rows.append(_alarm(event, any(event is alarm for alarm in standing)))
    return table("Every alarm and rollback, oldest first", HEAD, rows)


def _alarm(event: Record, stands: bool) -> list[Html]:
    what = f"alarm, {event.get('channel', '')}{'' if stands else ', given up by a rollback'}"
    levels = event.get("levels")
    signs = levels.items() if isinstance(levels, dict) else ()
    shown = ", ".join(f"{sign} at {100 * number(level):.0f}%" for sign, level in signs)
    names = ("reason", "since", "action")
    told = [text(event.get(name, "")) for name in names]
    return [text(event["step"]), text(event.get("attempt", "")), text(what), *told, text(shown)]


def _rollback(event: Record) -> list[Html]:
    what = f"rollback from step {event['from']} to {event['to']}"
    by_hand = "by hand" if event.get("by_hand") else "by itself"
    cells = (
        event["from"],
        event.get("attempt", ""),
        what,
        event.get("reason", ""),
        "",
        by_hand,
        "",
    )
    return [text(cell) for cell in cells]
