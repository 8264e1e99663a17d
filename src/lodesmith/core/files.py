"""Atomic files: after a crash a reader finds the old content or the new, never a part."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lodesmith.core.errors import BusyError, InputError, IntegrityError

_BLOCK = 1 << 20
_FRESH = 60.0  # seconds
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.tmp")
"""What `atomic_file` and `atomic_folder` write until it is whole."""


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path` for writing and put it in place when the block ends without an error.

    Args:
        path: the file to write; its folder is made if it is missing.
        mode: `"w"` for UTF-8 text with `\\n` line ends, `"wb"` for bytes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, mode, encoding=encoding, newline=newline) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Give a new empty folder next to `path` and exchange it for `path` when the block ends without an error.

    What killed processes left of their own new folders is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    temporary.chmod(0o777 & ~_umask())
    held = os.open(temporary, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync_file(file)
            elif file.is_dir():
                sync_folder(file)
        sync_folder(temporary)
        if not path.exists():
            temporary.rename(path)
        elif not _exchange(temporary, path):
            _replace(temporary, path)
        sync_folder(path.parent)
        shutil.rmtree(temporary, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(held)


def sweep(folder: Path, *names: str) -> None:
    """Remove the temporary files and folders that killed processes left in a folder which the caller holds, so that
    nobody else writes there.

    Args:
        folder: not those below it; it may be missing.
        names: of the files and folders that they were to become; of all where none is given.
    """
    if not folder.is_dir():
        return
    for left in folder.iterdir():
        found = _TEMPORARY.fullmatch(left.name)
        if found is None or (names and found["name"] not in names):
            continue
        if left.is_dir():
            _remove(left)
        else:
            left.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove new folders for `path` that nobody holds; those of the last minute may not be held yet."""
    for left in path.parent.iterdir():
        found = _TEMPORARY.fullmatch(left.name)
        if found is None or found["name"] != path.name or not left.is_dir():
            continue
        if time.time() - left.stat().st_mtime >= _FRESH:
            _remove(left)


def _remove(folder: Path) -> None:
    """A temporary folder, unless a process holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(handle)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two folders in one step, where the system can (Linux's renameat2)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2
    return bool(rename(here, os.fsencode(a.absolute()), here, os.fsencode(b.absolute()), exchange) == 0)


def _replace(new: Path, path: Path) -> None:
    """Two renames: a crash between them leaves the old folder under another name; an error puts it back."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as handle:
        handle.write(text)


def write_json(path: Path | str, value: Any, *, indent: int | None = 2) -> None:
    """Write strict JSON (NaN is refused) atomically."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing, unreadable or not JSON; the message names the file and line.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", path=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path=path) from None
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg}", path=path, line=error.lineno) from None
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, deep nesting
        raise InputError(f"not usable JSON: {error}", path=path) from None


def read_object(path: Path | str) -> dict[str, Any]:
    """Read a JSON file that holds an object, as every manifest does.

    Raises:
        InputError: as `read_json`, or it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError("holds no JSON object", "it is damaged: restore a copy, or make it again", path=path)
    return value


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder but its own `manifest.json`, by relative path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / "manifest.json")
    return {file.relative_to(folder).as_posix(): sha256_file(file) for file in files}


def verify_files(folder: Path, digests: Any) -> None:
    """Compare the files of a folder with the digests of its manifest.

    Raises:
        IntegrityError: a file is missing or differs, or the manifest has no digests.
    """
    if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
        raise IntegrityError(f"{folder}: the manifest is damaged", "build it again, or restore a copy")
    for name, expected in digests.items():
        file = folder / name
        if not file.is_file():
            raise IntegrityError(f"{file}: missing, though the manifest lists it", "build it again, or restore a copy")
        if (found := sha256_file(file)) != expected:
            raise IntegrityError(
                f"{file}: SHA-256 is {found[:12]}…, the manifest says {expected[:12]}…",
                "the file is damaged: build it again, or restore a copy",
            )


@contextmanager
def locked(folder: Path | str, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for one writer. The lock is the operating system's: it ends with the process that holds it.

    Args:
        folder: made if it is missing.
        wait: until it is free, instead of an error.

    Raises:
        BusyError: another process holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BusyError(
                f"{folder}: another process is writing here", "wait for it, or choose another folder"
            ) from None
        yield
    finally:
        os.close(handle)
