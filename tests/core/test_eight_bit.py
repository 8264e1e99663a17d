"""Rows in 8 bits with a scale each: how far off they are, that reading them again changes nothing, and their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lodesmith.core._eight_bit import STEPS, Scaled, scaled
from lodesmith.core.errors import InputError, IntegrityError, ResumeError
from lodesmith.core.files import read_json
from lodesmith.core.vectors import Vectors, VectorWriter, begun_dtype, check_range

LARGEST = float(np.finfo(np.float32).max) / 2


def some(count: int, seed: int = 0, t: int = 3, d: int = 8) -> Vectors:
    """Items of t rows whose lengths differ widely."""
    random = np.random.default_rng(seed)
    values = (random.standard_normal((count * t, d)) * 10.0 ** random.integers(-4, 4, (count * t, 1))).astype("f4")
    return Vectors(values, np.arange(count + 1) * t, tuple(f"i{n}" for n in range(count)), {"model": "m"})


def write(folder: Path, *parts: Vectors) -> Vectors:
    with VectorWriter(folder, parts[0].dimension, "int8", {"model": "m"}) as writer:
        for part in parts:
            writer.append(part.ids, part.values, part.offsets)
        return writer.finish()


rows = arrays.arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.integers(1, 9)),
    elements=st.floats(-LARGEST, LARGEST, width=32),
)


@given(rows)
def test_a_component_is_off_by_half_a_step_at_most(values: np.ndarray) -> None:
    codes, scales = scaled(values)
    assert (codes.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (len(values), 1))
    assert np.abs(codes).max(initial=0) <= STEPS
    found = Scaled(codes, scales)[:].astype(np.float64)
    assert np.isfinite(found).all()
    half = scales.astype(np.float64) / 2
    assert (np.abs(found - values) <= half * (1 + 1e-4)).all()
    steps = np.abs(values).max(axis=1, keepdims=True, initial=0).astype(np.float64) / STEPS
    assert (scales <= np.maximum(steps * (1 + 2.0**-15), 2.0**-126)).all()


@given(rows)
def test_what_was_read_is_kept_as_it_was(values: np.ndarray) -> None:
    codes, scales = scaled(values)
    again = scaled(Scaled(codes, scales)[:])
    np.testing.assert_array_equal(again[0], codes)
    alive = codes.any(axis=1)
    np.testing.assert_array_equal(again[1][alive], scales[alive])


def test_it_stands_where_an_array_does() -> None:
    values = some(4).values
    codes, scales = scaled(values)
    held, whole = Scaled(codes, scales), codes.astype(np.float32) * scales
    assert (held.shape, held.size, held.ndim, len(held)) == (whole.shape, whole.size, 2, len(whole))
    for part in (slice(2, 7), [5, 0, 5], np.arange(12) % 2 == 0, 3, slice(0, 0)):
        np.testing.assert_array_equal(held[part], whole[part])
        assert held[part].dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([held, held]), np.concatenate([whole, whole]))
    assert np.asarray(held, np.float64).dtype == np.float64
    wide = held.reshape(4, 24)
    np.testing.assert_array_equal(wide[1:3], whole.reshape(4, 24)[1:3])
    np.testing.assert_array_equal(wide.reshape(12, 8)[:], whole)
    assert np.shares_memory(wide.codes, codes)
    with pytest.raises(TypeError, match="rows first"):
        held[1:3, 0]
    with pytest.raises(ValueError, match="do not fit"):
        Scaled(codes, scales[1:])


def test_files_are_a_quarter_and_hold_the_same_however_they_came(tmp_path: Path) -> None:
    whole = some(50, d=64)
    found = write(tmp_path / "a", whole)
    write(tmp_path / "b", whole.take(range(20)), whole.take(range(20, 50)))
    assert found.info["dtype"] == read_json(tmp_path / "a" / "manifest.json")["dtype"] == "int8"
    for name in ("values.npy", "scales.npy", "offsets.npy", "ids.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    full = (whole.save(tmp_path / "full") / "values.npy").stat().st_size
    assert (tmp_path / "a" / "values.npy").stat().st_size - 128 == (full - 128) / 4
    loaded = Vectors.load(tmp_path / "a", verify=True)
    np.testing.assert_array_equal(loaded.values[:], found.values[:])
    np.testing.assert_array_equal(loaded.take([7, 3]).values, np.asarray(loaded.values)[[21, 22, 23, 9, 10, 11]])
    assert isinstance(loaded.values.codes, np.memmap)  # type: ignore[attr-defined]
    assert "int8" in repr(loaded)
    loaded.save(tmp_path / "c")
    assert (tmp_path / "c" / "values.npy").read_bytes() == (tmp_path / "a" / "values.npy").read_bytes()
    assert begun_dtype(tmp_path / "c") == "int8"
    assert begun_dtype(tmp_path / "nothing") is None


def test_an_empty_folder(tmp_path: Path) -> None:
    assert write(tmp_path / "v", some(0)).values.shape == (0, 8)
    assert Vectors.load(tmp_path / "v", verify=True).values[:].shape == (0, 8)


def test_what_a_killed_writer_left_is_dropped(tmp_path: Path) -> None:
    whole = some(10)
    with VectorWriter(tmp_path / "v", 8, "int8", {"model": "m"}) as writer:
        writer.append(whole.ids[:4], whole.values[:12], whole.offsets[:5])
    for name in ("values.npy", "scales.npy"):
        with (tmp_path / "v" / name).open("ab") as handle:
            handle.write(b"half a row")
    with VectorWriter(tmp_path / "v", 8, "int8", {"model": "m"}) as writer:
        assert (writer.count, writer.rows) == (4, 12)
        rest = whole.take(range(4, 10))
        writer.append(rest.ids, rest.values, rest.offsets)
        found = writer.finish()
    np.testing.assert_array_equal(found.values[:], write(tmp_path / "w", whole).values[:])
    with pytest.raises(ResumeError, match="dtype 'int8', not 'float16'"):
        VectorWriter(tmp_path / "v", 8, "float16", {"model": "m"})


@pytest.mark.parametrize("left", [0, 10, 150, 200])
def test_scales_cut_short_are_found(tmp_path: Path, left: int) -> None:
    write(tmp_path / "v", some(10))
    raw = (tmp_path / "v" / "scales.npy").read_bytes()
    (tmp_path / "v" / "scales.npy").write_bytes(raw[:left])
    with pytest.raises(IntegrityError, match="damaged"):
        Vectors.load(tmp_path / "v")
    with pytest.raises(IntegrityError, match=r"scales\.npy"):
        Vectors.load(tmp_path / "v", verify=True)
    with pytest.raises(IntegrityError, match=r"scales\.npy"):
        VectorWriter(tmp_path / "v", 8, "int8", {"model": "m"})


def test_missing_scales_and_those_of_others_are_found(tmp_path: Path) -> None:
    write(tmp_path / "v", some(10))
    write(tmp_path / "w", some(9))
    (tmp_path / "v" / "scales.npy").write_bytes((tmp_path / "w" / "scales.npy").read_bytes())
    with pytest.raises(IntegrityError, match="damaged"):
        Vectors.load(tmp_path / "v")
    (tmp_path / "v" / "scales.npy").unlink()
    with pytest.raises(IntegrityError, match="damaged"):
        Vectors.load(tmp_path / "v")


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "int8"), (np.inf, "int8"), (3e38, "int8"), (7e4, "float16"), (np.nan, "float32")]
)
def test_what_a_type_cannot_hold(value: float, dtype: str) -> None:
    check_range(np.full((1, 2), 6e4, np.float32), np.dtype(dtype))
    with pytest.raises(InputError, match=dtype):
        check_range(np.array([[0, value]], np.float32), np.dtype(dtype))
