"""A file from a server: resumable, verified, and readable while it comes."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from lodesmith.core.errors import InputError
from lodesmith.core.files import read_json, write_json
from lodesmith.core.progress import tell
from lodesmith.data.pulls._errors import DigestError, ServerError, SizeError, SpaceError
from lodesmith.data.pulls._http import CONNECTION_ERRORS, Patience, TryAgainError, ask, give_up, retrying

__all__ = ["Download", "Fetched", "check_digest", "ensure_space", "remote_size"]

_BLOCK = 1 << 18
_LARGEST = 1 << 40  # bytes of one file whose size nobody published
_KEEP_FREE = 64 << 20  # bytes that a pull leaves on the disk
_SIZE = re.compile(r"\d{1,18}", re.ASCII)
_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)


@dataclass(frozen=True)
class Fetched:
    """A file that has come.

    Args:
        path: where it lies.
        bytes: its size.
        sha256: in hexadecimal; '' where only its beginning was read.
        resumed: bytes that were there before.
        checked: what its bytes were compared with.
    """

    path: Path
    bytes: int
    sha256: str
    resumed: int = 0
    checked: str = ""


@dataclass
class Download:
    """One file on its way. `target` appears when all has come and its digest agrees; until then there is
    `target.part`, which the next attempt or the next process goes on with.

    Args:
        url: where it is.
        target: where it shall lie.
        headers: of the request, a token for example.
        digest: `md5:…` or `sha256:…` as published, or ''.
        size: bytes, where they are known beforehand; a file twice as large is refused.
        patience: how often to try.
    """

    url: str
    target: Path
    headers: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    size: int | None = None
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        self.part = self.target.with_name(self.target.name + ".part")
        self._note = self.target.with_name(self.target.name + ".part.json")
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._offset = 0
        self._total: int | None = None
        self._validator = ""
        self.resumed = 0

    def fetch(self) -> Fetched:
        """Bring the whole file.

        Raises:
            OfflineError, RefusedError, AbsentError, ServerError: it does not come.
            DigestError, SizeError: what came is something else; it is deleted.
            SpaceError: the disk has not enough room.
        """
        if self.target.exists():
            with suppress(DigestError):
                return self._present()
            self._start_over()
        try:
            return self._whole()
        except (DigestError, SizeError):
            if not self.resumed:
                raise
            self._start_over()  # the part that was there may be to blame
            self.resumed = 0
            return self._whole()

    def _whole(self) -> Fetched:
        for _ in self.blocks(strict=False):
            pass
        return self.finish()

    def _present(self) -> Fetched:
        with self.target.open("rb") as file:
            while block := file.read(_BLOCK):
                self._count(block)
        self.resumed = self._offset
        self._check()
        return Fetched(self.target, self._offset, self._sha256.hexdigest(), self.resumed)

    def finish(self) -> Fetched:
        """Put the file in place once `blocks` has given all of it."""
        self._check()
        self.part.replace(self.target)
        self._note.unlink(missing_ok=True)
        return Fetched(self.target, self._offset, self._sha256.hexdigest(), self.resumed)

    @property
    def complete(self) -> bool:
        """Whether `blocks` has given the whole file."""
        return self._total is not None and self._offset == self._total and self.part.exists()

    def _check(self) -> None:
        try:
            check_digest(self.digest, self._sha256.hexdigest(), self._md5.hexdigest(), self.url)
        except DigestError:
            self.target.unlink(missing_ok=True)
            self.part.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)
            raise

    def blocks(self, *, strict: bool = True) -> Iterator[bytes]:
        """Every byte from the first, those on the disk before those on their way; what comes is kept.

        Args:
            strict: the caller has used what it was given, so a file that changed meanwhile is an error. Otherwise
                it is begun again, and blocks of before are void.
        """
        self._recall()
        yield from self._kept()
        self.resumed = self._offset
        failures = 0
        while self._total is None or self._offset < self._total:
            before = self._offset
            try:
                yield from self._connection(strict)
            except TryAgainError as failed:
                failures = 0 if self._offset > before else failures
                give_up(failed, failures, self.url, self.patience)
                failures += 1

    # what is on the disk

    def _recall(self) -> None:
        """Take up the part that an earlier process left, if the server can tell whether it is still the same file."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        try:
            note = read_json(self._note) if self._note.exists() else {}
        except InputError:
            note = {}
        if isinstance(note, dict) and note.get("url") == self.url and (note.get("validator") or self.digest):
            self._validator = str(note.get("validator") or "")
            total = note.get("total")
            self._total = total if isinstance(total, int) else None
        else:
            self._start_over()
        if self._total is not None and self.part.exists() and self.part.stat().st_size > self._total:
            self._start_over()

    def _start_over(self) -> None:
        for file in (self.part, self._note):
            with suppress(FileNotFoundError):
                file.unlink()
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._offset, self._total, self._validator = 0, None, ""

    def _kept(self) -> Iterator[bytes]:
        if not self.part.exists():
            return
        with self.part.open("rb") as file:
            while block := file.read(_BLOCK):
                self._count(block)
                yield block

    def _count(self, block: bytes) -> None:
        self._sha256.update(block)
        if self.digest.startswith("md5:"):
            self._md5.update(block)
        self._offset += len(block)

    # what is on its way

    def _connection(self, strict: bool) -> Iterator[bytes]:
        """The blocks of one connection, from where we are to the end of the file."""
        headers = {"Accept-Encoding": "identity", **self.headers}
        if self._offset:
            headers["Range"] = f"bytes={self._offset}-"
            if self._validator:
                headers["If-Range"] = self._validator
        try:
            answer = ask(self.url, headers, self.patience)
        except ServerError as error:
            if self._offset and "HTTP 416" in error.what:
                self._changed(strict)
                raise TryAgainError("the server has less than is here") from None
            raise
        with answer:
            self._begin(answer, strict)
            yield from self._body(answer)

    def _changed(self, strict: bool) -> None:
        """The server's file is another one now: begin again, unless the caller has used the old one."""
        used = self._offset
        self._start_over()
        self.resumed = 0
        if strict and used:
            raise DigestError(f"{self.url}: the file changed while it was read", "run the same command again")

    def _begin(self, answer: HTTPResponse, strict: bool) -> None:
        """Agree with the server on where the bytes begin, how many there are, and which file it is."""
        if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
            raise ServerError(f"{self.url}: comes encoded as {coding}, which was not asked for", "give a mirror")
        if answer.status == 206:
            start, total = _content_range(answer, self.url)
            other = self._validator and _validator(answer) not in ("", self._validator)
            if other or start != self._offset or (self._total is not None and total not in (None, self._total)):
                self._changed(strict)
                raise TryAgainError("the server sent a part of another file")
            self._total = total if total is not None else self._total
        else:
            self._from_the_start(answer, strict)
        self._remember(answer)
        self._room()

    def _from_the_start(self, answer: HTTPResponse, strict: bool) -> None:
        """The server sends the whole file although we have its beginning, if we have."""
        length = answer.headers.get("Content-Length")
        total = int(length) if length and _SIZE.fullmatch(length) else None
        if self._offset and strict and (total is None or total >= self._offset):
            self._skip(answer)
        else:
            self._changed(strict)
        self._total = total

    def _skip(self, answer: HTTPResponse) -> None:
        """Pass over what the caller has had, which must be the same again."""
        with self.part.open("rb") as file:
            while block := file.read(_BLOCK):
                try:
                    again = answer.read(len(block))
                except CONNECTION_ERRORS as error:
                    raise TryAgainError(f"the connection broke: {error}") from None
                if again != block[: len(again)]:
                    self._changed(strict=True)
                if len(again) < len(block):
                    raise TryAgainError("the connection ended before what was here")

    def _remember(self, answer: HTTPResponse) -> None:
        self._validator = _validator(answer)
        note: dict[str, Any] = {"url": self.url, "validator": self._validator, "total": self._total}
        write_json(self._note, note)

    def _room(self) -> None:
        largest = 2 * self.size if self.size else _LARGEST
        if self._total is not None and self._total > largest:
            raise SizeError(
                f"{self.url}: has {self._total:,} bytes; at most {largest:,} are taken", "check the address"
            )
        if self._total is not None:
            ensure_space(self.target.parent, self._total - self._offset, self.target.name)

    def _body(self, answer: HTTPResponse) -> Iterator[bytes]:
        """Append what comes to the part; a connection that ends early is `TryAgainError`."""
        largest = 2 * self.size if self.size else _LARGEST
        with self.part.open("ab") as file:
            while True:
                try:
                    block = answer.read1(_BLOCK)  # what is there, so that it is kept if we are killed
                except CONNECTION_ERRORS as error:
                    raise TryAgainError(f"the connection broke after {self._offset:,} bytes: {error}") from None
                if not block:
                    break
                if self._offset + len(block) > (largest if self._total is None else self._total):
                    raise SizeError(f"{self.url}: sends more bytes than it has", "run the same command again")
                file.write(block)
                file.flush()
                self._count(block)
                tell(f"download {self.target.name}", self._offset, self._total, "bytes")
                yield block
        if self._total is None:
            self._total = self._offset
        elif self._offset < self._total:
            raise TryAgainError(f"the connection ended after {self._offset:,} of {self._total:,} bytes")


