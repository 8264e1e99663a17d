"""Reasoning traces: what a language model thinks a query is after, joined to the query by id, and their controls.

A trace is appended to its query before encoding (`data.traced`). It may also hurt, so that every result with traces
goes with the same queries without them and with another query's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lodesmith.core.columns import ColumnWriter
from lodesmith.core.errors import InputError
from lodesmith.core.hashing import fingerprint_texts
from lodesmith.core.progress import tell
from lodesmith.core.protocols import Generator
from lodesmith.core.records import Dataset, Query
from lodesmith.data._writing import clean, excerpt, is_refusal, repetition, runs, whole, words
from lodesmith.data.language import same_language
from lodesmith.data.prompting import PromptFile, shipped

__all__ = ["Trace", "TraceGenerator", "TraceRules", "annotate"]

PLACEHOLDERS = ("query",)


@dataclass(frozen=True)
class Trace:
    """A trace, or why there is none.

    Args:
        text: the trace; empty where it was rejected.
        reject: the reason, such as `leak`; empty where it was kept.
    """

    text: str
    reject: str = ""


@dataclass(frozen=True)
class TraceRules:
    """What makes a trace fit for use.

    Args:
        least_words: of a trace (`too-short`).
        most_words: of a trace (`too-long`).
        new_words: distinct words that the query does not have, at least (`repeats-query`).
        repetition: the most share of it that may repeat itself (`repetitive`), see `data._writing.repetition`.
        leak: a run of so many words that stands in a document judged relevant, and not in the query, gives the
            document away (`leak`).
        query_words: a query is shown to the generator up to here.
    """

    least_words: int = 3
    most_words: int = 400
    new_words: int = 3
    repetition: float = 0.3
    leak: int = 8
    query_words: int = 400

    def judge(self, text: str, query: str, hidden: Sequence[str] = ()) -> Trace:
        """A generated text as a trace; one that was cut is taken up to its last whole sentence.

        Args:
            text: what the generator wrote.
            query: what it was asked about.
            hidden: texts that must not be given away.
        """
        cut = not getattr(text, "finished", True)
        cleaned = clean(text)
        trace = whole(cleaned) if cut else cleaned
        reason = "empty" if not words(cleaned) else "cut-off" if not trace else self._fault(trace, query, hidden)
        return Trace("", reason) if reason else Trace(" ".join(trace.split()))

    def _fault(self, trace: str, query: str, hidden: Sequence[str]) -> str:
        found, asked = words(trace), words(query)
        checks = {
            "refusal": is_refusal(trace),
            "too-short": len(found) < self.least_words,
            "too-long": len(found) > self.most_words,
            "repeats-query": len(set(found) - set(asked)) < self.new_words,
            "repetitive": repetition(found) > self.repetition,
            "other-language": not same_language(trace, query),
        }
        wrong = next((reason for reason, holds in checks.items() if holds), "")
        return wrong or ("leak" if self._leaks(found, asked, hidden) else "")

    def _leaks(self, found: Sequence[str], asked: Sequence[str], hidden: Sequence[str]) -> bool:
        own = runs(found, self.leak).keys() - runs(asked, self.leak).keys()
        return any(not own.isdisjoint(runs(words(text), self.leak).keys()) for text in hidden)


class TraceGenerator:
    """Writes reasoning traces for queries.

    Args:
        generator: the language model.
        prompt: what it is asked, with the placeholder `query`; the package's own where not given.
        max_new_tokens: the most tokens of a trace.
        rules: what a trace must be.
    """

    def __init__(
        self,
        generator: Generator,
        prompt: PromptFile | None = None,
        *,
        max_new_tokens: int = 160,
        rules: TraceRules | None = None,
    ) -> None:
        self.generator = generator
        self.prompt = prompt or PromptFile.load(shipped("trace"), PLACEHOLDERS, PLACEHOLDERS)
        self.max_new_tokens, self.rules = max_new_tokens, rules or TraceRules()

    @property
    def made_by(self) -> dict[str, Any]:
        """Everything that decides what the traces of a query will be, as JSON."""
        return {
            "generator": self.generator.fingerprint,
            "prompt": self.prompt.text,
            "max_new_tokens": self.max_new_tokens,
            "rules": asdict(self.rules),
        }

    def prompts(self, queries: Sequence[str]) -> list[list[dict[str, str]]]:
        """The messages that the generator gets."""
        return [self.prompt.fill({"query": excerpt(query, self.rules.query_words)}) for query in queries]

    def generate(self, queries: Sequence[str], hidden: Sequence[Sequence[str]] = ()) -> list[Trace]:
        """A trace a query, or why there is none.

        Args:
            queries: their texts.
            hidden: for each query the texts that its trace must not give away; none where empty.
        """
        texts = self.generator.generate(self.prompts(queries), max_new_tokens=self.max_new_tokens)
        known = hidden or [()] * len(queries)
        return [self.rules.judge(*item) for item in zip(texts, queries, known, strict=True)]


def choose(dataset: Dataset, split: str | None = None, limit: int | None = None) -> dict[str, Query]:
    """The queries of a split, or all, up to a number, in the order of the query file."""
    found = dataset.queries_of(split) if split else {key: dataset.queries[key] for key in dataset.queries}
    return dict(list(found.items())[:limit])


def annotate(
    dataset: Dataset,
    traces: TraceGenerator,
    *,
    split: str | None = None,
    limit: int | None = None,
    name: str = "traces",
    note: Mapping[str, Any] | None = None,
    chunk: int = 64,
) -> dict[str, Any]:
    """Write the column of traces of a dataset folder; killed, it goes on after the last chunk that was finished.

    A query whose trace was rejected gets none. The documents that any split judges relevant to a query are what its
    trace must not give away.

    Args:
        dataset: loaded from a folder.
        traces: writes them.
        split: the queries of this split; all where not given.
        limit: the first so many.
        name: of the column.
        note: more to say in the column's meta file, such as the generator's name.
        chunk: queries that are written down at a time.

    Returns:
        What the column's meta file holds; `counts` has `kept` and each reason of a rejection.
    """
    folder = _folder(dataset)
    queries = choose(dataset, split, limit)
    hidden = _relevant(dataset, queries)
    subject = (part for key, query in queries.items() for part in (key, query.text, *hidden[key]))
    texts = fingerprint_texts([*subject, *(dataset.documents[d].content for ids in hidden.values() for d in ids)])
    with ColumnWriter(folder, name, "query", {"annotator": "trace", **traces.made_by, "texts": texts}) as column:
        left = column.missing(queries)
        tell(name, len(queries) - len(left), len(queries), "queries")
        for start in range(0, len(left), chunk):
            ids = left[start : start + chunk]
            documents = [[dataset.documents[d].content for d in hidden[key]] for key in ids]
            for key, trace in zip(ids, traces.generate([queries[key].text for key in ids], documents), strict=True):
                column.add(key, [{"text": trace.text}] if trace.text else [], {trace.reject or "kept": 1})
            column.sync()
            tell(name, len(queries) - len(left) + start + len(ids), len(queries), "queries")
        return column.finish(**(note or {}))


def _folder(dataset: Dataset) -> Path:
    if dataset.folder is None:
        raise InputError(f"{dataset.name} is not in a folder", "save it first: columns stand beside its files")
    return dataset.folder


def _relevant(dataset: Dataset, queries: Mapping[str, Query]) -> dict[str, list[str]]:
    """The documents, in the corpus, that any split judges relevant to each query."""
    found: dict[str, dict[str, None]] = {query: {} for query in queries}
    for judgements in dataset.judgements.values():
        for query, documents in judgements.items():
            if query in found:
                found[query] |= dict.fromkeys(d for d, grade in documents.items() if grade > 0)
    return {query: [d for d in documents if d in dataset.documents] for query, documents in found.items()}
