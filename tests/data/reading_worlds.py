"""A dataset of questions with answers, and callables that stand for a tokenizer and a compressor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.columns import ColumnWriter
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.reading_batches import ReadingBatches
from lodesmith.data.supervision import Example

DOCUMENTS = [Document(f"d{i}", f"title{i}", f"text {i}") for i in range(30)]


def column(folder: Path, name: str, key: Any, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    with ColumnWriter(folder, name, key, {}) as made:
        for owner in made.missing(rows):
            made.add(owner, rows[owner])
        made.finish()


def saved(folder: Path) -> Dataset:
    """Training questions on d0 to d5, test questions on d5 to d7, and columns."""
    queries = [Query(f"q{i}", f"What is {i}?", (f"answer {i}", f"Answer  {i}!", " ")) for i in range(9)]
    queries += [Query("mute", "Who answers?"), Query("none", "Which?", ("this",))]
    train = {"q0": {"d0": 1}, "q1": {"d1": 2, "d2": 1, "d9": 0}, "q2": {"d3": 1}, "q5": {"d5": 1}}
    train |= {"mute": {"d4": 1}, "none": {"d4": 0}}
    test = {"q6": {"d6": 1}, "q7": {"d7": 1, "d5": 0}, "q8": {"d5": 1}}
    Dataset.of(DOCUMENTS, queries, {"train": train, "test": test}, name=folder.name).save(folder)
    rows: dict[str, list[dict[str, Any]]] = {
        "d0": [{"question": "what is  0?", "answers": ["answer 0"], "kind": "simple"}],
        "d1": [{"question": "", "answers": ["a text, in other words"], "kind": "paraphrase"}],
        "d5": [{"question": "What is 8?", "answers": ["answer 8"], "kind": "simple"}],
        "d6": [{"question": "Of a test document?", "answers": ["no"], "kind": "simple"}],
        "d20": [
            {"question": "Of no judged document?", "answers": "yes", "kind": "cloze"},
            {"question": "Unanswered?", "answers": [], "kind": "cloze"},
        ],
    }
    column(folder, "questions", "document", rows)
    column(folder, "candidates", "query", {"q1": [{"ids": ["d10", "d1", "d11", "d2"], "kind": "qa"}]})
    column(folder, "negatives", "query", {"q1": [{"ids": ["d11", "d12"]}], "q0": [{"ids": ["d13"]}]})
    return Dataset.load(folder)


def text_ids(text: str) -> torch.Tensor:
    """A text's bytes."""
    return torch.tensor(list(text.encode()), dtype=torch.int64)


def question_ids(text: str) -> torch.Tensor:
    return text_ids(f"Q {text}")


def answer_ids(text: str) -> torch.Tensor:
    return torch.cat([text_ids(text), torch.tensor([0])])


def memory(ids: Sequence[str]) -> NDArray[np.float32]:
    """[n, 2, 3], all components the document's number."""
    return np.stack([np.full((2, 3), int(key[1:]), np.float32) for key in ids])


def texts(packed: Mapping[str, torch.Tensor]) -> list[str]:
    """What was packed."""
    return [bytes(part.tolist()).decode() for part in packed["ids"].split(packed["offsets"].diff().tolist())]


def world(count: int = 23) -> tuple[list[Example], list[tuple[str, ...]], dict[str, Document]]:
    """Examples with one, two or seven relevant documents, among eight."""
    made, pools = [], []
    for i in range(count):
        relevant = tuple(f"d{(i + j) % 30}" for j in range((1, 2, 7)[i % 3]))
        made.append(Example("qa", f"question {i}?", tuple(f"a{i}.{j}" for j in range(1 + i % 4)), relevant, f"q{i}"))
        pools.append((*relevant, *(f"d{(i + 10 + j) % 30}" for j in range(8 - len(relevant)))))
    return made, pools, {document.id: document for document in DOCUMENTS}


def build(given: Any = None, **options: Any) -> ReadingBatches:
    ids = {"text_ids": text_ids, "question_ids": question_ids, "answer_ids": answer_ids}
    return ReadingBatches(*(given or world()), **{"batch_size": 5, "documents": 3, **ids, **options})
