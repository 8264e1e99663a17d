"""`check`: counts and locates every problem of a dataset folder, and writes a clean copy of it.

Files are streamed: memory follows the number of ids and judgements, not the length of texts.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

from lodesmith.core.columns import check_row
from lodesmith.core.errors import InputError
from lodesmith.core.files import atomic_folder, write_json
from lodesmith.core.lines import Line, LineError, bounded_lines, decode_json, decode_text, has_bom
from lodesmith.core.progress import tell
from lodesmith.core.records import Document, Query, parse_document, parse_query, refuse_foreign
from lodesmith.core.tables import HEADER, open_plain, parse_judgement
from lodesmith.data.leaks import Judged, Split, find_leaks
from lodesmith.data.problems import Count, Report, Tally

__all__ = ["check"]

_UP = re.compile(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]")
_RAW = 1024  # characters of an over-long line that the reject file shows


def check(folder: Path | str, *, fix: Path | str | None = None, examples: int = 20) -> Report:
    """Validate a folder in BEIR layout.

    Args:
        folder: what to check; nothing in it is changed.
        fix: where to write a clean copy. A line with an error is left out and goes to `rejects.jsonl` there
            (`file`, `line`, `kind`, `raw`); what can be mended without loss is mended: byte order marks, CR LF,
            integer ids, grades such as `1.0`.
        examples: how many occurrences of each kind the report locates.

    Raises:
        InputError: there is no such folder, or `fix` is a folder that holds something else.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such dataset folder", "give a folder with corpus.jsonl", path=folder)
    if fix is None:
        return _Check(folder, Tally(examples), None).run()
    target = refuse_foreign(fix)
    if target.resolve() == folder.resolve() or folder.resolve() in target.resolve().parents:
        raise InputError("the clean copy cannot be inside the folder it is made from", "choose another", path=target)
    with atomic_folder(target) as new:
        report = _Check(folder, Tally(examples), new).run()
    return Report(report.folder, report.problems, report.files, target)


