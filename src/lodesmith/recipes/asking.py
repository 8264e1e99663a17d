"""One question to an index of memory: retrieve, read the memory, answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.recipes._memory_models import open_memory
from lodesmith.recipes._streaming import Stream
from lodesmith.recipes.storing import beginning, texts_of

if TYPE_CHECKING:
    from lodesmith.encoders.memory import MemoryEncoder

__all__ = ["Asked", "Passage", "ask"]


@dataclass(frozen=True)
class Passage:
    """A document that was read.

    Args:
        rank: from 1.
        id: the document's.
        score: cosine of the flattened memory.
        title: where its dataset is still there.
        text: its beginning, likewise.
        tokens: of its text, as far as the model reads it; None where the text is gone.
    """

    rank: int
    id: str
    score: float
    title: str
    text: str
    tokens: int | None


@dataclass(frozen=True)
class Asked:
    """A question with its answer.

    Args:
        question: the question.
        answer: what the model wrote.
        finished: False where the limit of new tokens cut it off.
        passages: what it read, the best first.
        memory_tokens: of all passages.
        retrieval_ms: to find the passages.
        prefill_ms: from then to the first token of the answer.
        generation_ms: from then to the last.
    """

    question: str
    answer: str
    finished: bool
    passages: tuple[Passage, ...]
    memory_tokens: int
    retrieval_ms: float
    prefill_ms: float
    generation_ms: float

    @property
    def text_tokens(self) -> int | None:
        """Tokens of the passages' texts; None where one is gone."""
        sizes = [passage.tokens for passage in self.passages]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def tokens_saved(self) -> int | None:
        """Tokens of text less those of memory."""
        return None if self.text_tokens is None else self.text_tokens - self.memory_tokens

    def to_json(self) -> dict[str, Any]:
        """A JSON object of all that."""
        return asdict(self) | {
            "passages": [asdict(passage) for passage in self.passages],
            "text_tokens": self.text_tokens,
            "tokens_saved": self.tokens_saved,
        }


def ask(
    model: str,
    index: Path | str,
    question: str,
    k: int = 5,
    *,
    max_new_tokens: int = 32,
    write: Callable[[str], None] | None = None,
) -> Asked:
    """Answer a question from the k documents of an index that fit it best, by their memory in the index.

    Args:
        model: a run directory or a model folder.
        index: of the same model's memory (`lode index build MODEL DATASET --out INDEX`).
        question: any text but the empty one.
        k: documents that are read.
        max_new_tokens: of the answer.
        write: gets the answer piece by piece, as it is written.

    Raises:
        InputError: it is no memory model or no index, the question is empty, or the index has fewer documents than k.
        IntegrityError: the index is another model's, or a file is damaged.
        ConfigError: a number is below 1.
    """
    from lodesmith.indexes import folder as folders

    if k < 1 or max_new_tokens < 1:
        raise ConfigError(f"k {k} and max_new_tokens {max_new_tokens} cannot be used", "give at least 1")
    if not question.strip():
        raise InputError("the question is empty", 'ask something: lode ask MODEL INDEX "QUESTION"')
    folder = Path(index)
    info = folders.read_manifest(folder)["info"]
    encoder = open_memory(model)
    opened = folders.open_index(folder, model=encoder.fingerprint, metric=encoder.metric)
    if (count := len(opened)) < k:  # type: ignore[arg-type]
        raise InputError(f"the index has {count} documents, and {k} are to be read", "lower -k", path=folder)
    start = time.perf_counter()
    run = opened.search(encoder.encode([question], "query", ["question"]), k)
    hits = run["question"]
    memory = folders.vectors_of(folder, [key for key, _ in hits])
    begin = time.perf_counter()
    stream = Stream(encoder.tokenizer, encoder.ends, write)
    rows = memory.values.reshape(len(hits), encoder.count, encoder.dimension)
    answer = encoder.answer([question], [list(rows)], max_new_tokens=max_new_tokens, streamer=stream)[0]
    end = time.perf_counter()
    first = end if stream.first is None else stream.first
    return Asked(
        question,
        str(answer),
        answer.finished,
        _passages(encoder, hits, texts_of(folder, info)),
        len(hits) * encoder.count,
        *(1000 * seconds for seconds in (begin - start, first - begin, end - first)),
    )


def _passages(
    encoder: MemoryEncoder, hits: Sequence[tuple[str, float]], documents: Mapping[str, Any]
) -> tuple[Passage, ...]:
    found = []
    for rank, (key, score) in enumerate(hits, start=1):
        document = documents.get(key)
        if document is None:
            found.append(Passage(rank, key, score, "", "", None))
            continue
        size = len(encoder.tokens(document.content))
        found.append(Passage(rank, key, score, document.title, beginning(document.text), size))
    return tuple(found)
