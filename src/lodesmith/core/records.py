"""Documents, queries, judgements: the `Dataset`, in BEIR layout on disk and streamed from it.

Texts stay on disk: a loaded dataset holds ids and byte offsets, so that memory follows the number of records and
not their length.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import numpy as np

from lodesmith.core.errors import InputError
from lodesmith.core.files import atomic_file, atomic_folder, read_json, write_json
from lodesmith.core.hashing import fingerprint, fingerprint_texts

T = TypeVar("T")
Judgements = Mapping[str, Mapping[str, int]]
"""query id → document id → grade."""

FIX = "see all problems with `lode data check DIR`; `--fix OUT` writes a clean copy"


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
        raise ValueError(f"'answers' must be a list of strings, not {answers!r}")
    return Query(_id(line), _string(line, "text"), tuple(answers))


def _id(line: Mapping[str, Any]) -> str:
    if not isinstance(line, Mapping):
        raise ValueError(f"a line must be a JSON object, not {type(line).__name__}")
    value = line.get("_id", line.get("id"))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"'_id' must be a non-empty string, not {value!r}")
    return value


def _string(line: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = line.get(name, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"{name!r} must be a string, not {value!r}")
    return value


class JsonlTable(Mapping[str, T], Generic[T]):
    """A JSONL file (plain or .gz) as an ordered mapping id → record, read from disk on demand.

    Args:
        path: the file.
        parse: turns a decoded line into a record that has an `id`.

    Raises:
        InputError: a line is broken or an id occurs twice; the message names file and line.
    """

    def __init__(self, path: Path, parse: Callable[[Mapping[str, Any]], T]) -> None:
        self.path = path
        self._parse = parse
        self._file = _open_plain(path)
        self._rows: dict[str, int] = {}
        digest = hashlib.sha256()
        offsets: list[int] = []
        offset = 0
        for number, raw in enumerate(self._file, start=1):
            digest.update(raw)
            if raw.strip():
                self._add(self._decode(raw, number), number, len(offsets))
                offsets.append(offset)
            offset += len(raw)
        self._ends = np.asarray([*offsets[1:], offset], np.int64)
        self._offsets = np.asarray(offsets, np.int64)
        self.sha256 = digest.hexdigest()
        """SHA-256 of the uncompressed bytes."""

    def _add(self, record: Any, number: int, row: int) -> None:
        if record.id in self._rows:
            raise InputError(f"the id {record.id!r} occurs twice", FIX, path=self.path, line=number)
        self._rows[record.id] = row

    def _decode(self, raw: bytes, number: int | None = None) -> T:
        try:
            return self._parse(json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8")))
        except (ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors
            raise InputError(f"broken line: {error}", FIX, path=self.path, line=number) from None

    def __getitem__(self, key: str) -> T:
        return self._at(self._rows[key])

    def _at(self, row: int) -> T:
        start, end = int(self._offsets[row]), int(self._ends[row])
        return self._decode(os.pread(self._file.fileno(), end - start, start).lstrip(b"\xef\xbb\xbf"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __repr__(self) -> str:
        return f"JsonlTable({str(self.path)!r}, {len(self)} records)"


def _open_plain(path: Path) -> IO[bytes]:
    """A seekable handle on the uncompressed bytes; a .gz file is unpacked once into an anonymous temporary file."""
    try:
        if path.suffix != ".gz":
            return path.open("rb")
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the table
        with gzip.open(path, "rb") as packed:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        unpacked.seek(0)
        return unpacked
    except FileNotFoundError:
        raise InputError("no such file", path=path) from None
    except (OSError, EOFError) as error:
        raise InputError(f"cannot be read: {error}", path=path) from None


def read_judgements(path: Path) -> dict[str, dict[str, int]]:
    """Read a qrels file: a header, then `query-id`, `corpus-id`, `score` separated by tabs.

    Raises:
        InputError: a line has not three fields, or a grade is not an integer of at least 0.
    """
    judgements: dict[str, dict[str, int]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path=path) from None
    for number, line in enumerate(lines, start=1):
        fields = line.rstrip("\r").split("\t")
        if not line.strip() or (number == 1 and not _is_integer(fields[-1])):
            continue
        if len(fields) != 3:
            raise InputError(f"expected 3 fields separated by tabs, found {len(fields)}", FIX, path=path, line=number)
        query, document, grade = fields
        if not _is_integer(grade) or int(grade) < 0:
            raise InputError(f"the grade must be an integer of at least 0, not {grade!r}", FIX, path=path, line=number)
        judgements.setdefault(query, {})[document] = int(grade)
    return judgements


def _is_integer(text: str) -> bool:
    return text.strip().lstrip("+-").isdecimal()


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

    def split(self, name: str) -> Judgements:
        """The judgements of one split.

        Raises:
            InputError: there is no such split; the message lists those there are.
        """
        if name not in self.judgements:
            have = ", ".join(self.judgements) or "none"
            raise InputError(f"{self.name} has no split {name!r} (it has: {have})", "choose one with --split")
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
        """Write the BEIR layout, atomically as a whole, with counts and fingerprints in dataset.json."""
        folder = Path(folder)
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


def _either(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    return packed if not path.exists() and packed.exists() else path


def _table_fingerprint(table: Mapping[str, Any]) -> str:
    return fingerprint_texts(json.dumps(record.to_json(), sort_keys=True) for record in table.values())


def _write_lines(path: Path, records: Iterable[Document] | Iterable[Query]) -> None:
    with atomic_file(path) as handle:
        for record in records:
            handle.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")


def write_judgements(path: Path, judgements: Judgements) -> None:
    """Write a qrels file with the BEIR header."""
    with atomic_file(path) as handle:
        handle.write("query-id\tcorpus-id\tscore\n")
        for query, documents in judgements.items():
            handle.writelines(f"{query}\t{document}\t{grade}\n" for document, grade in documents.items())
