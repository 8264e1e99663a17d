"""Docstrings taken apart."""

from __future__ import annotations

import pytest

from lodesmith.data.docstrings import clean, describe

REST = (
    "The rest explains at length, in more words than twenty, what happens to each of the values that are given to it."
)


@pytest.mark.parametrize(
    ("doc", "query"),
    [
        (f"Return the median along an axis.\n\n{REST}", "Return the median along an axis"),
        (f"Return the median\nalong an axis. {REST}", "Return the median along an axis"),
        (f"Compute a value, e.g. the mean of all. {REST}", "Compute a value, e.g. the mean of all"),
        (f"Open :func:`~os.path.join` and ``close`` **it** now.\n\n{REST}", "Open os.path.join and close it now"),
        (f"Load a [`BertModel`] or `so <http://x>`_ from disk\n\n{REST}", "Load a BertModel or so from disk"),
        (f"Split at version 3.5 of the file.\n\n{REST}", "Split at version 3.5 of the file"),
    ],
)
def test_the_query_is_the_first_sentence(doc: str, query: str) -> None:
    found = describe(doc)
    assert found.query == query
    assert found.passage == REST


def test_a_signature_stays_in_the_passage() -> None:
    found = describe(f"median(a, axis=None) -> Tensor\n\nReturn the median along an axis.\n\n{REST}")
    assert found.query == "Return the median along an axis"
    assert found.passage == f"median(a, axis=None) -> Tensor\n\n{REST}"


@pytest.mark.parametrize(
    "doc",
    [
        f"Too short.\n\n{REST}",
        "Return the median along an axis.\n\nOnly a few words follow here.",
        f"See the other function for this.\n\n{REST}",
        f"Parameters and what they all mean.\n\n{REST}",
        f">>> median of a list\n\n{REST}",
        f"Return the median along an axis.\n\nThis will return the median along an axis. {REST}",
        f"{'word ' * 60}\n\n{REST}",
    ],
)
def test_a_docstring_without_a_fair_query_stays_whole(doc: str) -> None:
    found = describe(doc)
    assert found.query == ""
    assert found.passage == doc


def test_clean() -> None:
    assert clean("  a  \n\n\n\n\tb \n") == "a\n\n        b"
    assert clean("x\ud800\x00y") == "x?y"
