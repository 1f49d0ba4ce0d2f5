"""Runs and sweeps made by hand, as their folders have them, and a page as a browser sees it."""

import io
import json
import os
from html.parser import HTMLParser

import numpy as np
import yaml
from PIL import Image

from biggan_sn.report.page import write_report

NOW = 1_800_000_000.0
VOID = {"meta", "link", "img", "input"}
LAYERS = {"G": ("linear", "blocks.0.conv1"), "D": ("blocks.0.conv1", "embed")}
ALARM = {
    "event": "alarm", "attempt": 0, "step": 30, "sign": "explosion", "channel": "explosion",
    "action": "warn", "reason": "G linear: sigma_0 grew", "since": 20,
    "levels": {"explosion": 1.25},
}  # fmt: skip
ROLLBACK = {
    "event": "rollback", "from": 70, "to": 40, "attempt": 1, "reason": "it broke", "by_hand": False,
}  # fmt: skip
SPEED = {"images_per_second": 80.0, "data_wait": 1.0, "communication": 0.0, "slowest_rank": 0,
         "lag": 0.0, "saving": 0.0}  # fmt: skip


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def png(colour, size=(40, 20)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def losses(step, **values):
    return {"step": step, "d_loss": 1 + step / 100, "g_loss": -0.5, "speed": SPEED, **values}


def make_run(folder, events=(ALARM,), config=None, steps=100):
    """A run that is at step 100, with everything there is."""
    folder.mkdir(parents=True)
    config = {"steps": steps, "data": {"path": "shards"}, "batch_size": 32} | (config or {})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    scores = [
        {"step": step, "evaluation/fid": fid, "evaluation/classes": 9.0}
        for step, fid in ((50, 7.25), (100, 8.5))
    ]
    logged = [losses(step) for step in range(10, 101, 10)]
    (folder / "scalars.jsonl").write_text(lines(*logged, *scores))
    spectra = [
        {
            "step": step,
            **{
                network: {layer: [step / 10 * (1 + place), 1.0, 0.5] for place, layer in names}
                for network, names in ((net, enumerate(LAYERS[net])) for net in "GD")
            },
            "lipschitz": {"total": 1000.0 * step},
        }
        for step in range(20, 101, 20)
    ]
    (folder / "spectra.jsonl").write_text(lines(*spectra))
    (folder / "collapse.jsonl").write_text(lines(*events))
    environment = {"versions": {"torch": "2.15"}, "devices": {"H200": 8}, "processes": 8,
                   "engine": "zero1", "commit": "c0ffee"}  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "pictures").mkdir()
    (folder / "pictures" / "samples.png").write_bytes(png((9, 8, 7)))
    for path in folder.iterdir():
        os.utime(path, (NOW - 60, NOW - 60))
    return folder


def point(truncation, mode="resample", **scores):
    name = f"grid_{mode}_{truncation}.png"
    return {"truncation": truncation, "mode": mode, "standing_statistics": 16, "diversity": 0.31,
            "scores": scores, "grid": name}  # fmt: skip


POINTS = (
    point(1.0, fid=3.0, **{"is": 7.0}, is_std=0.25, precision=0.7, recall=0.6),
    point(0.4, fid=5.0, **{"is": 9.0}, precision=0.9, recall=0.3),
    point(None, fid=4.0, **{"is": 6.0}, precision=0.6, recall=0.8),
    point(0.4, "scale", fid=6.0, **{"is": 8.0}, precision=0.85, recall=0.25),
)
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))


def make_sweep(folder, points=POINTS, best=None, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(points):
        (folder / one["grid"]).write_bytes(png(COLOURS[number % 4]))
    best = {"fid": 0, "is": 1, "real_is": 3} if best is None else best
    record = {"checkpoint": "runs/x/checkpoints/00002400", "step": 2400, "extractor": "digits",
              "samples": 1000, "real": {"images": 1437, "is": 9.5}, "points": list(points),
              "best": best}  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(record | changes))
    return folder


class Node:
    """An element: its tag, attributes, parts (strings and nodes)."""

    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent, self.parts = tag, attributes, parent, []

    def all(self, tag=None, **attributes):
        """Those within, in order, with these attributes; class_ is one of several."""
        found = []
        for part in self.parts:
            if isinstance(part, Node):
                found += [part] if part._is(tag, attributes) else []
                found += part.all(tag, **attributes)
        return found

    def one(self, tag=None, **attributes):
        (found,) = self.all(tag, **attributes)
        return found

    def _is(self, tag, attributes):
        kind = attributes.get("class_")
        rest = {name: value for name, value in attributes.items() if name != "class_"}
        return (
            tag in (None, self.tag)
            and (kind is None or kind in self["class"].split())
            and all(self[name] == value for name, value in rest.items())
        )

    def __getitem__(self, name):
        return self.attributes.get(name) or ""

    @property
    def text(self):
        parts = (part.text if isinstance(part, Node) else part for part in self.parts)
        return " ".join(" ".join(parts).split())


class Page(HTMLParser):
    """Reads a page, and fails where an element is not closed or closed by another."""

    def __init__(self, source):
        super().__init__()
        self.source = source
        self.root = self.here = Node("", {}, None)
        self.feed(source)
        self.close()
        assert self.here is self.root, f"{self.here.tag} is not closed"

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"{tag} has an attribute twice"
        node = Node(tag, dict(attributes), self.here)
        self.here.parts.append(node)
        if tag not in VOID:
            self.here = node

    def handle_endtag(self, tag):
        assert self.here.tag == tag, f"{self.here.tag} is closed by {tag}"
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.parts.append(data)


def page_of(run, **options):
    """The page of a run, as it lies on disk."""
    path = write_report(run, now=NOW, **options)
    return Page(path.read_text(encoding="utf-8")).root


def parsed(source):
    return Page(source).root


def pixels(image):
    """What an img element shows, [H, W, 3]."""
    from base64 import b64decode

    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(b64decode(data))).convert("RGB"))
