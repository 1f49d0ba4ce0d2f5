"""Curves: no spike is lost, nothing is drawn where nothing was, marks stand where they belong."""

import math

import pytest

from biggan_sn.evaluation.charts import COLOURS
from biggan_sn.report.curves import (
    BOTTOM,
    LEFT,
    MOST,
    RIGHT,
    TOP,
    Box,
    Chart,
    Line,
    Mark,
    Spot,
    _extent,
    _is_free,
    draw,
    path_of,
    thinned,
)
from biggan_sn.report.scales import fitting, linear
from tests.unit.report.making import parsed

TEN = linear(0, 10)


def wave(count):
    return [(step, math.sin(step / 50)) for step in range(count)]


def test_few_points_stay_as_they_are():
    assert thinned(wave(MOST)) == wave(MOST)


def test_thinned_lines_keep_spikes_ends_and_order():
    points = wave(20_000)
    points[12_345] = (12_345, 100.0)
    points[777] = (777, -100.0)
    kept = thinned(points)
    assert MOST / 2 < len(kept) <= MOST
    assert kept == sorted(kept)
    assert set(kept) <= set(points)
    assert {points[0], points[-1], points[12_345], points[777]} <= set(kept)


def test_every_part_of_a_thinned_line_keeps_its_lowest_and_highest():
    points = [(step, float(step % 2)) for step in range(5000)]
    kept = {y for x, y in thinned(points) if 2480 < x < 2520}
    assert kept == {0.0, 1.0}


def test_thinned_lines_begin_and_end_where_they_did():
    points = [(step, float((-1) ** step)) for step in range(5000)]
    points[0], points[-1] = (0, 0.1), (4999, 0.2)  # no extremes of their parts
    kept = thinned(points)
    assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_no_line_has_more_points_than_it_may_have():
    values = (1.0, math.nan, -1.0, 0.5)
    points = [(step, values[step % 4]) for step in range(20_000)]
    assert MOST / 2 < len(thinned(points)) <= MOST


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf, 1e200])
def test_thinned_lines_keep_gaps(hole):
    points = wave(20_000)
    points[9_999] = (9_999, hole)
    assert points[9_999][0] in [x for x, _ in thinned(points)]
    assert path_of(thinned(points), linear(0, 20_000), linear(-1, 1)).count("M") == 2


def test_a_line_that_is_never_finite_is_thinned_too():
    assert len(thinned([(step, math.nan) for step in range(5000)])) <= MOST


def test_paths_go_from_corner_to_corner():
    assert path_of([(0, 0), (10, 10)], TEN, TEN) == (
        f"M{LEFT:.2f} {BOTTOM:.2f}L{RIGHT:.2f} {TOP:.2f}"
    )


def test_paths_have_gaps_and_dots():
    points = [(0, math.nan), (1, 5), (2, math.inf), (3, 1), (4, 2), (5, math.nan), (6, math.nan)]
    pieces = path_of(points, TEN, TEN).split("M")[1:]
    assert [piece.count("L") for piece in pieces] == [1, 1]
    assert len(set(pieces[0].split("L"))) == 1, "a point alone goes to itself, which is a dot"
    assert len(set(pieces[1].split("L"))) == 2
    assert path_of([(0, math.nan)], TEN, TEN) == ""


def test_a_logarithmic_line_is_drawn_so():
    figure = parsed(draw(Chart("x", [Line("a", [(0, 1.0), (1, 10.0), (2, 1000.0)])])))
    ys = [float(pair.split()[1]) for pair in figure.one("path")["d"][1:].split("L")]
    assert (ys[0] - ys[1]) * 3 == pytest.approx(ys[0] - ys[2], abs=0.1)
    assert "log scale" in figure.one("g", class_="axes").text


def chart(**changes):
    lines = [Line("d_loss", [(10, 1.5), (20, math.nan), (30, 2.5)]), Line("g_loss", [(10, -1.0)])]
    return Chart(**{"title": "Losses", "lines": lines, "last": 40, **changes})


def test_the_horizontal_axis_is_that_of_the_run():
    figure = parsed(draw(chart()))
    start = figure.all("path")[0]["d"][1:].split("L")[0]
    assert float(start.split()[0]) == pytest.approx(LEFT + (RIGHT - LEFT) / 4, abs=0.01)
    labels = [node.text for node in figure.all("text", class_="label")]
    assert labels[-5:] == ["0", "10", "20", "30", "40"]
    assert figure.all("text", class_="name")[0].text == "step"


def test_labels_stand_at_their_ticks():
    figure = parsed(draw(chart(lines=[Line("a", [(0, 0.0), (40, 10.0)])])))
    upright = [node for node in figure.all("text", class_="label") if node["text-anchor"] == "end"]
    assert [node.text for node in upright] == ["0", "2", "4", "6", "8", "10"]
    heights = [float(node["y"]) for node in upright]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] - heights[-1] == pytest.approx(BOTTOM - TOP, abs=0.1)


def test_values_can_be_read_off():
    figure = parsed(draw(chart()))
    plot = figure.one(class_="plot")
    assert (float(plot["data-low"]), float(plot["data-high"]), plot["tabindex"]) == (0, 40, "0")
    assert plot["data-frame"].split()[:4] == [str(n) for n in (LEFT, RIGHT, TOP, BOTTOM)]
    lines = [(path["data-name"], path["data-values"]) for path in figure.all("path")]
    assert lines == [("d_loss", "10,1.5;20,nan;30,2.5"), ("g_loss", "10,-1")]


