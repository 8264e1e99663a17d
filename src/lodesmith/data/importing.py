"""`import_paths`: files and folders of a user's, as a dataset."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.files import atomic_folder, read_json, write_json
from lodesmith.core.progress import track
from lodesmith.core.records import Dataset, Document, refuse_foreign
from lodesmith.data._sink import Sink
from lodesmith.data.formats import layout_of
from lodesmith.data.formats._containers import head_of
from lodesmith.data.formats._containers import rows as rows_of
from lodesmith.data.formats._source import Source
from lodesmith.data.outline import READERS, Outline, Section
from lodesmith.data.pages import PageStore, page_store
from lodesmith.data.passages import passages
from lodesmith.data.pdf import DPI, Pdf, Ranges, read_pdf
from lodesmith.data.problems import Example
from lodesmith.data.rows import has_rows, kind_of, rows, split_of

__all__ = ["WORDS", "ImportReport", "Pages", "files_of", "import_paths"]

WORDS = 200
_MOST_BYTES = 64 << 20  # of one text file
_SHOWN = 100  # problems that the report locates
_SPLIT_NAME = re.compile(r"[A-Za-z0-9_-]+")
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
        layouts: layout → files in it, of those that are recognised by content.
        columns: column → rows written.
        images: documents that are images.
        left_out: reason → records left out on purpose, such as questions without an answer.
        repeats: kind → records that said the same as one before.
        notes: what was done otherwise than asked.
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
    layouts: dict[str, int] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)
    images: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        problems = [{"file": p.file, "line": p.line, "detail": p.detail} for p in self.problems]
        return {**vars(self), "out": str(self.out), "problems": problems}

    def to_text(self) -> str:
        """The report for a reader."""
        files = _listed({suffix.lstrip("."): count for suffix, count in self.files.items()}, "{count:,} {name}")
        lines = [f"{self.documents:,} passages from {sum(self.files.values()):,} files ({files})"]
        if self.images:
            lines.append(f"{self.images:,} of them are images")
        if self.queries:
            lines.append(f"{self.queries:,} queries ({_listed(self.judgements) or 'no judgements'})")
        if self.columns:
            lines.append(f"columns: {_listed(self.columns)}")
        if self.left_out:
            lines.append(f"left out: {_listed(self.left_out, '{count:,} {name}')}")
        if self.repeats:
            lines.append(f"repeated and kept once: {_listed(self.repeats, '{count:,} {name}')}")
        if self.latin1:
            lines.append(f"{self.latin1:,} files are not UTF-8 and were read as Latin-1")
        if self.skipped:
            lines.append(f"not read: {_listed(self.skipped, '{count:,} {name}')}")
        lines += self.notes[:5]
        if self.refused:
            lines.append(f"{self.refused:,} problem{'s' if self.refused > 1 else ''}:")
            lines += [f"  {problem}" for problem in self.problems[:5]]
        return "\n".join(lines)


def _listed(counts: Mapping[str, int], form: str = "{name} {count:,}") -> str:
    return ", ".join(form.format(name=name, count=count) for name, count in counts.items())


@dataclass(frozen=True)
class Pages:
    """PDF files as page images instead of passages of text.

    Args:
        images: whether to draw them at all; without, `ranges` chooses the pages whose text is read.
        dpi: resolution.
        ranges: first and last page of each range, from 1; all pages where there are none.
    """

    images: bool = False
    dpi: float = DPI
    ranges: Ranges = ()


def import_paths(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    name: str | None = None,
    words: int = WORDS,
    leave_out: Path | None = None,
    pages: Pages = Pages(),
    split: str | None = None,
) -> ImportReport:
    """Make a dataset of files and folders.

    Texts (txt, md, rst, html, pdf) are cut into passages of at most `words` words, named `relative/path#n`. Files of
    rows (JSONL, JSON, TSV, Parquet, TREC) are recognised by content: those with a layout of their own
    (`lodesmith.data.formats`: SQuAD, Natural Questions, DPR, HotpotQA, CLaRa, triples …) give documents, queries,
    judgements and columns; others are documents as they are, or queries and judgements where their names or fields say
    so (`queries.jsonl`, `qrels/test.tsv`, `topics.txt` …), so that datasets in BEIR and TREC layout come over whole. A
    file that cannot be read is reported, and the rest goes on. The order is that of the paths, and within a folder by
    name. What lies in `out`, or in the folder `leave_out`, is not read.

    Args:
        paths: files and folders.
        out: the dataset folder to write.
        name: what tables call it.
        words: the most words of a passage.
        leave_out: a folder that is not read.
        pages: what becomes of the pages of PDF files. With images, an interrupted import goes on where it was.
        split: of judgements whose file does not name one; without it, what the layout calls it.

    Raises:
        InputError: a path is missing, `out` holds something else, or nothing could be read.
        MissingExtraError: PDF or Parquet files need a package that is not installed.
        BusyError: another import of page images into `out` is at work.
    """
    roots = [Path(path) for path in paths]
    for path in roots:
        if not path.exists():
            raise InputError("no such file or folder", path=path)
    out = refuse_foreign(out)
    if words < 1:
        raise InputError(f"a passage of {words} words cannot be made", "give at least 1")
    if split is not None and not _SPLIT_NAME.fullmatch(split):
        raise InputError(f"{split!r} cannot be the name of a split", "use letters, digits, - and _")
    own = [folder.resolve() for folder in (out, leave_out) if folder is not None]
    with ExitStack() as stack:
        store = stack.enter_context(page_store(out, pages.dpi, pages.ranges)) if pages.images else None
        new = stack.enter_context(atomic_folder(out))
        work = _Import(new, words, store, pages.ranges, split)
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
            yield _readable(path.name), path
            continue
        prefix = f"{path.resolve().name}/" if len(paths) > 1 else ""
        for root, folders, files in os.walk(path):
            dataset = bool({"corpus.jsonl", "corpus.jsonl.gz"} & set(files))
            folders[:] = sorted(f for f in folders if not f.startswith(".") and (not dataset or f == "qrels"))
            for file in sorted(f for f in files if not f.startswith(".")):
                if dataset and not file.startswith(("corpus.jsonl", "queries.jsonl")):
                    continue
                full = Path(root) / file
                yield _readable(prefix + full.relative_to(path).as_posix()), full


@dataclass
class _Import:
    """Reads files one after another into a sink; PDF files are read ahead, by child processes."""

    new: Path
    words: int
    store: PageStore | None = None
    ranges: Ranges = ()
    split: str | None = None
    files: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    layouts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[Example] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: int = 0
    latin1: int = 0
    _pdfs: dict[Path, Future[Pdf]] = field(default_factory=dict)
    _sink: Sink = field(init=False)

    def run(self, files: Sequence[tuple[str, Path]]) -> None:
        read = self.store.draw if self.store else partial(read_pdf, ranges=self.ranges)
        made_by = {"command": "lode data import", "files": [name for name, _ in files[:_SHOWN]]}
        self._sink = Sink(self.new, self._refuse, made_by)
        with self._sink, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            pdfs = [path for _, path in files if path.suffix.lower() == ".pdf"]
            self._pdfs = {path: pool.submit(read, path) for path in pdfs}
            try:
                for name, path in track(files, "import", unit="files"):
                    self._file(name, path)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _refuse(self, file: str, line: int | None, detail: str) -> None:
        self.refused += 1
        if len(self.problems) < _SHOWN:
            self.problems.append(Example(file, line, detail))

    def _file(self, name: str, path: Path) -> None:
        suffix = path.suffix.lower()
        try:
            if path.exists() and not path.is_file():
                raise InputError("this is no regular file")  # a pipe would be waited for
            if has_rows(path) and self._rows(name, path):
                pass
            elif suffix == ".pdf":
                self._pdf(name, path)
            elif suffix in READERS:
                self._text(name, READERS[suffix](self._decoded(path)))
            else:
                self.skipped[suffix or "(no suffix)"] += 1
                return
            self.files["".join(path.suffixes[-2:]).lower() if suffix == ".gz" else suffix] += 1
        except InputError as error:
            self._refuse(name, error.line, error.what.removeprefix(f"{path}: ").removeprefix(f"{path}:{error.line}: "))
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

    def _pdf(self, name: str, path: Path) -> None:
        pdf = self._pdfs.pop(path).result()
        self.notes += [f"{name}: {note}" for note in pdf.notes]
        if not (pdf.images if self.store else pdf.text):
            raise InputError(pdf.problem or "no page of it could be drawn")
        if pdf.problem:
            self._refuse(name, None, pdf.problem)
        if self.store:
            for document in self.store.place(_id(name), path, pdf, self.new):
                self._sink.add(document, name, "")
        else:
            self._text(name, Outline(pdf.title, (Section((), tuple(pdf.text.split("\n\n"))),)))

    def _text(self, name: str, outline: Outline) -> None:
        stem = _id(name)
        title = Path(name).stem.replace("_", " ").replace("-", " ")
        number = 0
        for number, (heading, text) in enumerate(passages(outline, self.words, title), start=1):
            self._sink.add(Document(f"{stem}#{number}", heading, text), name, "")
        if number == 0:
            self._refuse(name, None, "there is no text in it")

    def _rows(self, name: str, path: Path) -> bool:
        """Read a file of rows; False where it is none."""
        head = head_of(path)

        def refuse(line: int | None, reason: str) -> None:
            self._refuse(name, line, reason)

        source = Source(_id(name), path, refuse, self._leave_out, lambda: rows_of(path, refuse))
        if found := layout_of(head):
            self.layouts[found[0]] += 1
            records, default = found[1].records(source), found[1].split
        elif kind := kind_of(path, head):
            records, default = rows(source, kind), "test"
            if kind == "judgements":
                self._sink.split(split_of(path, self.split or default))
        else:
            return False
        split, home = split_of(path, self.split or default), path.parent
        for record in records:
            self._sink.add(record, name, split, home)
        return True

    def _leave_out(self, reason: str) -> None:
        self.left_out[reason] += 1

    def report(self, out: Path) -> ImportReport:
        return ImportReport(
            out=out,
            files=dict(sorted(self.files.items())),
            documents=len(self._sink.documents),
            queries=len(self._sink.queries),
            judgements=self._sink.judgements,
            problems=tuple(self.problems),
            refused=self.refused,
            latin1=self.latin1,
            skipped=dict(sorted(self.skipped.items())),
            layouts=dict(sorted(self.layouts.items())),
            columns=dict(sorted(self._sink.columns.items())),
            images=self._sink.images,
            left_out=dict(sorted(self.left_out.items())),
            repeats=dict(sorted(self._sink.repeats.items())),
            notes=tuple(self.notes[:_SHOWN]),
        )


def _id(name: str) -> str:
    """A file's name as an id that every format can carry: white space and control characters percent-encoded."""
    return _UNPRINTABLE.sub(lambda m: "".join(f"%{ord(c):02X}" for c in m.group()), name)


def _readable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 are spelled out, so that every format can carry it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _finish(new: Path, name: str, paths: Sequence[Path], report: ImportReport) -> None:
    """Write dataset.json; reading the dataset back for its fingerprint proves that it can be read."""
    if not report.queries:
        (new / "queries.jsonl").unlink()
    info = {
        **_carried(new, paths),
        "name": _readable(name),
        "source": [_readable(path.name or str(path)) for path in paths],
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
