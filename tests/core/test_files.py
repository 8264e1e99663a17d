"""Atomic files, digests and locks."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lodesmith.core.errors import BusyError, InputError, IntegrityError
from lodesmith.core.files import (
    atomic_file,
    atomic_folder,
    locked,
    read_json,
    read_object,
    sha256_file,
    sha256_folder,
    sweep,
    verify_files,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_content_and_no_rest(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(TypeError), atomic_file(tmp_path / "a") as handle:
        handle.writelines(["new", 1])
    assert (tmp_path / "a").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "f") as new:
        write_text(new / "x", "1")
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "f") as new:
        new.mkdir()
    assert (tmp_path / "f" / "x").read_text() == "1"
    with atomic_folder(tmp_path / "f") as new:
        write_text(new / "y", "3")
    assert [file.name for file in (tmp_path / "f").iterdir()] == ["y"], "the new folder replaces the old as a whole"
    assert [file.name for file in tmp_path.iterdir()] == ["f"]


def test_a_killed_writer_leaves_the_old_content(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    program = (
        "import os, signal, sys; from lodesmith.core.files import atomic_file\n"
        "with atomic_file(sys.argv[1]) as f:\n"
        "    f.write('new'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "a"], check=False).returncode == -9
    assert (tmp_path / "a").read_text() == "old"


def test_line_ends_and_bytes(tmp_path: Path) -> None:
    write_text(tmp_path / "sub" / "a", "x\ny é\n")
    assert (tmp_path / "sub" / "a").read_bytes() == "x\ny é\n".encode()
    with atomic_file(tmp_path / "b", "wb") as handle:
        handle.write(b"\x00\xff")
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"


def test_json_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, "é"]})
    assert read_json(tmp_path / "a.json") == {"a": [1, "é"]}
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert read_json(tmp_path / "a.json") == {"a": [1, "é"]}


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_broken_json_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "b.json")


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "content")
    write_text(tmp_path / "manifest.json", "{}")
    digests = sha256_folder(tmp_path)
    assert digests == {"a": sha256_file(tmp_path / "a")}
    verify_files(tmp_path, digests)
    write_text(tmp_path / "a", "contenu")
    with pytest.raises(IntegrityError, match="SHA-256"):
        verify_files(tmp_path, digests)
    (tmp_path / "a").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        verify_files(tmp_path, digests)


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(BusyError, match="another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_manifest_of_another_shape_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", ["no", "object"])
    with pytest.raises(InputError, match="holds no JSON object"):
        read_object(tmp_path / "manifest.json")
    for digests in (None, "text", {"a": None}):
        with pytest.raises(IntegrityError, match="the manifest is damaged"):
            verify_files(tmp_path, digests)


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    names = [".x.abcdefgh.tmp", ".x.heldheld.tmp", ".x.freshfre.tmp", ".x.y.abcdefgh.tmp", ".x.pull", "x.abcdefgh.tmp"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("1")
        if "fresh" not in name:
            os.utime(tmp_path / name, (1, 1))
    held = os.open(tmp_path / names[1], os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with atomic_folder(tmp_path / "x") as new:
        (new / "a").write_text("new")
    os.close(held)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], "x"])
    assert (tmp_path / "x" / "a").read_text() == "new"


def test_a_holder_sweeps_what_killed_writers_left(tmp_path: Path) -> None:
    for name in (".a.abcdefgh.tmp", ".b.abcdefgh.tmp", "a", ".a.tmp", ".a.abcdefgh.tmpx", ".a.ABCDEFGH.tmp"):
        (tmp_path / name).write_text("1")
    for name in (".m.abcdefgh.tmp", ".m.heldheld.tmp", ".m.pull"):
        (tmp_path / name / "in").mkdir(parents=True)
    held = os.open(tmp_path / ".m.heldheld.tmp", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    kept = {"a", ".a.tmp", ".a.abcdefgh.tmpx", ".a.ABCDEFGH.tmp", ".m.heldheld.tmp", ".m.pull"}
    sweep(tmp_path, "a")
    assert {path.name for path in tmp_path.iterdir()} == kept | {".b.abcdefgh.tmp", ".m.abcdefgh.tmp"}
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
    os.close(held)
    sweep(tmp_path / "missing")
