from __future__ import annotations

import re
from dataclasses import replace

import pytest
from report_world import World, compared, evaluation

from lodesmith.core.results import Comparison
from lodesmith.reports import tables
from lodesmith.reports.text import columns

MEASURE = "nDCG@10"


def rows(table: tables.Table, block: int = 0) -> dict[str, tuple[tables.Cell, ...]]:
    return {row.system: row.cells for row in table.blocks[block].rows}


@pytest.fixture
def winner() -> World:
    """`good` is better than `bad` on every query."""
    evaluations = (
        evaluation("bad", {MEASURE: [0.1, 0.2] * 20}, query_ms_p50=0.5),
        evaluation("good", {MEASURE: [0.6, 0.8] * 20}, query_ms_p50=5.0, index_bytes=2048, parameters=0),
    )
    return World(evaluations, compared(evaluations, "bad"))


def test_the_table_has_every_figure(winner: World) -> None:
    table = tables.comparison_table(winner.evaluations, winner.comparison)
    shown = ("nDCG@10 [95\u00a0%]", "RR@10", "R@100", "Δ nDCG@10 to bad", "docs/s", "ms/query", "index", "parameters")
    assert table.columns == shown
    assert [row.system for row in table.blocks[0].rows] == ["good", "bad"]
    assert table.blocks[0].title == "docs · test · 40 queries"
    quality, rr, _, difference, docs, time, index, parameters = rows(table)["good"]
    assert quality == tables.Cell("0.700", "[0.669, 0.731]", "best")
    assert rr.text == docs.text == "–"
    assert difference == tables.Cell("+0.550", "p < 0.001", "significant")
    assert (time.text, index.text, parameters.text) == ("5.00", "2.05 kB", "0")
    assert rows(table)["bad"][3] == tables.Cell("baseline")


def test_only_a_significant_winner_is_best(world: World, winner: World) -> None:
    marks = [cell.mark for cells in rows(tables.comparison_table(*_of(world))).values() for cell in cells]
    assert "best" not in marks
    assert marks.count("tied") == 2
    weak = [replace(pair, significant=False) for pair in winner.comparison.pairs]
    table = tables.comparison_table(winner.evaluations, replace(winner.comparison, pairs=tuple(weak)))
    assert [cells[0].mark for cells in rows(table).values()] == ["tied", "tied"]
    assert table.marks == ("tied",)


def _of(world: World) -> tuple[tuple, Comparison]:
    return world.evaluations, world.comparison


def test_measures_without_tests_are_never_marked(world: World) -> None:
    table = tables.comparison_table(*_of(world), measures=("RR@10", "R@100"))
    assert {cell.mark for cells in rows(table).values() for cell in cells[:2]} == {""}
    untested = tables.comparison_table(world.evaluations, replace(world.comparison, pairs=()))
    assert untested.marks == ()
    assert rows(untested)["minilm"][3] == tables.Cell("–")


def test_several_datasets_have_blocks_and_an_average(two_worlds: World) -> None:
    table = tables.comparison_table(*_of(two_worlds))
    titles = [block.title for block in table.blocks]
    assert titles == ["docs · test · 400 queries", "notes · test · 60 queries", "average of 2 datasets"]
    average = rows(table, 2)
    assert "random" not in average
    means = [e.measures[MEASURE].mean for e in two_worlds.evaluations if e.system == "minilm"]
    base = [e.measures[MEASURE].mean for e in two_worlds.evaluations if e.system == "bm25"]
    assert average["minilm"][0] == tables.Cell(f"{sum(means) / 2:.3f}")
    assert average["minilm"][3] == tables.Cell(f"+{sum(means) / 2 - sum(base) / 2:.3f}")


def test_text_lines_up(world: World) -> None:
    text = tables.to_text(tables.comparison_table(*_of(world)))
    lines = text.splitlines()
    assert lines[0] == "docs · test · 400 queries"
    assert len({columns(line) for line in lines[1:9]}) == 1
    assert re.search(r"^projected minilm +≈ 0\.\d{3} \[0", text, re.MULTILINE)
    assert re.search(r"\* \+0\.\d{3} \(p < 0\.001\)", text)
    assert text.endswith("correction\n")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_text_fits_the_terminal_and_loses_nothing(world: World, width: int) -> None:
    table = tables.comparison_table(*_of(world))
    text = tables.to_text(table, width)
    body = text.split("\n≈ ")[0]
    assert max(columns(line) for line in body.splitlines()) <= max(width, 45)
    for row in table.blocks[0].rows:
        for cell in row.cells:
            assert cell.text in body


def test_text_keeps_hostile_names_on_their_line() -> None:
    names = ("日本語の検索", "a\nb\x1b[31m", "שלום\u202e", "x" * 90)
    evaluations = [evaluation(name, {MEASURE: [0.1 * i, 0.2]}) for i, name in enumerate(names)]
    text = tables.to_text(tables.comparison_table(evaluations, compared(evaluations, names[0])))
    assert "\x1b" not in text
    assert "\u202e" not in text
    lines = text.splitlines()[3:7]
    assert len({columns(line) for line in lines}) == 1
    assert any("x…" in line for line in lines)


def test_markdown_is_a_table_whatever_the_names(winner: World) -> None:
    renamed = tuple(replace(e, system=e.system + " | <b>*x*") for e in winner.evaluations)
    text = tables.to_markdown(tables.comparison_table(renamed, compared(renamed, renamed[0].system)))
    body = [line for line in text.splitlines() if line.startswith("|")]
    assert len(body) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in body} == {10}
    assert "good \\| &lt;b&gt;\\*x\\*" in text
    assert "**0.700** \\[0.669, 0.731\\]" in text
    assert "**bold**: significantly better" in text


def test_markdown_shows_ties_without_bold(world: World) -> None:
    text = tables.to_markdown(tables.comparison_table(*_of(world)))
    assert "≈ best" in text
    assert "**0." not in text


def test_latex_escapes_and_balances(winner: World) -> None:
    renamed = tuple(replace(e, system=e.system + r" 50% & _#$ \input{x}") for e in winner.evaluations)
    text = tables.to_latex(tables.comparison_table(renamed, compared(renamed, renamed[0].system)))
    assert r"good 50\% \& \_\#\$ \textbackslash{}input\{x\}" in text
    assert r"\textbf{0.700}" in text
    assert "\\input" not in text.replace("\\textbackslash{}input", "")
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in body] == [8, 0, 8, 8]
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")


def test_evaluation_text_lists_measures_and_costs(winner: World) -> None:
    lines = tables.evaluation_text(winner.of("good")).splitlines()
    assert lines[0] == "good · docs · test · 40 queries"
    assert lines[1] == "nDCG@10     0.700 [0.669, 0.731]"
    assert lines[2:] == ["ms/query    5.00", "index       2.05 kB", "parameters  0"]


def test_comparison_text_is_the_table(world: World) -> None:
    assert tables.comparison_text(*_of(world)) == tables.to_text(tables.comparison_table(*_of(world)))
