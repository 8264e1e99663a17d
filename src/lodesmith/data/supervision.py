"""Questions with answers out of a dataset, what each is answered from, and the documents it is asked among.

found = examples(dataset, "train")
batches = ReadingBatches(found, pools(dataset, found, 20), dataset.documents, ...)   # data.reading_batches
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lodesmith.core.columns import FOLDER, Column, Key, names
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.joined import Joined
from lodesmith.core.records import Dataset
from lodesmith.core.registry import did_you_mean
from lodesmith.data.questions import INSTRUCTION
from lodesmith.data.questions import KINDS as GENERATED

__all__ = ["AUTOENCODE", "INSTRUCTION_REPEAT", "LANGUAGE", "QA", "Example", "examples", "pools"]

COLUMN = "questions"
"""The column that `lode data questions` writes."""
CANDIDATES = "candidates"
"""The column of the documents that a query is asked among."""
TRAIN = "train"
QA, PARAPHRASE, AUTOENCODE, LANGUAGE = "qa", "paraphrase", "autoencode", "language"
INSTRUCTION_REPEAT = "What does this document say, word for word?"
"""The question of auto-encoding: its answer is the document."""
KINDS = (*GENERATED, QA, AUTOENCODE, LANGUAGE)


@dataclass(frozen=True)
class Example:
    """What is answered.

    Args:
        kind: such as `qa`, `simple` or `paraphrase`.
        question: asked; empty in examples of the kind `language`.
        answers: gold ones, at least one.
        relevant: ids of the documents that hold the answer.
        query: the query's id; empty where it is none of the dataset's.
    """

    kind: str
    question: str
    answers: tuple[str, ...]
    relevant: tuple[str, ...] = ()
    query: str = ""

    @property
    def alone(self) -> bool:
        """Whether the question is of its documents, read by themselves: it does not tell them from others."""
        return self.kind in (PARAPHRASE, AUTOENCODE, LANGUAGE)


def examples(
    dataset: Dataset, split: str, kinds: Sequence[str] | None = None, *, training: bool | None = None
) -> list[Example]:
    """The examples of a split: its queries that have answers, and, for training, what the column `questions` holds.

    Nothing of other splits is trained on: documents that only they judge give no example, nor does a question that is
    one of their queries'. A question that is judged and in the column is one example, of the column's kind. A query
    that nothing judges, and that the column `candidates` has documents for, is an example for training too, without
    relevant ones: so CLaRa's rows without `pos_index` are learned from by what chooses among documents.

    Args:
        dataset: with answers in queries.jsonl, or the column `questions`, of each part where it is joined.
        split: of the queries; a dataset without any of this name may still have the column, where it is for training.
        kinds: those wanted; all but `autoencode` and `language` where None. These two are of every document: to write
            it again out of its memory, and to write it with nothing to read.
        training: whether the split is that of training; where None, whether it is called `train`.

    Raises:
        InputError: there are none, the split does not exist, a row of the column is no question, or a document is not
            in the corpus.
        ConfigError: a kind is unknown.
    """
    training = split == TRAIN if training is None else training
    if not training or (dataset.judgements and split != TRAIN):
        dataset.split(split)  # a dataset without a train split is usual, a misspelt one is not
    found = _judged(dataset, split)
    if training:
        found = _merged(found, list(_of_column(dataset, split))) + list(_unjudged(dataset, split))
    there = Counter(example.kind for example in found)
    wanted = set(there) if kinds is None else set(kinds)
    if unknown := sorted(wanted - set(KINDS) - set(there)):
        raise ConfigError(
            f"no kind of examples is called {unknown[0]!r}", did_you_mean(unknown[0], [*{*KINDS, *there}])
        )
    found = [example for example in found if example.kind in wanted]
    if training:
        found += [
            example for kind in (AUTOENCODE, LANGUAGE) if kind in wanted for example in _texts(dataset, split, kind)
        ]
    if not found:
        raise _none(dataset, split, there)
    _check_corpus(dataset, (document for example in found for document in example.relevant), "gold document")
    return found


def _none(dataset: Dataset, split: str, there: Mapping[str, int]) -> InputError:
    if there:
        have = ", ".join(f"{kind} {count}" for kind, count in sorted(there.items()))
        return InputError(f"{dataset.name}: {split} has no example of these kinds", f"it has: {have}")
    return InputError(
        f"{dataset.name}: no example of {split} has an answer",
        "give a dataset with answers in queries.jsonl, or make questions: `lode data questions DIR --with cloze`",
    )


def _judged(dataset: Dataset, split: str) -> list[Example]:
    """The split's queries that have answers."""
    judged = dataset.judgements.get(split, {})
    queries = dataset.queries_of(split) if judged else {}
    found = []
    for key, query in queries.items():
        if answers := _full(query.answers):
            relevant = tuple(document for document, grade in judged[key].items() if grade > 0)
            found.append(Example(QA, query.text, answers, relevant, key))
    return found


def _unjudged(dataset: Dataset, split: str) -> Iterator[Example]:
    """The queries with answers and candidates that no split judges, but for other splits' wordings."""
    judged = {key for rows in dataset.judgements.values() for key in rows}
    _, asked = _elsewhere(dataset, split)
    named = {query for query, row in _rows(dataset, CANDIDATES, "query") if row["ids"]} - judged
    for key, query in dataset.queries.items():
        if key in named and _key(query.text) not in asked and (answers := _full(query.answers)):
            yield Example(QA, query.text, answers, (), key)


