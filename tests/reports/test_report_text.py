from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodesmith.reports import text


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0.7123, "+0.712"), (-0.0123, "−0.012"), (0.0004, "0.000"), (-0.0004, "0.000"), (None, "–"), (float("nan"), "–")],
)
def test_signed_differences(number: float | None, shown: str) -> None:
    assert text.signed(number) == shown


@pytest.mark.parametrize(
    ("p", "shown"),
    [(0.0, "p < 0.001"), (0.00099, "p < 0.001"), (0.001, "p = 0.001"), (0.0312, "p = 0.031"), (1.0, "p = 1.000")],
)
def test_probabilities(p: float, shown: str) -> None:
    assert text.probability(p) == shown


@given(st.floats(0.049, 0.051))
def test_a_probability_is_never_rounded_across_the_level(p: float) -> None:
    shown = float(text.probability(p).removeprefix("p = "))
    assert (shown < 0.05) == (p < 0.05) or abs(p - 0.05) < 5e-6


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (30_700_000, "30.7 MB"),
        (999_600_000, "1.00 GB"),
        (5.3e15, "5300 TB"),
    ],
)
def test_sizes(number: float | None, shown: str) -> None:
    assert text.size(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(None, "–"), (0, "0"), (512, "512"), (196_608, "197 k"), (22_713_216, "22.7 M"), (7.24e9, "7.24 G")],
)
def test_counts(number: float | None, shown: str) -> None:
    assert text.count(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(None, "–"), (0, "0"), (0.0123, "0.0123"), (7.9, "7.90"), (312.4, "312"), (12_345, "12,300")]
)
def test_rates(number: float | None, shown: str) -> None:
    assert text.rate(number) == shown


def test_one_line_takes_out_what_reorders_or_breaks_a_line() -> None:
    assert text.one_line("a\u202eb\n c\x00\ud800\t d") == "ab c\ufffd\ufffd d"


def test_isolated_guards_only_what_needs_it() -> None:
    assert text.isolated("bm25") == "bm25"
    assert text.isolated("שלום") == "\u2068שלום\u2069"


def test_clip_prefers_whole_words() -> None:
    assert text.clip("one two three", 9) == "one two…"
    assert text.clip("x" * 20, 9) == "x" * 8 + "…"
    assert text.clip(" short ", 9) == "short"


@given(st.text(max_size=40), st.integers(2, 30))
def test_fit_stays_inside_its_columns(content: str, width: int) -> None:
    line = text.one_line(content)
    assert text.columns(text.fit(line, width)) <= width


def test_columns_know_wide_and_combining_characters() -> None:
    assert text.columns("日本") == 4
    assert text.columns("e\u0301") == 1
    assert text.fit("日本語の", 5) == "日本…"
