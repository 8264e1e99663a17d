"""PDF files as page images: each page is drawn once, and kept over a restart until the dataset is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lodesmith.core.errors import BusyError, InputError
from lodesmith.core.files import atomic_folder, locked, read_json, sha256_file, write_json
from lodesmith.core.hashing import fingerprint
from lodesmith.core.records import Document
from lodesmith.data._sink import image_name
from lodesmith.data.pdf import DPI, Pdf, Ranges, read_pdf

__all__ = ["PageStore", "page_store"]

SECONDS = 600.0  # of a file: hundreds of pages are drawn in that
LEAST_DPI, MOST_DPI = 10.0, 1200.0
_VERSION = 1  # of how pages are drawn: another one draws anew


@dataclass(frozen=True)
class PageStore:
    """Pages of PDF files, drawn into a working folder beside the dataset.

    Args:
        folder: the working folder.
        dpi: resolution.
        ranges: first and last page of each range; all pages where there are none.
        seconds: for one file.
    """

    folder: Path
    dpi: float = DPI
    ranges: Ranges = ()
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        if not LEAST_DPI <= self.dpi <= MOST_DPI:
            raise InputError(f"pages cannot be drawn at {self.dpi:g} dpi", f"give {LEAST_DPI:g} to {MOST_DPI:g}")

    def draw(self, path: Path) -> Pdf:
        """The pages of a file, drawn now or found from an interrupted import of the same file with the same settings.

        Raises:
            MissingExtraError: pypdfium2 or pillow is not installed.
            OSError: the file cannot be read.
        """
        home = self._home(path)
        if (home / "pages.json").exists() and not (kept := _loaded(home)).problem:
            return kept
        with atomic_folder(home) as new:
            found = read_pdf(path, seconds=self.seconds, ranges=self.ranges, images=new, dpi=self.dpi)
            _drop_halves(new, found)
            write_json(new / "pages.json", asdict(found))
        return found

    def _home(self, path: Path) -> Path:
        settings = {"dpi": self.dpi, "ranges": self.ranges, "seconds": self.seconds, "version": _VERSION}
        return self.folder / fingerprint({"file": sha256_file(path), **settings})[:32]

    def place(self, name: str, path: Path, found: Pdf, dataset: Path) -> Iterator[Document]:
        """Put the images of a file into a dataset folder and give its documents, `name#page`.

        Args:
            name: of the file, as ids begin.
            path: the file.
            found: what `draw` gave for it.
            dataset: the folder that gets `images/…`.
        """
        folder = Path("images") / image_name(name)
        title = found.title or path.stem.replace("_", " ").replace("-", " ")
        home = self._home(path)
        (dataset / folder).mkdir(parents=True, exist_ok=True)
        for number, text, image in zip(found.numbers, found.pages, found.images, strict=False):
            if image:
                _linked(home / image, dataset / folder / image)
                yield Document(f"{name}#{number}", title, text, (folder / image).as_posix())


@contextmanager
def page_store(out: Path, dpi: float, ranges: Ranges, seconds: float = SECONDS) -> Iterator[PageStore]:
    """The pages of an import into `out`; the working folder goes when the block ends without an error.

    Raises:
        InputError: the resolution is out of range.
        BusyError: another import into `out` is at work.
    """
    folder = out.parent / f".{out.name}.pages"
    store = PageStore(folder, dpi, ranges, seconds)
    try:
        with locked(folder):
            yield store
    except BaseException as error:
        if not isinstance(error, BusyError) and not any(folder.glob("*/pages.json")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _loaded(home: Path) -> Pdf:
    value = read_json(home / "pages.json")
    parts: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
    return Pdf(**parts)


def _drop_halves(folder: Path, found: Pdf) -> None:
    """Delete images that no message names: the child was killed while it wrote them."""
    for file in folder.iterdir():
        if file.name not in found.images:
            file.unlink()


def _linked(source: Path, target: Path) -> None:
    """A second name for a file, where the file system has that, else a copy."""
    with suppress(FileExistsError):
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:
            shutil.copyfile(source, target)
