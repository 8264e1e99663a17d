"""A dataset in the making: written step by step, so that a pull that was killed goes on after its last whole step."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.core.files import atomic_folder, read_json, write_json
from lodesmith.core.hashing import fingerprint, fingerprint_texts
from lodesmith.core.lines import LineError, check_id, shorten
from lodesmith.core.progress import tell
from lodesmith.core.records import Document, Query, parse_document, parse_query
from lodesmith.core.tables import write_judgements
from lodesmith.data.pulls._errors import LayoutError
from lodesmith.data.pulls._ids import Ids
from lodesmith.data.pulls._remote import share

__all__ = ["Stage"]

_STATE = "state.json"
_JUDGED = "judged.jsonl"


class Stage:
    """The files of a dataset before it appears.

    What `commit` has sealed survives the process; anything after it is cut off when the stage is opened again.
    Lines that no dataset may have are left out and counted in `repairs`.

    Args:
        folder: its own folder.
        key: what is being made. A stage of something else is emptied.
        remember: keep the ids of documents, to leave out repeated ones and judgements on unknown ones. A source
            whose ids are unique by construction does without.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], *, remember: bool = True) -> None:
        self.folder = folder
        self.key = fingerprint(dict(key))
        self.documents, self.queries = Ids(), Ids()
        self.counts: Counter[str] = Counter()
        self.repairs: Counter[str] = Counter()
        self.notes: dict[str, Any] = {}
        """What a source wants to find again after a resume; JSON values, sealed by `commit`."""
        self.steps: list[str] = []
        self.resumed: tuple[str, ...] = ()
        """The steps that an earlier process had sealed."""
        self._remember = remember
        self._files: dict[str, IO[str]] = {}
        self._splits: tuple[float | None, int] = (None, 0)
        folder.mkdir(parents=True, exist_ok=True)
        self._recall()

    def split_by(self, ratio: float | None, seed: int) -> None:
        """From now on a share of 1 − `ratio` of the training queries is held out as `test`."""
        self._splits = (ratio, seed)

    # what a source writes

    def document(self, document: Document) -> bool:
        """Add a document; False where its id is there already or cannot be carried."""
        _texts(document.id, document.title, document.text)
        if not self._new(document.id, self.documents if self._remember else None):
            return False
        self._line("corpus.jsonl", document.to_json())
        self.counts["documents"] += 1
        return True

    def has_document(self, key: str) -> bool:
        """Whether a document with this id was added, for sources that meet the same one again and again."""
        return key in self.documents

    def query(self, query: Query) -> bool:
        """Add a query; False where it is there already, has no text, or an id that cannot be carried."""
        _texts(query.id, query.text, *query.answers)
        if not query.text.strip():
            self.repairs["empty-query"] += 1
            return False
        if not self._new(query.id, self.queries):
            return False
        self._line("queries.jsonl", query.to_json())
        self.counts["queries"] += 1
        return True

    def judge(self, split: str, query: str, document: str, grade: int = 1, *, group: str | None = None) -> None:
        """Add a judgement. Of two on the same pair the later one counts.

        Args:
            split: `train`, `dev` or `test`.
            query: its id.
            document: its id.
            grade: at least 0; a negative one is written as 0 and counted.
            group: queries with the same group are never divided between `train` and what is held out of it.
        """
        if grade < 0:
            self.repairs["negative-grade"] += 1
            grade = 0
        ratio, seed = self._splits
        if split == "train" and ratio is not None and share(seed, group if group is not None else query) >= ratio:
            split = "test"
        self._line(_JUDGED, [split, query, document, grade])

    def negatives(self, query: str, ids: Iterable[str]) -> None:
        """Add documents that the source names as not relevant to a query."""
        self._line("columns/negatives.jsonl", {"query": query, "ids": list(ids)})

    def image(self, name: str, data: bytes) -> str:
        """Write an image's bytes as they are; its path in the dataset."""
        path = self.folder / "images" / name
        if not path.exists() or path.stat().st_size != len(data):
            path.parent.mkdir(exist_ok=True)
            new = path.with_name(f".{name}.tmp")
            new.write_bytes(data)
            new.replace(path)
        return f"images/{name}"

    def commit(self, step: str) -> None:
        """Seal what was written so far under a name that `steps` shows from now on."""
        sizes = {}
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        for path in self._written():
            sizes[path.relative_to(self.folder).as_posix()] = path.stat().st_size
        self.steps.append(step)
        state = {"key": self.key, "steps": self.steps, "sizes": sizes, "notes": self.notes}
        write_json(self.folder / _STATE, state | {"counts": dict(self.counts), "repairs": dict(self.repairs)})

    def close(self) -> None:
        """Close the files; what was not sealed is void."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    # what becomes of it

    def publish(self, out: Path, info: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
        """Write judgements and dataset.json, and let the dataset appear at `out`, whole.

        Args:
            out: the dataset folder.
            info: what dataset.json says besides counts and fingerprints.
            meta: what columns/negatives.meta.json says.

        Returns:
            What dataset.json says.

        Raises:
            IntegrityError: an image is missing.
        """
        self.close()
        judgements = self._judgements()
        with atomic_folder(out) as new:
            for path in self._written():
                name = path.relative_to(self.folder).as_posix()
                if name != _JUDGED:
                    _link(path, new / name)
            self._pictures(new)
            (new / "corpus.jsonl").touch()
            for split, judged in judgements.items():
                write_judgements(new / "qrels" / f"{split}.tsv", judged)
            if (new / "columns" / "negatives.jsonl").exists():
                write_json(new / "columns" / "negatives.meta.json", dict(meta))
            whole = dict(info) | self._figures(new, judgements, bool(info.get("drop_same_id")))
            write_json(new / "dataset.json", whole)
        return whole

    def _figures(self, new: Path, judgements: Mapping[str, Any], drop_same_id: bool) -> dict[str, Any]:
        judged = {split: sum(map(len, j.values())) for split, j in judgements.items()}
        parts = {
            "documents": fingerprint_texts(_records(new / "corpus.jsonl")),
            "queries": fingerprint_texts(_records(new / "queries.jsonl")),
            "judgements": judgements,
            "drop_same_id": drop_same_id,
        }
        counts = {"documents": self.counts["documents"], "queries": self.counts["queries"], "judgements": judged}
        repairs = {"repairs": dict(self.repairs)} if self.repairs else {}
        return {"counts": counts, "fingerprints": {"dataset": fingerprint(parts)}} | repairs

    def _pictures(self, new: Path) -> None:
        source = self.folder / "images"
        if not source.exists():
            return
        for line in _lines(self.folder / "corpus.jsonl"):
            name = json.loads(line).get("image", "")
            if name and not (self.folder / name).is_file():
                raise IntegrityError(f"{self.folder / name}: missing", "delete this folder, and pull again")
            if name and not (new / name).exists():
                _link(self.folder / name, new / name)

    def _judgements(self) -> dict[str, dict[str, dict[str, int]]]:
        """Split → query → document → grade, of those whose query and document are there."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for line in _lines(self.folder / _JUDGED):
            split, query, document, grade = json.loads(line)
            if query not in self.queries:
                self.repairs["unknown-query"] += 1
            elif self._remember and document not in self.documents:
                self.repairs["unknown-document"] += 1
            else:
                found.setdefault(split, {}).setdefault(query, {})[document] = grade
        return found

    # the folder

    def _recall(self) -> None:
        """Go back to the last sealed step of an earlier process."""
        try:
            state = read_json(self.folder / _STATE)
            sound = state["key"] == self.key and all(
                (self.folder / name).stat().st_size >= size for name, size in state["sizes"].items()
            )
        except (InputError, OSError, KeyError, TypeError, AttributeError):
            state, sound = {}, False
        if not sound:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            return
        for path in self._written():
            size = state["sizes"].get(path.relative_to(self.folder).as_posix())
            if size is None:
                path.unlink()
            else:
                os.truncate(path, size)
        self.steps, self.notes = list(state["steps"]), dict(state["notes"])
        self.resumed = tuple(self.steps)
        self.counts.update(state["counts"])
        self.repairs.update(state["repairs"])
        self._know()

    def _know(self) -> None:
        for name, ids in (("corpus.jsonl", self.documents), ("queries.jsonl", self.queries)):
            if self._remember or name == "queries.jsonl":
                for line in _lines(self.folder / name):
                    ids.add(json.loads(line)["_id"])

    def _written(self) -> Iterator[Path]:
        names = ["corpus.jsonl", "queries.jsonl", _JUDGED, "columns/negatives.jsonl"]
        return (path for name in names if (path := self.folder / name).exists())

    def _new(self, key: str, ids: Ids | None) -> bool:
        """Whether an id can be carried by every format and did not occur before."""
        try:
            check_id(key).encode()
        except LineError as error:
            self.repairs[error.kind] += 1
            return False
        except UnicodeEncodeError:  # two such ids would be written alike
            self.repairs["lone-surrogate"] += 1
            return False
        if ids is not None and not ids.add(key):
            self.repairs["duplicate-id"] += 1
            return False
        return True

    def _line(self, name: str, value: Any) -> None:
        file = self._files.get(name)
        if file is None:
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            file = self._files[name] = path.open("a", encoding="utf-8", newline="\n")
        text = json.dumps(value, ensure_ascii=False) + "\n"
        try:
            file.write(text)
        except UnicodeEncodeError:  # half of a surrogate pair is no character
            self.repairs["lone-surrogate"] += 1
            file.write(text.encode("utf-8", "replace").decode("utf-8"))


def _texts(*values: object) -> None:
    for value in values:
        if not isinstance(value, str):
            raise LayoutError(f"a record has {shorten(value)} where a text belongs", "take it from its publisher")


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        with path.open(encoding="utf-8", newline="\n") as file:
            yield from file


def _records(path: Path) -> Iterator[str]:
    """Each record as the fingerprint of a dataset takes it: the lines are read as `Dataset.load` reads them."""
    parse = parse_document if path.name == "corpus.jsonl" else parse_query
    for number, line in enumerate(_lines(path), start=1):
        if number % 100_000 == 0:
            tell(f"fingerprint {path.name}", number, None, "lines")
        yield json.dumps(parse(json.loads(line)).to_json(), sort_keys=True)


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the disk has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
