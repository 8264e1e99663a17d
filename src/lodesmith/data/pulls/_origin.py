"""Where files come from: their publishers, a mirror's address, or a folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from lodesmith.core.errors import InputError
from lodesmith.core.hashing import text_key
from lodesmith.core.progress import tell
from lodesmith.data.pulls import _ledger as ledger
from lodesmith.data.pulls import _settings as settings
from lodesmith.data.pulls._download import Download, Fetched, check_digest, load_digests, remote_size, small_text
from lodesmith.data.pulls._errors import AbsentError, RefusedError
from lodesmith.data.pulls._http import Patience
from lodesmith.data.pulls._hub import Listing, list_folder, list_repository
from lodesmith.data.pulls._remote import Remote

__all__ = ["SUMS", "Folder", "Origin", "Reading", "Web", "origin_of"]

_BLOCK = 1 << 20

SUMS = "SHA256SUMS"
"""A mirror that packs archives anew lists their digests here; they take the place of the published ones."""


class Origin(Protocol):
    """A place that has the files of publishers."""

    @property
    def label(self) -> str:
        """What dataset.json says of it; '' for the publishers themselves."""
        ...

    def size(self, remote: Remote) -> int | None:
        """Bytes of a file; None where it is not said."""
        ...

    def fetch(self, remote: Remote, folder: Path) -> Fetched:
        """The whole file, verified: where it lies, or downloaded into `folder`."""
        ...

    def read(self, remote: Remote, folder: Path) -> Reading:
        """The file's bytes from the first, as they come; what comes is kept in `folder`."""
        ...

    def listing(self, repo: str, folder: str, revision: str = "") -> Listing:
        """The files of a hub dataset below a folder."""
        ...


def origin_of(place: str | None, patience: Patience | None = None) -> Origin:
    """The origin that `--from` names: nothing, an http(s) address, or a folder.

    Raises:
        InputError: it is neither an address nor a folder.
    """
    if not place or place.startswith(("http://", "https://")):
        return Web(settings.address(place, "--from") if place else "", patience or Patience())
    if not Path(place).is_dir():
        raise InputError("is neither a folder nor an http address", "give one of them with --from", path=place)
    return Folder(Path(place))


class Reading(io.RawIOBase):
    """A file read in order while it comes. Ending before its end is allowed; `result` says how far it went.

    Args:
        blocks: its bytes.
        result: called once, when reading is over.
    """

    def __init__(self, blocks: Iterator[bytes], result: Callable[[int], Fetched]) -> None:
        super().__init__()
        self._blocks, self._result = blocks, result
        self._rest = b""
        self._taken = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = block
            self._taken += len(block)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def result(self) -> Fetched:
        """What was read: verified if it was all of the file."""
        self.close()
        return self._result(self._taken)

    def close(self) -> None:
        """End the connection."""
        if isinstance(self._blocks, Generator):
            self._blocks.close()
        super().close()


