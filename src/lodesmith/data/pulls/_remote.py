"""What sources and origins tell each other: files at a publisher, and what a pull wants."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["Plan", "Remote", "Wanted", "sample", "share"]


@dataclass(frozen=True)
class Remote:
    """A file at its publisher.

    Args:
        url: its published address; a mirror has the same path.
        size: bytes, as published or listed; None where nobody says.
        digest: `md5:…` or `sha256:…` as published, or ''.
        headers: of the request.
        local: where it lies, if it came in a folder.
        hub: whether the hub's token goes with the request.
    """

    url: str
    size: int | None = None
    digest: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    local: Path | None = None
    hub: bool = False

    @property
    def path(self) -> str:
        """The path of the address, without the slash at its beginning."""
        return unquote(urlsplit(self.url).path).lstrip("/")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Plan:
    """What a pull will read.

    Args:
        files: in the order in which they are read.
        source: what dataset.json names as the source.
        licence: as the source publishes it.
        revision: the commit of a hub repository, or ''.
        partial: a limit may end the reading before the last file.
        unpacked: bytes of the dataset as far as its publisher tells, or None.
        notes: what the user should know.
    """

    files: tuple[Remote, ...]
    source: str
    licence: str
    revision: str = ""
    partial: bool = False
    unpacked: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What the user asks for.

    Args:
        name: the dataset: `beir/scifact`, `wikipedia:de:20231101` …
        source: the file in this folder that reads it: `beir`, `wikipedia` …
        detail: the rest of the name: `scifact`, `de:20231101`.
        limit: the most queries (passages for wikipedia, question–page pairs for colpali_train_set), or None.
        split_ratio: the share of the training queries that stays in `train`; the others become `test`.
        words: the most words of a passage.
        seed: fixes every draw and order.
    """

    name: str
    source: str
    detail: str = ""
    limit: int | None = None
    split_ratio: float | None = None
    words: int = 200
    seed: int = 0


def share(seed: int, key: str) -> float:
    """A number in [0, 1) that seed and key fix, on every machine."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def sample(keys: Iterable[str], count: int | None, seed: int) -> set[str]:
    """`count` of the keys, drawn by the seed, whatever their order; all of them where it is None."""
    if count is None:
        return set(keys)
    return set(heapq.nsmallest(count, keys, key=lambda key: (share(seed, key), key)))