class _Check:
    """One pass over a folder: corpus, queries, judgements, columns, then what the splits share."""

    def __init__(self, folder: Path, tally: Tally, target: Path | None) -> None:
        self.folder = folder
        self.tally = tally
        self.target = target
        self.files: dict[str, Count] = {}
        self.documents: dict[str, int] = {}
        self.queries: dict[str, int] = {}
        self.judged = Judged()
        self.rejects: IO[str] | None = None

    def run(self) -> Report:
        rejects: AbstractContextManager[IO[str] | None] = nullcontext()
        if self.target is not None:
            rejects = (self.target / "rejects.jsonl").open("w", encoding="utf-8", newline="\n")
        with rejects as self.rejects:
            self._table("corpus.jsonl", self._document)
            qrels = sorted((self.folder / "qrels").glob("*.tsv"))
            if qrels or self._find("queries.jsonl").exists():
                self._table("queries.jsonl", self._query)
            for path in qrels:
                self._qrels(path)
            if not any(split.queries for split in self.judged.splits.values()):
                self.tally.add("no-judgements", "qrels/", None, "no judgements: nothing can be trained or measured")
            for path in sorted((self.folder / "columns").glob("*.jsonl")):
                self._lines(f"columns/{path.name}", path, self._column)
        find_leaks(self.judged, self.tally)
        self._info()
        return Report(self.folder, self.tally.problems(), self.files)

    # files

    def _find(self, name: str) -> Path:
        packed = self.folder / f"{name}.gz"
        return packed if packed.exists() and not (self.folder / name).exists() else self.folder / name

    def _table(self, name: str, parse: _Parse) -> None:
        path = self._find(name)
        if path.exists():
            self._lines(name, path, parse)
        else:
            self.tally.add("missing-file", name, None, "the file is absent")

    def _qrels(self, path: Path) -> None:
        name = f"qrels/{path.name}"
        self.judged.splits[path.stem] = Split(name)
        self._lines(name, path, self._judgement)
        for query, (line, relevant) in self.judged.splits[path.stem].queries.items():
            if not relevant:
                self.tally.add("no-positive", name, line, f"the query {query!r} has no relevant document")

    def _lines(self, name: str, path: Path, parse: _Parse) -> None:
        """Read one file line by line; keep what `parse` returns, reject what it refuses."""
        kept = rejected = 0
        try:
            with self._writer(name) as out:
                for line in self._open(name, path):
                    try:
                        text = parse(name, line)
                    except LineError as error:
                        rejected += 1
                        self._reject(name, line, error)
                        continue
                    if text is not None:
                        kept += 1
                        if out is not None:
                            out.write(text + "\n")
        except InputError as error:
            self.tally.add("unreadable", name, None, error.what)
        except OSError as error:
            self.tally.add("unreadable", name, None, f"cannot be read: {error.strerror}")
        self.files[name] = Count(kept, rejected)

    def _open(self, name: str, path: Path) -> Iterator[Line]:
        with open_plain(path) as file:
            size = path.stat().st_size if path.suffix != ".gz" else None
            for line in bounded_lines(file):
                if line.number % 10_000 == 0:
                    tell(f"check {name}", line.offset, size, "bytes")
                if self._look(name, line):
                    yield line

    def _look(self, name: str, line: Line) -> bool:
        """Count what concerns the bytes of a line; whether it holds anything."""
        if has_bom(line):
            self.tally.add("bom", name, 1, "the file begins with a byte order mark")
        if line.raw.endswith(b"\r\n"):
            self.tally.add("crlf", name, line.number, "the line ends in CR LF")
        if not line.raw.strip():
            self.tally.add("blank-line", name, line.number, "the line is empty")
            return False
        return True

    def _writer(self, name: str) -> AbstractContextManager[IO[str] | None]:
        if self.target is None:
            return nullcontext()
        path = self.target / name
        path.parent.mkdir(exist_ok=True)
        return path.open("w", encoding="utf-8", newline="\n")

    def _reject(self, name: str, line: Line, error: LineError) -> None:
        self.tally.add(error.kind, name, line.number, str(error))
        if self.rejects is not None:
            whole = line.size == len(line.raw)
            raw = line.raw.rstrip(b"\r\n").decode("utf-8", "backslashreplace") if whole else None
            cut = {"raw": raw} if whole else {"raw": line.raw[:_RAW].decode("utf-8", "replace"), "bytes": line.size}
            reject = {"file": name, "line": line.number, "kind": error.kind} | cut
            self.rejects.write(json.dumps(reject, ensure_ascii=False) + "\n")

    # lines

    def _document(self, name: str, line: Line) -> str:
        value = decode_json(line)
        document = parse_document(value)
        self._claim(document, self.documents, line)
        if not document.content.strip() and not document.image:
            self.tally.add("empty-text", name, line.number, f"the document {document.id!r} has no text")
        return self._clean(name, line, value, document)

    def _query(self, name: str, line: Line) -> str:
        value = decode_json(line)
        query = parse_query(value)
        self._claim(query, self.queries, line)
        self.judged.remember(query, line.number)
        return self._clean(name, line, value, query)

    def _claim(self, record: Document | Query, ids: dict[str, int], line: Line) -> None:
        if record.id in ids:
            raise LineError("duplicate-id", f"the id {record.id!r} is that of line {ids[record.id]}")
        ids[record.id] = line.number

    def _clean(self, name: str, line: Line, value: dict[str, Any], record: Document | Query) -> str:
        """The line as the clean copy has it."""
        if _UP.search(record.id):
            self.tally.add("path-id", name, line.number, f"the id {record.id!r} looks like a path out of its folder")
        if record.id.split() != [record.id]:
            self.tally.add("space-id", name, line.number, f"the id {record.id!r} holds white space")
        field = "_id" if "_id" in value else "id"
        if not isinstance(value[field], str):
            self.tally.add("integer-id", name, line.number, f"the id {record.id} is an integer")
            return json.dumps(value | {field: record.id}, ensure_ascii=False)
        return decode_text(line)

    def _judgement(self, name: str, line: Line) -> str | None:
        fields = decode_text(line).split("\t")
        if line.number == 1 and len(fields) == 3 and fields[0] in self.queries and fields[1] in self.documents:
            line = line._replace(number=0)  # no header after all
        integral = _integral(fields)
        if integral is not None:
            self.tally.add("fractional-grade", name, line.number, f"the grade is written {fields[2]!r}")
            line = line._replace(raw=integral.encode(), size=len(integral.encode()))
        judgement = parse_judgement(line)
        if judgement is None:  # whatever the header was: a second byte order mark in it would make it a judgement
            return HEADER if line.number <= 1 else decode_text(line)
        query, document, grade = judgement
        split = self.judged.splits[Path(name).stem]
        if query not in self.queries:
            raise LineError("unknown-query", f"the query {query!r} is not in queries.jsonl")
        if document not in self.documents:
            raise LineError("unknown-document", f"the document {document!r} is not in corpus.jsonl")
        split.add(query, document, grade, line.number)
        return f"{query}\t{document}\t{grade}"

    def _column(self, name: str, line: Line) -> str:
        value = decode_json(line)
        for field, ids in (("query", self.queries), ("document", self.documents)):
            if field in value and str(value[field]) not in ids:
                raise LineError(f"unknown-{field}", f"the {field} {value[field]!r} is not in the dataset")
        if "query" not in value and "document" not in value:
            raise LineError("missing-id", "a line of a column names neither a query nor a document")
        check_row(Path(name).stem, value)
        return decode_text(line)

    def _info(self) -> None:
        """Check dataset.json, and write that of the copy."""
        path = self.folder / "dataset.json"
        info: Mapping[str, Any] = {}
        if path.exists():
            try:
                info = decode_json(_whole(path))
            except (LineError, OSError) as error:
                kind = error.kind if isinstance(error, LineError) else "unreadable"
                self.tally.add(kind, path.name, None, str(error))
        if self.target is not None:
            stale = ("counts", "fingerprints")
            write_json(self.target / path.name, {k: v for k, v in info.items() if k not in stale} | self._counts())
            for meta in sorted((self.folder / "columns").glob("*.meta.json")):
                (self.target / "columns").mkdir(exist_ok=True)
                shutil.copyfile(meta, self.target / "columns" / meta.name)

    def _counts(self) -> dict[str, Any]:
        splits = {name: split.count for name, split in self.judged.splits.items()}
        counts = {"documents": len(self.documents), "queries": len(self.queries), "judgements": splits}
        return {"counts": counts}


_Parse = Callable[[str, Line], str | None]


def _integral(fields: list[str]) -> str | None:
    """A judgement whose grade is a whole number in another spelling (`1.0`), in the right one; None for others."""
    if len(fields) != 3 or not re.fullmatch(r"\+?\d{1,9}\.0*", fields[2].strip(), re.ASCII):
        return None
    return "\t".join([*fields[:2], fields[2].strip().partition(".")[0]])


def _whole(path: Path) -> Line:
    """A file as one line."""
    raw = path.read_bytes()
    return Line(1, 0, raw, len(raw))
