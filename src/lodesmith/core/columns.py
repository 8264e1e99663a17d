"""Columns: what annotators add to a dataset, joined by id, in `columns/NAME.jsonl` with `columns/NAME.meta.json`.

A column is written through a journal, one line for each finished query or document, so that a killed annotator goes
on where it was. The column appears, whole, when it is finished; until then an older one stays as it is.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from lodesmith.core.errors import InputError
from lodesmith.core.files import atomic_file, locked, read_json, sweep, sync_folder, write_json
from lodesmith.core.hashing import fingerprint
from lodesmith.core.lines import LineError, bounded_lines, check_id, decode_json, shorten
from lodesmith.core.tables import open_plain

Key = Literal["query", "document"]
Row = Mapping[str, Any]
FOLDER = "columns"
_LISTS = ("candidates", "negatives", "teacher_scores")
"""Columns whose rows list ids."""
_JOURNAL = ("journal.jsonl", "made_by.json")


@dataclass(frozen=True)
class Column:
    """A finished column.

    Args:
        name: the file's name without `.jsonl`.
        key: what its rows belong to, `"query"` or `"document"`.
        rows: id → its rows, without the id, in file order.
        info: what `NAME.meta.json` holds: `made_by`, `fingerprint`, `counts`.
    """

    name: str
    key: Key
    rows: Mapping[str, Sequence[Row]]
    info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, dataset: Path | str, name: str) -> Column:
        """Read a column of a dataset folder.

        Raises:
            InputError: there is none of this name, or a line is broken, with file and line.
        """
        path = Path(dataset) / FOLDER / f"{name}.jsonl"
        if not name.strip() or Path(name).name != name:
            raise InputError(f"{name!r} cannot name a column", "give its name alone, such as traces")
        if not path.is_file():
            have = ", ".join(names(dataset)) or "none"
            raise InputError(f"no such column (there are: {have})", "make it with `lode data …`", path=path)
        rows: dict[str, list[Row]] = {}
        key: Key | None = None
        with open_plain(path) as file:
            for line in bounded_lines(file):
                if not line.raw.strip():
                    continue
                try:
                    key, owner, row = _parse(decode_json(line), key)
                    check_row(name, row)
                except LineError as error:
                    raise InputError(
                        f"broken line: {error}", "make the column again", path=path, line=line.number
                    ) from None
                rows.setdefault(owner, []).append(row)
        meta = path.with_name(f"{name}.meta.json")
        return cls(name, key or "query", rows, read_json(meta) if meta.exists() else {})

    def one(self, owner: str) -> Row | None:
        """The first row of a query or document; None where it has none."""
        return next(iter(self.rows.get(owner, ())), None)

    def __len__(self) -> int:
        return len(self.rows)


def _maker(path: Path) -> str | None:
    """The fingerprint in a file; None where there is none, or the file is broken: then it is made again."""
    try:
        found = read_json(path) if path.exists() else None
    except InputError:
        return None
    return found.get("fingerprint") if isinstance(found, dict) else None


def names(dataset: Path | str) -> list[str]:
    """The columns of a dataset folder."""
    return sorted(path.stem for path in (Path(dataset) / FOLDER).glob("[!.]*.jsonl"))


def check_row(name: str, row: Row) -> None:
    """Whether a row of a column that is known by its name can be used.

    Raises:
        LineError: `ids`, which candidates, negatives and teacher_scores have, are no list of texts; or a row of
            `questions` is no question with answers.
    """
    if name in _LISTS or "ids" in row:
        ids = row.get("ids")
        if not isinstance(ids, list) or not all(isinstance(key, str) for key in ids):
            raise LineError("bad-field", f"'ids' must be a list of ids, not {shorten(ids)}")
    if name == "questions":
        answers, kind = row.get("answers"), row.get("kind")
        listed = isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)
        if not isinstance(row.get("question"), str):
            raise LineError("bad-field", f"'question' must be a text, not {shorten(row.get('question'))}")
        if not listed and not isinstance(answers, str):
            raise LineError("bad-field", f"'answers' must be a list of texts, not {shorten(answers)}")
        if kind is not None and not isinstance(kind, str):
            raise LineError("bad-field", f"'kind' must be a text, not {shorten(kind)}")


def _parse(value: dict[str, Any], key: Key | None) -> tuple[Key, str, Row]:
    """Side, id and row of a line; all lines of a column are of one side."""
    found: Key = "query" if "query" in value else "document"
    if key is not None and found != key:
        raise LineError("bad-field", f"this line has no {key!r}, which the lines before have")
    owner = value.pop(found, None)
    if not isinstance(owner, str):
        raise LineError("missing-id", "a line must name its 'query' or its 'document' by id")
    return found, check_id(owner), value


class ColumnWriter:
    """Writes a column, resumably. One process at a time.

    ```python
    with ColumnWriter(folder, "negatives", "query", made_by={"system": "bm25", "k": 50}) as column:
        for ids in batches(column.missing(queries)):
            for query in ids:
                column.add(query, [{"ids": [...], "scores": [...]}], {"kept": 7, "too-close": 2})
        meta = column.finish()
    ```

    Args:
        dataset: the dataset's folder.
        name: of the column.
        key: what its rows belong to.
        made_by: everything that decides what the rows will be (as JSON): with other values a journal is begun anew,
            and with the same a finished column is not made again.

    Raises:
        InputError: the folder is no dataset.
        BusyError: another process writes a column of this name.
    """

    def __init__(self, dataset: Path | str, name: str, key: Key, made_by: Mapping[str, Any]) -> None:
        self.folder = Path(dataset) / FOLDER
        if not Path(dataset).is_dir():
            raise InputError("no such dataset folder", path=dataset)
        self.path = self.folder / f"{name}.jsonl"
        self.name, self.key = name, key
        self.made_by = dict(made_by)
        self.fingerprint = fingerprint({"key": key, "made_by": self.made_by})
        self.counts: Counter[str] = Counter()
        """The sum of the counts given so far, those before a restart among them."""
        self._work = self.folder / f".{name}.work"
        self._done: set[str] = set()
        self._open = ExitStack()
        self._journal: IO[bytes]

    def __enter__(self) -> ColumnWriter:
        self.folder.mkdir(exist_ok=True)
        self._open.enter_context(locked(self._work))
        try:
            sweep(self.folder, f"{self.name}.jsonl", f"{self.name}.meta.json")
            sweep(self._work)
            if not self.finished:
                self._begin()
            else:  # a process was killed when only this was left to do
                self._drop()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    @property
    def finished(self) -> bool:
        """Whether the column is there, made by the same."""
        return self.path.exists() and _maker(self.path.with_name(f"{self.name}.meta.json")) == self.fingerprint

    def missing(self, owners: Iterable[str]) -> list[str]:
        """Those whose rows are not written yet, in the same order; none where the column is finished."""
        return [] if self.finished else [owner for owner in owners if owner not in self._done]

    def add(self, owner: str, rows: Sequence[Row], counts: Mapping[str, int] | None = None) -> None:
        """Write down what was made for a query or document: no, one or several rows, and what is to be counted."""
        line = json.dumps({"id": owner, "rows": list(rows), "counts": dict(counts or {})}, allow_nan=False)
        self._journal.write(line.encode() + b"\n")
        self._done.add(owner)
        self.counts.update(counts or {})

    def sync(self) -> None:
        """Flush what was added to the disk: after this a power cut takes nothing of it."""
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def finish(self, **report: Any) -> dict[str, Any]:
        """Put the column in place and return what its meta file holds; of a finished column, what it held.

        Args:
            report: more to say in the meta file, such as seconds.

        Raises:
            InputError: it would have no row and take the place of one that has some.
        """
        meta = self.path.with_name(f"{self.name}.meta.json")
        if self.finished:
            found: dict[str, Any] = read_json(meta)
            return found
        self.sync()
        if self.path.is_file() and self.path.stat().st_size and not any(entry["rows"] for entry in self._entries()):
            raise InputError(
                "nothing was made, and a column of something else is there: it is kept",
                "give another name, or delete it",
                path=self.path,
            )
        rows = 0
        with suppress(FileNotFoundError):
            meta.unlink()  # a crash between the two files then leaves a column without a maker, never a wrong one
        with atomic_file(self.path) as out:
            for entry in self._entries():
                for row in entry["rows"]:
                    out.write(json.dumps({self.key: entry["id"], **row}, ensure_ascii=False, allow_nan=False) + "\n")
                    rows += 1
        info = {
            "column": self.name,
            "key": self.key,
            "made_by": self.made_by,
            "fingerprint": self.fingerprint,
            "counts": {"done": len(self._done), "rows": rows, **dict(sorted(self.counts.items()))},
            **report,
        }
        write_json(meta, info)
        self._drop()
        return info

    def _drop(self) -> None:
        """Remove the journal of a column that is there."""
        for name in _JOURNAL:
            with suppress(FileNotFoundError):
                (self._work / name).unlink()

    # the journal

    def _begin(self) -> None:
        """Open the journal: after the last whole line of one by the same maker, else empty."""
        path, maker = self._work / "journal.jsonl", self._work / "made_by.json"
        if not (path.exists() and _maker(maker) == self.fingerprint):
            with suppress(FileNotFoundError):
                path.unlink()
            write_json(maker, {"fingerprint": self.fingerprint})
        self._journal = self._open.enter_context(path.open("ab+"))
        sync_folder(self._work)
        end = 0
        for entry, stop in self._whole():
            self._done.add(entry["id"])
            self.counts.update(entry["counts"])
            end = stop
        self._journal.truncate(end)

    def _whole(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The whole entries of the journal, each with where it ends; what follows a torn one is not read."""
        self._journal.flush()
        self._journal.seek(0)
        end = 0
        for raw in self._journal:
            try:
                entry = json.loads(raw)
            except ValueError:
                return
            if not raw.endswith(b"\n"):
                return
            end += len(raw)
            yield entry, end

    def _entries(self) -> Iterator[dict[str, Any]]:
        return (entry for entry, _ in self._whole())
