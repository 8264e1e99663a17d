"""Tables for papers: figures, averages over what is common, bold only by the tests, escapes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.results import Comparison, Estimate, Evaluation, Pair
from lodesmith.reports.paper_tables import averages, paper_latex, paper_markdown, paper_table, paper_text


def evaluation(system: str, dataset: str, mean: float, **more: float) -> Evaluation:
    means = {"nDCG@10": mean, "RR@10": mean / 2} | more
    measures = {name: Estimate(value, value - 0.04, value + 0.06) for name, value in means.items()}
    return Evaluation(system, dataset, "test", 2, measures, {})


def compared(*pairs: tuple[str, str, str, float, bool]) -> Comparison:
    """Pairs of (a, b, dataset, difference, significant)."""
    made = [
        Pair(a, b, dataset, "", "nDCG@10", gap, gap - 0.1, gap + 0.1, 0.01, 0.01, 0.02, told, 2, 0, 0, 2, 0.1)
        for a, b, dataset, gap, told in pairs
    ]
    return Comparison("a", "nDCG@10", ("a", "b"), tuple(made))


TWO = [evaluation("a", "x", 0.4), evaluation("b", "x", 0.5), evaluation("a", "y", 0.6), evaluation("b", "y", 0.65)]
VERDICTS = compared(("b", "a", "x", 0.1, True), ("b", "a", "y", 0.05, False))


def test_bold_is_a_verdict_and_never_a_higher_mean() -> None:
    markdown, latex = paper_markdown(paper_table(TWO, VERDICTS)), paper_latex(paper_table(TWO, VERDICTS))
    assert re.findall(r"\*\*(.*?)\*\*", markdown) == ["0.500"]
    assert re.findall(r"\\textbf\{(.*?)\}", latex) == ["0.500"]
    assert "bold: significantly better" in markdown
    untested = paper_markdown(paper_table(TWO))
    assert "**" not in untested
    assert "no system is significantly better" in untested


def test_better_than_the_runner_up_alone_is_not_enough() -> None:
    three = [evaluation("a", "x", 0.4), evaluation("b", "x", 0.5), evaluation("c", "x", 0.45)]
    verdicts = compared(("b", "a", "x", 0.1, False), ("b", "c", "x", 0.05, True), ("c", "a", "x", 0.05, False))
    assert "**" not in paper_markdown(paper_table(three, verdicts))


def test_rows_are_datasets_and_the_average_stands_last() -> None:
    lines = paper_markdown(paper_table(TWO, VERDICTS)).splitlines()
    assert lines[0] == "| nDCG@10 | a | b |"
    assert lines[2] == r"| x | 0.400 \[0.360, 0.460\] | **0.500** \[0.460, 0.560\] |"
    assert lines[4] == "| average of 2 | 0.500 | 0.575 |"


@pytest.mark.parametrize(
    ("spread", "cell"), [("interval", "0.400 [0.360, 0.460]"), ("half", "0.400 ± 0.050"), ("none", "0.400")]
)
def test_what_stands_beside_a_mean(spread: str, cell: str) -> None:
    text = paper_text(paper_table(TWO, spread=spread))  # type: ignore[arg-type]
    assert re.search(rf"x +{re.escape(cell)}(  |$)", text)
    if spread == "half":
        latex = paper_latex(paper_table(TWO, spread="half"))
        assert r"0.400 $\pm$ 0.050 &" in latex


def test_the_average_is_of_the_datasets_that_all_systems_have() -> None:
    table = paper_table([*TWO, evaluation("a", "z", 0.9)], VERDICTS)
    assert table.last is not None
    assert table.last[0] == "average of 2 in common"
    assert [figure.mean for figure in table.last[1]] == ["0.500", "0.575"]
    assert [figure.mean for figure in table.rows[2][1]] == ["0.900", "–"]
    apart = paper_table([evaluation("a", "x", 0.4), evaluation("b", "y", 0.5)])
    assert apart.last is None
    assert paper_table(TWO[:2]).last is None


def test_the_parts_of_cqadupstack_count_once() -> None:
    parts = [evaluation("a", f"beir/cqadupstack/{name}", mean) for name, mean in (("gis", 0.2), ("tex", 0.4))]
    table = paper_table([*parts, evaluation("a", "beir/fiqa", 0.5)], measures=["nDCG@10"])
    assert table.last is not None
    assert (table.last[0], table.last[1][0].mean) == ("average of 2", "0.400")
    assert averages([*parts, evaluation("a", "beir/fiqa", 0.5)])["nDCG@10"] == pytest.approx(0.4)


def test_one_system_has_its_measures_as_columns() -> None:
    table = paper_table([TWO[0], TWO[2]], measures=["nDCG@10", "RR@10", "R@7"])
    assert table.columns == ("nDCG@10", "RR@10", "R@7")
    assert [figure.mean for figure in table.rows[0][1]] == ["0.400", "0.200", "–"]
    assert "system: a" in table.notes


def test_averages_are_of_measures_that_all_have() -> None:
    found = averages([evaluation("a", "x", 0.4, **{"P@3": 0.1}), evaluation("a", "y", 0.6)])
    assert found == {"nDCG@10": pytest.approx(0.5), "RR@10": pytest.approx(0.25)}
    assert averages([]) == {}


def test_names_are_escaped_and_the_table_stays_whole() -> None:
    odd = r"50%_a|b & \input{x}"
    table = paper_table([replace(e, system=e.system + odd, dataset=e.dataset + "_#1") for e in TWO])
    latex, markdown = paper_latex(table), paper_markdown(table)
    assert r"a50\%\_a|b \& \textbackslash{}input\{x\}" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in body] == [2] * 4
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines()[:5]] == [4] * 5


def test_other_splits_are_named() -> None:
    assert paper_table([replace(TWO[0], split="dev")]).rows[0][0] == "x (dev)"


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="no spread is called 'sd'"):
        paper_table(TWO, spread="sd")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="two evaluations of 'a'"):
        paper_table([TWO[0], TWO[0]])
