"""The page of a geometry and its three plots."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from lodesmith.evaluation.geometry import Geometry, measure
from lodesmith.reports.geometry import render
from lodesmith.reports.geometry_plots import cosine_plot, map_plot, spectrum_plot

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def found() -> Geometry:
    rows = np.random.default_rng(0).standard_normal((300, 8)) * np.linspace(3, 1, 8)
    return measure(rows, (rows[:40] + 0.5, rows[:40]))


def inside(plot: str) -> ElementTree.Element:
    """The drawing, of which nothing lies outside its box."""
    root = ElementTree.fromstring(plot)
    width, height = map(float, root.get("viewBox", "").split()[2:])
    for path in root.iter(f"{SVG}path"):
        for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path.get("d", "")):
            assert 0 <= float(x) <= width
            assert 0 <= float(y) <= height
    for label in root.iter(f"{SVG}text"):
        assert 0 <= float(label.get("x", 0)) <= width
        assert 0 <= float(label.get("y", 0)) <= height
    return root


def test_the_spectrum_falls_and_zeros_stay_at_the_foot() -> None:
    root = inside(spectrum_plot([0.6, 0.3, 0.1, 0.0], width=328))
    (path,) = root.iter(f"{SVG}path")
    heights = [float(y) for _, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path.get("d", ""))]
    assert heights == sorted(heights)
    assert len(heights) == 4
    assert heights[-1] == pytest.approx(250, abs=0.1)
    inside(spectrum_plot([1.0]))


def test_the_histogram_has_both_kinds_of_pairs() -> None:
    random, positive = [0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.2, 0.8]
    root = inside(cosine_plot(random, positive, width=328))
    assert [path.get("class") for path in root.iter(f"{SVG}path")] == ["dot", "won"]
    assert "mean of 0.000" in (root.findtext(f"{SVG}desc") or "")
    assert "positive pairs of 0.650" in (root.findtext(f"{SVG}desc") or "")
    alone = inside(cosine_plot([0.0, 1.0]))
    assert len(list(alone.iter(f"{SVG}path"))) == 1
    assert "positive" not in ElementTree.tostring(alone, encoding="unicode")


@pytest.mark.parametrize("queries", [[], [(0.0, 3.0)]])
@pytest.mark.parametrize("documents", [[(0.0, 0.0)], [(-5.0, 0.1), (9.0, 0.2)], [(0.1, -800.0), (0.2, 900.0)]])
def test_the_map_keeps_its_scale(documents: list[tuple[float, float]], queries: list[tuple[float, float]]) -> None:
    root = inside(map_plot(documents, queries, width=328))
    paths = [path.get("d", "") for path in root.iter(f"{SVG}path")]
    assert len(paths) == 1 + bool(queries)
    drawn = [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)h0", "".join(paths))]
    given = [*documents, *queries]
    assert len(drawn) == len(given)
    if len(given) > 1:
        (x0, y0), (x1, y1) = given[0], given[1]
        (u0, v0), (u1, v1) = drawn[0], drawn[1]
        length = np.hypot(x1 - x0, y1 - y0)
        assert (u1 - u0) * length == pytest.approx((x1 - x0) * np.hypot(u1 - u0, v1 - v0), abs=0.2 * length)
        assert (v0 - v1) * length == pytest.approx((y1 - y0) * np.hypot(u1 - u0, v1 - v0), abs=0.2 * length)


def test_the_page_says_what_the_geometry_says(found: Geometry) -> None:
    page = render("Geometry of <model>", found, notes=["A & B"])
    assert "Geometry of &lt;model&gt;" in page
    assert "A &amp; B" in page
    assert f"over {found.effective_rank:.0f} of 8 dimensions" in page
    for name, figure, _ in found.rows():
        assert name.replace("'", "&#x27;") in page
        assert figure in page
    assert page.count("<svg") == 6
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_a_page_without_pairs_and_hubs() -> None:
    page = render("bare", measure(np.eye(4), neighbours=0))
    assert "Hubs?" not in page
    assert "Do pairs meet?" not in page
    assert "How this was measured" not in page
