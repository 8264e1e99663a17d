"""Questions with answers, and paraphrases, that a generator writes about documents, joined to them by id."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lodesmith.core.columns import Column, ColumnWriter
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.hashing import fingerprint_texts
from lodesmith.core.progress import tell
from lodesmith.core.protocols import Generator, Prompt
from lodesmith.core.records import Dataset, Document
from lodesmith.core.registry import did_you_mean
from lodesmith.data._answers import Pair, pairs
from lodesmith.data._asking import QuestionRules
from lodesmith.data._verifying import Verifier
from lodesmith.data._writing import excerpt, normalised
from lodesmith.data.duplicates import near_duplicates
from lodesmith.data.prompting import PromptFile, shipped

__all__ = ["INSTRUCTION", "KINDS", "Drafts", "QuestionGenerator", "QuestionRules", "Verifier", "annotate"]

PARAPHRASE = "paraphrase"
KINDS = ("simple", "complex", PARAPHRASE, "cloze")
_OTHERWISE = "answered-otherwise"
PLACEHOLDERS = ("title", "text", "count")
INSTRUCTION = "What does this document say, in other words?"
"""The question of a paraphrase: one and the same, since its answer is the document again."""

_NEAR = 0.8  # Jaccard similarity of word pairs, from which two questions are one
_SHINGLE = 2

Row = dict[str, Any]


@dataclass(frozen=True)
class Drafts:
    """What was made for a document: rows of the column, and how many candidates were rejected, by reason."""

    rows: Sequence[Row]
    rejects: Mapping[str, int]


class QuestionGenerator:
    """Writes questions with answers, and paraphrases, about documents.

    Args:
        generator: the language model, or `generators.cloze.Cloze`.
        prompts: what it is asked for each kind (see `KINDS`), with the placeholder `text`, and `title` and `count`
            where they are wanted.
        per_document: the most questions of a kind for a document.
        max_new_tokens: the most tokens of an answer to a prompt.
        document_words: a document is shown to the generator up to here.
        rules: what a question must be.
        verifier: who must answer each question as it was answered; None for nobody. Paraphrases are not asked.

    Raises:
        ConfigError: there is no such kind.
    """

    def __init__(
        self,
        generator: Generator,
        prompts: Mapping[str, PromptFile],
        *,
        per_document: int = 3,
        max_new_tokens: int = 512,
        document_words: int = 300,
        rules: QuestionRules | None = None,
        verifier: Verifier | None = None,
    ) -> None:
        for kind in prompts:
            if kind not in KINDS:
                raise ConfigError(f"no kind of questions is called {kind!r}", did_you_mean(kind, list(KINDS)))
        if per_document < 1 or document_words < 1 or not prompts:
            raise ConfigError(f"{per_document} questions on {document_words} words cannot be made", "give at least 1")
        self.generator, self.templates, self.rules = generator, dict(prompts), rules or QuestionRules()
        self.per_document, self.max_new_tokens, self.document_words = per_document, max_new_tokens, document_words
        self.verifier = verifier

    @property
    def made_by(self) -> dict[str, Any]:
        """Everything that decides what a document's questions will be, as JSON."""
        return self.written_by | ({"verifier": self.verifier.made_by} if self.verifier else {})

    @property
    def written_by(self) -> dict[str, Any]:
        """The same of questions that are not verified yet."""
        return {
            "generator": self.generator.fingerprint,
            "prompts": {kind: prompt.text for kind, prompt in self.templates.items()},
            "per_document": self.per_document,
            "max_new_tokens": self.max_new_tokens,
            "document_words": self.document_words,
            "rules": {**asdict(self.rules), "near": _NEAR, "instruction": INSTRUCTION},
        }

    def prompts(self, documents: Sequence[Document]) -> list[Prompt]:
        """The messages that the generator gets: for each document one of each kind."""
        return [prompt for document in documents for prompt in self._prompts(document)]

    def _prompts(self, document: Document) -> Iterator[Prompt]:
        shown = {"title": document.title, "text": self._shown(document), "count": str(self.per_document)}
        return (template.fill(shown) for template in self.templates.values())

    def _shown(self, document: Document) -> str:
        return excerpt(document.text, self.document_words)

    def verifications(self, documents: int) -> int:
        """How many questions on so many documents the verifier is asked, if each has as many as are wanted."""
        kinds = sum(kind != PARAPHRASE for kind in self.templates)
        return documents * kinds * self.per_document if self.verifier else 0

    def generate(self, documents: Sequence[Document]) -> list[Drafts]:
        """Rows and rejects of each document; near-duplicates across documents are not sought here."""
        return self.verify(documents, self.write(documents))

    def write(self, documents: Sequence[Document]) -> list[Drafts]:
        """The same, not verified yet, and however many there are of a kind."""
        full = [document for document in documents if document.text.strip()]
        texts = self.generator.generate(self.prompts(full), max_new_tokens=self.max_new_tokens)
        made: dict[str, Drafts] = {}
        for at, document in enumerate(full):
            answers = texts[at * len(self.templates) : (at + 1) * len(self.templates)]
            made[document.id] = self._judge(document, dict(zip(self.templates, answers, strict=True)))
        return [made.get(document.id) or Drafts([], {"empty-document": 1}) for document in documents]

    def verify(self, documents: Sequence[Document], made: Sequence[Drafts]) -> list[Drafts]:
        """What was written on each document without the questions that the verifier answers otherwise, and of each kind
        as many as are wanted."""
        if self.verifier is None:
            return list(map(self._cut, made))
        asked = [
            (document, self._shown(document), row["question"], row["kind"], row["answers"])
            for document, own in zip(documents, made, strict=True)
            for row in own.rows
            if row["kind"] != PARAPHRASE
        ]
        agreed = iter(self.verifier.agrees(asked, self.rules))
        found = []
        for own in made:
            kept = [row for row in own.rows if row["kind"] == PARAPHRASE or next(agreed)]
            gone = {_OTHERWISE: len(own.rows) - len(kept)} if len(kept) < len(own.rows) else {}
            found.append(self._cut(Drafts(kept, {**own.rejects, **gone})))
        return found

    def _cut(self, made: Drafts) -> Drafts:
        """So many of each kind."""
        rows, counts = [], Counter[str]()
        for row in made.rows:
            counts[row["kind"]] += 1
            if counts[row["kind"]] <= self.per_document:
                rows.append(row)
        surplus = {"surplus": len(made.rows) - len(rows)} if len(rows) < len(made.rows) else {}
        return Drafts(rows, {**made.rejects, **surplus})

    def _judge(self, document: Document, answers: Mapping[str, str]) -> Drafts:
        rows: list[Row] = []
        rejects: Counter[str] = Counter()
        seen: set[str] = set()
        for kind, text in answers.items():
            if kind == PARAPHRASE:
                told, reason = self.rules.paraphrase(text, self._shown(document))
                found = [(Pair(INSTRUCTION, (" ".join(told.split()),)), reason)]
            else:
                found = list(self._questions(text, kind, document, seen))
            rejects.update(reason for _, reason in found if reason)
            rows += [_row(pair, kind) for pair, reason in found if not reason]
        return Drafts(rows, rejects)

    def _questions(self, text: str, kind: str, document: Document, seen: set[str]) -> Iterator[tuple[Pair, str]]:
        """Each pair of a generated text, and why it is rejected."""
        found = pairs(text, getattr(text, "finished", True))
        if not found:
            yield Pair("", ()), "unparsed" if text.strip() else "empty"
        for pair in found:
            key = normalised(pair.question)
            reason = self.rules.question(pair, kind, document.content) or ("duplicate" if key in seen else "")
            seen.add(key)
            yield pair, reason


