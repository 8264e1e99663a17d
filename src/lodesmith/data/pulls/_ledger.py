"""Digests of what came before: a file that nobody published a checksum for is compared with its first pull."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.files import locked, read_json, write_json
from lodesmith.data.pulls import _settings as settings
from lodesmith.data.pulls._errors import DigestError

__all__ = ["recorded", "remember", "verify"]


def _file() -> Path:
    return settings.cache_folder() / "pulls" / "digests.json"


def recorded(url: str) -> str:
    """The SHA-256 that an earlier pull found at an address, or ''."""
    return str(_entries().get(url, ""))


def _entries() -> dict[str, Any]:
    try:
        value = read_json(_file())
    except InputError:
        return {}
    return value if isinstance(value, dict) else {}


def remember(url: str, sha256: str) -> None:
    """Record what was found. A cache that cannot be written is done without."""
    with suppress(OSError), locked(_file().parent, wait=True):
        write_json(_file(), _entries() | {url: sha256})


def verify(url: str, sha256: str) -> str:
    """Compare with an earlier pull; what was done, in words.

    Raises:
        DigestError: the file is another one now.
    """
    before = recorded(url)
    if before and before != sha256:
        raise DigestError(
            f"{url}: its SHA-256 is {sha256}, an earlier pull found {before}",
            f"its publisher changed it, or it is damaged: to accept it, remove its line from {_file()}",
        )
    if not before:
        remember(url, sha256)
    return "an earlier pull's SHA-256" if before else "nothing: no checksum is published; its SHA-256 is now on record"