@dataclass
class Web:
    """Publishers, or a mirror that has their files under the same paths.

    Args:
        base: the mirror's address, or '' for the publishers' own.
        patience: how often to try.
    """

    base: str = ""
    patience: Patience = field(default_factory=Patience)
    _known: dict[Path, Fetched] = field(default_factory=dict, repr=False)

    @property
    def label(self) -> str:
        """The mirror's address."""
        return self.base

    @property
    def _endpoint(self) -> str:
        return self.base or settings.endpoint()

    @property
    def _is_hub(self) -> bool:
        """Whether hub files come from the hub that the settings name: only it is given the token."""
        return self._endpoint == settings.endpoint()

    def size(self, remote: Remote) -> int | None:
        """By a HEAD request, unless a listing or the publisher's own figures said it."""
        if remote.hub and remote.size is not None:
            return remote.size
        try:
            return remote_size(self._address(remote), self._headers(remote), self.patience)
        except RefusedError as error:
            raise self._refused(error, remote) from None

    def fetch(self, remote: Remote, folder: Path) -> Fetched:
        """Download it, or go on where an earlier pull stopped."""
        download = self._download(remote, folder)
        known = self._known.get(download.target)
        if known is not None and download.target.exists():
            return known  # a group reads the same archive again: it was verified before
        try:
            known = self._checked(remote, download.fetch())
        except RefusedError as error:
            raise self._refused(error, remote) from None
        self._known[download.target] = known
        return known

    def read(self, remote: Remote, folder: Path) -> Reading:
        """Download it while it is read."""
        download = self._download(remote, folder)
        if download.target.exists():
            whole = self.fetch(remote, folder)
            return Reading(_file_blocks(whole.path), lambda taken: whole)

        def result(taken: int) -> Fetched:
            if download.complete:
                return self._checked(remote, download.finish())
            return Fetched(download.part, taken, "", download.resumed, f"nothing: {taken:,} bytes of it were read")

        return Reading(self._blocks(download, remote), result)

    def _blocks(self, download: Download, remote: Remote) -> Iterator[bytes]:
        try:
            yield from download.blocks()
        except RefusedError as error:
            raise self._refused(error, remote) from None

    def listing(self, repo: str, folder: str, revision: str = "") -> Listing:
        """By the hub's API."""
        try:
            return list_repository(repo, folder, self._endpoint, self.patience, revision)
        except RefusedError as error:
            raise self._refused(error, Remote(self._endpoint, hub=True)) from None

    def _address(self, remote: Remote) -> str:
        if remote.hub or not self.base:
            return remote.url
        return f"{self.base}/{quote(remote.path)}"

    def _headers(self, remote: Remote) -> dict[str, str]:
        headers = dict(remote.headers)
        if remote.hub and self._is_hub and (token := settings.token()):
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _download(self, remote: Remote, folder: Path) -> Download:
        target = folder / f"{text_key(remote.path)[:12]}-{remote.name}"
        digest = self._digest(remote)
        size = remote.size if digest == remote.digest else None
        return Download(self._address(remote), target, self._headers(remote), digest, size, self.patience)

    def _digest(self, remote: Remote) -> str:
        return self._sums.get(remote.path) or remote.digest

    @cached_property
    def _sums(self) -> dict[str, str]:
        """The mirror's own digests."""
        if not self.base:
            return {}
        try:
            return load_digests(small_text(f"{self.base}/{SUMS}", {}, self.patience))
        except (AbsentError, RefusedError):
            return {}

    def _checked(self, remote: Remote, fetched: Fetched) -> Fetched:
        """Say what the digest was compared with; where there is none, compare with the first pull."""
        if remote.path in self._sums:
            return replace(fetched, checked=f"the mirror's {SUMS}")
        if remote.digest:
            return replace(fetched, checked=f"the published {remote.digest.partition(':')[0].upper()}")
        return replace(fetched, checked=ledger.verify(self._address(remote), fetched.sha256))

    def _refused(self, error: RefusedError, remote: Remote) -> RefusedError:
        if not remote.hub:
            return RefusedError(error.what, "give another source with --from")
        if not self._is_hub:
            return RefusedError(
                error.what,
                f"a token goes only to the hub itself: set HF_ENDPOINT={self.base} and HF_TOKEN, without --from",
            )
        return RefusedError(f"{error.what}, though HF_TOKEN is set" if settings.token() else error.what, error.do)


@dataclass
class Folder:
    """A folder with the files of publishers: under their path, or right in it.

    Args:
        root: the folder.
    """

    root: Path
    _known: dict[Path, Fetched] = field(default_factory=dict, repr=False)

    @property
    def label(self) -> str:
        """Its path."""
        return str(self.root)

    def size(self, remote: Remote) -> int | None:
        """The file's size."""
        return self._find(remote).stat().st_size

    def fetch(self, remote: Remote, folder: Path) -> Fetched:
        """Where it lies, verified."""
        path = self._find(remote)
        if path in self._known:
            return self._known[path]
        sha256, md5 = _digests(path, remote.name)
        expected = self._sums.get(path.relative_to(self.root).as_posix(), "") or remote.digest
        check_digest(expected, sha256, md5, str(path))
        checked = "nothing" if not expected else SUMS if expected != remote.digest else "the published digest"
        self._known[path] = Fetched(path, path.stat().st_size, sha256, 0, checked)
        return self._known[path]

    def read(self, remote: Remote, folder: Path) -> Reading:
        """From where it lies."""
        whole = self.fetch(remote, folder)
        return Reading(_file_blocks(whole.path), lambda taken: whole)

    def listing(self, repo: str, folder: str, revision: str = "") -> Listing:
        """By looking."""
        return list_folder(repo, folder, self.root)

    def _find(self, remote: Remote) -> Path:
        places = [remote.local] if remote.local else [self.root / remote.path, self.root / remote.name]
        for place in places:
            if place.is_file():
                return place
        looked = " or ".join(map(str, places))
        raise AbsentError(f"there is no file {looked}", f"bring it from {remote.url}")

    @cached_property
    def _sums(self) -> dict[str, str]:
        file = self.root / SUMS
        return load_digests(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else {}


def _file_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _digests(path: Path, name: str) -> tuple[str, str]:
    """SHA-256 and MD5 of a file."""
    sha256, md5, done = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    for block in _file_blocks(path):
        sha256.update(block)
        md5.update(block)
        done += len(block)
        tell(f"verify {name}", done, None, "bytes")
    return sha256.hexdigest(), md5.hexdigest()