def _row(pair: Pair, kind: str) -> Row:
    return {"question": pair.question, "answers": list(pair.answers), "kind": kind}


def choose(dataset: Dataset, split: str | None = None, limit: int | None = None) -> list[str]:
    """The ids of all documents, or of those that a split judges relevant, up to a number, in corpus order."""
    if split is None:
        return list(dataset.documents)[:limit]
    judged = {d for documents in dataset.split(split).values() for d, grade in documents.items() if grade > 0}
    return [key for key in dataset.documents if key in judged][:limit]


def annotate(
    dataset: Dataset,
    questions: QuestionGenerator,
    *,
    split: str | None = None,
    limit: int | None = None,
    name: str = "questions",
    note: Mapping[str, Any] | None = None,
    chunk: int = 32,
) -> dict[str, Any]:
    """Write the column of questions of a dataset folder; killed, it goes on after the last chunk that was finished.

    Candidates are first written down as a draft; when all are there, questions that nearly agree with one before them
    (of the same document or of another) are dropped, and the column appears.

    Args:
        dataset: loaded from a folder.
        questions: writes them.
        split: documents that this split judges relevant; all where not given.
        limit: the first so many.
        name: of the column.
        note: more to say in the column's meta file, such as the generator's name.
        chunk: documents that are written down at a time.

    Returns:
        What the column's meta file holds; `counts` has `kept` by kind and each reason of a rejection.
    """
    if dataset.folder is None:
        raise InputError(f"{dataset.name} is not in a folder", "save it first: columns stand beside its files")
    ids = choose(dataset, split, limit)
    texts = fingerprint_texts(part for key in ids for part in (key, dataset.documents[key].content))
    told = {"annotator": "questions", "texts": texts}
    journals = f".{name}-drafts", f".{name}-verified"
    with ColumnWriter(dataset.folder, name, "document", {**told, **questions.made_by}) as column:
        if not column.finished:
            documents = dataset.documents
            written = ColumnWriter(dataset.folder, journals[0], "document", {**told, **questions.written_by})
            drafts = _kept(
                written, "questions", ids, chunk, lambda keys: questions.write([documents[key] for key in keys])
            )

            def verify(keys: Sequence[str]) -> list[Drafts]:
                return questions.verify([documents[key] for key in keys], [drafts[key] for key in keys])

            if questions.verifier is None:
                verified = dict(zip(ids, verify(ids), strict=True))
            else:
                asked = ColumnWriter(dataset.folder, journals[1], "document", {**told, **questions.made_by})
                verified = _kept(asked, "verify", ids, chunk, verify)
            chosen = _distinct(verified)
            for key in column.missing(ids):
                column.add(key, *chosen[key])
        meta = column.finish(**(note or {}))
        for journal in journals:
            _forget(dataset.folder, journal)
    return meta


