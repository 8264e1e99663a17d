from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.results import Estimate
from lodesmith.reports import plots, svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '</text><script>alert("1")</script>&\x00\u202e'
ESTIMATES = {
    "a": Estimate(0.2, 0.1, 0.3),
    "bm25+minilm": Estimate(0.61, 0.58, 0.64),
    "w" * 60: Estimate(0.62, 0.59, 0.65),
    HOSTILE: Estimate(0.0, 0.0, 0.0),
}
POINTS = {name: (0.5 + 3 * i, estimate) for i, (name, estimate) in enumerate(ESTIMATES.items())}


def parsed(plot: str) -> ElementTree.Element:
    return ElementTree.fromstring(plot)


def texts(root: ElementTree.Element) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Each label with its box, by the estimate that the plots themselves use."""
    found = []
    for node in root.iter(f"{SVG}text"):
        text = (node.text or "").strip("\u2068\u2069")
        bold = any(name in node.get("class", "") for name in ("strong", "won", "lost"))
        width = svg.text_width(text, bold=bold)
        x, y = float(node.get("x", 0)), float(node.get("y", 0))
        left = x - {"start": 0, "middle": width / 2, "end": width}[node.get("text-anchor", "start")]
        found.append((text, (left, y - svg.FONT + 3, left + width, y + 3)))
    return found


def assert_apart(labels: list[tuple[str, tuple[float, float, float, float]]]) -> None:
    for (one, a), (other, b) in combinations(labels, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (one, other)


def drawings(width: int) -> list[str]:
    return [
        plots.interval_plot(ESTIMATES, measure="nDCG@10", lead="bm25+minilm", reference="a", width=width),
        plots.quality_cost_plot(POINTS, measure="nDCG@10", lead="bm25+minilm", width=width),
        plots.difference_plot([0.5, -0.2, 0, 1, -1], a="w" * 60, b=HOSTILE, measure="nDCG@10", width=width),
    ]


@pytest.mark.parametrize("width", [328, 400, 640, 840])
def test_labels_neither_overlap_nor_leave_the_drawing(width: int) -> None:
    for plot in drawings(width):
        root = parsed(plot)
        _, _, right, bottom = map(float, root.get("viewBox", "").split())
        boxes = texts(root)
        assert len(boxes) > 5
        for text, box in boxes:
            assert box[0] >= -0.5, text
            assert box[2] <= right + 6, text
            assert 0 <= box[1] < box[3] <= bottom, text
        assert_apart(boxes)


@pytest.mark.parametrize("plot", drawings(328), ids=["interval", "latency", "difference"])
def test_plots_are_accessible_and_take_colours_from_the_page(plot: str) -> None:
    root = parsed(plot)
    assert root.get("role") == "img"
    ids = root.get("aria-labelledby", "").split()
    named = {node.get("id"): node.text for node in root if node.get("id")}
    assert list(named) == ids
    assert all(named.values())
    assert root[0].tag == f"{SVG}title"
    assert root[1].tag == f"{SVG}desc"
    assert not re.search(r'(fill|stroke)="|#[0-9a-f]{3}', plot)


def test_foreign_names_stay_text() -> None:
    for plot in drawings(640):
        root = parsed(plot)
        assert not list(root.iter(f"{SVG}script"))
        assert "\x00" not in plot
        assert "\u202e" not in plot


def test_standalone_brings_its_style() -> None:
    root = parsed(plots.standalone(drawings(640)[0]))
    style = root.find(f"{SVG}style")
    assert style is not None
    assert "var(--accent" in (style.text or "")


def test_intervals_are_drawn_to_scale() -> None:
    root = parsed(plots.interval_plot(ESTIMATES, measure="RR@10", lead="a", reference="a"))
    groups = [node for node in root.iter(f"{SVG}g") if node.get("class") in ("lead", "other")]
    assert [node.get("class") for node in groups] == ["lead", "other", "other", "other"]
    whisker = groups[0].find(f"{SVG}line")
    dot = groups[0].find(f"{SVG}circle")
    assert whisker is not None
    assert dot is not None
    low, high = float(whisker.get("x1", 0)), float(whisker.get("x2", 0))
    assert float(dot.get("cx", 0)) == pytest.approx((low + high) / 2, abs=0.2)
    other = groups[1].find(f"{SVG}line")
    assert other is not None
    width = float(other.get("x2", 0)) - float(other.get("x1", 0))
    assert width / (high - low) == pytest.approx(0.06 / 0.2, abs=0.02)
    reference = next(node for node in root.iter(f"{SVG}line") if node.get("class") == "reference")
    assert reference.get("x1") == dot.get("cx")


def test_latency_runs_on_a_logarithmic_axis_and_skips_what_has_no_time() -> None:
    same = Estimate(0.5, 0.4, 0.6)
    points = {"a": (1.0, same), "b": (10.0, same), "c": (100.0, same), "none": (0.0, same), "nan": (float("nan"), same)}
    root = parsed(plots.quality_cost_plot(points, measure="nDCG@10"))
    x = [float(node.get("cx", 0)) for node in root.iter(f"{SVG}circle")]
    assert len(x) == 3
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert {"a", "b", "c"} <= {text for text, _ in texts(root)}
    assert plots.quality_cost_plot({"a": (0.0, same)}, measure="nDCG@10") == ""


def test_crowded_points_still_have_names() -> None:
    points = {f"system {i}": (5 + 0.05 * i, Estimate(0.6 + 0.002 * i, 0.58, 0.63)) for i in range(12)}
    for width in (328, 840):
        boxes = texts(parsed(plots.quality_cost_plot(points, measure="nDCG@10", width=width)))
        assert {text for text, _ in boxes if text.startswith("system")} == set(points)
        assert_apart(boxes)


def outline(plot: str, side: str) -> list[tuple[float, float]]:
    """The corners (x, y) of a side's outline."""
    path = next((node.get("d", "") for node in parsed(plot).iter(f"{SVG}path") if node.get("class") == side), "")
    corners: list[tuple[float, float]] = []
    for command, numbers in re.findall(r"([MHV])([-\d. ]+)", path):
        values = [float(number) for number in numbers.split()]
        x, y = corners[-1] if corners else (0.0, 0.0)
        x, y = values if command == "M" else (values[0], y) if command == "H" else (x, values[0])
        corners.append((x, y))
    return corners


