"""Each codec's own arithmetic."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import numpy as np
import pytest

from lodesmith.codecs._codec import make
from lodesmith.codecs._rows import _on_grid, are_unit, lengths, products, unit
from lodesmith.codecs.binary import Binary
from lodesmith.codecs.float16 import Float16
from lodesmith.codecs.int8 import Int8
from lodesmith.codecs.matryoshka import Matryoshka
from lodesmith.codecs.pq import PQ
from lodesmith.core.errors import ConfigError, InputError, MissingExtraError


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


# --- products ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 3e15])
def test_products_are_within_their_bound(scale: float) -> None:
    queries, documents = rows(5, 384), rows(9, 384, 1) * np.float32(scale)
    exact = queries.astype(np.float64) @ documents.astype(np.float64).T
    bound = 2.0**-25 * 384**0.5 * np.outer(lengths(queries), lengths(documents))
    error = np.abs(products(queries, documents) - exact)
    assert (error <= bound).all()
    assert error.mean() < 2.0**-25 * np.outer(lengths(queries), lengths(documents)).mean()


def test_products_are_sums_of_whole_numbers() -> None:
    """The worst case for the 53 bits is a row with itself, as long as its power of two allows."""
    for d in (1, 3, 64, 1000, 4096):
        alike = np.full((1, d), np.nextafter(np.float32(d**-0.5), np.float32(0)), np.float32)
        for row in (alike, rows(1, d)):
            whole, _ = _on_grid(row)
            exact = sum(int(x) ** 2 for x in whole[0].tolist())
            assert (whole == np.rint(whole)).all()
            assert exact < 2**53
            assert int((whole @ whole.T)[0, 0]) == exact


def test_a_zero_row_has_products_and_direction_zero() -> None:
    zero = np.zeros((1, 5), np.float32)
    assert products(rows(3, 5), zero).tolist() == [[0.0]] * 3
    assert unit(zero).tolist() == zero.tolist()


def test_an_order_of_dimensions_does_not_change_a_product() -> None:
    queries, documents, order = rows(4, 100), rows(50, 100, 1), np.random.default_rng(2).permutation(100)
    shuffled = products(np.ascontiguousarray(queries[:, order]), np.ascontiguousarray(documents[:, order]))
    assert (shuffled == products(queries, documents)).all()


# --- float16 and int8 -------------------------------------------------------------------------------------------------


def test_float16_rounds_to_half_precision_and_says_where_it_ends() -> None:
    values = rows(50, 9)
    codec = Float16().fit(values)
    assert codec.encode(values).dtype == np.float16
    assert (np.abs(codec.decode(codec.encode(values)) - values) <= np.abs(values) * 2.0**-11).all()
    assert (codec.bytes, codec.shared_bytes) == (18, 0)
    with pytest.raises(InputError, match="beyond float16"):
        codec.encode(np.full((1, 9), 1e5, np.float32))


def test_int8_is_off_by_half_a_step_at_most() -> None:
    values = rows(400, 13) * np.logspace(-6, 6, 13, dtype=np.float32)
    codec = Int8().fit(values)
    codes = codec.encode(values)
    assert codes.dtype == np.int8
    assert np.abs(codes.astype(int)).max(axis=0).tolist() == [127] * 13  # each dimension uses its range
    error = np.abs(codec.decode(codes).astype(np.float64) - values)
    assert (error <= codec.step.astype(np.float64) * (0.5 + 1e-5)).all()
    assert (error.max(axis=0) > codec.step * 0.45).all()
    np.testing.assert_allclose(codec.step, np.abs(values).max(axis=0) / 127, rtol=1e-6)
    assert (codec.bytes, codec.shared_bytes) == (13, 52)


def test_int8_cuts_off_what_is_beyond_its_range_and_keeps_signs() -> None:
    codec = Int8().fit(np.array([[1.0, 0.0], [-0.5, 0.0]], np.float32))
    assert codec.encode(np.array([[9.0, 0], [-9.0, 0], [-1.0, 0]], np.float32))[:, 0].tolist() == [127, -127, -127]
    assert codec.decode(codec.encode(np.zeros((1, 2), np.float32))).tolist() == [[0.0, 0.0]]


# --- binary -----------------------------------------------------------------------------------------------------------


def test_binary_packs_bit_by_bit() -> None:
    values = rows(30, 11) + np.float32(2)
    codec = Binary().fit(values)
    codes = codec.encode(values)
    assert codes.shape == (30, 2)
    for row, code in zip(values, codes, strict=True):
        bits = "".join("1" if x > m else "0" for x, m in zip(row, values.mean(0, dtype=np.float64), strict=True))
        assert "".join(f"{byte:08b}" for byte in code.tolist()) == bits + "00000"


def test_binary_centres() -> None:
    """Without the mean taken out, every bit of these would be 1."""
    values = rows(200, 16) + np.float32(9)
    bits = np.unpackbits(Binary().fit(values).encode(values), axis=1)
    assert 0.4 < bits.mean() < 0.6


def test_the_first_pass_is_minus_the_hamming_distance() -> None:
    documents, queries = rows(40, 13), rows(6, 13, 1)
    codec = Binary(rescore=0).fit(documents)
    bits = np.unpackbits(codec.encode(documents), axis=1, count=13).astype(int)
    asked = (queries > codec.mean).astype(int)
    distance = np.abs(asked[:, None] - bits[None]).sum(axis=2)
    assert (codec.first(queries, codec.encode(documents)) == -distance).all()
    assert (codec.scores(queries, codec.encode(documents)) == -distance).all()


def test_binary_decodes_to_the_least_squares() -> None:
    documents = rows(500, 8)
    codec = Binary().fit(documents)
    best = np.square(documents - codec.decode(codec.encode(documents))).sum()
    for factor in (0.9, 1.1):
        other = codec.mean + factor * (codec.decode(codec.encode(documents)) - codec.mean)
        assert np.square(documents - other).sum() > best


@pytest.mark.parametrize(
    ("codec", "each", "shared"),
    [
        (Binary(0), 2, 44),
        (Binary(4), 2, 88),
        (Binary(4, "int8"), 2 + 11, 88),
        (Binary(4, "float16"), 2 + 22, 44),
    ],
)
def test_binary_counts_what_it_keeps(codec: Binary, each: int, shared: int) -> None:
    codec.fit(rows(20, 11))
    assert (codec.bytes, codec.shared_bytes) == (each, shared)


def test_what_is_kept_beside_the_bits_is_what_scores() -> None:
    documents, queries = rows(50, 11), rows(4, 11, 1)
    codec, plain = Binary(4, "int8").fit(documents), Int8().fit(documents)
    ours, theirs = codec.encode(documents), plain.encode(documents)
    assert codec.decode(ours).tobytes() == plain.decode(theirs).tobytes()
    assert codec.scores(queries, ours).tobytes() == plain.scores(queries, theirs).tobytes()


# --- pq ---------------------------------------------------------------------------------------------------------------


def test_pq_names_the_nearest_centre() -> None:
    documents = rows(600, 12)
    codec = PQ(m=3).fit(documents)
    codes = codec.encode(documents)
    assert codec.centres.shape == (3, 256, 4)
    for part in range(3):
        gaps = documents[:, None, part * 4 : part * 4 + 4].astype(np.float64) - codec.centres[part]
        distance = np.square(gaps).sum(axis=2)
        chosen = distance[np.arange(600), codes[:, part]]
        np.testing.assert_allclose(chosen, distance.min(axis=1), atol=1e-6)
    assert (codec.bytes, codec.shared_bytes) == (3, 3 * 256 * 4 * 4)


def test_pq_learns_by_its_seed_whatever_the_threads() -> None:
    import faiss

    documents, before = rows(400, 8), faiss.omp_get_max_threads()
    first = PQ(m=2).fit(documents, seed=1)
    try:
        faiss.omp_set_num_threads(2)
        again = PQ(m=2).fit(documents, seed=1)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)
    assert first.centres.tobytes() == again.centres.tobytes()
    assert first.centres.tobytes() != PQ(m=2).fit(documents, seed=2).centres.tobytes()


def test_pq_learns_from_so_many_rows() -> None:
    documents = rows(400, 8)
    drawn = np.sort(np.random.default_rng(5).permutation(400)[:300])
    part = PQ(m=2, rows=300).fit(documents, seed=5)
    assert part.centres.tobytes() != PQ(m=2).fit(documents, seed=5).centres.tobytes()
    assert np.isin(np.round(documents[drawn], 3), np.round(documents, 3)).all()


def test_a_rotation_is_one_and_loses_less_where_dimensions_go_together() -> None:
    spread = np.repeat(np.array([3.0, 1.0, 0.3, 0.1], np.float32), 4)  # all variance in the first part
    documents = rows(800, 16) * spread
    losses = []
    for rotate in (False, True):
        codec = PQ(m=4, rotate=rotate).fit(documents)
        losses.append(np.square(documents - codec.decode(codec.encode(documents))).sum())
    assert losses[1] < losses[0]
    assert codec.rotation is not None
    np.testing.assert_allclose(codec.rotation @ codec.rotation.T, np.eye(16), atol=1e-4)
    assert codec.shared_bytes == 4 * 256 * 4 * 4 + 16 * 16 * 4


@pytest.mark.parametrize(("dimension", "parts"), [(384, 96), (10, 2), (6, 1), (7, 1), (3, 1), (1, 1)])
def test_pq_cuts_any_dimension_by_itself(dimension: int, parts: int) -> None:
    assert PQ()._parts(dimension) == parts


def test_pq_says_what_to_do_where_it_does_not_fit() -> None:
    with pytest.raises(ConfigError) as wrong:
        PQ(m=5).fit(rows(300, 12))
    assert "12 dimensions cannot be cut into 5" in wrong.value.what
    assert wrong.value.do == "set m to a divisor, such as 2, 3, 4, 6"
    with pytest.raises(InputError) as few:
        PQ(m=3).fit(rows(255, 12))
    assert "256 centres, and there are 255 vectors" in few.value.what
    assert "int8 or binary" in few.value.do


def test_pq_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    PQ(m=2).fit(rows(256, 8))
    assert capfd.readouterr() == ("", "")


def test_without_faiss_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name == "faiss":
            raise ModuleNotFoundError("No module named 'faiss'", name="faiss")
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "lodesmith.codecs.pq")
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"pip install 'lodesmith\[faiss\]'"):
        make("matryoshka:m=4,then=pq")


# --- matryoshka -------------------------------------------------------------------------------------------------------


def test_matryoshka_is_truncation() -> None:
    documents, queries = rows(60, 12), rows(5, 12, 1)
    codec = Matryoshka(5).fit(documents)
    codes = codec.encode(documents)
    assert codes.tobytes() == np.ascontiguousarray(documents[:, :5]).tobytes()
    np.testing.assert_allclose(codec.scores(queries, codes), queries[:, :5] @ documents[:, :5].T, atol=1e-5)
    decoded = codec.decode(codes)
    assert (decoded[:, :5] == documents[:, :5]).all()
    assert not decoded[:, 5:].any()
    assert (codec.bytes, codec.shared_bytes) == (20, 0)


def test_what_had_unit_length_has_it_again() -> None:
    documents = unit(rows(60, 12))
    documents[7] = 0
    codec = Matryoshka(5).fit(documents)
    size = lengths(codec.encode(documents))
    assert size[7] == 0
    np.testing.assert_allclose(np.delete(size, 7), 1, atol=1e-6)
    full = Matryoshka(12).fit(documents)
    assert full.encode(documents).tobytes() == documents.tobytes()


def test_matryoshka_then_another_codec_is_that_codec_on_what_is_left() -> None:
    documents, queries = rows(60, 12), rows(5, 12, 1)
    both, alone = Matryoshka(8, "int8").fit(documents), Int8().fit(documents[:, :8])
    assert both.encode(documents).tobytes() == alone.encode(documents[:, :8]).tobytes()
    assert both.scores(queries, both.encode(documents)).tobytes() == (
        alone.scores(np.ascontiguousarray(queries[:, :8]), alone.encode(documents[:, :8])).tobytes()
    )
    assert (both.bytes, both.shared_bytes) == (8, 32)


def test_more_components_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="m is 13, and there are 12"):
        Matryoshka(13).fit(rows(5, 12))


def test_a_querys_bits_are_a_documents_where_a_dimension_is_constant() -> None:
    documents = rows(30, 13)
    documents[:, 4] = 0.25
    codec = Binary(rescore=0).fit(documents)
    assert not codec.first(documents, codec.encode(documents)).diagonal().any()


def test_float16_holds_its_largest_value() -> None:
    largest = np.full((1, 2), np.finfo(np.float16).max, np.float32)
    codec = Float16().fit(largest)
    assert (codec.decode(codec.encode(largest)) == largest).all()


def test_pq_encodes_alike_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = rows(300, 8)
    codec = PQ(m=2).fit(documents)
    whole = codec.encode(documents)
    monkeypatch.setattr("lodesmith.codecs.pq._BLOCK", 70)
    assert (codec.encode(documents) == whole).all()


@pytest.mark.parametrize("length", [0.5, 1.0, 2.0])
def test_only_rows_of_length_one_are_unit(length: float) -> None:
    assert are_unit(unit(rows(20, 7)) * np.float32(length)) == (length == 1)


def test_matryoshkas_scores_are_of_the_kind_of_its_codec() -> None:
    assert [make(f"matryoshka:m=4,then=binary:rescore={times}").inner for times in (0, 4)] == [False, True]
