"""PDF files as page images: drawn within limits, kept over a restart, hostile files reported."""

from __future__ import annotations

import builtins
import random
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lodesmith.core.errors import BusyError, InputError, MissingExtraError
from lodesmith.core.files import locked
from lodesmith.core.records import Dataset
from lodesmith.data import _pdf_reader
from lodesmith.data import pages as module
from lodesmith.data.check import check
from lodesmith.data.importing import ImportReport, Pages, import_paths
from lodesmith.data.pdf import parse_ranges, read_pdf


def pdf(pages: list[str], *, size: str = "144 72", trailer: str = "") -> bytes:
    """A PDF file whose pages have these contents (operators of the page description language)."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, content in enumerate(pages):
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size}] /Contents {5 + 2 * i} 0 R"
        objects.append(f"{page} /Resources << /Font << /F1 3 0 R >> >> >>".encode())
        packed = zlib.compress(content.encode("latin-1"))
        objects.append(b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(packed), packed))
    out = bytearray(b"%PDF-1.4\n")
    for number, body in enumerate(objects, start=1):
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    return bytes(out) + f"trailer << /Size {len(objects) + 1} /Root 1 0 R {trailer} >>\n%%EOF\n".encode()


def words(text: str) -> str:
    return f"BT /F1 9 Tf 10 40 Td ({text}) Tj ET"


def photo() -> str:
    """A page of an image with noise in all colours."""
    noise = random.Random(0).randbytes(100 * 100 * 3).hex()
    return f"q 144 0 0 72 0 0 cm BI /W 100 /H 100 /CS /RGB /BPC 8 /F /AHx ID {noise}> EI Q"


def imported(tmp_path: Path, files: dict[str, bytes], **settings: Any) -> tuple[Dataset, ImportReport]:
    for name, content in files.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    report = import_paths([tmp_path / "in"], tmp_path / "out", pages=Pages(True, **settings))
    return Dataset.load(tmp_path / "out"), report


def test_pages_become_images_with_their_text(tmp_path: Path) -> None:
    from PIL import Image

    colour = f"1 0 0 rg 0 0 50 20 re f {words('red page')}"
    files = {"a b.pdf": pdf([words("first page"), colour, photo()]), "note.txt": b"a text beside them"}
    data, report = imported(tmp_path, files, dpi=100)
    assert list(data.documents) == ["a%20b.pdf#1", "a%20b.pdf#2", "a%20b.pdf#3", "note.txt#1"]
    assert data.documents["a%20b.pdf#1"].text == "first page"
    assert data.documents["a%20b.pdf#1"].title == "a b"
    shown = [Image.open(tmp_path / "out" / d.image) for d in data.documents.values() if d.image]
    assert [(image.format, image.mode, image.size) for image in shown] == [
        ("PNG", "L", (200, 100)),
        ("PNG", "RGB", (200, 100)),
        ("JPEG", "RGB", (200, 100)),
    ]
    assert shown[1].getpixel((20, 90)) == (255, 0, 0)
    assert (report.images, report.documents, report.refused) == (3, 4, 0)
    assert check(tmp_path / "out").ok
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_ranges_of_pages(tmp_path: Path) -> None:
    book = pdf([words(f"page {i}") for i in range(1, 7)])
    data, report = imported(tmp_path, {"a.pdf": book, "b.pdf": pdf([words("one")])}, ranges=((5, 9), (2, 3), (3, 3)))
    assert [d.text for d in data.documents.values()] == ["page 2", "page 3", "page 5", "page 6"]
    assert list(data.documents)[-1] == "a.pdf#6"
    assert [p.detail for p in report.problems] == ["it has 1 pages, none of those asked for"]
    found = read_pdf(tmp_path / "in" / "a.pdf", ranges=((4, 4),))
    assert (found.pages, found.numbers, found.images) == (("page 4",), (4,), ())


def test_text_of_a_range_of_pages(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf([words("one"), words("two")]))
    import_paths([tmp_path / "a.pdf"], tmp_path / "out", pages=Pages(ranges=((2, 2),)))
    assert [d.text for d in Dataset.load(tmp_path / "out").documents.values()] == ["two"]


@pytest.mark.parametrize("text", ["", ",", "0", "3-1", "a", "-3", "1--2", "1.5", "9" * 20, "²"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(InputError, match=r"range|names no pages"):
        parse_ranges(text)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9), st.booleans()), min_size=1, max_size=5), st.data())
def test_each_wanted_page_comes_once_and_in_order(parts: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    text = ", ".join(f"{a}-{'' if open_end else a + n}" if n or open_end else f"{a}" for a, n, open_end in parts)
    pages = data.draw(st.integers(1, 40))
    expected = sorted({i for a, n, end in parts for i in range(a, (pages if end else a + n) + 1) if i <= pages})
    assert list(_pdf_reader._wanted(pages, [list(r) for r in parse_ranges(text)])) == expected


def test_hostile_files_are_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    from PIL import Image

    good = pdf([words("fine")])
    lock = f"<< /Filter /Standard /V 1 /R 2 /P -4 /O <{'12' * 32}> /U <{'34' * 32}> >>"
    files = {
        "cut.pdf": good[:60],
        "empty.pdf": b"",
        "encrypted.pdf": pdf([words("x")], trailer=f"/Encrypt {lock} /ID [<{'56' * 16}> <{'56' * 16}>]"),
        "good.pdf": good,
        "huge.pdf": pdf([words("still here")], size="50000 50000"),
        "thin.pdf": pdf([words("thin")], size="50000 0.01"),
    }
    data, report = imported(tmp_path, files)
    assert {"good.pdf#1", "huge.pdf#1"} <= set(data.documents)
    assert {"cut.pdf", "empty.pdf", "encrypted.pdf"} == {p.file for p in report.problems}
    width, height = Image.open(tmp_path / "out" / data.documents["huge.pdf#1"].image).size
    assert 3000 < width == height <= 4001
    assert report.notes[0] == "huge.pdf: page 1 of 50,000 × 50,000 points is shown at 5.76 dpi"


def test_a_page_that_takes_too_long_or_too_much(tmp_path: Path) -> None:
    bomb = "0 0 1 rg 0 0 144 72 re f " * 400_000
    (tmp_path / "a.pdf").write_bytes(pdf([words("first"), bomb]))
    images = tmp_path / "images"
    images.mkdir()
    found = read_pdf(tmp_path / "a.pdf", seconds=1, images=images)
    assert "longer than 1 s" in found.problem
    assert found.images == ("00001.png",)
    found = read_pdf(tmp_path / "a.pdf", memory=300 << 20, seconds=20, ranges=((1, 1),), images=images)
    assert found.pages in ((), ("first",)), "what fits into the memory is read"


def test_an_interrupted_import_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{name}.pdf": pdf([words(f"page of {name}")]) for name in "ab"}
    drawn: list[str] = []

    def interrupted(path: Path, **settings: Any) -> Any:
        if path.name == "b.pdf" and not drawn.count("b.pdf"):
            drawn.append("b.pdf")
            raise KeyboardInterrupt
        drawn.append(path.name)
        return read_pdf(path, **settings)

    monkeypatch.setattr(module, "read_pdf", interrupted)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        imported(tmp_path, files)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.pages").exists()
    data, _ = imported(tmp_path, {})
    assert drawn == ["a.pdf", "b.pdf", "b.pdf"], "a is not drawn again"
    assert [d.text for d in data.documents.values()] == ["page of a", "page of b"]
    assert not (tmp_path / ".out.pages").exists()


def test_other_settings_draw_anew_and_two_imports_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf([words("x")]))
    stores = [module.PageStore(tmp_path / "w", dpi, ranges) for dpi, ranges in [(50, ()), (60, ()), (50, ((1, 1),))]]
    assert len({store._home(path) for store in stores}) == 3
    with locked(tmp_path / ".out.pages"), pytest.raises(BusyError):
        imported(tmp_path, {"a.pdf": path.read_bytes()})
    assert (tmp_path / ".out.pages").exists()
    with pytest.raises(InputError, match="dpi"):
        imported(tmp_path, {}, dpi=5000)


def test_images_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    _pdf_reader.main({"folder": str(tmp_path), "dpi": 150, "memory": 1 << 40, "seconds": 60})
    assert capsys.readouterr().out == '{"missing": "pillow"}\n'
    from io import BytesIO

    from lodesmith.data.pdf import _answered

    with pytest.raises(MissingExtraError, match=r"pillow is not installed"):
        _answered(BytesIO(b'{"missing": "pillow"}\n'), "")


@pytest.mark.data
def test_a_real_file(collections: Path, tmp_path: Path) -> None:
    source = collections / "pdfs" / "dpr_paper.pdf"
    report = import_paths([source], tmp_path / "out", pages=Pages(True, 72, ((1, 3),)))
    assert (report.documents, report.images, report.refused) == (3, 3, 0)
    assert "Dense Passage Retrieval" in Dataset.load(tmp_path / "out").documents["dpr_paper.pdf#1"].text
