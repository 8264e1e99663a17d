"""Lines that nobody vouches for."""

from __future__ import annotations

import io
import tracemalloc

import pytest

from lodesmith.core.lines import Line, LineError, bounded_lines, check_id, decode_json, decode_text, shorten


def line(raw: bytes, number: int = 2) -> Line:
    return Line(number, 0, raw, len(raw))


def test_lines_know_their_number_offset_and_size() -> None:
    lines = list(bounded_lines(io.BytesIO(b"ab\n\nlast")))
    assert lines == [Line(1, 0, b"ab\n", 3), Line(2, 3, b"\n", 1), Line(3, 4, b"last", 4)]


def test_a_long_line_is_cut_and_its_size_counted() -> None:
    lines = list(bounded_lines(io.BytesIO(b"x" * 3_000_000 + b"\nnext\n"), limit=10))
    assert [(item.number, item.raw, item.size) for item in lines] == [(1, b"x" * 10, 3_000_001), (2, b"next\n", 5)]
    assert lines[1].offset == 3_000_001


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    whole, following = bounded_lines(io.BytesIO(b"123456789\nb"), limit=10)
    assert whole.size == len(whole.raw) == 10
    assert following.raw == b"b"


def test_memory_is_bounded_by_the_limit() -> None:
    file = io.BytesIO(b"x" * 40_000_000)
    tracemalloc.start()
    (only,) = bounded_lines(file, limit=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert only.size == 40_000_000
    assert peak < 8 << 20


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b'{"a": ', "broken-json"),
        (b'{"a": 1} {"b": 2}', "broken-json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "broken-json"),
        (b"[1, 2]", "not-object"),
        (b'{"a": "\xff"}', "invalid-utf8"),
        (b'{"a": "\\ud800"}', "lone-surrogate"),
        (b'{"\\udfff": 1}', "lone-surrogate"),
        (b'{"a": "\xed\xa0\x80"}', "invalid-utf8"),
        (b'{"a": NaN}', "nan"),
        (b'{"a": [-Infinity]}', "nan"),
        (b'{"a": 1, "a": 2}', "duplicate-key"),
        (b'{"b": {"a": 1, "a": 2}}', "duplicate-key"),
        (b'{"a": ' + b"[" * 100_000, "deep-nesting"),
        (b'\xef\xbb\xbf{"a": 1}', "broken-json"),
    ],
)
def test_faults_have_names(raw: bytes, kind: str) -> None:
    with pytest.raises(LineError) as caught:
        decode_json(line(raw))
    assert caught.value.kind == kind


def test_a_cut_line_is_refused_with_its_size() -> None:
    with pytest.raises(LineError, match="5,000") as caught:
        decode_text(Line(1, 0, b"abc", 5000))
    assert caught.value.kind == "long-line"


def test_what_is_allowed() -> None:
    assert decode_json(line(b'\xef\xbb\xbf{"a": 1}\r\n', 1)) == {"a": 1}
    assert decode_json(line('{"a": "\\ud83d\\ude00 é"}\n'.encode())) == {"a": "😀 é"}
    assert decode_text(line(b"x \t\r\n")) == "x \t"


@pytest.mark.parametrize("key", ["", "a\tb", "a\nb", "a\x00", "\x7f", "a\u2028b"])
def test_ids_that_no_tsv_can_carry(key: str) -> None:
    with pytest.raises(LineError) as caught:
        check_id(key)
    assert caught.value.kind == "bad-id"


def test_ids_that_can() -> None:
    assert check_id("../über uns#3") == "../über uns#3"


def test_shorten() -> None:
    assert shorten("ab") == "'ab'"
    assert len(shorten("x" * 1000)) == 61
