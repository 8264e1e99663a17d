"""Documents, queries, judgements: the `Dataset`, in BEIR layout on disk and streamed from it.

Texts stay on disk: a loaded dataset holds ids and byte offsets, so that memory follows the number of records and
not their length.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.files import atomic_file, atomic_folder, read_json, sha256_file, write_json
from lodesmith.core.hashing import fingerprint, fingerprint_texts
from lodesmith.core.lines import LineError, check_id, shorten
from lodesmith.core.tables import FIX, JsonlTable, Judgements, read_judgements, write_judgements


@dataclass(frozen=True)
class Document:
    """One document. `image` is a path relative to the dataset's folder."""

    id: str
    title: str = ""
    text: str = ""
    image: str = ""

    @property
    def content(self) -> str:
        """What an encoder reads: title and text joined by a space, as BEIR does."""
        return f"{self.title} {self.text}".strip() if self.title else self.text

    def to_json(self) -> dict[str, Any]:
        """The line of corpus.jsonl."""
        line = {"_id": self.id, "title": self.title, "text": self.text}
        return line | {"image": self.image} if self.image else line


class PageImage(str):
    """A page's image as an item to encode. As a text it names the file's content, so that stores of what was encoded
    know it by that, wherever it lies.

    Args:
        path: the image file.

    Raises:
        InputError: there is no such file.
    """

    path: Path

    def __new__(cls, path: Path) -> PageImage:
        """An image by its file."""
        if not path.is_file():
            raise InputError("no such page image", "pull or import the dataset again", path=path)
        made = super().__new__(cls, f"image sha256:{sha256_file(path)}")
        made.path = path
        return made


@dataclass(frozen=True)
class Query:
    """One query, with its gold answers where the dataset has them."""

    id: str
    text: str
    answers: tuple[str, ...] = ()

    @property
    def content(self) -> str:
        """What an encoder reads."""
        return self.text

    def to_json(self) -> dict[str, Any]:
        """The line of queries.jsonl."""
        line: dict[str, Any] = {"_id": self.id, "text": self.text}
        return line | {"answers": list(self.answers)} if self.answers else line


def parse_document(line: Mapping[str, Any]) -> Document:
    """A `Document` from a decoded line of corpus.jsonl.

    Raises:
        ValueError: a field is missing or of the wrong type.
    """
    return Document(_id(line), _string(line, "title", ""), _string(line, "text"), _string(line, "image", ""))


def parse_query(line: Mapping[str, Any]) -> Query:
    """A `Query` from a decoded line of queries.jsonl.

    Raises:
        ValueError: a field is missing or of the wrong type.
    """
    answers = line.get("answers") or ()
    if isinstance(answers, str):
        answers = (answers,)
    if not isinstance(answers, list | tuple) or not all(isinstance(a, str) for a in answers):
        raise LineError("bad-field", f"'answers' must be a list of strings, not {shorten(answers)}")
    query = Query(_id(line), _string(line, "text"), tuple(answers))
    if not query.text.strip():
        raise LineError("empty-query", f"the query {query.id!r} has no text")
    return query


def _id(line: Mapping[str, Any]) -> str:
    value = line.get("_id", line.get("id"))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise LineError("missing-id", f"'_id' must be a non-empty string, not {shorten(value)}")
    return check_id(value)


