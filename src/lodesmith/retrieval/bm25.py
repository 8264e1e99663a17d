"""BM25 over a dataset's documents (Robertson and Zaragoza 2009, in Lucene's form), on the bm25s library."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray

from lodesmith.core.errors import IntegrityError
from lodesmith.core.files import read_json, write_json
from lodesmith.core.hashing import fingerprint
from lodesmith.core.progress import track
from lodesmith.core.run import Run, id_order

__all__ = ["BM25"]


logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells each step at a level of its own otherwise


class BM25:
    """A lexical retriever. Documents that share no term with a query are not returned.

    Args:
        k1: how fast a repeated term saturates.
        b: how much long documents are discounted.
        language: of the stemmer and the stop words (`"english"`); None turns both off.
    """

    def __init__(self, k1: float = 1.2, b: float = 0.75, language: str | None = "english") -> None:
        self.k1, self.b, self.language = k1, b, language
        self._stem = Stemmer.Stemmer(language) if language else None
        self._index: Any = None
        self.ids: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the settings."""
        return fingerprint({"bm25": [self.k1, self.b, self.language]})

    def build(self, documents: Iterable[tuple[str, str]]) -> BM25:
        """Index documents, (id, text) each."""
        ids, texts = [], []
        for key, text in documents:
            ids.append(key)
            texts.append(text)
        self._index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
        tokens = self._tokens(texts)
        if not any(tokens):
            tokens = [["\0"], *tokens[1:]]  # the library cannot index a corpus without a single term
        self._index.index(tokens, show_progress=False)
        self._set_ids(ids)
        return self

    def _set_ids(self, ids: Sequence[str]) -> None:
        self.ids = tuple(ids)
        self._place = id_order(self.ids)

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        stopwords: str | list[str] = self.language or []
        tokens: list[list[str]] = bm25s.tokenize(
            texts, stopwords=stopwords, stemmer=self._stem, return_ids=False, show_progress=False
        )
        return tokens

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        """The k best documents of each query (id → text); fewer where fewer share a term with it."""
        tokens = self._tokens(list(queries.values()))
        found = [self._best(query, k) for query in track(tokens, "bm25", unit="queries")]
        offsets = np.concatenate([[0], np.cumsum([len(rows) for rows, _ in found])])
        rows = np.concatenate([rows for rows, _ in found]) if found else np.empty(0, np.int64)
        scores = np.concatenate([scores for _, scores in found]) if found else np.empty(0)
        return Run.ranked(tuple(queries), self.ids, rows, scores, offsets)

    def _best(self, query: list[str], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        known = self._index.get_tokens_ids(query)
        if not len(known):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        scores: NDArray[np.float32] = self._index.get_scores_from_ids(known)
        rows = np.flatnonzero(scores > 0)
        if len(rows) > k:
            least = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
            rows = rows[scores[rows] >= least]
        rows = rows[np.lexsort((-self._place[rows], -scores[rows]))][:k]
        return rows, scores[rows]

    def coverage(self, queries: Mapping[str, str], found: Run) -> dict[str, float]:
        """How near each query's best document comes to the most that the query's words could have given.

        coverage = best score / Σ ln(1 + (n − df + ½) / (df + ½)) over the query's words, as often as each stands there;
        df = 0 for a word that no document has. Lucene's form is without the factor k1 + 1, so that a word that is
        repeated without end adds its idf.

        Args:
            queries: id → text.
            found: what `search` of this index returned for them.

        Returns:
            Query id → a number from 0 to 1; 0 where there are no words or nothing is found.
        """
        starts, lengths = found.offsets[:-1].tolist(), np.diff(found.offsets).tolist()
        best = {
            query: float(found.scores[start]) if length else 0.0
            for query, start, length in zip(found.query_ids, starts, lengths, strict=True)
        }
        tokens = zip(queries, self._tokens(list(queries.values())), strict=True)
        return {query: best[query] / self._greatest(words) if best.get(query) else 0.0 for query, words in tokens}

    def _greatest(self, words: list[str]) -> float:
        """Σ idf over words."""
        known = np.asarray(self._index.get_tokens_ids(words), np.int64)
        ends = self._index.scores["indptr"]
        counts = [*(ends[known + 1] - ends[known]).tolist(), *[0] * (len(words) - len(known))]
        return sum(math.log(1 + (len(self.ids) - count + 0.5) / (count + 0.5)) for count in counts)

    def score(self, queries: Mapping[str, str], documents: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        """Scores of given documents: query id → document id → score; 0 where they share no term.

        Args:
            queries: id → text.
            documents: query id → ids of documents in the index.
        """
        rows = {key: row for row, key in enumerate(self.ids)} if documents else {}
        found: dict[str, dict[str, float]] = {}
        for query, tokens in zip(documents, self._tokens([queries[query] for query in documents]), strict=True):
            known = self._index.get_tokens_ids(tokens)
            scores = self._index.get_scores_from_ids(known) if len(known) else np.zeros(len(self.ids), np.float32)
            found[query] = {key: float(scores[rows[key]]) for key in documents[query]}
        return found

    def save(self, folder: Path) -> None:
        """Write the index into a folder: arrays and JSON, no pickle."""
        folder.mkdir(parents=True, exist_ok=True)
        self._index.save(str(folder), show_progress=False, allow_pickle=False)
        settings = {"k1": self.k1, "b": self.b, "language": self.language, "ids": list(self.ids)}
        write_json(folder / "bm25.json", settings, indent=None)

    @classmethod
    def load(cls, folder: Path) -> BM25:
        """Read what `save` wrote.

        Raises:
            IntegrityError: files are missing or damaged.
        """
        settings = read_json(folder / "bm25.json")
        ids = settings.pop("ids")
        found = cls(**settings)
        try:
            found._index = bm25s.BM25.load(str(folder), mmap=True, allow_pickle=False, show_progress=False)
        except (OSError, ValueError, KeyError) as error:
            raise IntegrityError(f"{folder}: the BM25 index is damaged: {error}", "build it again") from None
        found._set_ids(ids)
        return found

    @property
    def bytes(self) -> int:
        """Size of the index's arrays in memory."""
        return int(sum(self._index.scores[name].nbytes for name in ("data", "indices", "indptr")))
