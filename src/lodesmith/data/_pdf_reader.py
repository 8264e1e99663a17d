"""The child process of `pdf` and `pages`: reads a PDF from standard input, within limits on memory, time and output.

It answers in JSON lines on standard output: title and number of pages first, then one message a page, with its text
and, where a folder for them is given, the image that it wrote.
"""

from __future__ import annotations

import ctypes
import json
import math
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MOST_PAGES = 20_000
_MOST_CHARACTERS = 2_000_000  # of one page
_MOST_OUTPUT = 256 << 20  # of one file
_MOST_SIDE = 8_192  # pixels
_MOST_PIXELS = 16_000_000
_COLOURS = 4_096  # up to so many a page is a drawing, which PNG keeps exactly and small
_QUALITY = 90  # of JPEG
_POINTS = 72  # per inch


def main(order: dict[str, Any]) -> None:
    """Do what is ordered: `memory` (bytes), `seconds`, `ranges` of pages from 1; and `folder` and `dpi` for images."""
    try:
        import pypdfium2
    except ImportError:
        _say(missing="pypdfium2")
        return
    if order.get("folder"):
        try:
            import PIL.JpegImagePlugin
            import PIL.PngImagePlugin  # noqa: F401 - before the limits, so that they count the page alone
        except ImportError:
            _say(missing="pillow")
            return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (order["seconds"], order["seconds"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_OUTPUT, _MOST_OUTPUT))
    resource.setrlimit(resource.RLIMIT_AS, (order["memory"], order["memory"]))
    try:
        _read(pypdfium2, sys.stdin.buffer.read(), order)
    except MemoryError:
        _say(problem="it needs more memory than is allowed")
    except (pypdfium2.PdfiumError, ValueError, OSError, ctypes.ArgumentError) as error:
        _say(problem=f"it cannot be read: {str(error).replace('PDFium: ', '')}")


def _read(pypdfium2: Any, data: bytes, order: dict[str, Any]) -> None:
    if not data.strip():
        _say(problem="the file is empty")
        return
    document = pypdfium2.PdfDocument(data)
    wanted = list(_wanted(len(document), order.get("ranges") or []))
    _say(title=_title(document), pages=len(document), wanted=min(len(wanted), _MOST_PAGES))
    for number in wanted[:_MOST_PAGES]:
        try:
            page = document[number - 1]
            _say(number=number, **_page(page, number, order))
            page.close()
        except pypdfium2.PdfiumError as error:
            _say(number=number, text="", problem=f"page {number} cannot be read: {error}")
        except MemoryError:
            _say(number=number, text="", problem=f"page {number} needs more memory than is allowed")
    if len(wanted) > _MOST_PAGES:
        _say(problem=f"it has {len(wanted):,} pages; the first {_MOST_PAGES:,} are read")


def _wanted(pages: int, ranges: list[list[int]]) -> Iterator[int]:
    """The numbers of the pages to read, in order, each once."""
    if not ranges:
        yield from range(1, pages + 1)
        return
    last = 0
    for first, end in sorted(ranges):
        yield from range(max(first, last + 1), min(end, pages) + 1)
        last = max(last, min(end, pages))


def _page(page: Any, number: int, order: dict[str, Any]) -> dict[str, Any]:
    text = page.get_textpage()
    found: dict[str, Any] = {"text": text.get_text_range(0, min(text.count_chars(), _MOST_CHARACTERS))}
    text.close()
    return found | (_image(page, number, Path(order["folder"]), order["dpi"]) if order.get("folder") else {})


def _image(page: Any, number: int, folder: Path, dpi: float) -> dict[str, Any]:
    """Write the page's image. A page too large for the wanted resolution is shown at a lower one, and that is said."""
    width, height = page.get_size()
    if not (math.isfinite(width) and math.isfinite(height) and min(width, height) > 0):
        return {"problem": f"page {number} has no size ({width:g} × {height:g} points)"}
    scale = dpi / _POINTS
    most = min(scale, _MOST_SIDE / max(width, height), math.sqrt(_MOST_PIXELS / (width * height)))
    bitmap = page.render(scale=most)
    image = bitmap.to_pil().convert("RGB")
    name = _save(image, folder / f"{number:05d}")
    found: dict[str, Any] = {"image": name, "size": image.size}
    bitmap.close()
    if most < scale:
        found["note"] = f"page {number} of {width:,.0f} × {height:,.0f} points is shown at {most * _POINTS:.3g} dpi"
    return found


def _save(image: Any, path: Path) -> str:
    """Drawings and text as PNG (in grey where there is no colour), photographs and scans as JPEG."""
    colours = image.getcolors(_COLOURS)
    if colours is None:
        image.save(path.with_suffix(".jpg"), quality=_QUALITY, subsampling=0)
        return f"{path.name}.jpg"
    grey = all(colour[0] == colour[1] == colour[2] for _, colour in colours)
    (image.convert("L") if grey else image).save(path.with_suffix(".png"))
    return f"{path.name}.png"


def _title(document: Any) -> str:
    try:
        return str(document.get_metadata_value("Title") or "")
    except (ValueError, RuntimeError):
        return ""


def _say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
