"""Hostile archives: each ends in a typed error, and nothing lands outside the folder."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from lodesmith.data.pulls import _archive
from lodesmith.data.pulls._archive import Limits, extract
from lodesmith.data.pulls._errors import ArchiveError


def tar(path: Path, *members: tuple[str, bytes | str, bytes], mode: str = "w:gz") -> Path:
    """A tar file of (name, type or link's target, content)."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(kind, str):
                info.type, info.linkname = tarfile.SYMTYPE, kind
            else:
                info.type = kind
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in members:
            archive.writestr(name, data, compress_type=zipfile.ZIP_DEFLATED)
    return path


def special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


REG = tarfile.REGTYPE


def refused(archive: Path, limits: Limits | None = None) -> str:
    """The kind of error, after a look that nothing escaped."""
    into = archive.parent / "inner" / "into"
    with pytest.raises(ArchiveError) as raised:
        extract(archive, into, limits=limits)
    assert str(archive) in str(raised.value) or "tar header" in str(raised.value)
    outside = [p for p in archive.parent.rglob("*") if into not in p.parents and p not in (archive, into, into.parent)]
    assert not outside
    assert not any(p.is_symlink() for p in archive.parent.rglob("*"))
    return raised.value.kind


def test_plain_archives(tmp_path: Path) -> None:
    for archive in (
        zipped(tmp_path / "a.zip", ("set/", b""), ("set/x.txt", b"one"), ("set/deep/y.txt", b"two"), ("./z", b"3")),
        tar(tmp_path / "a.tar.gz", ("set", tarfile.DIRTYPE, b""), ("set/x.txt", REG, b"one"),
            ("set/deep/y.txt", REG, b"two"), ("./z", REG, b"3")),
        tar(tmp_path / "a.tar", ("set/x.txt", REG, b"one"), ("set/deep/y.txt", REG, b"two"), ("z", REG, b"3"),
            mode="w"),
    ):  # fmt: skip
        into = tmp_path / f"{archive.name}.into"
        files = extract(archive, into)
        assert sorted(f.relative_to(into).as_posix() for f in files) == ["set/deep/y.txt", "set/x.txt", "z"]
        assert (into / "set/deep/y.txt").read_bytes() == b"two"
        only = extract(archive, tmp_path / "only", lambda name: name.endswith("x.txt"))
        assert [f.name for f in only] == ["x.txt"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../evil", "traversal"),
        ("set/../../evil", "traversal"),
        ("/tmp/evil", "absolute"),
        ("C:evil", "absolute"),
        ("set\\..\\evil", "absolute"),
    ],
)
def test_paths_out_of_the_folder(tmp_path: Path, name: str, kind: str) -> None:
    assert refused(zipped(tmp_path / "a.zip", ("ok", b"1"), (name, b"x"))) == kind
    (tmp_path / "inner/into/ok").unlink(missing_ok=True)
    (tmp_path / "a.zip").unlink()
    assert refused(tar(tmp_path / "a.tar.gz", (name, REG, b"x"))) == kind


def test_links_and_devices(tmp_path: Path) -> None:
    cases: list[tuple[str, bytes | str, str]] = [
        ("l", "/etc/passwd", "link"),
        ("l", "../../x", "link"),
        ("h", tarfile.LNKTYPE, "link"),
        ("c", tarfile.CHRTYPE, "device"),
        ("b", tarfile.BLKTYPE, "device"),
        ("p", tarfile.FIFOTYPE, "device"),
    ]
    for name, kind, expected in cases:
        archive = tar(tmp_path / "a.tar.gz", (name, kind, b""))
        assert refused(archive) == expected, (name, kind)
    (tmp_path / "a.tar.gz").unlink()
    assert refused(zipped(tmp_path / "a.zip", (special("l", stat.S_IFLNK | 0o777), b"/etc/passwd"))) == "link"
    assert refused(zipped(tmp_path / "a.zip", (special("d", stat.S_IFCHR | 0o666), b""))) == "device"


