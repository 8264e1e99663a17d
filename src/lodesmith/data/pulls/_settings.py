"""Where the hub is and who asks: `HF_ENDPOINT` and `HF_TOKEN`, from the environment or a `.env` file."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["cache_folder", "endpoint", "offline", "setting", "token"]

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
    """The hub's address without a slash at its end."""
    return (setting("HF_ENDPOINT") or HUB).rstrip("/")


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
