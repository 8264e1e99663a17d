"""Pseudo-relevance feedback as a generator without a model: the terms that mark out a query's best documents."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from lodesmith.core.errors import ConfigError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.progress import track
from lodesmith.core.protocols import Generated, Prompt, Retriever
from lodesmith.core.records import Document

__all__ = ["Feedback"]

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_COMMON = 0.1  # a term in more than this share of a corpus marks out nothing
_FEW = 50  # documents below which that share says nothing


class Feedback:
    """Reads a prompt as a query, searches it, and answers with expansion terms of the documents found.

    The weight of a term is that of the relevance model (RM1: Lavrenko and Croft, "Relevance-based language models",
    2001; the expansion half of RM3, Abdul-Jaleel et al., TREC 2004), Σ_d P(d|q) · tf(w, d)/|d| with P(d|q) from the
    scores normalised over the documents found, times idf(w) = ln(1 + N/df), which keeps words of every document out.
    A term must stand in at least two of the documents, where two were found, and not in the query.

    Args:
        retriever: searches the documents; its judgements are not used.
        documents: by id, all of them: document frequencies come from here.
        depth: documents that are read for a query.
        terms: the most terms of an answer.
        stem: brings the forms of a word together, such as `Stemmer("english").stemWord`; the form shown is the most
            frequent one. Not at all by default.
        name: what the fingerprint calls the retriever and the documents: their own fingerprints.
    """

    def __init__(
        self,
        retriever: Retriever,
        documents: Mapping[str, Document],
        *,
        depth: int = 10,
        terms: int = 20,
        stem: Callable[[str], str] = str,
        name: str = "",
    ) -> None:
        if depth < 1 or terms < 1:
            raise ConfigError(f"depth {depth} and terms {terms} cannot be used", "give at least 1 of each")
        self.retriever, self.documents = retriever, documents
        self.depth, self.terms, self._stem, self._name = depth, terms, stem, name

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the settings and the name of what is searched."""
        return fingerprint({"feedback": 1, "depth": self.depth, "terms": self.terms, "searches": self._name})

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = 256, stop: Sequence[str] = ()
    ) -> list[Generated]:
        """The terms of each query, heaviest first, joined by spaces; empty where no document was found.

        Args:
            prompts: the queries; of messages it is the last that counts.
            max_new_tokens: the most terms.
            stop: not used: no answer holds any.
        """
        queries = [p if isinstance(p, str) else p[-1]["content"] for p in prompts]
        run = self.retriever.search({str(row): query for row, query in enumerate(queries)}, self.depth)
        most = min(self.terms, max_new_tokens)
        return [
            Generated(" ".join(self._expand(query, run.get(str(row), []), most)))
            for row, query in enumerate(track(queries, "feedback", unit="queries"))
        ]

    def _expand(self, query: str, found: Sequence[tuple[str, float]], most: int) -> list[str]:
        weights: defaultdict[str, float] = defaultdict(float)
        spread: Counter[str] = Counter()
        forms: dict[str, Counter[str]] = {}
        total = sum(score for _, score in found)
        for document, score in found:
            words = self._words(self.documents[document].content)
            share = score / total if total > 0 and score > 0 else 1 / len(found)
            for stem, word in words:
                weights[stem] += share / len(words)
                forms.setdefault(stem, Counter())[word] += 1
            spread.update({stem for stem, _ in words})
        asked = {stem for stem, _ in self._words(query)}
        least = min(2, len(found))
        scored = {
            stem: weight * self._idf(stem)
            for stem, weight in weights.items()
            if spread[stem] >= least and stem not in asked and self._marks(stem)
        }
        best = sorted(scored, key=lambda stem: (-scored[stem], stem))[:most]
        return [min(forms[stem], key=lambda word: (-forms[stem][word], word)) for stem in best]

    def _words(self, text: str) -> list[tuple[str, str]]:
        """Stem and word, in lower case, of each word of at least three letters that is no bare number."""
        words = [word for word in _WORD.findall(text.lower()) if len(word) > 2 and not word.isdigit()]
        return [(self._stem(word), word) for word in words]

    @cached_property
    def _frequencies(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for document in track(self.documents.values(), "document frequencies", len(self.documents), "documents"):
            counts.update({stem for stem, _ in self._words(document.content)})
        return counts

    def _idf(self, stem: str) -> float:
        return math.log(1 + len(self.documents) / max(1, self._frequencies[stem]))

    def _marks(self, stem: str) -> bool:
        """Whether a term is rare enough to mark out a document."""
        return len(self.documents) < _FEW or self._frequencies[stem] <= _COMMON * len(self.documents)