def test_a_link_is_refused_even_where_it_is_not_wanted(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", ("x.txt", REG, b"1"), ("l", "/etc", b""))
    with pytest.raises(ArchiveError):
        extract(archive, tmp_path / "into", lambda name: name == "x.txt")


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "_SMALL", 1 << 16)
    zeros = b"\0" * (1 << 20)
    zip_bomb = zipped(tmp_path / "a.zip", ("zeros", zeros))
    assert refused(zip_bomb) == "bomb"
    assert not (tmp_path / "inner/into/zeros").exists(), "declared sizes are refused before anything is written"
    zip_bomb.unlink()
    tar_bomb = tar(tmp_path / "a.tar.gz", ("zeros", REG, zeros))
    assert refused(tar_bomb) == "bomb"
    assert refused(tar_bomb, Limits(total=1 << 18, ratio=1e9)) == "bomb"
    assert extract(tar_bomb, tmp_path / "fine", limits=Limits(ratio=1e9))
    unwanted = tmp_path / "unwanted"
    with pytest.raises(ArchiveError):
        extract(tar_bomb, unwanted, lambda name: False)
    many = zipped(tmp_path / "many.zip", *[(f"{i}", b"") for i in range(20)])
    with pytest.raises(ArchiveError, match="more than 10 members"):
        extract(many, tmp_path / "many", limits=Limits(members=10))


def test_a_zip_that_lies_about_its_sizes(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", ("x", b"\0" * 50_000))
    raw = archive.read_bytes()
    archive.write_bytes(raw.replace(struct.pack("<I", 50_000), struct.pack("<I", 10)))
    with pytest.raises(ArchiveError):
        extract(archive, tmp_path / "into")
    assert (tmp_path / "into/x").stat().st_size <= 10


def test_a_tar_header_that_claims_gigabytes(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    raw = info.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 1024
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(raw))
    assert refused(tmp_path / "a.tar.gz") == "bomb"


def test_truncation_everywhere(tmp_path: Path) -> None:
    import random

    data = random.Random(0).randbytes(20_000)
    whole_zip = zipped(tmp_path / "a.zip", ("x", data), ("y", data)).read_bytes()
    whole_tar = tar(tmp_path / "a.tar.gz", ("x", REG, data), ("y", REG, data)).read_bytes()
    for name, whole in (("t.zip", whole_zip), ("t.tar.gz", whole_tar)):
        for size in (0, 1, 20, len(whole) // 3, len(whole) // 2, len(whole) - 30, len(whole) - 4):
            (tmp_path / name).write_bytes(whole[:size])
            with pytest.raises(ArchiveError) as raised:
                extract(tmp_path / name, tmp_path / "into")
            assert raised.value.kind in ("truncated", "damaged"), (name, size)
            if size > 20 and name.endswith("gz"):
                assert raised.value.kind == "truncated", size
    plain = tar(tmp_path / "p.tar", ("x", REG, data), mode="w").read_bytes()
    (tmp_path / "p.tar").write_bytes(plain[:15_000])
    with pytest.raises(ArchiveError, match="end"):
        extract(tmp_path / "p.tar", tmp_path / "into")


def test_one_flipped_byte(tmp_path: Path) -> None:
    data = bytes(range(256)) * 100
    for name, archive in (
        ("a.zip", zipped(tmp_path / "a.zip", ("x", data))),
        ("a.tar.gz", tar(tmp_path / "a.tar.gz", ("x", REG, data))),
    ):
        raw = bytearray(archive.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(ArchiveError):
            extract(tmp_path / name, tmp_path / "into")


def test_encrypted_and_repeated_members(tmp_path: Path) -> None:
    assert refused(zipped(tmp_path / "a.zip", ("x", b"1"), ("x", b"2"))) == "duplicate"
    raw = bytearray(zipped(tmp_path / "a.zip", ("x", b"secret")).read_bytes())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(magic) + place] |= 1
    (tmp_path / "a.zip").write_bytes(raw)
    assert refused(tmp_path / "a.zip") == "encrypted"


def test_no_archive_at_all(tmp_path: Path) -> None:
    (tmp_path / "page.zip").write_bytes(b"<html>" * 500)
    with pytest.raises(ArchiveError, match="neither a zip nor a tar"):
        extract(tmp_path / "page.zip", tmp_path / "into")


def test_ways_of_packing_that_are_not_known_or_broken(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.txt", "some words " * 200)
    whole = path.read_bytes()
    start = 30 + len("a.txt") + 9  # after the header and the properties of LZMA
    path.write_bytes(whole[:start] + b"\xff" * 20 + whole[start + 20 :])
    with pytest.raises(ArchiveError):
        extract(path, tmp_path / "out")
    place = whole.index(b"PK\x01\x02") + 10
    path.write_bytes(whole[:8] + struct.pack("<H", 97) + whole[10:place] + struct.pack("<H", 97) + whole[place + 2 :])
    with pytest.raises(ArchiveError):
        extract(path, tmp_path / "out")


@pytest.mark.parametrize("name", ["a/b.txt", "n" * 300], ids=["below a file", "too long"])
def test_names_that_no_folder_holds(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError):
        extract(zipped(tmp_path / "x.zip", ("a", b"1"), (name, b"2")), tmp_path / "out")