def _string(line: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = line.get(name, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise LineError("bad-field", f"{name!r} must be a string, not {shorten(value)}")
    return value


@dataclass(frozen=True)
class Dataset:
    """Documents, queries and judgements by id, with optional columns joined by id.

    Args:
        documents: id → document, in corpus order.
        queries: id → query, of all splits.
        judgements: split → query id → document id → grade.
        info: what `dataset.json` holds: source, licence, `drop_same_id` …
        folder: where it was loaded from; its `columns/` are read from there.
    """

    documents: Mapping[str, Document]
    queries: Mapping[str, Query] = field(default_factory=dict)
    judgements: Mapping[str, Judgements] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @classmethod
    def of(
        cls,
        documents: Iterable[Document],
        queries: Iterable[Query] = (),
        judgements: Mapping[str, Judgements] | None = None,
        **info: Any,
    ) -> Dataset:
        """A dataset in memory."""
        return cls({d.id: d for d in documents}, {q.id: q for q in queries}, judgements or {}, info)

    @classmethod
    def load(cls, folder: Path | str) -> Dataset:
        """Open a folder in BEIR layout. Texts are read when they are asked for.

        Raises:
            InputError: a file is missing or broken, with file and line.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(
                "no such dataset folder", "give a folder with corpus.jsonl, queries.jsonl and qrels/", path=folder
            )
        info = read_json(folder / "dataset.json") if (folder / "dataset.json").exists() else {}
        if not isinstance(info, dict):
            raise InputError(f"must hold a JSON object, not {shorten(info)}", path=folder / "dataset.json")
        queries: Mapping[str, Query] = {}
        if (folder / "queries.jsonl").exists() or (folder / "queries.jsonl.gz").exists():
            queries = JsonlTable(_either(folder / "queries.jsonl"), parse_query)
        judgements = {path.stem: read_judgements(path) for path in sorted((folder / "qrels").glob("*.tsv"))}
        return cls(JsonlTable(_either(folder / "corpus.jsonl"), parse_document), queries, judgements, info, folder)

    @property
    def name(self) -> str:
        """What tables call it."""
        return str(self.info.get("name") or (self.folder.resolve().name if self.folder else "dataset"))

    @property
    def drop_same_id(self) -> bool:
        """Whether a result whose id equals the query's is left out (ArguAna, Quora)."""
        return bool(self.info.get("drop_same_id", False))

    def split(self, name: str, do: str = "choose one with --split") -> Judgements:
        """The judgements of one split.

        Args:
            name: of the split.
            do: what the message says to do where there is none.

        Raises:
            InputError: there is no such split; the message lists those there are.
        """
        if name not in self.judgements:
            have = ", ".join(self.judgements) or "none"
            raise InputError(f"{self.name} has no split {name!r} (it has: {have})", do)
        return self.judgements[name]

    def queries_of(self, split: str) -> dict[str, Query]:
        """The judged queries of a split, in the order of the query file.

        Raises:
            InputError: a judged query has no text.
        """
        judged = self.split(split)
        found = {key: self.queries[key] for key in self.queries if key in judged}
        if len(found) < len(judged):
            missing = next(key for key in judged if key not in found)
            raise InputError(f"{self.name}: {split} judges the query {missing!r}, which is not in queries.jsonl", FIX)
        return found

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over documents, queries and judgements."""
        parts = {
            "documents": _table_fingerprint(self.documents),
            "queries": _table_fingerprint(self.queries),
            "judgements": {s: {q: dict(d) for q, d in j.items()} for s, j in self.judgements.items()},
            "drop_same_id": self.drop_same_id,
        }
        return fingerprint(parts)

    def save(self, folder: Path | str) -> Path:
        """Write the BEIR layout, atomically as a whole, with counts and fingerprints in dataset.json.

        Raises:
            InputError: the folder holds something else than a dataset, which would be lost.
        """
        folder = refuse_foreign(folder)
        with atomic_folder(folder) as new:
            _write_lines(new / "corpus.jsonl", self.documents.values())
            _write_lines(new / "queries.jsonl", self.queries.values())
            for split, judgements in self.judgements.items():
                write_judgements(new / "qrels" / f"{split}.tsv", judgements)
            info = dict(self.info)
            info["counts"] = {
                "documents": len(self.documents),
                "queries": len(self.queries),
                "judgements": {s: sum(map(len, j.values())) for s, j in self.judgements.items()},
            }
            info["fingerprints"] = {"dataset": self.fingerprint}
            write_json(new / "dataset.json", info)
        return folder

    def __repr__(self) -> str:
        splits = ", ".join(f"{s} {len(j)}" for s, j in self.judgements.items()) or "none"
        return f"Dataset({self.name}: {len(self.documents)} documents, {len(self.queries)} queries, splits: {splits})"


def refuse_foreign(folder: Path | str) -> Path:
    """A folder that a dataset may be written to: new, empty, or a dataset already.

    Raises:
        InputError: it is a file, or holds other things.
    """
    folder = Path(folder)
    ours = (folder / "dataset.json").exists() or (folder / "corpus.jsonl").exists()
    if folder.exists() and not (folder.is_dir() and (ours or not any(folder.iterdir()))):
        raise InputError("exists and is not a dataset", "choose another folder, or delete it", path=folder)
    return folder


def _either(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    return packed if not path.exists() and packed.exists() else path


def _table_fingerprint(table: Mapping[str, Any]) -> str:
    return fingerprint_texts(json.dumps(record.to_json(), sort_keys=True) for record in table.values())


def _write_lines(path: Path, records: Iterable[Document] | Iterable[Query]) -> None:
    with atomic_file(path) as handle:
        for record in records:
            handle.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