def _validator(answer: HTTPResponse) -> str:
    """What tells one version of a file from another: a strong ETag, else the time of its last change, else ''."""
    etag = answer.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")


def _content_range(answer: HTTPResponse, url: str) -> tuple[int, int | None]:
    """First byte and size of the file, of a 206 answer."""
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if not found or found[1] is None:
        raise ServerError(f"{url}: sends a part without saying which", "give a mirror with --from")
    return int(found[1]), None if found[3] == "*" else int(found[3])


def check_digest(expected: str, sha256: str, md5: str, name: str) -> None:
    """Compare a file's digests with the published one, `md5:…` or `sha256:…`.

    Raises:
        DigestError: they differ.
    """
    kind, _, value = expected.partition(":")
    found = {"sha256": sha256, "md5": md5}.get(kind, "")
    if expected and found != value.lower():
        raise DigestError(
            f"{name}: its {kind.upper()} is {found}, expected was {value}",
            "the file is damaged, or was changed by its publisher: run again, or give another source with --from",
        )


def ensure_space(folder: Path, needed: int, what: str) -> None:
    """Refuse what the disk cannot hold, before anything is written.

    Raises:
        SpaceError: fewer bytes are free.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed + _KEEP_FREE > free:
        raise SpaceError(
            f"{what} needs {needed:,} bytes and leaves {_KEEP_FREE:,}, and {folder} has {free:,} free",
            "free the disk, or choose another --out",
        )


def remote_size(url: str, headers: Mapping[str, str], patience: Patience) -> int | None:
    """Bytes of a file by a HEAD request; None where the server does not say."""

    def head() -> int | None:
        with ask(url, {"Accept-Encoding": "identity", **headers}, patience, method="HEAD") as answer:
            length = answer.headers.get("Content-Length", "")
            return int(length) if _SIZE.fullmatch(length) else None

    return retrying(head, url, patience)


def small_text(url: str, headers: Mapping[str, str], patience: Patience, most: int = 1 << 20) -> str:
    """A short text file."""

    def get() -> str:
        with ask(url, headers, patience) as answer:
            try:
                return answer.read(most).decode("utf-8", "replace")
            except CONNECTION_ERRORS as error:
                raise TryAgainError(str(error)) from None

    return retrying(get, url, patience)


def load_digests(text: str) -> dict[str, str]:
    """The lines of a SHA256SUMS file: path → `sha256:…`."""
    found = (re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.strip()) for line in text.splitlines())
    return {match[2].removeprefix("./"): f"sha256:{match[1].lower()}" for match in found if match}
