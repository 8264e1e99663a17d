"""Curves and swept values: legible on light and dark, no label over another, foreign names harmless."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest

from lodesmith.core.errors import InputError
from lodesmith.reports import svg
from lodesmith.reports.curves import COLOURS, Line, curve_plot, portable, swept_plot
from lodesmith.reports.sweep import added, curve_section, failure_section, setting_section
from lodesmith.reports.tables import Cell

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '</text><script>alert("1")</script>&\x00\u202e'
LINES = {
    name: Line([(0, 0.1 * i), (1, 0.2), (4, 0.11 * i)], [[(0, 0.1), (4, 0.1 * i)], [(0, 0.0), (2, 0.3)]])
    for i, name in enumerate(["temperature=0.02", "temperature=0.5, kind=linear", HOSTILE, "w" * 70, *"abcdefgh"])
}
SERIES = {"kind=linear": {"0": [0.61, 0.63], "0.1": [0.7], "1": [0.5, 0.52]}, HOSTILE: {"0": [0.6], "1": [0.55]}}


def drawings(width: int) -> list[str]:
    references = {"bm25": 0.64, "far": 0.01}
    return [
        curve_plot(LINES, measure="nDCG@10", width=width),
        swept_plot(SERIES, ["0", "0.1", "1"], key="λ", measure="nDCG@10", references=references, width=width),
    ]


def boxes(plot: str) -> list[tuple[str, tuple[float, float, float, float]]]:
    found = []
    for node in ElementTree.fromstring(plot).iter(f"{SVG}text"):
        text = (node.text or "").strip("\u2068\u2069")
        width, x, y = svg.text_width(text), float(node.get("x", 0)), float(node.get("y", 0))
        left = x - {"start": 0, "middle": width / 2, "end": width}[node.get("text-anchor", "start")]
        found.append((text, (left, y - svg.FONT + 3, left + width, y + 3)))
    return found


@pytest.mark.parametrize("width", [328, 640, 840])
def test_labels_neither_overlap_nor_leave_the_drawing(width: int) -> None:
    for plot in drawings(width):
        _, _, right, bottom = map(float, ElementTree.fromstring(plot).get("viewBox", "").split())
        placed = boxes(plot)
        for text, box in placed:
            assert box[0] >= -0.5, text
            assert box[2] <= right + 6, text
            assert 0 <= box[1] < box[3] <= bottom, text
        for (one, a), (other, b) in combinations(placed, 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (one, other)


def test_a_line_a_setting_and_a_thin_one_a_seed() -> None:
    plot = curve_plot({"x": LINES["temperature=0.02"]}, measure="m")
    drawn = list(ElementTree.fromstring(plot).iter(f"{SVG}polyline"))
    assert [line.get("stroke-width") for line in drawn] == ["1", "1", "2.25", "2.5"]  # the last is the legend's
    alone = curve_plot({"x": Line([(0, 0.1), (1, 0.2)], [[(0, 0.1), (1, 0.2)]])}, measure="m")
    assert len(list(ElementTree.fromstring(alone).iter(f"{SVG}polyline"))) == 2
    assert "x ends at 0.200" in alone
    assert curve_plot({"x": Line([])}, measure="m") == ""


def test_more_settings_than_colours_are_told_apart_by_dashes() -> None:
    legend = [
        e for e in ElementTree.fromstring(drawings(840)[0]).iter(f"{SVG}polyline") if e.get("stroke-width") == "2.5"
    ]
    looks = {(line.get("stroke"), line.get("stroke-dasharray")) for line in legend}
    assert len(looks) == len(LINES) == 12


def test_means_are_joined_along_numbers_only_and_far_references_are_left_out() -> None:
    def joined(values: list[str]) -> int:
        series = {"": {value: [0.5, 0.6] for value in values}}
        plot = swept_plot(series, values, key="k", measure="m")
        return sum(
            e.get("stroke-width") == "1.5" and e.get("stroke-opacity") == "1"
            for e in ElementTree.fromstring(plot).iter(f"{SVG}polyline")
        )

    assert joined(["0", "0.1", "1"]) == 1
    assert joined(["linear", "mlp"]) == 0
    plot = drawings(840)[1]
    assert "bm25 0.640" in plot
    assert "far" not in plot
    assert swept_plot({}, ["a"], key="k", measure="m") == ""


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_a_file_of_its_own_is_legible_on_white_and_on_black() -> None:
    plot = portable(drawings(840)[0])
    ElementTree.fromstring(plot)
    assert "--paper:transparent" in plot
    assert "prefers-color-scheme" not in plot  # a page's theme need not be the system's
    ink = plot.partition("--ink:")[2][:7]
    for page in ("#ffffff", "#0d1117"):
        assert contrast(ink, page) > 4
        for colour in COLOURS:
            assert contrast(colour, page) > 3.5


def test_foreign_names_are_escaped_everywhere() -> None:
    cells = (Cell("0.5", "<i>", "significant"),)
    parts = [*drawings(328), setting_section(("a<b",), {HOSTILE: cells}), failure_section({HOSTILE: HOSTILE})]
    for part in parts:
        assert "<script" not in part
        assert "\x00" not in part


def test_sections_go_into_the_page_after_its_results() -> None:
    page = 'A<section id="results">B</section><section id="intervals">C</section>'
    found = added(page, [curve_section(LINES, measure="m"), curve_section({}, measure="m")])
    assert found.index('id="results"') < found.index('id="curves"') < found.index('id="intervals"')
    assert found.count('id="curves"') == 1
    with pytest.raises(InputError, match="no results"):
        added("<p>another page</p>", [])
