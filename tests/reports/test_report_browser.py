"""The page in a real browser: nothing in the console, nothing on the network, readable on a phone and in the dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_world import World
from test_report_page import hostile_page

from lodesmith.reports.page import Answer, Example, render, save

pytestmark = [pytest.mark.slow, pytest.mark.enable_socket]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def files(
    world: World,
    two_worlds: World,
    examples: tuple[Example, ...],
    answers: tuple[Answer, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """The ordinary page, one of several datasets, and one of hostile texts."""
    pages = {
        "plain": render(
            "Python documentation",
            world.evaluations,
            world.comparison,
            recommendation="bm25+projected minilm: Chosen on the dev split.",
            examples=examples,
            answers=answers,
        ),
        "several": render("Two datasets", two_worlds.evaluations, two_worlds.comparison),
        "hostile": hostile_page(world),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, page in pages.items():
        save(folder / f"{name}.html", page)
    return {name: folder / f"{name}.html" for name in pages}


class Visit:
    """A page opened in a context of its own, with what it said and asked for."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1200])
@pytest.mark.parametrize("name", ["plain", "several", "hostile"])
def test_quiet_alone_and_inside_the_screen(
    browser: Any, files: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 800}
    with Visit(browser, files[name], viewport=size, color_scheme=scheme) as visit:
        visit.page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        outside = visit.page.evaluate(
            """width => [...document.querySelectorAll('main *')].filter(element => {
                if (element.closest('.scroll table') || element.closest('svg g, svg path')) return false;
                const box = element.getBoundingClientRect();
                return box.width > 0 && (box.right > width + 1 || box.left < -1);
            }).map(element => element.outerHTML.slice(0, 80))""",
            width,
        )
        assert outside == []
        assert visit.said == []
        assert visit.asked == [files[name].as_uri()]


def brightness(colour: str) -> float:
    numbers = colour[colour.index("(") + 1 : colour.index(")")].replace(",", " ").split()
    return sum(map(float, numbers[:3])) / 3


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_follows_the_readers_colours(browser: Any, files: dict[str, Path], scheme: str, dark: bool) -> None:
    with Visit(browser, files["plain"], color_scheme=scheme) as visit:
        paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (brightness(paper) < 60) == dark
        for place, style in (("h1", "color"), (".note", "color"), ("svg .label", "fill"), ("svg .axis", "fill")):
            ink = visit.page.evaluate(f"getComputedStyle(document.querySelector('{place}')).{style}")
            assert abs(brightness(ink) - brightness(paper)) > 100, place


@pytest.mark.parametrize("width", [360, 1200])
def test_labels_of_the_plots_are_legible_and_inside(browser: Any, files: dict[str, Path], width: int) -> None:
    with Visit(browser, files["plain"], viewport={"width": width, "height": 800}) as visit:
        labels = visit.page.evaluate(
            """() => [...document.querySelectorAll('svg text')].map(text => {
                const box = text.getBoundingClientRect(), plot = text.closest('svg').getBoundingClientRect();
                return [text.textContent, box.height, box.left - plot.left, plot.right - box.right];
            }).filter(([, height]) => height > 0)"""
        )
        assert len(labels) > 20
        for text, height, left, right in labels:
            assert height >= 10, text
            assert min(left, right) > -8, text


def test_the_selector_shows_one_pair_and_names_queries(browser: Any, files: dict[str, Path], world: World) -> None:
    with Visit(browser, files["plain"], viewport={"width": 1200, "height": 800}) as visit:
        figures = visit.page.locator("#pairs figure")
        assert visit.page.locator("#pairs figure:visible").count() == 1
        select = visit.page.locator("#pairs select")
        assert select.locator("option").count() == figures.count() == 15
        select.select_option(index=3)
        shown = visit.page.locator("#pairs figure:visible")
        assert shown.count() == 1
        assert shown.get_attribute("data-a") == figures.nth(3).get_attribute("data-a")
        a, b = (world.of(shown.get_attribute(f"data-{side}")) for side in "ab")
        values = {q: a.per_query[q]["nDCG@10"] - b.per_query[q]["nDCG@10"] for q in a.per_query}
        plot = shown.locator("svg:visible")
        size = plot.bounding_box()
        plot.hover(position={"x": size["width"] * 46 / 840, "y": size["height"] / 2})
        said = shown.locator("output").inner_text()
        query = said.split()[1].rstrip(":")
        assert values[query] == max(values.values())
        assert f"{a.per_query[query]['nDCG@10']:.3f} against {b.per_query[query]['nDCG@10']:.3f}" in said


def test_everything_can_be_read_without_scripts(browser: Any, files: dict[str, Path]) -> None:
    with Visit(browser, files["plain"], java_script_enabled=False) as visit:
        page = visit.page
        assert page.locator("#pairs figure:visible").count() == 1
        page.locator("#pairs summary").click()
        assert page.locator("#pairs figure:visible").count() == 15
        page.locator("#examples summary").first.click()
        assert page.locator("#examples .inside:visible").count() == 1
        assert page.locator("#results table:visible").count() == 1