def test_differences_count_wins_ties_and_losses() -> None:
    plot = plots.difference_plot([0.5, 0, -0.25, 1.0], a="new", b="old", measure="nDCG@10")
    shown = " ".join(text for text, _ in texts(parsed(plot)))
    assert "new better on 2" in shown
    assert "old better on 1" in shown
    assert "4 queries, 1 of them equal" in shown
    assert "mean +0.312" in shown
    heights = {y for _, y in outline(plot, "won")}
    assert len(heights) == 3


@given(st.lists(st.sampled_from([-1.0, -0.37, 0.0, 0.5, 1.0]), min_size=61, max_size=900))
@settings(max_examples=30, deadline=None)
def test_outlines_take_their_share_of_the_width(differences: list[float]) -> None:
    plot = plots.difference_plot(differences, a="a", b="b", measure="nDCG@10", width=640)
    root = parsed(plot)
    left, right = float(root.get("data-left", 0)), float(root.get("data-right", 0))
    for side, wins in (("won", [d for d in differences if d > 0]), ("lost", [d for d in differences if d < 0])):
        corners = outline(plot, side)
        share = (max(x for x, _ in corners) - min(x for x, _ in corners)) / (right - left) if corners else 0
        assert share == pytest.approx(len(wins) / len(differences), abs=0.01)
    assert len(plot) < 30_000


@pytest.mark.parametrize("differences", [[], [0.0], [0.0] * 100, [1.0], [-1.0] * 3, [1e-4, -1e-4]])
def test_small_and_flat_differences_are_drawn(differences: list[float]) -> None:
    root = parsed(plots.difference_plot(differences, a="a", b="b", measure="nDCG@10"))
    assert "nan" not in ElementTree.tostring(root, encoding="unicode")


def test_one_flat_estimate_is_drawn() -> None:
    root = parsed(plots.interval_plot({"a": Estimate(0.5, 0.5, 0.5)}, measure="nDCG@10"))
    assert len(list(root.iter(f"{SVG}circle"))) == 1
    assert parsed(plots.quality_cost_plot({"a": (2.0, Estimate(1, 1, 1))}, measure="x")) is not None


@given(st.floats(-10, 10), st.floats(1e-3, 100), st.integers(3, 9))
def test_ticks_are_few_round_and_inside(low: float, span: float, most: int) -> None:
    marks = svg.ticks(low, low + span, most)
    assert len(marks) <= most
    assert all(low - 1e-6 <= mark <= low + span + 1e-6 for mark in marks)
    assert marks == sorted(set(marks))


@given(st.floats(1e-4, 1e3), st.floats(1.5, 1e6))
def test_log_ticks_are_inside(low: float, ratio: float) -> None:
    marks = svg.log_ticks(low, low * ratio)
    assert all(low * 0.99 <= mark <= low * ratio * 1.01 for mark in marks)
    assert marks or ratio < 2.6
