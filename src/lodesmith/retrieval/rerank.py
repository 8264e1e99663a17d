"""Re-ranking: a cross-encoder reads query and document together and scores another system's first results again.

Nogueira and Cho, "Passage Re-ranking with BERT" (2019).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.files import read_json, sha256_file
from lodesmith.core.hashing import fingerprint
from lodesmith.core.progress import tell
from lodesmith.core.protocols import Retriever
from lodesmith.core.run import Run

__all__ = ["CrossEncoder", "Reranked", "is_cross_encoder"]

DEPTH = 100
"""Results of the first system that are scored again."""
_QUERIES = 32
"""Queries whose pairs are batched together: what a progress report waits for."""
_CHARACTERS = 16
"""A token has at most about so many; what is beyond the longest input need not be counted."""
_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")


def is_cross_encoder(folder: Path) -> bool:
    """Whether a model folder holds a cross-encoder: sentence-transformers' own, or a sequence classifier."""
    own, config = folder / "config_sentence_transformers.json", folder / "config.json"
    kind = read_json(own).get("model_type") if own.is_file() else None
    if kind is not None:
        return str(kind) == "CrossEncoder"
    classes = read_json(config).get("architectures") if config.is_file() else None
    return any(str(name).endswith("ForSequenceClassification") for name in classes or ())


