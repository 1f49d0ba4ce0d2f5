"""The page: everything is on it, nothing is fetched, nothing from the data is taken for HTML."""

import json
import math
import re
import tomllib
from base64 import b64encode
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import biggan_sn
from biggan_sn.cli import main
from biggan_sn.evaluation.charts import COLOURS
from biggan_sn.report.page import write_report
from tests.unit.report.making import (
    ALARM,
    NOW,
    POINTS,
    ROLLBACK,
    SPEED,
    lines,
    losses,
    make_run,
    make_sweep,
    page_of,
    pixels,
    png,
    point,
)

HOSTILE = "\"><script>alert(1)</script>&amp;'<img src=x onerror=y>"


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "my run", events=(ALARM, {**ALARM, "step": 60}, ROLLBACK))


@pytest.fixture
def page(run):
    make_sweep(run / "sweep")
    return page_of(run)


def section(page, name):
    return page.one("section", id=name)


def rows(part):
    return [[c.text for c in row.all() if c.tag in ("td", "th")] for row in part.all("tr")]


def chart(page, title):
    (found,) = [f for f in page.all("figure", class_="chart") if f.one("figcaption").text == title]
    return found


def values(figure):
    return {path["data-name"]: path["data-values"] for path in figure.all("path")}


# ------------------------------------------------------------------------------------- the document


def test_sections_in_order_with_links_to_each(page):
    headings = [heading.text for heading in page.one("main").all("h2")]
    assert headings == ["Samples", "Truncation sweep", "Curves", "Spectra", "Alarms and rollbacks",
                        "Config", "Environment"]  # fmt: skip
    assert [link.text for link in page.one("nav").all("a")] == headings
    assert page.one("html")["lang"] == "en"
    assert page.one("head").one("title").text == "my run: step 100, finished"
    assert len(page.all("h1")) == 1


