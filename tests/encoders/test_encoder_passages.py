"""Clipping changes nothing, and passages together hold the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodesmith.core.errors import ConfigError
from lodesmith.encoders import _passages
from lodesmith.encoders._passages import Passages, clip, split
from tiny_models import WORDS, _tokenizer

TOKENIZER = _tokenizer().backend_tokenizer
TEXTS = st.lists(st.sampled_from([*WORDS, "unknownword", "👋", "é", "\n", "  ", "x" * 90]), max_size=80).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(TEXTS, st.integers(1, 12))
def test_the_first_tokens_of_a_clipped_text_are_those_of_the_whole(text: str, limit: int) -> None:
    TOKENIZER.no_truncation()
    clipped = clip(text, limit, TOKENIZER)
    assert text.startswith(clipped)
    assert TOKENIZER.encode(clipped).ids[:limit] == TOKENIZER.encode(text).ids[:limit]


def test_a_long_text_is_clipped() -> None:
    assert len(clip("cat " * 100_000, 50, TOKENIZER)) == 50 * 16


def test_a_word_that_never_ends_is_kept_whole() -> None:
    text = "x" * 50_000
    assert clip(text, 50, TOKENIZER) == text


@settings(max_examples=30, deadline=None)
@given(TEXTS, st.integers(2, 12), st.data())
def test_passages_hold_all_tokens_in_order_and_overlap(text: str, tokens: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tokens - 1))
    parts = split(text, Passages(tokens, overlap), TOKENIZER)
    whole = TOKENIZER.encode(text, add_special_tokens=False).ids
    pieces = [TOKENIZER.encode(part, add_special_tokens=False).ids for part in parts]
    assert all(len(piece) <= tokens for piece in pieces)
    at = 0
    for piece in pieces:  # each begins where the last one ended, or up to an overlap before it
        starts = [s for s in range(max(0, at - tokens), at + 1) if whole[s : s + len(piece)] == piece]
        assert starts, (whole, pieces)
        at = max(s + len(piece) for s in starts)
    assert at == len(whole)


def test_neighbours_share_the_overlap() -> None:
    words = (WORDS * 3)[:60]
    parts = split(" ".join(words), Passages(20, 5), TOKENIZER)
    assert [part.split() for part in parts] == [words[0:20], words[15:35], words[30:50], words[45:60]]


def test_a_short_text_is_one_passage_as_it_is() -> None:
    assert split("  the cat ", Passages(10, 2), TOKENIZER) == ["  the cat "]
    assert split("", Passages(10, 2), TOKENIZER) == [""]


def test_the_split_does_not_depend_on_the_blocks_it_is_read_in(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(WORDS * 20)
    whole = split(text, Passages(30, 10), TOKENIZER)
    monkeypatch.setattr(_passages, "_BLOCK", 64)
    assert split(text, Passages(30, 10), TOKENIZER) == whole


@pytest.mark.parametrize(("tokens", "overlap"), [(1, 0), (10, 10), (10, -1)])
def test_an_overlap_that_leaves_nothing_new_is_refused(tokens: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match="overlap"):
        Passages(tokens, overlap)
