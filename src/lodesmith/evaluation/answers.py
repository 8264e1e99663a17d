"""Measures of written answers against gold answers, each the best over the golds.

Texts are compared as tokens, after the normalisation of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250): lower case,
without punctuation and without the articles a, an and the, split at white space.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from lodesmith.core.errors import InputError

__all__ = ["MEASURES", "answer_measures", "contiguous", "cover_em", "exact_match", "f1", "normalised", "unanswered"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_TRUTHS = {"True": "yes", "False": "no"}
"""How datasets and their scripts spell the answers of yes-or-no questions (CLaRa's, among others)."""

Tokens = Sequence[str]


def normalised(text: str) -> str:
    """A text as it is compared: tokens with one space between.

    Of ASCII texts the result is that of SQuAD's script, but that a text which is `True` or `False` as a whole, and so
    written, becomes `yes` or `no`. Beyond ASCII, punctuation (Unicode's categories P) goes as well: ’ “ … « 。.
    """
    text = _TRUTHS.get(text.strip(), text)
    kept = "".join(letter for letter in text.lower() if not _is_punctuation(letter))
    return " ".join(_ARTICLES.sub(" ", kept).split())


def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


def cover_em(prediction: str, golds: Sequence[str]) -> float:
    """1 where every token of a gold answer occurs in the prediction, in any order and however often, else 0.

    Raises:
        InputError: there is no gold answer, or nothing is left of one when it is normalised.
    """
    return _best(_covers, prediction, golds)


def contiguous(prediction: str, golds: Sequence[str]) -> float:
    """1 where the tokens of a gold answer stand in the prediction one after another, else 0.

    Raises:
        InputError: as `cover_em`.
    """
    return _best(_contains, prediction, golds)


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1 where the prediction has the tokens of a gold answer and no others, in their order, else 0.

    Raises:
        InputError: as `cover_em`.
    """
    return _best(_equals, prediction, golds)


def f1(prediction: str, golds: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of tokens, a token as often as it occurs, in [0, 1].

    Raises:
        InputError: as `cover_em`.
    """
    return _best(_overlap, prediction, golds)


def _covers(found: Tokens, gold: Tokens) -> float:
    return float(set(gold) <= set(found))


def _contains(found: Tokens, gold: Tokens) -> float:
    return float(any(found[at : at + len(gold)] == gold for at in range(len(found) - len(gold) + 1)))


def _equals(found: Tokens, gold: Tokens) -> float:
    return float(found == gold)


def _overlap(found: Tokens, gold: Tokens) -> float:
    common = (Counter(found) & Counter(gold)).total()
    return 2 * common / (len(found) + len(gold))  # 2PR / (P + R), P = common / found, R = common / gold


_MEASURES: dict[str, Callable[[Tokens, Tokens], float]] = {
    "CoverEM": _covers,
    "EM": _equals,
    "F1": _overlap,
    "Contiguous": _contains,
}


MEASURES = tuple(_MEASURES)
"""The names of what is measured of an answer."""


def _best(measure: Callable[[Tokens, Tokens], float], prediction: str, golds: Sequence[str]) -> float:
    found = normalised(prediction).split()
    return max(measure(found, gold) for gold in _tokens(golds))


def _tokens(golds: Sequence[str]) -> list[Tokens]:
    """The tokens of each gold answer; refuses one that any prediction would match."""
    if isinstance(golds, str):
        raise InputError(f"the gold answers are one text, {golds!r}", "give a list of texts")
    if not golds:
        raise InputError("there is no gold answer", "give at least one, or leave the query out")
    found = [normalised(gold).split() for gold in golds]
    if [] in found:
        raise InputError(
            f"the gold answer {golds[found.index([])]!r} has only punctuation and articles",
            "leave it out: every prediction would match",
        )
    return list(found)


def answer_measures(
    predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """`CoverEM`, `EM`, `F1` and `Contiguous` of every query that has answers, in their order.

    A query without prediction counts 0 (see `unanswered`); a prediction of another query does not count.

    Args:
        predictions: query id → text.
        answers: query id → gold answers.

    Returns:
        Query id → measure → value in [0, 1].

    Raises:
        InputError: there are no queries, or one, which is named, has no gold answer, or one of which nothing is left.
    """
    if not answers:
        raise InputError("there are no queries with answers", "choose a dataset that has answers")
    values = {}
    for query, golds in answers.items():
        try:
            wanted = _tokens(golds)
        except InputError as error:
            raise InputError(f"query {query!r}: {error.what}", error.do) from None
        found = normalised(predictions.get(query, "")).split()
        values[query] = {name: max(measure(found, gold) for gold in wanted) for name, measure in _MEASURES.items()}
    return values


def unanswered(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The queries that have answers and no prediction: `answer_measures` gives each of them 0."""
    return tuple(query for query in answers if query not in predictions)