def _of_column(dataset: Dataset, split: str) -> Iterator[Example]:
    """What the column of questions holds, but for what belongs to other splits."""
    held, asked = _elsewhere(dataset, split)
    for document, row in _rows(dataset, COLUMN, "document"):
        question, given, kind = row["question"], row["answers"], row.get("kind") or QA
        answers = [given] if isinstance(given, str) else given
        if document in held or _key(question) in asked or not (full := _full(answers)):
            continue
        yield Example(kind if question else PARAPHRASE, question or INSTRUCTION, full, (document,))


def _texts(dataset: Dataset, split: str, kind: str) -> Iterator[Example]:
    """Each document that has text, to be written again or alone."""
    held, _ = _elsewhere(dataset, split)
    for key, document in dataset.documents.items():
        if key not in held and document.content.strip():
            again = kind == AUTOENCODE
            yield Example(kind, INSTRUCTION_REPEAT if again else "", (document.content,), (key,) if again else ())


def _elsewhere(dataset: Dataset, split: str) -> tuple[set[str], set[str]]:
    """The documents that only other splits judge, and the wording of their queries."""
    own = dataset.judgements.get(split, {})
    others = [judged for name, judged in dataset.judgements.items() if name != split]
    held = {document for judged in others for documents in judged.values() for document in documents}
    held -= {document for documents in own.values() for document in documents}
    keys = {key for judged in others for key in judged if key not in own and key in dataset.queries}
    return held, {_key(dataset.queries[key].text) for key in keys}


def _merged(judged: Sequence[Example], column: Sequence[Example]) -> list[Example]:
    """Both, with each question on a document once."""
    kinds: dict[tuple[str, str], str] = {}
    for example in column:
        kinds.setdefault((_key(example.question), example.relevant[0]), example.kind)
    found, seen = [], set()
    for example in judged:
        pairs = [(_key(example.question), document) for document in example.relevant]
        seen.update(pairs)
        kind = next((kinds[pair] for pair in pairs if pair in kinds), example.kind)
        found.append(replace(example, kind=kind))
    return found + [own for own in column if (_key(own.question), own.relevant[0]) not in seen]


def _key(question: str) -> str:
    return " ".join(question.casefold().split())


def _full(answers: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))


def _rows(dataset: Dataset, name: str, key: Key) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Owner and row of a column, as the dataset calls its records; nothing where there is no such column."""
    if isinstance(dataset, Joined):
        for part, own in dataset.parts.items():
            for owner, row in _rows(own, name, key):
                ids = {"ids": [f"{part}/{document}" for document in row["ids"]]} if "ids" in row else {}
                yield f"{part}/{owner}", {**row, **ids}
        return
    if dataset.folder is None or name not in names(dataset.folder):
        return
    column = Column.load(dataset.folder, name)
    if column.rows and column.key != key:  # a column without rows does not say whose they are
        path = dataset.folder / FOLDER / f"{name}.jsonl"
        raise InputError(f"its rows belong to a {column.key}, not to a {key}", "make it again", path=path)
    for owner, rows in column.rows.items():
        for row in rows:
            yield owner, row


def _check_corpus(dataset: Dataset, documents: Iterable[str], what: str) -> None:
    if (missing := next((key for key in documents if key not in dataset.documents), None)) is not None:
        raise InputError(
            f"{dataset.name}: the {what} {missing!r} is not in the corpus",
            "see `lode data check DIR`, which can mend it",
        )


def pools(dataset: Dataset, examples: Sequence[Example], size: int, seed: int = 0) -> list[tuple[str, ...]]:
    """The documents that each example is asked among, without repeats: its relevant ones, those that the columns
    `candidates` and `negatives` name for its query, in this order, and documents drawn from the whole corpus. An
    example that is of its documents alone has no others.

    Args:
        dataset: of the examples.
        examples: to be asked.
        size: documents of each; fewer only where the corpus holds fewer.
        seed: with an example's place it decides what is drawn.

    Raises:
        ConfigError: the size is below 1.
        InputError: a document is not in the corpus.
    """
    if size < 1:
        raise ConfigError(f"a pool of {size} documents is none", "give at least 1")
    asked = {example.query for example in examples if example.query}
    named: dict[str, list[str]] = {}
    for column in (CANDIDATES, "negatives"):
        for query, row in _rows(dataset, column, "query"):
            if query in asked:
                named.setdefault(query, []).extend(row["ids"])
    corpus = list(dataset.documents)
    found = []
    for number, example in enumerate(examples):
        known = list(dict.fromkeys([*example.relevant, *named.get(example.query, ())]))[:size]
        found.append(tuple(known if example.alone else _filled(known, corpus, size, (seed, number))))
    _check_corpus(dataset, (document for pool in found for document in pool), "document")
    return found


def _filled(known: Sequence[str], corpus: Sequence[str], size: int, seed: tuple[int, int]) -> Sequence[str]:
    """The known documents, and drawn ones behind them until there are `size`."""
    if len(known) >= size or not corpus:
        return known
    drawn = np.random.default_rng(seed).choice(len(corpus), min(size, len(corpus)), replace=False)
    others = [corpus[at] for at in drawn.tolist() if corpus[at] not in known]
    return [*known, *others[: size - len(known)]]
