"""Where the hub is and who asks: `HF_ENDPOINT` and `HF_TOKEN`, from the environment or a `.env` file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from lodesmith.core.errors import InputError

__all__ = ["address", "cache_folder", "endpoint", "offline", "setting", "token"]

HUB = "https://huggingface.co"
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$")
_MOST = 1 << 20  # bytes of a .env file


def setting(name: str) -> str:
    """A setting from the environment, else from `.env` in the working directory, else ''."""
    return os.environ.get(name, "").strip() or _dotenv().get(name, "")


def _dotenv() -> dict[str, str]:
    """The assignments of `.env`: `NAME=value`, quotes and `export` allowed. A file that cannot be read has none."""
    try:
        with Path(".env").open("rb") as file:
            text = file.read(_MOST).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return {}
    found = (_LINE.match(line) for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {match[1]: _unquoted(match[2]) for match in found if match}


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return re.split(r"\s#", value, maxsplit=1)[0].rstrip()


def endpoint() -> str:
    """The hub's address without a slash at its end.

    Raises:
        InputError: `HF_ENDPOINT` is no address.
    """
    return address(setting("HF_ENDPOINT") or HUB, "HF_ENDPOINT")


def address(text: str, where: str) -> str:
    """An http or https address without a slash at its end.

    Args:
        text: what the user gave.
        where: in which option or variable, for the message.

    Raises:
        InputError: it is something else.
    """
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        sound = sound and "@" not in parts.netloc and not re.search(r"[\s\x00-\x1f]", text)
        (parts.hostname or "").encode("idna")
    except ValueError:  # UnicodeError among them
        sound = False
    if not sound:
        raise InputError(f"{where}: {text.rpartition('@')[2]!r} is no address", "give one such as https://host/path")
    return text.rstrip("/")


def token() -> str:
    """The hub token: `HF_TOKEN`, else the one that `hf auth login` stored, else ''."""
    if found := setting("HF_TOKEN"):
        return found
    from huggingface_hub import get_token

    return get_token() or ""


def offline() -> bool:
    """Whether the user has forbidden the hub client to connect (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def cache_folder() -> Path:
    """`$LODESMITH_CACHE`, else `$XDG_CACHE_HOME/lodesmith`, else `~/.cache/lodesmith`; it may not exist."""
    if own := os.environ.get("LODESMITH_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "lodesmith"
    return Path(os.path.expanduser("~")) / ".cache" / "lodesmith"  # noqa: PTH111 - Path.home() raises where HOME is unset
