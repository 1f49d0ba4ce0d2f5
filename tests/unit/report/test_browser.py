"""The page in a browser without a screen: its script runs, nothing is fetched, it fits a phone."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from biggan_sn.report.page import write_report
from tests.unit.report.making import ALARM, NOW, POINTS, ROLLBACK, Page, make_run, make_sweep

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    *("--enable-logging=stderr", "--virtual-time-budget=5000"),
)
DARK = "--blink-settings=preferredColorScheme=0"
PHONE = 390  # pixels

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")

# What a person would do, and what they would see then.
DRIVER = """
<script>
window.addEventListener("load", () => {
  const seen = {};
  const one = (name) => document.querySelector(name);
  const shown = () => [...document.querySelectorAll(".point")]
    .filter((point) => point.offsetParent !== null).map((point) => point.id);
  const state = () => [shown().join(), one(".slide:not([hidden]) output").textContent];
  seen.first = state();
  const slider = one("#slider-0");
  slider.value = 2;
  slider.dispatchEvent(new Event("input"));
  seen.slid = [...state(), slider.getAttribute("aria-valuetext")];
  one('td a[href="#point-3"], th a[href="#point-3"]').click();
  seen.linked = state();
  document.querySelectorAll(".modes input")[0].click();
  seen.back = state();
  one('a.jump[href="#point-1"]').click();
  seen.jumped = [...state(), slider.value];
  seen.current = [...document.querySelectorAll(".jump[aria-current]")].map((a) => a.textContent);
  document.querySelectorAll(".modes input")[1].click();
  seen.mode = state();
  location.hash = "#point-2";
  setTimeout(() => {
    seen.hash = [...state(), document.querySelectorAll(".modes input")[0].checked];
    const plot = [...document.querySelectorAll(".chart")]
      .find((chart) => chart.querySelector("figcaption").textContent === "FID");
    const press = (key) => plot.querySelector(".plot").dispatchEvent(
      new KeyboardEvent("keydown", {key, bubbles: true}));
    const told = () => [plot.querySelector(".readout").textContent,
      plot.querySelector(".legend b").textContent,
      Math.round(Number(plot.querySelector(".cursor")?.getAttribute("x1")))];
    seen.resting = told();
    plot.querySelector(".plot").focus();
    press("Home");
    seen.home = told();
    press("ArrowRight");
    seen.right = told();
    press("ArrowLeft");
    press("Escape");
    seen.left = told();
    const other = [...document.querySelectorAll(".chart")]
      .find((chart) => chart.querySelector("figcaption").textContent === "Losses");
    const box = other.querySelector(".plot svg").getBoundingClientRect();
    other.querySelector(".plot").dispatchEvent(new PointerEvent("pointermove",
      {clientX: box.left + (box.width * 112) / 380, clientY: box.top + 9}));
    seen.pointed = other.querySelector(".readout").textContent;
    seen.width = document.documentElement.scrollWidth;
    seen.inner = innerWidth;
    seen.wide = [...document.querySelectorAll("body *")].filter((node) => !node.closest(".sideways")
      && !node.closest("nav") && !node.closest(".aloud") && !node.closest("pre")
      && node.getBoundingClientRect().right > innerWidth + 1).map((node) => node.outerHTML);
    seen.small = [...document.querySelectorAll("a.jump, .slide:not([hidden]) input")]
      .map((node) => node.getBoundingClientRect().height).filter((height) => height < 24);
    seen.fetched = performance.getEntriesByType("resource").map((entry) => entry.name)
      .filter((name) => !name.startsWith("data:"));
    parent.postMessage(JSON.stringify(seen), "*");
  }, 100);
});
</script></body>"""
FRAME = """<!doctype html><body><script>addEventListener("message", (event) => {
  document.body.dataset.seen = event.data; });</script>
