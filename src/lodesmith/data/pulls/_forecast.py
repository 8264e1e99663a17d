"""What a pull would take: bytes to download and disk, each with who says so, or that nobody does."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lodesmith.core.progress import track
from lodesmith.data.pulls._errors import OfflineError, ServerError
from lodesmith.data.pulls._origin import Folder, Origin
from lodesmith.data.pulls._pulling import expand, folders, parse, source_of
from lodesmith.data.pulls._remote import Plan, Remote, Wanted

__all__ = ["Forecast", "forecast", "total"]


@dataclass(frozen=True)
class Forecast:
    """What one dataset would take.

    Args:
        name: the dataset.
        out: where it would be.
        files: (address, bytes or None, who says so) of each.
        at_most: a limit may end the download earlier.
        dataset: bytes of the finished dataset as far as its publisher tells, or None.
        free: bytes free where it would be.
        licence: as the source publishes it; '' where it could not be asked.
        notes: what else the user should know.
    """

    name: str
    out: Path
    files: tuple[tuple[str, int | None, str], ...]
    at_most: bool
    dataset: int | None
    free: int
    licence: str
    notes: tuple[str, ...] = ()

    @property
    def download(self) -> int | None:
        """Bytes of all files; None where one is not known or there are none."""
        sizes = [size for _, size, _ in self.files]
        return None if None in sizes or not sizes else sum(size or 0 for size in sizes)

    def to_json(self) -> dict[str, Any]:
        """The forecast as a JSON object; a figure that is not known is null."""
        disk = None if None in (self.download, self.dataset) else (self.download or 0) + (self.dataset or 0)
        return {
            "name": self.name,
            "out": str(self.out),
            "dry_run": True,
            "download_bytes": self.download,
            "at_most": self.at_most,
            "dataset_bytes": self.dataset,
            "disk_bytes": disk,
            "disk_free": self.free,
            "licence": self.licence,
            "files": [{"url": url, "bytes": size, "said_by": who} for url, size, who in self.files],
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """The forecast for a reader."""
        unknown = sum(size is None for _, size, _ in self.files)
        known = sum(size or 0 for _, size, _ in self.files)
        much = f"{'at most ' if self.at_most else ''}{known:,} bytes" if known or not unknown else ""
        if unknown or not self.files:
            much = (
                f"{much} and {unknown} files of unknown size" if much and self.files else "a number of bytes not known"
            )
        size = (
            "has a size that is not known before it is converted"
            if self.dataset is None
            else f"takes about {self.dataset:,} bytes"
        )
        says = "; ".join(dict.fromkeys(who for _, _, who in self.files))
        lines = [f"{self.name}: would download {much}{f' (according to: {says})' if says else ''}; the dataset {size}"]
        lines.append(f"  {self.free:,} bytes are free for {self.out}; licence: {self.licence or 'not known'}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def forecast(name: str, origin: Origin, out: Path | None = None, **options: Any) -> list[Forecast]:
    """Ask for sizes; nothing is downloaded and nothing is written.

    Args:
        name, origin, out, options: as for `pull`.

    Raises:
        InputError: the name or an option cannot be used.
        AbsentError, RefusedError: a pull would fail so, too.
    """
    members = expand(name)
    wanted = [parse(member, options) for member in members]
    targets = folders(name, members, out)
    seen: dict[str, tuple[int | None, str]] = {}
    return [_one(w, origin, t, seen) for w, t in track(list(zip(wanted, targets, strict=True)), "ask for sizes")]


def _one(wanted: Wanted, origin: Origin, out: Path, seen: dict[str, tuple[int | None, str]]) -> Forecast:
    free = _free(out)
    try:
        plan = source_of(wanted.source).plan(wanted, origin, "")
    except OfflineError as error:
        note = f"{error.what}: sizes are not known before it answers"
        return Forecast(wanted.name, out, (), wanted.limit is not None, None, free, "", (note,))
    sizes = _sizes(plan, origin, seen)
    return Forecast(wanted.name, out, sizes, plan.partial, plan.unpacked, free, plan.licence, plan.notes)


def _sizes(
    plan: Plan, origin: Origin, seen: dict[str, tuple[int | None, str]]
) -> tuple[tuple[str, int | None, str], ...]:
    """Each file's size; one that a group shares is asked for once and counted for its first member."""
    found: list[tuple[str, int | None, str]] = []
    for file in plan.files:
        if file.url in seen:
            found.append((file.url, 0, "downloaded once for the group"))
            continue
        host = urlsplit(file.url).netloc
        seen[file.url] = _size(file, origin, seen.get(host, (None, ""))[1])
        if seen[file.url][1].endswith(_SILENT):
            seen[host] = seen[file.url]  # one host is not asked again and again while it is out of reach
        found.append((file.url, *seen[file.url]))
    return tuple(found)


_SILENT = "its server cannot be reached"


def _size(file: Remote, origin: Origin, silent: str) -> tuple[int | None, str]:
    if isinstance(origin, Folder):
        return 0, f"the file lies in the folder ({origin.size(file) or 0:,} bytes)"
    if file.hub and file.size is not None:
        return file.size, "the hub's listing"
    try:
        if silent:
            raise OfflineError(silent)
        size = origin.size(file)
    except OfflineError:
        return file.size, f"{'published' if file.size else 'nobody'}; {_SILENT}"
    except ServerError as error:
        return file.size, f"{'published' if file.size else 'nobody'}; {error.what}"
    return (size, "a HEAD request") if size is not None else (file.size, "published" if file.size else "nobody")


def _free(out: Path) -> int:
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def total(forecasts: Sequence[Forecast]) -> int | None:
    """Bytes that a group would download; None where one is not known."""
    sizes = [one.download for one in forecasts]
    return None if None in sizes else sum(size or 0 for size in sizes)
