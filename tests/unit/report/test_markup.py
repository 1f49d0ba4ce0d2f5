"""HTML from plain functions: what is not HTML is text, and pictures are part of the page."""

import pytest

from biggan_sn.report.markup import element, picture, pixels_of, table, text
from tests.unit.report.making import parsed, pixels, png


def test_text_and_attributes_are_escaped():
    hostile = "<b>&\"'</b>"
    node = parsed(element("p", text(hostile), {"title": hostile})).one("p")
    assert (node.text, node["title"], node.all()) == (hostile, hostile, [])


def test_attributes_that_are_true_or_false():
    assert (
        element("p", attributes={"hidden": True, "open": False, "n": 0}) == '<p hidden n="0"></p>'
    )


def test_a_table_names_its_rows_and_columns():
    node = parsed(table("<all>", ["<a>", "b"], [[text("<x>"), text("y")]]))
    assert [(cell.text, cell["scope"]) for cell in node.all("th")] == [
        ("<a>", "col"), ("b", "col"), ("<x>", "row"),
    ]  # fmt: skip
    assert [cell.text for cell in node.all("td")] == ["y"]
    around = node.one("div", class_="sideways")
    assert (around["tabindex"], around["aria-label"], around["role"]) == ("0", "<all>", "region")


@pytest.mark.parametrize(
    ("size", "shown", "kind"),
    [((40, 20), (80, 40), "square"), ((700, 20), (700, 20), ""), ((4000, 500), (2000, 250), "")],
)
def test_small_pictures_are_shown_larger_and_huge_ones_are_made_smaller(size, shown, kind):
    image = parsed(picture(pixels_of(png((1, 2, 3), size)), "alt")).one("img")
    assert (image["width"], image["height"], image["class"]) == (*map(str, shown), kind)
    assert (pixels(image) == (1, 2, 3)).all()


@pytest.mark.parametrize("contents", [b"", b"x" * 99, png((1, 2, 3))[:60], b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture(contents):
    with pytest.raises(ValueError, match="not a picture that can be read"):
        pixels_of(contents)
