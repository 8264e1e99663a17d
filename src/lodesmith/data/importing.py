"""`import_paths`: files and folders of a user's, as a dataset."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lodesmith.core.errors import InputError
from lodesmith.core.files import atomic_folder, read_json, write_json
from lodesmith.core.progress import track
from lodesmith.core.records import Dataset, Document, Query, refuse_foreign
from lodesmith.core.tables import write_judgements
from lodesmith.data.outline import READERS, Outline, Section
from lodesmith.data.passages import passages
from lodesmith.data.pdf import Pdf, read_pdf
from lodesmith.data.problems import Example
from lodesmith.data.rows import kind_of, rows, split_of

__all__ = ["WORDS", "ImportReport", "files_of", "import_paths"]

WORDS = 200
_MOST_BYTES = 64 << 20  # of one text file
_SHOWN = 100  # problems that the report locates
_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f%]+")


@dataclass(frozen=True)
class ImportReport:
    """What was imported.

    Args:
        out: the dataset folder.
        files: suffix → files read.
        documents: passages and documents written.
        queries: queries written.
        judgements: split → judgements written.
        problems: what could not be read, located; the first 100.
        refused: the number of all problems.
        latin1: files that were not UTF-8 and were read as Latin-1.
        skipped: suffix → files of a kind that is not read.
    """

    out: Path
    files: dict[str, int]
    documents: int
    queries: int
    judgements: dict[str, int]
    problems: tuple[Example, ...]
    refused: int
    latin1: int
    skipped: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        problems = [{"file": p.file, "line": p.line, "detail": p.detail} for p in self.problems]
        return {**vars(self), "out": str(self.out), "problems": problems}

    def to_text(self) -> str:
        """The report for a reader."""
        files = ", ".join(f"{count:,} {suffix.lstrip('.')}" for suffix, count in self.files.items())
        lines = [f"{self.documents:,} passages from {sum(self.files.values()):,} files ({files})"]
        if self.queries:
            splits = ", ".join(f"{split} {count:,}" for split, count in self.judgements.items()) or "no judgements"
            lines.append(f"{self.queries:,} queries ({splits})")
        if self.latin1:
            lines.append(f"{self.latin1:,} files are not UTF-8 and were read as Latin-1")
        if self.skipped:
            lines.append("not read: " + ", ".join(f"{count:,} {suffix}" for suffix, count in self.skipped.items()))
        if self.refused:
            lines.append(f"{self.refused:,} problems:")
            lines += [f"  {problem}" for problem in self.problems[:5]]
        return "\n".join(lines)


def import_paths(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    name: str | None = None,
    words: int = WORDS,
    leave_out: Path | None = None,
) -> ImportReport:
    """Make a dataset of files and folders.

    Texts (txt, md, rst, html, pdf) are cut into passages of at most `words` words, named `relative/path#n`. Rows
    (JSONL, TSV) are documents as they are, or queries and judgements where their names say so (`queries.jsonl`,
    `qrels/test.tsv`, `topics.txt` …), so that datasets in BEIR and TREC layout come over whole. A file that cannot
    be read is reported, and the rest goes on. The order is that of the paths, and within a folder by name. What lies in
    `out`, or in the folder `leave_out`, is not read.

    Raises:
        InputError: a path is missing, `out` holds something else, or nothing could be read.
    """
    roots = [Path(path) for path in paths]
    for path in roots:
        if not path.exists():
            raise InputError("no such file or folder", path=path)
    out = refuse_foreign(out)
    if words < 1:
        raise InputError(f"a passage of {words} words cannot be made", "give at least 1")
    with atomic_folder(out) as new:
        work = _Import(new, words)
        own = [folder.resolve() for folder in (out, leave_out) if folder is not None]
        work.run([file for file in files_of(roots) if not set(own) & set(file[1].resolve().parents)])
        report = work.report(out)
        if not report.documents:
            found = f"; {report.to_text().splitlines()[-1].strip()}" if report.refused or report.skipped else ""
            raise InputError(f"no text was found in {', '.join(map(str, roots))}{found}", "give txt, md, html, pdf …")
        _finish(new, name or roots[0].resolve().stem, roots, report)
    return report


def files_of(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """The name (relative to its root) and path of each file; hidden ones are left out."""
    for path in paths:
        if path.is_file():
            yield path.name, path
            continue
        prefix = f"{path.resolve().name}/" if len(paths) > 1 else ""
        for root, folders, files in os.walk(path):
            dataset = bool({"corpus.jsonl", "corpus.jsonl.gz"} & set(files))
            folders[:] = sorted(f for f in folders if not f.startswith(".") and (not dataset or f == "qrels"))
            for file in sorted(f for f in files if not f.startswith(".")):
                if dataset and not file.startswith(("corpus.jsonl", "queries.jsonl")):
                    continue
                full = Path(root) / file
                yield prefix + full.relative_to(path).as_posix(), full


@dataclass
class _Import:
    """Writes documents and queries while files are read; judgements are checked at the end."""

    new: Path
    words: int
    files: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[Example] = field(default_factory=list)
    refused: int = 0
    latin1: int = 0
    documents: set[str] = field(default_factory=set)
    queries: set[str] = field(default_factory=set)
    judgements: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def run(self, files: Sequence[tuple[str, Path]]) -> None:
        pdfs = [path for _, path in files if path.suffix.lower() == ".pdf"]
        with (
            (self.new / "corpus.jsonl").open("w", encoding="utf-8", newline="\n") as self._corpus,
            (self.new / "queries.jsonl").open("w", encoding="utf-8", newline="\n") as self._asked,
            ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        ):
            self._pdfs: dict[Path, Future[Pdf]] = {path: pool.submit(read_pdf, path) for path in pdfs}
            try:
                for name, path in track(files, "import", unit="files"):
                    self._file(name, path)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._judged()

    _corpus: IO[str] = field(init=False)
    _asked: IO[str] = field(init=False)

    def _refuse(self, file: str, line: int | None, detail: str) -> None:
        self.refused += 1
        if len(self.problems) < _SHOWN:
            self.problems.append(Example(file, line, detail))

    def _file(self, name: str, path: Path) -> None:
        suffix = path.suffix.lower()
        try:
            if kind := kind_of(path):
                self._rows(name, path, kind)
            elif suffix == ".pdf":
                self._text(name, self._pdf(name, path))
            elif suffix in READERS:
                self._text(name, READERS[suffix](self._decoded(path)))
            else:
                self.skipped[suffix or "(no suffix)"] += 1
                return
            self.files["".join(path.suffixes[-2:]).lower() if suffix == ".gz" else suffix] += 1
        except InputError as error:
            self._refuse(name, None, error.what.removeprefix(f"{path}: "))
        except OSError as error:
            self._refuse(name, None, f"cannot be read: {error.strerror or error}")
        except (AssertionError, RecursionError) as error:  # what the standard HTML parser raises for hostile markup
            self._refuse(name, None, f"the markup cannot be read: {error}")

    def _decoded(self, path: Path) -> str:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise InputError(f"the file has {size:,} bytes; at most {_MOST_BYTES:,} are read as one text")
        data = path.read_bytes()
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16", "replace")
        if b"\x00" in data[:4096]:
            raise InputError("this is no text: it holds NUL bytes")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            self.latin1 += 1
            text = data.decode("latin-1")
        return text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")

    def _pdf(self, name: str, path: Path) -> Outline:
        pdf = self._pdfs.pop(path).result()
        if not pdf.text:
            raise InputError(pdf.problem)
        if pdf.problem:
            self._refuse(name, None, pdf.problem)
        return Outline(pdf.title, (Section((), tuple(pdf.text.split("\n\n"))),))

    def _text(self, name: str, outline: Outline) -> None:
        stem = _id(name)
        title = Path(name).stem.replace("_", " ").replace("-", " ")
        number = 0
        for number, (heading, text) in enumerate(passages(outline, self.words, title), start=1):
            self._document(name, None, Document(f"{stem}#{number}", heading, text))
        if number == 0:
            self._refuse(name, None, "there is no text in it")

    def _rows(self, name: str, path: Path, kind: str) -> None:
        split = self.judgements.setdefault(split_of(path), {}) if kind == "judgements" else {}
        for row in rows(path, kind, lambda line, reason: self._refuse(name, line, reason)):
            if isinstance(row, Document):
                self._document(name, None, row)
            elif isinstance(row, Query):
                self._query(name, row)
            else:
                split.setdefault(row[0], {})[row[1]] = row[2]

    def _document(self, name: str, line: int | None, document: Document) -> None:
        if document.id in self.documents:
            self._refuse(name, line, f"the document id {document.id!r} occurs twice")
            return
        self.documents.add(document.id)
        self._corpus.write(_line(document))

    def _query(self, name: str, query: Query) -> None:
        if query.id in self.queries:
            self._refuse(name, None, f"the query id {query.id!r} occurs twice")
            return
        self.queries.add(query.id)
        self._asked.write(_line(query))

    def _judged(self) -> None:
        """Write the judgements on what there is."""
        for split, judgements in self.judgements.items():
            known: dict[str, dict[str, int]] = {}
            for query, documents in judgements.items():
                for document, grade in documents.items():
                    if query in self.queries and document in self.documents:
                        known.setdefault(query, {})[document] = grade
                    else:
                        self._refuse(f"qrels/{split}", None, f"{query!r}, {document!r}: judged, but not in the files")
            write_judgements(self.new / "qrels" / f"{split}.tsv", known)
            self.judgements[split] = known

    def report(self, out: Path) -> ImportReport:
        return ImportReport(
            out=out,
            files=dict(sorted(self.files.items())),
            documents=len(self.documents),
            queries=len(self.queries),
            judgements={split: sum(map(len, j.values())) for split, j in self.judgements.items()},
            problems=tuple(self.problems),
            refused=self.refused,
            latin1=self.latin1,
            skipped=dict(sorted(self.skipped.items())),
        )


def _id(name: str) -> str:
    """A file's name as an id that every format can carry: white space and control characters percent-encoded."""
    text = name.encode("utf-8", "replace").decode("utf-8")
    return _UNPRINTABLE.sub(lambda m: "".join(f"%{ord(c):02X}" for c in m.group()), text)


def _line(record: Document | Query) -> str:
    return json.dumps(record.to_json(), ensure_ascii=False).encode("utf-8", "replace").decode("utf-8") + "\n"


def _finish(new: Path, name: str, paths: Sequence[Path], report: ImportReport) -> None:
    """Write dataset.json; reading the dataset back for its fingerprint proves that it can be read."""
    if not report.queries:
        (new / "queries.jsonl").unlink()
    info = {
        **_carried(new, paths),
        "name": name,
        "source": [path.name or str(path) for path in paths],
        "counts": {"documents": report.documents, "queries": report.queries, "judgements": report.judgements},
        "fingerprints": {"dataset": Dataset.load(new).fingerprint},
    }
    write_json(new / "dataset.json", info)


def _carried(new: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """What a single imported dataset says of itself; its columns are copied."""
    if len(paths) > 1 or not (paths[0] / "dataset.json").is_file():
        return {}
    for column in sorted((paths[0] / "columns").glob("*.json*")):
        (new / "columns").mkdir(exist_ok=True)
        shutil.copyfile(column, new / "columns" / column.name)
    info = read_json(paths[0] / "dataset.json")
    return info if isinstance(info, dict) else {}
