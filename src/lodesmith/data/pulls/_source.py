"""What a source is, and what it is handed when its turn comes."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Protocol, cast

from lodesmith.core.lines import Line, bounded_lines, decode_text
from lodesmith.data.pulls._archive import Limits, extract
from lodesmith.data.pulls._download import Fetched
from lodesmith.data.pulls._errors import LayoutError
from lodesmith.data.pulls._origin import Origin, Reading
from lodesmith.data.pulls._remote import Plan, Remote, Wanted
from lodesmith.data.pulls._stage import Stage

__all__ = ["DAMAGED", "Job", "Source", "plain", "tsv"]


class Source(Protocol):
    """A published collection and how it becomes a dataset. One file each, found by its file name."""

    options: frozenset[str]
    """Which of `limit`, `split_ratio` and `words` it takes."""

    remember: bool
    """Whether the stage keeps the ids of documents: False where they are unique by construction."""

    def plan(self, wanted: Wanted, origin: Origin, revision: str) -> Plan:
        """What will be read, at a revision or (where it is '') the newest.

        Raises:
            InputError: the name means nothing to this source.
            AbsentError, RefusedError, OfflineError: its files cannot be listed.
        """
        ...

    def convert(self, job: Job) -> Mapping[str, Any]:
        """Write the dataset into the job's stage; what dataset.json says besides source, licence and files."""
        ...


@dataclass
class Job:
    """One dataset being made.

    Args:
        wanted: what the user asks for.
        plan: what is read.
        origin: where files come from.
        downloads: the folder for what is downloaded; what is unpacked lies there too.
        stage: where the dataset is written.
    """

    wanted: Wanted
    plan: Plan
    origin: Origin
    downloads: Path
    stage: Stage
    fetched: dict[str, Fetched] = field(default_factory=dict)

    def file(self, remote: Remote) -> Path:
        """A file of the plan, whole and verified."""
        found = self.origin.fetch(remote, self.downloads)
        self.fetched[remote.url] = found
        return found.path

    @contextmanager
    def reading(self, remote: Remote) -> Iterator[BufferedReader]:
        """A file of the plan while it comes; the block may end before the file does."""
        reading: Reading = self.origin.read(remote, self.downloads)
        try:
            yield BufferedReader(reading, 1 << 20)
            self.fetched[remote.url] = reading.result()
        finally:
            reading.close()

    def unpacked(self, remote: Remote, wanted: re.Pattern[str]) -> Path:
        """The folder with the wanted files of an archive, unpacked once."""
        archive = self.file(remote)
        folder = self.downloads / f"{archive.name}.unpacked"
        done, mark = folder / ".done", f"{self.fetched[remote.url].sha256} {wanted.pattern}"
        if not done.is_file() or done.read_text(encoding="utf-8") != mark:
            extract(archive, folder, lambda name: bool(wanted.search(name)), Limits())
            done.write_text(mark, encoding="utf-8")
        return folder

    def commit(self, step: str) -> None:
        """Seal a step, with what was fetched for it."""
        self.stage.notes["files"] = self.files()
        self.stage.commit(step)

    def files(self) -> dict[str, Any]:
        """What was fetched by this process and by earlier ones: address → size, digest, what it was compared with."""
        now = {
            url: {"bytes": got.bytes, "sha256": got.sha256 or None, "checked": got.checked}
            for url, got in self.fetched.items()
        }
        return dict(self.stage.notes.get("files", {})) | now

    def forget(self, remote: Remote) -> None:
        """Delete a downloaded file that is not needed any more; what lies in a folder of the user's stays."""
        path = self.fetched[remote.url].path
        if path.parent == self.downloads:
            path.unlink(missing_ok=True)


DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading a damaged gzip file raises."""


def plain(file: BufferedReader) -> IO[bytes]:
    """The unpacked bytes of a file that is gzip, or that a server has unpacked on its way."""
    packed = file.peek(2)[:2] == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(file, "rb")) if packed else file


def tsv(file: IO[bytes], columns: int, name: str) -> Iterator[list[str]]:
    """The fields of each line of a file; a line with another number of them is an error, and so is one without end.

    Raises:
        LayoutError: a line is too long, not UTF-8, or has not the columns that its layout has.
    """
    for line in bounded_lines(file):
        fields = _fields(line, name)
        if len(fields) != columns:
            raise LayoutError(
                f"{name}:{line.number}: expected {columns} fields separated by tabs, found {len(fields)}",
                "this is not the layout of the published file: run again, or take it from its publisher",
            )
        yield fields


def _fields(line: Line, name: str) -> list[str]:
    try:
        return decode_text(line).split("\t")
    except ValueError as error:
        raise LayoutError(f"{name}:{line.number}: {error}", "take the file from its publisher") from None
