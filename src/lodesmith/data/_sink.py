"""Where imported records go: documents, queries and columns are written as they come, judgements when all are known."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np

from lodesmith.core.columns import ColumnWriter
from lodesmith.core.hashing import text_key
from lodesmith.core.records import Document, Query
from lodesmith.core.tables import write_judgements
from lodesmith.data.formats._source import Cell, Judgement, Negative, Picture, Record

__all__ = ["Sink", "image_name"]

Refuse = Callable[[str, int | None, str], None]
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpg",
    b"GIF8": "gif",
    b"II*\x00": "tif",
    b"MM\x00*": "tif",
}
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_OWN = {"corpus.jsonl", "queries.jsonl", "dataset.json", "qrels", "columns"}  # of a dataset folder, in lower case
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class _Ids:
    """Ids in the order of their first mention, each with a digest of its record once there is one."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._digests = array("Q")  # 0: mentioned only

    def number(self, key: str) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._digests)
            self._digests.append(0)
        return number

    def define(self, key: str, content: str) -> Literal["new", "same", "other"]:
        """Take a record in: whether it is the first of its id, says the same as that, or something else."""
        digest = int(text_key(content)[:16], 16) or 1
        number = self.number(key)
        known = self._digests[number]
        if not known:
            self._digests[number] = digest
            return "new"
        return "same" if known == digest else "other"

    def __contains__(self, key: str) -> bool:
        number = self._numbers.get(key)
        return number is not None and self._digests[number] != 0

    def defined(self, number: int) -> bool:
        return self._digests[number] != 0

    def keys(self) -> list[str]:
        return list(self._numbers)

    def __len__(self) -> int:
        return len(self._digests) - self._digests.count(0)