class CrossEncoder:
    """A sentence-transformers `CrossEncoder` with one score a pair.

    A score is the model's output before its activation function: a sigmoid would keep the order, but tie what it is
    sure of in float32. Pairs are batched by length; what a batch holds beside a pair moves its score by no more than
    the rounding of float32.

    Args:
        folder: of the model, with safetensors.
        name: what messages call it; the folder's name where None.
        batch_tokens: tokens a batch, padding included.
        device: torch device; None for CUDA where there is one, else the CPU.

    Raises:
        InputError: the folder holds no cross-encoder, one with several scores a pair, or one that does not load.
    """

    def __init__(
        self, folder: Path | str, *, name: str | None = None, batch_tokens: int = 4096, device: str | None = None
    ) -> None:
        self.folder = Path(folder)
        self.name = name or self.folder.resolve().name
        self.batch_tokens = batch_tokens
        if not is_cross_encoder(self.folder):
            raise InputError(
                f"{self.name} is no cross-encoder: it has no layer that scores a pair",
                "give a sentence-transformers CrossEncoder, such as cross-encoder/ms-marco-MiniLM-L6-v2",
                path=self.folder,
            )
        self.model = _load(self.folder, device)
        if self.model.num_labels != 1:
            raise InputError(
                f"{self.name} gives {self.model.num_labels} scores a pair, and a ranking needs one",
                "choose a model for re-ranking",
                path=self.folder,
            )

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, configuration and tokenizer."""
        files = sorted({file for pattern in _FILES for file in self.folder.rglob(pattern)})
        return fingerprint({file.relative_to(self.folder).as_posix(): sha256_file(file) for file in files})

    def score(self, pairs: Sequence[tuple[str, str]], *, activated: bool = False) -> NDArray[np.float64]:
        """Score (query, document) pairs.

        Args:
            pairs: n pairs of texts; what is too long for the model is cut by its tokenizer.
            activated: apply the model's own activation function, as `CrossEncoder.predict` does.

        Returns:
            float64 [n].

        Raises:
            InputError: a score is NaN or infinite.
        """
        pairs = [(_clean(query), _clean(document)) for query, document in pairs]
        scores = np.empty(len(pairs), np.float64)
        for batch in _batches(self._lengths(pairs), self.batch_tokens):
            scores[batch] = self._forward([pairs[at] for at in batch.tolist()], activated)
        if not np.isfinite(scores).all():
            raise InputError(f"{self.name} gave a score that is NaN or infinite", "the weights are damaged")
        return scores

    def score_lists(
        self,
        queries: Mapping[str, str],
        documents: Mapping[str, Sequence[str]],
        text: Callable[[str], str],
        *,
        activated: bool = False,
    ) -> dict[str, dict[str, float]]:
        """Score lists of documents: query id → document id → score.

        Args:
            queries: id → text.
            documents: query id → ids of the documents to score.
            text: document id → text.
            activated: as `score` takes it.
        """
        pairs = [(queries[query], text(key)) for query, keys in documents.items() for key in keys]
        scores = iter(self.score(pairs, activated=activated).tolist())
        return {query: {key: next(scores) for key in keys} for query, keys in documents.items()}

    def _lengths(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.int64]:
        """About how many tokens each pair has: int64 [n]."""
        known: dict[str, int] = {}
        most = int(self.model.max_seq_length or 1 << 20)
        counter = getattr(getattr(self.model, "tokenizer", None), "backend_tokenizer", None)
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        if counter is None:
            known = {text: len(text) // 4 for text in texts}
        else:
            counter.no_truncation()
            counter.no_padding()
            short = [text[: most * _CHARACTERS] for text in texts]
            found = counter.encode_batch(short, add_special_tokens=False)
            known = {text: len(encoding.ids) for text, encoding in zip(texts, found, strict=True)}
        return np.asarray([min(known[a] + known[b] + 3, most) for a, b in pairs], np.int64)

    def _forward(self, pairs: list[tuple[str, str]], activated: bool) -> NDArray[np.float64]:
        with torch.inference_mode():
            features = self.model.preprocess(pairs)
            here = {k: v.to(self.model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
            scores = self.model(here)["scores"].reshape(len(pairs)).double()
            found: NDArray[np.float64] = (self.model.activation_fn(scores) if activated else scores).cpu().numpy()
        return found

    def __repr__(self) -> str:
        return f"CrossEncoder({self.name!r}, {self.parameters:,} parameters)"


class Reranked:
    """A retriever whose first `depth` results a cross-encoder scores again; it returns no others, whatever k is.

    Args:
        retriever: gives the candidates.
        encoder: scores them.
        text: document id → text.
        depth: candidates a query.
    """

    def __init__(
        self, retriever: Retriever, encoder: CrossEncoder, text: Callable[[str], str], depth: int = DEPTH
    ) -> None:
        if depth < 1:
            raise ConfigError(f"a depth of {depth} leaves nothing to score", "take at least 1 candidate")
        self.retriever, self.encoder, self.text, self.depth = retriever, encoder, text, depth

    def search(self, queries: Mapping[str, str], k: int = 10) -> Run:
        """The k best of each query's (id → text) first `depth` documents."""
        run = self.retriever.search(queries, self.depth)
        scores = np.empty(len(run.rows), np.float64)
        tell("rerank", 0, len(scores), "pairs")
        for start in range(0, len(run), _QUERIES):
            first, last = run.offsets[start], run.offsets[min(start + _QUERIES, len(run))]
            scores[first:last] = self.encoder.score(self._pairs(queries, run, start))
            tell("rerank", int(last), len(scores), "pairs")
        return Run.ranked(run.query_ids, run.document_ids, run.rows, scores, run.offsets).top(k)

    def score(
        self, queries: Mapping[str, str], documents: Mapping[str, Sequence[str]]
    ) -> Mapping[str, Mapping[str, float]]:
        """Scores of given documents: query id → document id → score, whether the retriever finds them or not."""
        return self.encoder.score_lists(queries, documents, self.text)

    def _pairs(self, queries: Mapping[str, str], run: Run, start: int) -> list[tuple[str, str]]:
        pairs = []
        for query in run.query_ids[start : start + _QUERIES]:
            for key, _ in run[query]:
                try:
                    pairs.append((queries[query], self.text(key)))
                except KeyError:
                    raise InputError(
                        f"the document {key!r} of query {query!r} is not in the dataset, so it cannot be scored",
                        "give the dataset that the run was made on",
                    ) from None
        return pairs


def _batches(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Positions by length, in batches of at most `budget` tokens with their padding, one item at least."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end, position in enumerate(order):
        if end > start and int(lengths[position]) * (end - start + 1) > budget:
            yield order[start:end]
            start = end
    if start < len(order):
        yield order[start:]


def _clean(text: str) -> str:
    """What UTF-8 cannot hold (lone surrogates) becomes question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _load(folder: Path, device: str | None) -> Any:
    from safetensors import SafetensorError
    from sentence_transformers import CrossEncoder as Model
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        model = Model(
            str(folder),
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32, "use_safetensors": True},
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError, json.JSONDecodeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"the cross-encoder does not load: {reason}",
            "its files may be damaged or of another version: fetch or save it again",
            path=folder,
        ) from error
    finally:
        if shown:
            bars.enable_progress_bar()
    return model.eval()