def test_steps_are_told_exactly():
    figure = parsed(draw(chart(lines=[Line("a", [(1_234_567, 0.1234567)])], last=2_000_000)))
    assert figure.one("path")["data-values"] == "1234567,0.123457"


def test_the_legend_has_last_finite_values_and_marks():
    figure = parsed(draw(chart(marks=[Mark(20, "alarm", "a"), Mark(30, "alarm", "b")])))
    items = [item.text for item in figure.one("ul", class_="legend").all("li")]
    assert items == ["d_loss 2.5", "g_loss -1", "alarm"]
    never = parsed(draw(chart(lines=[Line("a", [(1, math.nan)])])))
    assert never.one("li").text == "a never finite"


def test_each_line_has_its_colour_and_comes_dashed_where_colours_are_used_up():
    lines = [Line(str(number), [(1, number)]) for number in range(len(COLOURS) + 1)]
    figure = parsed(draw(chart(lines=lines)))
    kinds = [path["class"] for path in figure.all("path")]
    assert kinds == [f"line c{n} s0" for n in range(len(COLOURS))] + ["line c0 s1"]
    swatches = [node["class"] for node in figure.one(class_="legend").all("line")]
    assert swatches == kinds


def test_marks_stand_at_their_steps():
    figure = parsed(draw(chart(marks=[Mark(30, "alarm", "why <b>")])))
    mark = figure.one("g", class_="alarm")
    line = mark.one("line")
    assert float(line["x1"]) == float(line["x2"]) == LEFT + (RIGHT - LEFT) * 0.75
    assert (float(line["y1"]), float(line["y2"])) == (TOP, BOTTOM)
    assert mark.one("title").text == "why <b>"


def test_a_mark_past_the_end_stands_at_the_end():
    figure = parsed(draw(chart(marks=[Mark(400, "alarm", "")])))
    assert float(figure.one("g", class_="alarm").one("line")["x1"]) == RIGHT


def test_it_is_told_to_those_who_do_not_see_it():
    figure = parsed(draw(chart(lines=[Line("a", [(0, 4.0), (1, 9.0), (2, 1.0), (3, 5.0)])])))
    assert (
        figure.one("svg", role="img")["aria-label"]
        == "Losses over step. a from 4 to 5, at least 1, at most 9."
    )


def test_names_are_escaped():
    figure = parsed(draw(chart(title="<i>", lines=[Line('"><script>', [(1, 1.0)])])))
    assert figure.one("figcaption").text == "<i>"
    assert figure.one("path")["data-name"] == '"><script>'
    assert not figure.all("script") and not figure.all("i")


def test_spots_lie_on_their_places_and_lead_somewhere():
    spots = [
        Spot((0.0, 2.0), "0.4", "more", "#point-1"),
        Spot((10.0, 4.0), "1 best FID", "most", "#point-2", best=True),
    ]
    lines = [Line("resample", [spot.place for spot in spots])]
    figure = parsed(draw(Chart("FID over IS", lines, "IS", "FID", spots=spots)))
    first, last = figure.all("a")
    assert (first["href"], last["href"]) == ("#point-1", "#point-2")
    assert (first["class"], last["class"]) == ("spot", "spot best")
    up = fitting([2.0, 4.0])
    circle = last.one("circle")
    assert float(circle["cx"]) == RIGHT
    assert float(circle["cy"]) == pytest.approx(BOTTOM - (BOTTOM - TOP) * up.place(4.0), abs=0.01)
    assert int(circle["r"]) > int(first.one("circle")["r"])
    assert first.one("text").text == "0.4"
    assert last.one("text")["text-anchor"] == "end", "there is no room on its right"
    assert figure.one(class_="plot")["tabindex"] == "", "its spots are links by themselves"


def test_a_line_of_one_point_can_be_seen():
    """As every score after the first evaluation."""
    (dot,) = parsed(draw(chart(lines=[Line("fid", [(1, 3.0), (2, math.nan)])]))).all("circle")
    assert float(dot["r"]) >= 3
    assert not parsed(draw(chart(lines=[Line("fid", [(1, 3.0), (2, 2.0)])]))).all("circle")


def test_labels_of_spots_lie_on_nothing():
    """As those of a sweep, which crowd where truncation is much."""
    places = {"0.1": (9.511, 81), "0.4 best IS": (9.511, 59), "0.7": (9.5108, 45), "1": (9.506, 37)}
    spots = [Spot(place, name, "", "#", "best" in name) for name, place in places.items()]
    lines = [Line("resample", list(places.values()))]
    figure = parsed(draw(Chart("FID over IS", lines, "IS", "FID", spots=spots)))
    shown = [a.one("text") for a in figure.all("a")]
    boxes = [_extent(float(t["x"]), float(t["y"]), t.text, t["text-anchor"]) for t in shown]
    for circle in (a.one("circle") for a in figure.all("a")):
        x, y, r = (float(circle[name]) for name in ("cx", "cy", "r"))
        boxes.append(Box(x - r, y - r, x + r, y + r))
    for box in boxes[: len(shown)]:
        assert _is_free(box, [other for other in boxes if other is not box]), box