def test_headings_skip_no_level(page):
    levels = [int(n.tag[1]) for n in page.all() if re.fullmatch("h[1-6]", n.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_ids_are_there_once_and_links_lead_to_them(page):
    ids = [node["id"] for node in page.all() if node["id"]]
    assert len(set(ids)) == len(ids)
    links = [link["href"] for link in page.all("a")]
    assert len(links) > 10
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    for label in page.all("label"):
        assert not label["for"] or label["for"] in ids
    assert all(node["aria-labelledby"] in [*ids, ""] for node in page.all())


def test_nothing_is_fetched(page, run):
    for node in page.all():
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "style"):
            assert node[name] == "" or node[name].startswith(("#", "data:")), (node.tag, name)
    source = (run / "report.html").read_text()
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", source)
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    digest = b64encode(sha256("".join(page.one("script").parts).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_pictures_have_alternatives_and_sizes(page):
    images = page.all("img")
    assert len(images) == 1 + 4 + 4, "samples, sweep, heat-maps"
    assert all(image["alt"] and image["width"] and image["height"] for image in images)
    assert len({image["alt"] for image in images}) == len(images)


def test_colours_are_those_of_all_charts(page):
    style = page.one("style").text
    for number, colour in enumerate(COLOURS):
        assert f"--c{number}:{colour};" in style
        assert f".c{number} {{ color: var(--c{number}); }}" in style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_style_and_script_are_part_of_the_package():
    root = Path(biggan_sn.__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["biggan_sn"]
    shipped = {path for pattern in patterns for path in (root / "biggan_sn").glob(pattern)}
    there = [path for path in (root / "biggan_sn" / "report").iterdir() if path.is_file()]
    assert {path for path in there if path.suffix != ".py"} <= shipped


def test_nothing_of_the_machine_but_what_the_run_holds(page, run):
    import socket

    assert socket.gethostname() not in page.text


# ---------------------------------------------------------------------------------------- the head


def test_head(page):
    head = page.one("header")
    assert head.one("h1").text == "my run finished"
    assert head.one("p", class_="progress").text.startswith("step 100 of 100 · ")
    bar = head.one("progress")
    assert (bar["value"], bar["max"]) == ("100", "100")
    tiles = [tile.text for tile in head.one("dl").all("div")]
    assert tiles == [
        "best FID 7.25 at step 50",
        "best FID of the sweep 3 truncation 1, resample",
        "best Inception score of the sweep 9 truncation 0.4, resample",
        "images per second 80 median of the last 10 logged",
    ]


def test_times(run):
    from datetime import datetime

    words = page_of(run).one("p", class_="progress").text
    written = datetime.fromtimestamp(NOW - 60).astimezone().strftime("%Y-%m-%d %H:%M")
    made = datetime.fromtimestamp(NOW).astimezone().strftime("%Y-%m-%d %H:%M")
    assert words.index(f"last sign of life {written}") < words.index(f"page written {made}")


def test_alarms_that_stand_are_in_a_red_box(page):
    box = page.one("section", class_="alarm-box")
    assert box.one("h2").text == "1 standing alarm"
    assert box.one("li").text == "step 30, explosion: G linear: sigma_0 grew"


def test_no_box_where_none_stands(tmp_path):
    given_up = {**ALARM, "step": 60}
    page = page_of(make_run(tmp_path / "run", events=(given_up, ROLLBACK)))
    assert not page.all(class_="alarm-box")


def test_the_box_shows_the_newest_first(tmp_path):
    events = [{**ALARM, "step": step} for step in (10, 20, 30, 40)]
    box = page_of(make_run(tmp_path / "run", events=events)).one("section", class_="alarm-box")
    assert box.one("h2").text == "4 standing alarms"
    assert [item.text.split(",")[0] for item in box.all("li")] == ["step 40", "step 30", "step 20"]


# ------------------------------------------------------------------------------- samples and sweep


def test_samples_are_shown(page):
    image = section(page, "samples").one("img")
    assert (pixels(image) == (9, 8, 7)).all()
    assert pixels(image).shape == (20, 40, 3)
    assert (image["width"], image["height"], image["class"]) == ("80", "40", "square")


def test_samples_name_their_classes(run, monkeypatch):
    from biggan_sn.report import reading

    folder = run / "checkpoints" / "step_00000100"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    monkeypatch.setattr(reading, "load_state", lambda path: {"classes": ["<b>cat", "dog", "owl"]})
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"logs": {"columns": 2}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    words = section(page_of(run), "samples").one("figcaption").text
    assert words.endswith("a column per class: <b>cat, dog")


def test_every_point_has_its_picture_and_its_scores(page):
    points = section(page, "sweep").all("figure", class_="point")
    assert [one["id"] for one in points] == ["point-1", "point-0", "point-2", "point-3"]
    colours = [tuple(pixels(one.one("img"))[0, 0]) for one in points]
    assert colours == [(0, 255, 0), (255, 0, 0), (0, 0, 255), (255, 255, 0)]
    told = {div.one("dt").text: div.one("dd").text for div in points[1].one("dl").all("div")}
    assert told == {"FID": "3", "Inception score": "7 ± 0.25", "precision": "0.7",
                    "recall": "0.6", "diversity": "0.31", "standing statistics": "16"}  # fmt: skip
    badges = [[badge.text for badge in one.all("b", class_="badge")] for one in points]
    assert badges == [["best IS"], ["best FID"], [], ["IS nearest to real"]]
    assert not any(one.attributes.get("hidden") for one in points), "without a script all are there"


def test_a_slider_for_each_mode_and_buttons_to_the_best(page):
    viewer = page.one(id="viewer")
    assert viewer["data-first"] == "0"
    sliders = viewer.all("input", type="range")
    found = [(one["min"], one["max"], one["data-points"], one["data-names"]) for one in sliders]
    assert found == [("0", "2", "1 0 2", "0.4;1;none"), ("0", "0", "3", "0.4")]
    assert [dot["value"] for dot in viewer.all("input", type="radio")] == ["0", "1"]
    jumps = {link.text: link["href"] for link in viewer.all("a", class_="jump")}
    assert jumps == {"best FID: 3": "#point-0", "best IS: 9": "#point-1",
                     "IS nearest to real": "#point-3"}  # fmt: skip


def test_trade_offs(page):
    figure = chart(page, "FID over Inception score")
    assert values(figure) == {"resample": "9,5;7,3;6,4", "scale": "8,6"}
    best = {spot["href"]: spot.one("text").text for spot in figure.all("a", class_="best")}
    assert best == {"#point-0": "1 best FID", "#point-1": "0.4 best IS"}
    labels = [spot.one("text").text for spot in figure.all("a")]
    assert sorted(labels) == ["0.4", "0.4 best IS", "1 best FID", "none"]
    assert [name.text for name in figure.all("text", class_="name")] == ["Inception score", "FID"]
    figure = chart(page, "Precision over recall")
    assert values(figure) == {"resample": "0.3,0.9;0.6,0.7;0.8,0.6", "scale": "0.25,0.85"}
    assert not figure.all("a", class_="best")


def test_table_of_points(page):
    head, *body = rows(section(page, "sweep").one("table"))
    assert head == ["truncation", "best", "mode", "standing statistics", "diversity", "FID",
                    "Inception score", "precision", "recall"]  # fmt: skip
    assert body[0] == ["0.4", "best IS", "resample", "16", "0.31", "5", "9", "0.9", "0.3"]
    assert body[1] == ["1", "best FID", "resample", "16", "0.31", "3", "7 ± 0.25", "0.7", "0.6"]
    assert [row[:3] for row in body[2:]] == [
        ["none", "", "resample"],
        ["0.4", "IS nearest to real", "scale"],
    ]


def test_what_the_sweep_is_of(page):
    words = section(page, "sweep").all("p", class_="note")[0].text
    assert words == (
        "Drawn from runs/x/checkpoints/00002400, of step 2400, scored by 1000 samples a point, "
        "with the features of digits. Real images: Inception score 9.5."
    )


def test_points_without_scores_or_pictures(run):
    bad = point(0.7, fid=math.nan, **{"is": 5.0})
    make_sweep(run / "sweep", [point(0.5), bad, point(0.9, fid=2.0)], best={})
    (run / "sweep" / "grid_resample_0.5.png").unlink()
    (run / "sweep" / "grid_resample_0.7.png").write_bytes(b"not a picture")
    (run / "sweep" / "grid_resample_0.9.png").write_bytes(png((1, 2, 3))[:50])
    page = page_of(run)
    points = section(page, "sweep").all("figure", class_="point")
    assert "No picture was drawn so far." in points[0].text
    assert "grid_resample_0.7.png cannot be read." in points[1].text
    assert "grid_resample_0.9.png cannot be read." in points[2].text
    assert rows(section(page, "sweep"))[2][5:] == ["not finite", "5"]
    assert not section(page, "sweep").all("figure", class_="chart"), "no point has both scores"
    assert page.one(id="viewer")["data-first"] == "2", "without a best, the least truncated"
    assert not page.all("a", class_="jump")


def test_a_sweep_that_has_just_begun(run):
    make_sweep(run / "sweep", [], best={})
    assert section(page_of(run), "sweep").one("p").text == "The sweep has no points so far."


def test_a_sweep_elsewhere(run, tmp_path):
    make_sweep(tmp_path / "other", POINTS[:1])
    assert len(page_of(run, sweep=tmp_path / "other").all("figure", class_="point")) == 1


def test_no_sweep_no_section(run):
    (run / "sweep").mkdir()  # with pictures of an older version, but no record
    assert not page_of(run).all("section", id="sweep")


def test_a_sweep_that_cannot_be_read_is_named(run):
    make_sweep(run / "sweep")
    (run / "sweep" / "sweep.json").write_text('{"points": [')
    assert "There is a sweep that cannot be read" in section(page_of(run), "sweep").text


# ------------------------------------------------------------------------------------------- curves


def test_every_logged_value_is_on_a_chart(run):
    with (run / "scalars.jsonl").open("a") as file:
        file.write(
            lines({"step": 90, "novel": 3.0, "evaluation/is": 5.0, "evaluation/is_std": 0.5})
        )
    curves = section(page_of(run), "curves")
    assert values(chart(curves, "novel")) == {"novel": "90,3"}
    assert values(chart(curves, "FID")) == {"FID": "50,7.25;100,8.5"}
    assert values(chart(curves, "Inception score")) == {
        "Inception score": "90,5",
        "standard deviation": "90,0.5",
    }
    assert values(chart(curves, "Losses"))["g_loss"].startswith("10,-0.5;20,-0.5;")
    titles = [figure.one("figcaption").text for figure in curves.all("figure")]
    assert titles == ["FID", "Inception score", "classes that appear", "Losses",
                      "Images per second", "What holds it up", "novel"]  # fmt: skip


def test_what_several_processes_add(run):
    speed = {**SPEED, "slowest_rank": 3, "communication": 0.25}
    (run / "scalars.jsonl").write_text(lines(losses(10, speed=speed)))
    curves = section(page_of(run), "curves")
    assert values(chart(curves, "Slowest process")) == {"slowest_rank": "10,3"}
    assert values(chart(curves, "Parts of a step")) == {"communication": "10,0.25", "lag": "10,0"}


def test_marks_of_alarms_that_stand_and_of_rollbacks(page):
    for title in ("Losses", "FID", "sigma_0 of the layers with the largest sigma_0 / sigma_1"):
        figure = chart(page, title)
        marks = [(g["class"], g["data-step"]) for g in figure.all("g") if g["data-step"]]
        assert marks == [("alarm", "30"), ("rollback", "40")]
        assert figure.one("g", class_="rollback").one("title").text == (
            "rollback from step 70 to 40"
        )


def test_spectra(page):
    spectra = section(page, "spectra")
    found = values(chart(spectra, "sigma_0 of the layers with the largest sigma_0 / sigma_1"))
    assert list(found) == ["G blocks.0.conv1", "D embed", "G linear", "D blocks.0.conv1"]
    assert found["D embed"] == "20,4;40,8;60,12;80,16;100,20"
    assert values(chart(spectra, "Lipschitz bound of D, an estimate"))["bound"].endswith(
        "100,100000"
    )
    assert rows(spectra)[1] == ["G blocks.0.conv1", "20", "20", "1"]
    alts = [image["alt"] for image in spectra.all("img")]
    assert [alt.split(" of every")[0] for alt in alts] == [
        "Heat-map of G: log10 sigma_0",
        "Heat-map of G: log10 sigma_0 / sigma_1",
        "Heat-map of D: log10 sigma_0",
        "Heat-map of D: log10 sigma_0 / sigma_1",
    ]


def test_heat_maps_of_damaged_records(run):
    with (run / "spectra.jsonl").open("a") as file:
        file.write("\0\n")
    page = page_of(run)
    assert "The heat-maps cannot be drawn" in section(page, "spectra").text
    assert chart(page, "sigma_0 of the layers with the largest sigma_0 / sigma_1")
    assert section(page, "damaged").one("p").text.startswith("1 lines of spectra.jsonl cannot")


def test_layers_that_are_not_finite(run):
    record = {"step": 120, "G": {"a": [math.nan, math.nan]}, "D": {"b": [2.0, 0.0], "c": [1.0]}}
    (run / "spectra.jsonl").write_text(lines(record))
    spectra = section(page_of(run), "spectra")
    assert rows(spectra)[1:] == [["G a", "nan", "nan", "nan"]]
    assert (
        chart(spectra, "sigma_0 of the layers with the largest sigma_0 / sigma_1").all("li")[0].text
        == "G a never finite"
    )


# ------------------------------------------------------------------------------------- what remains


def test_events(page):
    body = rows(section(page, "alarms"))[1:]
    assert body == [
        ["30", "0", "alarm, explosion", "G linear: sigma_0 grew", "20", "warn",
         "explosion at 125%"],
        ["60", "0", "alarm, explosion, given up by a rollback", "G linear: sigma_0 grew", "20",
         "warn", "explosion at 125%"],
        ["70", "1", "rollback from step 70 to 40", "it broke", "", "by itself", ""],
    ]  # fmt: skip


def test_config_shows_first_what_is_not_the_default(page, run):
    config = section(page, "config")
    body = rows(config)[1:]
    assert ["steps", "100", "150000"] in body
    assert ["batch_size", "32", "2048"] in body
    assert ["data.path", "shards", '""'] in body
    assert not [row for row in body if row[0] == "seed" and row[1] == "0"]
    whole = config.one("details")
    assert "open" not in whole.attributes
    assert "".join(whole.one("code").parts) == (run / "config.yaml").read_text()


def test_environment(page):
    assert rows(section(page, "environment"))[1:] == [
        ["torch", "2.15"], ["devices", "8 x H200"], ["processes", "8"], ["engine", "zero1"],
        ["commit", "c0ffee"],
    ]  # fmt: skip


ABSENT = {
    "pictures/samples.png": ("samples", "No picture was drawn so far."),
    "scalars.jsonl": ("curves", "Nothing was logged so far."),
    "spectra.jsonl": ("spectra", None),
    "collapse.jsonl": ("alarms", "None."),
    "config.yaml": ("config", "config.yaml is not there or cannot be read."),
    "environment.json": ("environment", "Not recorded: the run was made before environments were."),
}


@pytest.mark.parametrize("name", ABSENT)
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage"])
def test_what_is_missing_is_said_in_a_sentence(run, name, damage):
    kind, sentence = ABSENT[name]
    if damage == "missing":
        (run / name).unlink()
    else:
        (run / name).write_bytes({"empty": b"", "garbage": b"\xff\0\xfe{"}[damage])
    parts = page_of(run).all("section", id=kind)
    if sentence is None:
        assert parts == []
    else:
        expected = {"samples": ("No picture", "samples.png cannot be read.")}.get(kind, (sentence,))
        assert any(word in parts[0].text for word in expected)


def test_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 10")
    page = page_of(tmp_path)
    assert page.one("p", class_="progress").text.startswith("step 0 of 10")
    assert not page.all("dl", class_="tiles")
    assert not page.all("svg")


def test_one_single_record(run):
    (run / "scalars.jsonl").write_text(lines(losses(1, d_loss=math.nan)))
    figure = chart(page_of(run), "Losses")
    assert values(figure) == {"d_loss": "1,nan", "g_loss": "1,-0.5"}


def test_hostile_names(tmp_path):
    name = HOSTILE.replace("/", "")
    alarm = {**ALARM, "channel": HOSTILE, "reason": HOSTILE, "action": HOSTILE, "since": HOSTILE,
             "attempt": HOSTILE, "levels": {HOSTILE: HOSTILE}}  # fmt: skip
    rollback = {**ROLLBACK, "reason": HOSTILE, "attempt": HOSTILE}
    config = {HOSTILE: HOSTILE, "data": {HOSTILE: [HOSTILE]}}
    run = make_run(tmp_path / name, events=(alarm, rollback), config=config)
    (run / "environment.json").write_text(
        json.dumps({"versions": {HOSTILE: HOSTILE}, "devices": {HOSTILE: HOSTILE},
                    "processes": HOSTILE, "engine": HOSTILE, "commit": HOSTILE})
    )  # fmt: skip
    with (run / "scalars.jsonl").open("a") as file:
        file.write(lines({"step": 100, HOSTILE: 1.0, f"evaluation/{HOSTILE}": 2.0}))
    layers = {HOSTILE: [2.0, 1.0]}
    (run / "spectra.jsonl").write_text(lines({"step": 10, "G": layers, "D": layers}))
    bad = {**point(0.4, **{HOSTILE: 1.0, "fid": 1.0, "is": 2.0}), "mode": HOSTILE, "grid": "x.png"}
    make_sweep(run / "sweep", [bad], best={HOSTILE: 0, "fid": 0}, checkpoint=HOSTILE,
               extractor=HOSTILE)  # fmt: skip
    page = page_of(run)
    assert len(page.all("script")) == 1
    assert not [node for node in page.all() if node["onerror"] or node["src"] == "x"]
    for kind in ("sweep", "curves", "spectra", "alarms", "config", "environment"):
        assert HOSTILE in section(page, kind).text, kind
    assert page.one("h1").text.startswith(name)


def test_a_name_that_is_no_text(tmp_path):
    run = make_run(tmp_path / "run\udcff")
    assert page_of(run).one("h1").text.startswith("run?")


# ---------------------------------------------------------------------------------------- the verb


def test_the_verb(run, tmp_path, capsys):
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    out = tmp_path / "new" / "page.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert out.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{here}"], "not the folder of a run"),
        (["{here}/none"], "not the folder of a run"),
        (["{run}", "--sweep", "{here}"], "not the folder of a sweep"),
        (["{run}", "--out", "{here}"], "a folder"),
    ],
)
def test_wrong_input_is_one_line(run, tmp_path, capsys, arguments, named):
    filled = [word.format(here=tmp_path, run=run) for word in arguments]
    assert main(["report", *filled]) == 2
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    assert named in printed.err
    assert not list(tmp_path.rglob("*.html*"))


def test_the_page_is_there_whole_or_as_before(run, monkeypatch):
    from biggan_sn.report import page

    write_report(run, now=NOW)
    before = (run / "report.html").read_bytes()
    calls = []
    monkeypatch.setattr(page, "write_whole", lambda path, contents: calls.append((path, contents)))
    write_report(run, now=NOW + 60)
    assert (run / "report.html").read_bytes() == before, "only write_whole writes"
    assert calls[0][0] == run / "report.html"
