"""Archives from elsewhere, unpacked without trust: nothing lands outside the folder, and nothing grows without end."""

from __future__ import annotations

import errno
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from lodesmith.core.progress import tell
from lodesmith.data.pulls._download import ensure_space
from lodesmith.data.pulls._errors import ArchiveError

__all__ = ["Limits", "extract"]

_BLOCK = 1 << 20
_SMALL = 64 << 20  # bytes that an archive may grow to whatever its ratio is
_LONGEST_HEADER = 1 << 20  # bytes of one read by the tar reader: a member's name and attributes, never its content
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, struct.error, OSError, ValueError),
    *(lzma.LZMAError, NotImplementedError),  # the second: a way of packing that is not known here
)
_CLASH = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)  # names that no folder holds together


@dataclass(frozen=True)
class Limits:
    """What an archive may become.

    Args:
        total: bytes of all that is unpacked.
        ratio: unpacked bytes over packed bytes, once 64 MiB are unpacked.
        members: files and folders.
    """

    total: int = 256 << 30
    ratio: float = 100.0
    members: int = 100_000


def extract(
    archive: Path, into: Path, wanted: Callable[[str], bool] = lambda name: True, limits: Limits | None = None
) -> list[Path]:
    """Unpack the wanted files of a .zip, .tar.gz, .tgz or .tar file; all members are examined, wanted or not.

    Args:
        archive: the file.
        into: the folder; made if it is missing. A file there is overwritten.
        wanted: whether a file is unpacked, by its name in the archive.
        limits: what it may become.

    Raises:
        ArchiveError: a member points outside the folder, is a link or a device, the archive grows beyond the
            limits, ends early or is damaged. What was unpacked before stays in `into`.
        SpaceError: the disk has not enough room.
    """
    limits = limits or Limits()
    unpack = _Unpacking(archive, into, wanted, limits)
    try:
        if zipfile.is_zipfile(archive):
            return unpack.zip()
        return unpack.tar()
    except ArchiveError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None and error.errno not in _CLASH:
            raise  # the disk's fault
        raise _damaged(archive, error) from None


def _damaged(archive: Path, error: Exception) -> ArchiveError:
    early = isinstance(error, EOFError) or "end of" in str(error) or "truncated" in str(error)
    if early or archive.suffix == ".zip":
        return ArchiveError("truncated" if early or not _has_end(archive) else "damaged", f"{archive}: {error}")
    return ArchiveError("damaged", f"{archive}: {error}")


def _has_end(archive: Path) -> bool:
    """Whether the directory that ends a zip file is there."""
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - (1 << 16) - 22))
        return b"PK\x05\x06" in file.read()


class _Unpacking:
    """One archive on its way into one folder."""

    def __init__(self, archive: Path, into: Path, wanted: Callable[[str], bool], limits: Limits) -> None:
        self.archive, self.into, self.wanted, self.limits = archive, into, wanted, limits
        self.packed = max(1, archive.stat().st_size)
        self.grown = 0
        self.seen: set[str] = set()
        self.files: list[Path] = []

    def zip(self) -> list[Path]:
        with zipfile.ZipFile(self.archive) as archive:
            members = archive.infolist()
            names = [self._checked(m.filename, _zip_kind(m)) for m in members]
            self._grow(sum(m.file_size for m in members))  # as declared: refused before a byte is written
            self.grown = 0
            whole = sum(m.file_size for m, name in zip(members, names, strict=True) if self.wanted(name))
            ensure_space(self.into, whole, f"{self.archive.name}, unpacked,")
            for member, name in zip(members, names, strict=True):
                if not member.is_dir() and self.wanted(name):
                    with archive.open(member) as source:
                        self._write(name, source)
        return self.files

    def tar(self) -> list[Path]:
        with _opened(self.archive) as raw, tarfile.open(fileobj=_Frugal(raw), mode="r:") as archive:  # type: ignore[call-overload]
            for member in archive:
                name = self._checked(member.name, _tar_kind(member))
                if member.isreg():
                    if self.wanted(name):
                        self._member(archive, member, name)
                    else:
                        self._grow(member.size)
            while raw.read(_BLOCK):  # to the end, for gzip's own checksum
                pass
        return self.files

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        source = archive.extractfile(member)
        if source is None:
            raise ArchiveError("damaged", f"{self.archive}: {name} has no content")
        with source:
            if self._write(name, source) != member.size:
                raise ArchiveError("truncated", f"{self.archive}: {name} ends early")

    def _checked(self, name: str, kind: str) -> str:
        """A member's name as a path below the folder."""
        if kind:
            raise ArchiveError(kind, f"{self.archive}: {name!r} is a {_WORDS[kind]}; it is not unpacked")
        path = PurePosixPath(name)
        if path.is_absolute() or "\\" in name or "\x00" in name or name[1:2] == ":":
            raise ArchiveError("absolute", f"{self.archive}: {name!r} is not a path below a folder")
        if ".." in path.parts:
            raise ArchiveError("traversal", f"{self.archive}: {name!r} leads out of the folder")
        clean = path.as_posix()
        if clean in self.seen and not name.endswith("/") and clean != ".":
            raise ArchiveError("duplicate", f"{self.archive}: {name!r} occurs twice")
        self.seen.add(clean)
        if len(self.seen) > self.limits.members:
            raise ArchiveError("bomb", f"{self.archive}: has more than {self.limits.members:,} members")
        return clean

    def _write(self, name: str, source: IO[bytes]) -> int:
        path = self.into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with path.open("wb") as out:
            while block := source.read(_BLOCK):
                self._grow(len(block))
                out.write(block)
                written += len(block)
                tell(f"unpack {self.archive.name}", self.grown, None, "bytes")
        self.files.append(path)
        return written

    def _grow(self, count: int) -> None:
        self.grown += count
        if self.grown > self.limits.total:
            raise ArchiveError("bomb", f"{self.archive}: unpacks to more than {self.limits.total:,} bytes")
        if self.grown > _SMALL and self.grown > self.limits.ratio * self.packed:
            raise ArchiveError(
                "bomb", f"{self.archive}: {self.packed:,} bytes unpack to more than {self.limits.ratio:g} times as many"
            )


_WORDS = {"link": "link", "device": "device or pipe", "encrypted": "encrypted file", "damaged": "sparse file"}


def _zip_kind(member: zipfile.ZipInfo) -> str:
    """What forbids a member of a zip file; '' for plain files and folders."""
    if member.flag_bits & 0x1:
        return "encrypted"
    mode = member.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "link"
    return "device" if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR) else ""


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "link"
    if member.issparse():
        return "damaged"
    return "" if member.isreg() or member.isdir() else "device"


@contextmanager
def _opened(archive: Path) -> Iterator[IO[bytes]]:
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed and not tarfile.is_tarfile(archive):
        short = archive.stat().st_size < 512
        raise ArchiveError("truncated" if short else "damaged", f"{archive}: is neither a zip nor a tar file")
    with cast("IO[bytes]", gzip.open(archive, "rb") if packed else archive.open("rb")) as opened:
        yield opened


class _Frugal:
    """A file whose single reads are bounded: the tar reader takes a header's declared length in one read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _LONGEST_HEADER:
            raise ArchiveError("bomb", f"a tar header claims {size:,} bytes; at most {_LONGEST_HEADER:,} are read")
        return self._file.read(size)
