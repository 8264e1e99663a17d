from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_world import World, compared, evaluation

from lodesmith.core.errors import InputError
from lodesmith.core.results import Comparison, Recommendation
from lodesmith.reports.markup import Markup, breakable, embedded, tag
from lodesmith.reports.page import Answer, Example, Passage, render, save

MEASURE = "nDCG@10"
ALARM = "</script></style></title><script>alert('x')</script><img src=x onerror=alert(1)>\" onload=\"alert(2)"
HOSTILE = f"{ALARM} \u2028 \u202e שלום עולם 👩‍🔬 \x00\ud800 {'w' * 300}"


class Reader(HTMLParser):
    """Checks that the page nests, and notes its elements and text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, element: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((element, dict(attributes)))
        if element not in {"meta", "link", "br", "wbr"}:
            self.open.append(element)

    def handle_startendtag(self, element: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((element, dict(attributes)))

    def handle_endtag(self, element: str) -> None:
        assert self.open.pop() == element, element

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, element: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == element]


@pytest.fixture(scope="module")
def page(world: World, examples: tuple[Example, ...], answers: tuple[Answer, ...]) -> str:
    chosen = "bm25+projected minilm: Chosen on the dev split."
    return render(
        "Python documentation",
        world.evaluations,
        world.comparison,
        recommendation=chosen,
        examples=examples,
        notes=["Splits are by module."],
        answers=answers,
    )


def test_the_answer_comes_first(page: str, world: World) -> None:
    text = Reader(page).text
    mean = world.of("bm25+projected minilm").measures[MEASURE].mean
    pair = world.comparison.pair("bm25+projected minilm", "bm25")
    heading = f"bm25+projected minilm is recommended: nDCG@10 {mean:.3f}, +{pair.difference:.3f} over bm25"
    assert heading in text
    assert text.index(heading) < text.index("Results")
    assert "Which retriever? bm25+projected minilm" in re.sub(r"(?<=\?)(?=\S)", " ", text)
    assert "not distinguishable from projected minilm" in text
    assert "7.90 ms a query" in text
    assert "Yes, p < 0.001" in text
    assert f"better on {pair.wins}, worse on {pair.losses}, equal on {pair.ties} of 400 queries" in text
    assert "Chosen on the dev split." in text


def test_the_page_has_every_part(page: str, answers: tuple[Answer, ...]) -> None:
    reader = Reader(page)
    keys = [attributes.get("id") for attributes in reader.all("section")]
    assert keys == [
        "results",
        "intervals",
        "latency",
        "queries",
        "examples",
        "answers",
        "pairs-tested",
        "method",
    ]
    for words in ("Won most", "Lost most", answers[0].question, "numpy.nansum", "15 pairs tested", "80\u00a0% power"):
        assert " ".join(words.split()) in reader.text
    for words in (
        "randomisation test",
        "Holm's correction runs over all 15 pairs",
        "Splits are by module.",
        "53aa5117",
    ):
        assert words in reader.text


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    reader = Reader(page)
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    assert any(meta.get("content") == policy for meta in reader.all("meta"))
    links = [
        value
        for _, attributes in reader.elements
        for name, value in attributes.items()
        if name in {"href", "src", "srcset", "action", "data", "poster", "xlink:href"}
    ]
    assert links == ["data:,"]
    assert "@import" not in page
    assert "url(" not in page


def test_every_pair_has_its_plot_once_for_each_width(page: str) -> None:
    reader = Reader(page)
    figures = [(f["data-a"], f["data-b"]) for f in reader.all("figure") if "data-a" in f]
    assert len(figures) == len({frozenset(pair) for pair in figures}) == 15
    assert figures[0] == ("bm25+projected minilm", "bm25")
    assert len(reader.all("svg")) == 2 * (1 + 1 + 15)
    ids = [attributes["id"] for _, attributes in reader.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_embedded_values_are_those_of_the_evaluations(page: str, world: World) -> None:
    data = json.loads(Reader(page).scripts[0])
    block = data["datasets"]["docs"]
    minilm = world.of("minilm")
    assert block["queries"] == list(minilm.per_query)
    values = [minilm.per_query[query][MEASURE] for query in block["queries"]]
    assert block["systems"]["minilm"] == pytest.approx(values, abs=5e-5)


def test_an_insignificant_difference_is_called_so() -> None:
    evaluations = [evaluation("a", {MEASURE: [0.5, 0.2, 0.9, 0.4]}), evaluation("b", {MEASURE: [0.4, 0.4, 0.9, 0.5]})]
    comparison = compared(evaluations, "b")
    text = Reader(render("t", evaluations, comparison, recommendation="a")).text
    assert "its difference to b is not significant" in text
    assert "Not shown, p = " in text
    assert "so many find a difference of" in text
    assert "<strong>" not in render("t", evaluations, comparison)


def test_a_significantly_worse_recommendation_is_called_so(world: World) -> None:
    text = Reader(render("t", world.evaluations, world.comparison, recommendation="random")).text
    assert "random is recommended: nDCG@10 0.000; bm25 is significantly better" in text
    assert "Yes, but it is worse" in text
    assert "significantly below projected minilm" in text


def test_the_baseline_itself_can_be_recommended(world: World) -> None:
    text = Reader(render("t", world.evaluations, world.comparison, recommendation="bm25")).text
    assert "bm25 is recommended" in text
    assert "projected minilm is significantly better" in text


def test_a_recommendation_brings_its_notes(world: World) -> None:
    chosen = Recommendation("minilm", MEASURE, "It is the simplest.", ("random is worse.",))
    text = Reader(render("t", world.evaluations, world.comparison, recommendation=chosen)).text
    assert "minilm is recommended" in text
    assert "It is the simplest." in text
    assert "random is worse." in text


def test_several_datasets(two_worlds: World) -> None:
    reader = Reader(render("t", two_worlds.evaluations, two_worlds.comparison, recommendation="projected minilm"))
    assert "averaged over 2 datasets" in reader.text
    assert re.search(r"On [012] of 2 datasets", reader.text)
    assert "average of 2 datasets" in reader.text
    shown = [(f["data-dataset"], f["data-a"], f["data-b"]) for f in reader.all("figure") if "data-a" in f]
    assert shown[:2] == [(dataset, "projected minilm", "bm25") for dataset in ("docs", "notes")]
    assert len(shown) == 24


def test_little_input_is_enough() -> None:
    alone = [evaluation("alone", {MEASURE: [0.5, 1.0]})]
    text = Reader(render("t", alone, Comparison("alone", MEASURE, ("alone",), ()))).text
    assert "alone has the highest nDCG@10: 0.750" in text
    assert "there is nothing to compare it with" in text
    assert "Not tested" in text
    bare = [replace(alone[0], measures={}, per_query={}, fingerprints={})]
    assert "–" in Reader(render("t", bare, Comparison("alone", MEASURE, ("alone",), ()))).text
    with pytest.raises(InputError):
        render("t", [], Comparison("alone", MEASURE, ("alone",), ()))


def hostile_page(world: World) -> str:
    """Every text that comes from outside is hostile."""
    names = {e.system: f"{e.system} {HOSTILE}" for e in world.evaluations}
    evaluations = [
        replace(
            e,
            system=names[e.system],
            dataset=HOSTILE,
            per_query={f"{query} {HOSTILE}": values for query, values in e.per_query.items()},
            fingerprints={HOSTILE: HOSTILE},
        )
        for e in world.evaluations
    ]
    passage = Passage(HOSTILE, HOSTILE, HOSTILE, 1.5, True)
    return render(
        HOSTILE,
        evaluations,
        compared(evaluations, names["bm25"]),
        recommendation=f"{names['minilm']}: {HOSTILE}",
        examples=[Example(HOSTILE, HOSTILE, 1, 0, (passage,), (passage,), (passage,)), Example("q", HOSTILE, 0, 1)],
        notes=[HOSTILE],
        answers=[Answer(HOSTILE, (passage,))],
    )


def test_hostile_text_stays_text(world: World, tmp_path: Path) -> None:
    page = hostile_page(world)
    reader = Reader(page)
    assert len(reader.all("script")) == 2
    assert not reader.all("img")
    for _, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on")]
    assert "alert('x')" in reader.text
    assert "\x00" not in page
    assert "\u2028" not in reader.scripts[0]
    data = json.loads(reader.scripts[0])
    assert list(data["datasets"]) == [HOSTILE]
    save(tmp_path / "report.html", page)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_users_text_keeps_its_own_direction(world: World) -> None:
    page = hostile_page(world)
    for words in (r"<bdi dir=\"auto\">", r"<p dir=\"auto\">", r"<h3 dir=\"auto\">"):
        assert re.search(words, page)
    for label in re.findall(r"<text[^>]*>([^<]*שלום[^<]*)</text>", page):
        assert label.startswith("\u2068")
        assert label.endswith("\u2069")


@given(st.text(), st.text())
def test_markup_escapes_whatever_is_not_markup(content: str, attribute: str) -> None:
    reader = Reader(tag("p", content, tag("b", "x"), title=attribute))
    assert [name for name, _ in reader.elements] == ["p", "b"]
    assert "<" not in tag("p", content).removeprefix("<p>").removesuffix("</p>")


def test_markup_attributes() -> None:
    assert tag("details", Markup("<b>x</b>"), open=True, class_="a", data_b="1") == (
        '<details open class="a" data-b="1"><b>x</b></details>'
    )
    assert tag("td", "x", class_="", hidden=False) == "<td>x</td>"


def test_names_may_break_at_their_joints() -> None:
    assert breakable("bm25+a/b-c <x>") == "bm25+<wbr>a/<wbr>b-<wbr>c &lt;x&gt;"
    assert breakable("a&b;c") == "a&amp;b;c"


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_embedded_json_cannot_end_its_element(data: object) -> None:
    element = embedded(data, "data")
    body = element.removeprefix('<script type="application/json" id="data">').removesuffix("</script>")
    assert not set(body) & set("<>&\u2028\u2029")
    assert json.loads(body) == data
    assert body.isascii()


def test_embedded_json_refuses_nan() -> None:
    with pytest.raises(ValueError):
        embedded(float("nan"), "data")
