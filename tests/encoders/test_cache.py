"""A text that a model has encoded once is not encoded again; damage is noticed."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.files import locked
from lodesmith.core.protocols import Side
from lodesmith.core.vectors import Vectors
from lodesmith.encoders import Passages, TransformerEncoder, VectorCache
from lodesmith.encoders.corpus import default_cache
from lodesmith.testing import HashEncoder


class Counting(HashEncoder):
    """Knows which texts it has encoded."""

    def __init__(self, dimension: int = 16) -> None:
        super().__init__(dimension)
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        self.seen += texts
        return super().encode(texts, side, ids)


ITEMS = [(f"d{i}", f"text {i % 8}") for i in range(10)]
"""Ten ids, eight texts."""


def expected(items: Sequence[tuple[str, str]]) -> np.ndarray:
    return HashEncoder(16).encode([text for _, text in items]).values


@pytest.fixture
def cache(tmp_path: Path) -> VectorCache:
    return VectorCache(tmp_path)


def test_each_text_is_encoded_once(cache: VectorCache) -> None:
    encoder = Counting()
    vectors = cache.vectors(encoder, ITEMS)
    assert len(encoder.seen) == 8
    assert vectors.ids == tuple(key for key, _ in ITEMS)
    np.testing.assert_array_equal(vectors.values, expected(ITEMS))
    np.testing.assert_array_equal(cache.vectors(encoder, iter(ITEMS[::-1])).values, expected(ITEMS[::-1]))
    assert len(encoder.seen) == 8


def test_new_texts_are_added_to_those_there(cache: VectorCache) -> None:
    encoder = Counting()
    cache.vectors(encoder, ITEMS[:4])
    more = [("x", "new"), *ITEMS]
    np.testing.assert_array_equal(cache.vectors(encoder, more).values, expected(more))
    assert len(encoder.seen) == 9


def test_side_by_side_rows_are_not_copied(cache: VectorCache) -> None:
    vectors = cache.vectors(Counting(), ITEMS[2:6])
    assert isinstance(vectors.values, np.memmap)
    assert isinstance(cache.vectors(Counting(), ITEMS[3:5]).values, np.memmap)
    np.testing.assert_array_equal(cache.vectors(Counting(), ITEMS[3:5]).values, expected(ITEMS[3:5]))


def test_what_was_opened_stays_as_it_is_while_the_folder_grows(cache: VectorCache) -> None:
    vectors = cache.vectors(Counting(), ITEMS[:3])
    cache.vectors(Counting(), [(str(i), f"other {i}") for i in range(500)])
    np.testing.assert_array_equal(vectors.values, expected(ITEMS[:3]))


def test_sides_and_models_do_not_mix(cache: VectorCache) -> None:
    encoder = Counting()
    cache.vectors(encoder, ITEMS, "document")
    cache.vectors(encoder, ITEMS, "query")
    assert len(encoder.seen) == 16
    other = Counting(32)
    assert cache.vectors(other, ITEMS).dimension == 32
    assert len(other.seen) == 8


def test_nothing_asked_is_nothing_given(cache: VectorCache) -> None:
    assert cache.vectors(Counting(), []).values.shape == (0, 16)
    cache.vectors(Counting(), ITEMS)
    assert cache.vectors(Counting(), []).values.shape == (0, 16)


def test_passages_keep_their_rows(cache: VectorCache, tiny_encoder: TransformerEncoder) -> None:
    encoder = TransformerEncoder(tiny_encoder.source, passages=Passages(20, 5))
    items = [("a", "the cat"), ("b", "bee moon " * 25), ("c", "owl")]
    whole = encoder.encode([text for _, text in items])
    for order in ([0, 1, 2], [1, 0], [2, 1, 1]):
        vectors = cache.vectors(encoder, [items[at] for at in order])
        taken = whole.take(order)
        assert vectors.offsets.tolist() == taken.offsets.tolist()
        np.testing.assert_allclose(vectors.values, taken.values, atol=1e-6)


def test_an_interrupted_call_keeps_what_it_has(cache: VectorCache) -> None:
    class Failing(Counting):
        def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
            if len(self.seen) >= 4:
                raise KeyboardInterrupt
            return super().encode(texts, side, ids)

    cache.chunk = 2
    with pytest.raises(KeyboardInterrupt):
        cache.vectors(Failing(), ITEMS)
    encoder = Counting()
    np.testing.assert_array_equal(cache.vectors(encoder, ITEMS).values, expected(ITEMS))
    assert len(encoder.seen) == 4


@pytest.mark.parametrize("name", ["values.npy", "offsets.npy", "ids.txt", "manifest.json", "journal.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damage_is_noticed_and_mended(
    cache: VectorCache, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache.vectors(Counting(), ITEMS)
    path = cache.folder(Counting(), "document") / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes({"flip": bytes(raw), "truncate": path.read_bytes()[: len(raw) // 2], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING, "lodesmith"):
        vectors = cache.vectors(Counting(), ITEMS)
    np.testing.assert_array_equal(vectors.values, expected(ITEMS))
    Vectors.load(path.parent, verify=True)


@pytest.mark.parametrize("name", ["values.npy", "counts.part", "ids.txt"])
def test_an_unfinished_folder_cut_short_is_made_anew(
    cache: VectorCache, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache.vectors(Counting(), ITEMS)
    folder = cache.folder(Counting(), "document")
    (folder / "manifest.json").unlink()
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with caplog.at_level(logging.WARNING, "lodesmith"):
        np.testing.assert_array_equal(cache.vectors(Counting(), ITEMS).values, expected(ITEMS))
    assert "made anew" in caplog.text


def test_a_second_writer_waits_for_the_first(cache: VectorCache) -> None:
    found: list[Vectors] = []
    second = threading.Thread(target=lambda: found.append(cache.vectors(Counting(), ITEMS)))
    with locked(cache.folder(Counting(), "document")):
        second.start()
        second.join(0.3)
        assert not found
    second.join(30)
    np.testing.assert_array_equal(found[0].values, expected(ITEMS))


def test_the_speed_is_over_all_that_was_encoded(cache: VectorCache) -> None:
    first = cache.vectors(Counting(), ITEMS)
    again = cache.vectors(Counting(), ITEMS)
    assert first.info["docs_per_s"] == again.info["docs_per_s"] > 0


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LODESMITH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "lodesmith"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "lodesmith"
    monkeypatch.setenv("LODESMITH_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own"
    assert VectorCache().root == tmp_path / "own"


def test_where_none_can_be_written_it_is_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LODESMITH_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = default_cache()
    assert place == tmp_path / f"lodesmith-{os.getuid()}"
    assert place.stat().st_mode & 0o777 == 0o700
    place.rmdir()
    place.symlink_to(tmp_path)
    with pytest.raises(InputError, match="belongs to someone else"):
        default_cache()


def test_truncated_share_is_that_of_the_items_asked_for(tiny_encoder: TransformerEncoder, tmp_path: Path) -> None:
    long, short = ("bee " * 400).strip(), "the cat"
    cache = VectorCache(tmp_path)
    both = cache.vectors(tiny_encoder, [("a", long), ("b", short)])
    assert both.info["truncated"] == 0.5
    assert cache.vectors(tiny_encoder, [("b", short)]).info["truncated"] == 0.0
    assert VectorCache(tmp_path).vectors(tiny_encoder, [("x", long)]).info["truncated"] == 1.0


def test_it_keeps_no_8_bits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the cache keeps no 'int8'"):
        VectorCache(tmp_path, dtype="int8")
