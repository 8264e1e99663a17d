"""The child process of `pdf`: reads a PDF from standard input, writes its pages as JSON lines, within limits."""

from __future__ import annotations

import ctypes
import json
import resource
import sys
from typing import Any

_MOST_PAGES = 20_000
_MOST_CHARACTERS = 2_000_000  # of one page
_MOST_OUTPUT = 256 << 20


def main(memory: int, seconds: int) -> None:
    """Answer on standard output: title and number of pages first, then one message a page."""
    try:
        import pypdfium2
    except ImportError:
        _say(missing="pypdfium2")
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_OUTPUT, _MOST_OUTPUT))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        _read(pypdfium2, sys.stdin.buffer.read())
    except MemoryError:
        _say(problem="it needs more memory than is allowed")
    except (pypdfium2.PdfiumError, ValueError, OSError, ctypes.ArgumentError) as error:
        _say(problem=f"it cannot be read: {str(error).replace('PDFium: ', '')}")


def _read(pypdfium2: Any, data: bytes) -> None:
    if not data.strip():
        _say(problem="the file is empty")
        return
    document = pypdfium2.PdfDocument(data)
    _say(title=_title(document), pages=len(document))
    for number in range(min(len(document), _MOST_PAGES)):
        try:
            page = document[number]
            text = page.get_textpage()
            _say(text=text.get_text_range(0, min(text.count_chars(), _MOST_CHARACTERS)))
            text.close()
            page.close()
        except pypdfium2.PdfiumError as error:
            _say(text="", problem=f"page {number + 1} cannot be read: {error}")
    if len(document) > _MOST_PAGES:
        _say(problem=f"it has {len(document):,} pages; the first {_MOST_PAGES:,} are read")


def _title(document: Any) -> str:
    try:
        return str(document.get_metadata_value("Title") or "")
    except (ValueError, RuntimeError):
        return ""


def _say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