def _kept(
    journal: ColumnWriter,
    label: str,
    ids: Sequence[str],
    chunk: int,
    make: Callable[[Sequence[str]], Sequence[Drafts]],
) -> dict[str, Drafts]:
    """What is made for each document, written down chunk by chunk; what is there is not made again.

    Args:
        journal: where it is written down.
        label: what it is called while it is made.
        ids: of the documents.
        chunk: documents at a time.
        make: for some of them.
    """
    with journal as column:
        left = column.missing(ids)
        tell(label, len(ids) - len(left), len(ids), "documents")
        for start in range(0, len(left), chunk):
            keys = left[start : start + chunk]
            for key, made in zip(keys, make(keys), strict=True):
                column.add(key, [{"rows": list(made.rows), "rejects": dict(made.rejects)}])
            column.sync()
            tell(label, len(ids) - len(left) + start + len(keys), len(ids), "documents")
        column.finish()
    rows = Column.load(journal.path.parent.parent, journal.name).rows
    return {key: Drafts(rows[key][0]["rows"], rows[key][0]["rejects"]) for key in ids}


def _distinct(drafts: Mapping[str, Drafts]) -> dict[str, tuple[list[Row], Counter[str]]]:
    owners = [(key, row) for key, draft in drafts.items() for row in draft.rows]
    # Paraphrases share their question: it is their text that tells them apart.
    texts = [row["answers"][0] if row["kind"] == "paraphrase" else row["question"] for _, row in owners]
    first = near_duplicates(texts, _NEAR, shingle=_SHINGLE).first.tolist() if texts else []
    found: dict[str, tuple[list[Row], Counter[str]]] = {
        key: ([], Counter(draft.rejects)) for key, draft in drafts.items()
    }
    for (key, row), keep in zip(owners, first, strict=True):
        rows, counts = found[key]
        if keep:
            rows.append(row)
        counts[f"kept-{row['kind']}" if keep else "near-duplicate"] += 1
    return found


def _forget(folder: Path, name: str) -> None:
    """Delete a draft: the finished column holds what it led to."""
    for end in ("jsonl", "meta.json"):
        (folder / "columns" / f"{name}.{end}").unlink(missing_ok=True)
    shutil.rmtree(folder / "columns" / f".{name}.work", ignore_errors=True)


def load_prompts(kinds: Sequence[str], path: Path | str | None = None) -> dict[str, PromptFile]:
    """The prompt of each kind: the package's own, or, of a single kind, the one in `path`.

    Raises:
        ConfigError: a kind is unknown, or one file is given for several.
        InputError: a placeholder of the file is unknown or missing.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"no kind of questions is called {kind!r}", did_you_mean(kind, list(KINDS)))
    if path is not None and len(kinds) != 1:
        raise ConfigError(f"one prompt file cannot ask for {', '.join(kinds)}", "give one kind with --kinds")
    files = {kind: path or shipped("text" if kind == "cloze" else kind) for kind in kinds}
    return {kind: PromptFile.load(file, PLACEHOLDERS, ("text",)) for kind, file in files.items()}