<iframe width="390" height="844" style="border:0" src="driven.html"></iframe>"""


def browse(folder, *options):
    """What it prints, and its log, of which only what the page itself causes is kept."""
    command = [BROWSER, *OPTIONS, f"--user-data-dir={folder / 'profile'}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("browser") / "run", events=(ALARM, ROLLBACK))
    reason = "a_word_without_end_" * 20
    (run / "collapse.jsonl").write_text(json.dumps({**ALARM, "reason": reason}) + "\n")
    make_sweep(run / "sweep", POINTS, checkpoint="a/checkpoint/of/a/long/name" * 10)
    return write_report(run, now=NOW)


@pytest.fixture(scope="module")
def seen(page):
    """What the driver saw on a phone, in a copy of the page that lets it run."""
    source, changed = re.subn(
        r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text()
    )
    assert changed == 1
    (page.parent / "driven.html").write_text(source.replace("</body>", DRIVER))
    (page.parent / "frame.html").write_text(FRAME)
    printed, _ = browse(page.parent, "--dump-dom", f"file://{page.parent}/frame.html")
    return json.loads(Page(printed).root.one("body")["data-seen"])


def test_it_runs_without_an_error_and_without_the_network(page):
    printed, log = browse(page.parent, "--dump-dom", f"file://{page}#point-3")
    root = Page(printed).root
    assert log == []
    assert (root.one("html")["data-ready"], root.one("html")["data-error"]) == ("yes", "")
    hidden = [figure["id"] for figure in root.all("figure", class_="point")
              if "hidden" in figure.attributes]  # fmt: skip
    assert hidden == ["point-1", "point-0", "point-2"]


def test_what_would_be_fetched_or_run_is_refused_and_seen_here(page):
    """The test above would see it."""
    evil = page.with_name("evil.html")
    inserted = '<img src="http://example.invalid/x.png"><script>document.title = "evil"</script>'
    evil.write_text(page.read_text().replace("</body>", f"{inserted}</body>"))
    printed, log = browse(page.parent, "--dump-dom", f"file://{evil}")
    assert sum("Content Security Policy" in line for line in log) == 2
    assert "<title>evil" not in printed


def test_the_slider_shows_one_grid_at_a_time(seen):
    assert seen["first"] == ["point-0", "1"], "the best FID"
    assert seen["slid"] == ["point-2", "none", "none"]
    assert seen["linked"] == ["point-3", "0.4"]
    assert seen["back"] == ["point-1", "0.4"], "the same truncation of the other mode"
    assert seen["jumped"] == ["point-1", "0.4", "0"]
    assert seen["current"] == ["best IS: 9"]
    assert seen["mode"] == ["point-3", "0.4"]
    assert seen["hash"] == ["point-2", "none", True]


def test_values_are_read_off(seen):
    assert seen["resting"] == ["", "8.5", None]
    assert seen["home"] == ["step 50: FID 7.25", "7.25", 208]
    assert seen["right"] == ["step 100: FID 8.5", "8.5", 370]
    assert seen["left"] == ["", "8.5", None]
    assert seen["pointed"] == "step 20: d_loss 1.2, g_loss -0.5", "112 of 380 is just past it"


def test_it_fits_a_phone(seen):
    assert seen["inner"] == PHONE
    assert seen["width"] == PHONE, "nothing to be moved sideways but what says so"
    assert seen["wide"] == []
    assert seen["small"] == [], "large enough for a finger"
    assert seen["fetched"] == []


@pytest.mark.parametrize(("options", "paper"), [((), "light"), ((DARK,), "dark")])
def test_it_is_drawn_on_light_and_on_dark_paper(page, tmp_path, options, paper):
    shot = tmp_path / "shot.png"
    browse(page.parent, *options, "--window-size=800,700", f"--screenshot={shot}", f"file://{page}")
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    background = pixels[2, 2].mean()
    assert (background > 200) == (paper == "light")
    assert (background < 60) == (paper == "dark")
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100, "not blank"
    ink = np.abs(pixels - pixels[2, 2]).sum(-1) > 150
    assert 0.01 < ink.mean() < 0.7
