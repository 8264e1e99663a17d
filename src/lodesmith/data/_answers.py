"""Question and answer pairs out of what a language model wrote: JSON, `Q:`/`A:` lines, or lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from lodesmith.data._writing import clean

__all__ = ["Pair", "pairs"]

_QUESTION_KEYS = ("question", "q", "query")
_ANSWER_KEYS = ("answers", "answer", "a")
_MARK = re.compile(r"^\s*(?:[-*•]\s+|\(?\d+[.):]\s*)?")
_Q = re.compile(r"^(?:q|question|frage|pregunta|domanda|pergunta|vraag)\s*\d*\s*[:.)]\s*", re.IGNORECASE)
_A = re.compile(
    r"(?:^|\s)(?:a|answer|antwort|réponse|respuesta|risposta|resposta|antwoord)\s*\d*\s*[:)]\s*", re.IGNORECASE
)
_OPENS = re.compile(r"\[+|\{+")
_ENDS = re.compile(r"[?？؟][\"”’']*")
_SEPARATORS = " \t-–—:=>()→"


class Pair(NamedTuple):
    """A question and its answers; either may be empty."""

    question: str
    answers: tuple[str, ...]


def pairs(text: str, finished: bool = True) -> list[Pair]:
    """The pairs of a text, in order, in whichever form it has: JSON objects (one a line, a list, or among other
    words), lines that begin with `Q:` and `A:`, or a list of questions with their answers behind or below.

    Args:
        text: what was written.
        finished: where it was cut, the last pair outside JSON is left out, since its answer may lack its end.
    """
    text = clean(text)
    found = [pair for value in _objects(text) for pair in _of_json(value)]
    if found:
        return found
    listed = list(_of_lines(text))
    return listed if finished else listed[:-1]


def _objects(text: str) -> Iterator[Any]:
    """The JSON objects and lists in a text, the outermost of each; what is no JSON is passed over."""
    decoder, at = json.JSONDecoder(), 0
    while (match := _OPENS.search(text, at)) is not None:
        try:
            value, at = decoder.raw_decode(text, match.start())
            yield value
        except (ValueError, RecursionError):
            at = max(match.start() + 1, match.end() - 1)  # of many opening brackets only the last is tried again


def _of_json(value: Any) -> Iterator[Pair]:
    if isinstance(value, list):
        for item in value:
            yield from _of_json(item)
    elif isinstance(value, dict):
        fields = {key.lower(): item for key, item in value.items()}
        question = next((fields[key] for key in _QUESTION_KEYS if isinstance(fields.get(key), str)), None)
        if question is not None:
            answer = next((fields[key] for key in _ANSWER_KEYS if key in fields), ())
            yield Pair(_tidy(question), _answers(answer))
        else:
            for item in fields.values():
                yield from _of_json(item)


def _answers(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    texts = (str(item) for item in items if isinstance(item, str | int | float) and not isinstance(item, bool))
    return tuple(dict.fromkeys(filter(None, map(_tidy, texts))))


def _of_lines(text: str) -> Iterator[Pair]:
    question, answer = "", ""
    for raw in text.splitlines():
        line = _MARK.sub("", raw.replace("**", "").replace("__", "")).strip()
        if not line:
            continue
        asked, given = _split(line)
        if asked:
            if question:
                yield _pair(question, answer)
            question, answer = asked, given
        elif question and not answer:
            answer = given
    if question:
        yield _pair(question, answer)


def _split(line: str) -> tuple[str, str]:
    """Question and answer of a line; a line without a question is all answer."""
    labelled = _Q.match(line)
    rest = line[labelled.end() :] if labelled else line
    if mark := _A.search(rest):
        return (
            (rest[: mark.start()].strip(_SEPARATORS), rest[mark.end() :]) if mark.start() else ("", rest[mark.end() :])
        )
    if ends := list(_ENDS.finditer(rest)):
        return rest[: ends[-1].end()], rest[ends[-1].end() :].strip(_SEPARATORS)
    return (rest, "") if labelled else ("", rest)


def _pair(question: str, answer: str) -> Pair:
    return Pair(_tidy(question), _answers(answer))


def _tidy(text: str) -> str:
    """On one line, without the quotation marks around it."""
    text = " ".join(text.split())
    return text[1:-1].strip() if len(text) > 2 and (text[0], text[-1]) in {('"', '"'), ("“", "”"), ("'", "'")} else text