class _Pairs:
    """Query, document and grade as three integers each, however many there are."""

    def __init__(self) -> None:
        self.queries, self.documents, self.grades = array("i"), array("i"), array("i")

    def add(self, query: int, document: int, grade: int) -> None:
        self.queries.append(query)
        self.documents.append(document)
        self.grades.append(grade)

    def by_query(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Each query with its documents and grades in the order they came."""
        queries = np.frombuffer(self.queries, np.intc) if self.queries else np.zeros(0, np.intc)
        order = np.argsort(queries, kind="stable")
        bounds = np.flatnonzero(np.diff(queries[order], prepend=-1, append=-1)) if len(order) else np.zeros(0, int)
        for start, end in pairwise(bounds.tolist()):
            rows = order[start:end].tolist()
            yield self.queries[rows[0]], [(self.documents[i], self.grades[i]) for i in rows]


class Sink:
    """Writes a dataset folder record by record. Memory follows the number of ids and pairs, not the length of texts.

    Args:
        folder: a new folder.
        refuse: called with file, line and reason.
        made_by: what the columns' meta files name as their maker.
    """

    def __init__(self, folder: Path, refuse: Refuse, made_by: Mapping[str, Any]) -> None:
        self.folder = folder
        self.documents, self.queries = _Ids(), _Ids()
        self.repeats: Counter[str] = Counter()
        self.judgements: dict[str, int] = {}
        """Split → judgements written; filled when the block ends."""
        self.columns: dict[str, int] = {}
        """Column → rows written; filled when the block ends."""
        self.images = 0
        self._refuse = refuse
        self._made_by = dict(made_by)
        self._pairs: dict[str, _Pairs] = {}
        self._negatives = _Pairs()
        self._writers: dict[str, ColumnWriter] = {}
        self._clashes: set[tuple[type[Record], str]] = set()  # what the file at hand says of another's ids
        self._file = ""
        self._open = ExitStack()

    def __enter__(self) -> Sink:
        def text(name: str) -> IO[str]:
            path = self.folder / name
            return self._open.enter_context(path.open("w", encoding="utf-8", newline="\n"))

        self._corpus, self._asked = text("corpus.jsonl"), text("queries.jsonl")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._judged()
                self._negative_columns()
                self._finish_columns()
        finally:
            self._open.close()

    def split(self, name: str) -> None:
        """Make sure that a split is written, even if it is empty."""
        self._pairs.setdefault(name, _Pairs())

    def add(self, record: Record, file: str, split: str, home: Path | None = None) -> None:
        """Take one record of a file.

        Args:
            record: what a layout made.
            file: for messages.
            split: of judgements.
            home: the folder in which a document's image path starts; None where it is in place already.
        """
        if file != self._file:
            self._file = file
            self._clashes.clear()
        match record:
            case Judgement() | Negative() | Cell() if self._is_of_a_clash(record):
                pass  # the record under this id is another: it was refused, and says why
            case Document():
                self._document(record, file, home)
            case Query():
                self._query(record, file)
            case Judgement():
                pair = self.queries.number(record.query), self.documents.number(record.document), record.grade
                self._pairs.setdefault(split, _Pairs()).add(*pair)
            case Negative():
                self._negatives.add(self.queries.number(record.query), self.documents.number(record.document), 0)
            case Picture():
                self._picture(record, file)
            case Cell():
                self._cell(record)

    def _is_of_a_clash(self, record: Judgement | Negative | Cell) -> bool:
        """Whether a record is about one that this file gave last under an id and that was refused."""
        if isinstance(record, Cell):
            return (Query if record.key == "query" else Document, record.owner) in self._clashes
        return (Query, record.query) in self._clashes or (Document, record.document) in self._clashes

    def _document(self, document: Document, file: str, home: Path | None) -> None:
        if document.image and home is not None:
            if (image := self._copied(document, home)) is None:
                self._refuse(file, None, f"the image {document.image!r} of {document.id!r} is no image file beside it")
                return
            document = replace(document, image=image)
        line = _line(document)
        state = self.documents.define(document.id, line)
        self._clashes.discard((Document, document.id))
        if state == "new":
            self._corpus.write(line)
            self.images += bool(document.image)
        elif state == "same":
            self.repeats["documents"] += 1
        else:
            self._clashes.add((Document, document.id))
            self._refuse(file, None, f"the document id {document.id!r} occurs twice, with different texts")

    def _query(self, query: Query, file: str) -> None:
        line = _line(query)
        state = self.queries.define(query.id, line)
        self._clashes.discard((Query, query.id))
        if state == "new":
            self._asked.write(line)
        elif state == "same":
            self.repeats["queries"] += 1
        else:
            self._clashes.add((Query, query.id))
            self._refuse(file, None, f"the query id {query.id!r} occurs twice, with different texts or answers")

    # images

    def _picture(self, picture: Picture, file: str) -> None:
        suffix = _suffix(picture.data)
        if not suffix:
            self._refuse(file, None, f"the image of {picture.document.id!r} is no PNG, JPEG, WebP, GIF or TIFF file")
            return
        path = f"images/{image_name(picture.document.id, picture.data)}.{suffix}"
        (self.folder / "images").mkdir(exist_ok=True)
        if picture.document.id not in self.documents:
            (self.folder / path).write_bytes(picture.data)
        document = Document(picture.document.id, picture.document.title, picture.document.text, path)
        self._document(document, file, None)

    def _copied(self, document: Document, home: Path) -> str | None:
        """Copy an image that lies below the folder of its corpus, and say where it lies now; one outside is not
        touched, and none takes the place of another image or of a file of the dataset.
        """
        image = document.image
        source = (home / image).resolve()
        if not source.is_file() or home.resolve() not in source.parents or Path(image).is_absolute():
            return None
        target = self.folder / image
        inside = Path(os.path.normpath(image)).parts
        if self.folder.resolve() not in target.resolve().parents or inside[0].lower() in _OWN:
            return None
        if target.exists() and not filecmp.cmp(source, target, shallow=False):
            image = f"images/{image_name(document.id, source.read_bytes())}{source.suffix}"
            target = self.folder / image
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return image

    # columns

    def _cell(self, cell: Cell) -> None:
        row = dict(cell.row)
        if "ids" in row:
            row = _known(row, [key in self.documents for key in row["ids"]])
            if not row["ids"]:
                return
        if cell.owner in (self.queries if cell.key == "query" else self.documents):
            self._writer(cell.column, cell.key).add(cell.owner, [row])
            self.columns[cell.column] = self.columns.get(cell.column, 0) + 1

    def _writer(self, column: str, key: str) -> ColumnWriter:
        if column not in self._writers:
            side: Literal["query", "document"] = "query" if key == "query" else "document"
            writer = ColumnWriter(self.folder, column, side, made_by=self._made_by)
            self._writers[column] = self._open.enter_context(writer)
        return self._writers[column]

    def _negative_columns(self) -> None:
        queries, documents = self.queries.keys(), self.documents.keys()
        unknown = 0
        for query, pairs in self._negatives.by_query():
            known = [documents[d] for d, _ in pairs if self.documents.defined(d)]
            unknown += len(pairs) - len(known)
            if known and self.queries.defined(query):
                self._cell(Cell("negatives", "query", queries[query], {"ids": list(dict.fromkeys(known))}))
            else:
                unknown += len(known)
        if unknown:
            self._refuse(
                "columns/negatives", None, f"{unknown:,} negatives are in none of the files, or their query is"
            )

    def _finish_columns(self) -> None:
        for column, writer in self._writers.items():
            writer.finish()
            writer.__exit__(None, None, None)
            shutil.rmtree(self.folder / "columns" / f".{column}.work", ignore_errors=True)

    # judgements

    def _judged(self) -> None:
        """Write the judgements on what there is."""
        queries, documents = self.queries.keys(), self.documents.keys()
        for split, pairs in self._pairs.items():
            known: dict[str, dict[str, int]] = {}
            for query, grades in pairs.by_query():
                for document, grade in grades:
                    names = queries[query], documents[document]
                    if not (self.queries.defined(query) and self.documents.defined(document)):
                        self._refuse(
                            f"qrels/{split}", None, f"{names[0]!r}, {names[1]!r}: judged, but not in the files"
                        )
                    elif known.setdefault(names[0], {}).setdefault(names[1], grade) != grade:
                        self._refuse(
                            f"qrels/{split}", None, f"{names[0]!r}, {names[1]!r}: two grades; the first is kept"
                        )
            write_judgements(self.folder / "qrels" / f"{split}.tsv", known)
            self.judgements[split] = sum(map(len, known.values()))


def image_name(key: str, data: bytes = b"") -> str:
    """An id as the name of a file: what is safe of it, and a digest (of the content too) that keeps names apart."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass") + b"\0" + data, digest_size=6).hexdigest()
    return f"{_UNSAFE.sub('_', key)[:80].strip('._') or 'image'}-{digest}"


def _known(row: dict[str, Any], known: Sequence[bool]) -> dict[str, Any]:
    """A row with those of its documents (and their scores) that there are."""
    if all(known):
        return row
    lists = {name: row[name] for name in ("ids", "scores") if name in row}
    return row | {name: [v for v, there in zip(values, known, strict=True) if there] for name, values in lists.items()}


def _suffix(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), "")


def _line(record: Document | Query) -> str:
    line = _ENCODER.encode(record.to_json())
    return (line if line.isascii() else line.encode("utf-8", "replace").decode("utf-8")) + "\n"
