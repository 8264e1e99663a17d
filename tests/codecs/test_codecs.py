"""What every codec promises, over each one that the folder holds."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lodesmith.codecs
from lodesmith.codecs._codec import Codec, make
from lodesmith.codecs._rows import unit
from lodesmith.codecs.matryoshka import Matryoshka
from lodesmith.core.errors import ConfigError, InputError, NotFiniteError
from lodesmith.core.registry import find, names

SPELLINGS = [
    "float16",
    "int8",
    "binary",
    "binary:rescore=0",
    "binary:rescore=2,keep=int8",
    "binary:rescore=2,keep=float16",
    "pq:m=6",
    "pq:m=4,rotate=true",
    "matryoshka:m=10",
    "matryoshka:m=12,then=int8",
    "matryoshka:m=12,then=pq:m=3",
    "matryoshka:m=12,then=binary:rescore=3,keep=int8",
]
D = 24


def rows(n: int, seed: int = 0, d: int = D) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return unit(values + np.linspace(0, 1, d, dtype=np.float32))


@pytest.fixture(scope="module")
def documents() -> np.ndarray:
    return rows(300)


@pytest.fixture(scope="module", params=SPELLINGS)
def codec(request: pytest.FixtureRequest, documents: np.ndarray) -> Codec:
    return make(request.param).fit(documents)


def test_the_folder_holds_these_codecs() -> None:
    files = {path.stem for path in Path(lodesmith.codecs.__path__[0]).glob("*.py")}
    assert names("codecs") == sorted(stem for stem in files if not stem.startswith("_"))
    assert names("codecs") == ["binary", "float16", "int8", "matryoshka", "pq"]
    assert {spelling.partition(":")[0] for spelling in SPELLINGS} == set(names("codecs"))
    assert all(Codec in inspect.getmro(find("codecs", name)) for name in names("codecs"))  # type: ignore[arg-type]


def test_codes_are_as_large_as_they_say(codec: Codec, documents: np.ndarray) -> None:
    codes = codec.encode(documents)
    assert codes.ndim == 2
    assert codes.dtype.kind in "uif"
    assert codes.nbytes == len(documents) * codec.bytes
    assert codec.encode(documents[:0]).nbytes == 0
    assert codec.encode(documents[:0]).dtype == codes.dtype


def test_decoded_rows_are_near(codec: Codec, documents: np.ndarray) -> None:
    decoded = codec.decode(codec.encode(documents))
    assert decoded.dtype == np.float32
    assert decoded.shape == documents.shape
    width = codec.m if isinstance(codec, Matryoshka) else D
    kept, decoded = documents[:, :width], decoded[:, :width]
    kept = unit(kept) if width < D else kept
    assert np.square(kept - decoded).sum() < np.square(kept - kept.mean(0)).sum()
    if codec.inner:
        queries = unit(rows(5, 1)[:, :width])
        scores = codec.scores(rows(5, 1), codec.encode(documents))
        np.testing.assert_allclose(scores, queries @ decoded.T, atol=2e-6)


@pytest.mark.parametrize(
    "spelling", [s for s in SPELLINGS if not {"float16", "int8", "rotate"} & set(re.split("\\W", s))]
)
def test_what_stands_for_unit_rows_has_unit_length_and_no_other_has(spelling: str, documents: np.ndarray) -> None:
    codec = make(spelling).fit(documents)
    np.testing.assert_allclose(np.linalg.norm(codec.decode(codec.encode(documents)), axis=1), 1, atol=1e-6)
    longer = make(spelling).fit(documents * 30)
    assert np.abs(np.linalg.norm(longer.decode(longer.encode(documents * 30)), axis=1) - 1).min() > 0.1


def test_a_score_depends_on_its_query_and_its_code_alone(codec: Codec, documents: np.ndarray) -> None:
    queries, codes = rows(7, 1), codec.encode(documents)
    for score in (codec.scores, codec.first):
        whole = score(queries, codes)
        assert whole.dtype == np.float32
        assert whole.shape == (7, 300)
        for query in range(7):
            assert score(queries[query : query + 1], codes).tobytes() == whole[query : query + 1].tobytes()
        blocks = [score(queries, codes[start : start + 37]) for start in range(0, 300, 37)]
        assert np.hstack(blocks).tobytes() == whole.tobytes()


def test_a_code_depends_on_its_row_alone(codec: Codec, documents: np.ndarray) -> None:
    whole = codec.encode(documents)
    assert np.vstack([codec.encode(documents[i : i + 1]) for i in range(300)]).tobytes() == whole.tobytes()
    assert codec.encode(documents[::-1])[::-1].tobytes() == whole.tobytes()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_seed_decides(spelling: str, documents: np.ndarray) -> None:
    first, again = (make(spelling).fit(documents, seed=3).encode(documents) for _ in range(2))
    assert first.tobytes() == again.tobytes()


def test_zero_rows_are_encoded(codec: Codec) -> None:
    zero = np.zeros((2, D), np.float32)
    assert np.isfinite(codec.decode(codec.encode(zero))).all()
    assert np.isfinite(codec.scores(zero, codec.encode(zero))).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_row(codec: Codec, documents: np.ndarray, bad: float) -> None:
    broken = documents.copy()
    broken[17, 3] = bad
    for use in (codec.encode, codec.fit, lambda values: codec.scores(values, codec.encode(documents))):
        with pytest.raises(NotFiniteError, match="row 17"):
            use(broken)


def test_another_dimension_is_refused(codec: Codec, documents: np.ndarray) -> None:
    codes = codec.encode(documents)
    with pytest.raises(InputError, match=r"23 dimensions.*24"):
        codec.encode(documents[:, :23])
    with pytest.raises(InputError, match="23 dimensions"):
        codec.scores(documents[:, :23], codes)
    with pytest.raises(InputError, match=r"\[n, d\]"):
        codec.fit(documents[0])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_is_not_fitted_says_so(spelling: str, documents: np.ndarray) -> None:
    codec = make(spelling)
    for use in (lambda: codec.encode(documents), lambda: codec.bytes, lambda: codec.shared_bytes):
        with pytest.raises(InputError, match="not been fitted"):
            use()


@pytest.mark.parametrize("spelling", [s for s in SPELLINGS if "pq" not in s])
@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_document_is_enough(spelling: str, count: int, documents: np.ndarray) -> None:
    codec = make(spelling).fit(documents[:count])
    assert len(codec.encode(documents[:count])) == count
    assert np.isfinite(codec.decode(codec.encode(documents))).all()


@pytest.mark.parametrize(
    ("spelling", "told"),
    [
        ("int9", "did you mean 'int8'"),
        ("binary:rescor=4", "did you mean 'rescore'"),
        ("binary:rescore=four", "expected int"),
        ("binary:rescore=true", "expected int"),
        ("binary:rescore=-1", "rescore is -1"),
        ("binary:rescore=0,keep=int8", "nothing is scored with it"),
        ("binary:keep=binary", "two passes"),
        ("binary:rescore", "is no setting"),
        ("binary:rescore=1,rescore=2", "twice"),
        ("matryoshka", "'m' is missing"),
        ("matryoshka:m=0", "m is 0"),
        ("matryoshka:m=8,then=pqq", "did you mean 'pq'"),
        ("pq:m=0", "out of range"),
        ("pq:rows=255", "out of range"),
        ("int8:m=1", "unknown setting 'm'"),
        ("", "no codecs component"),
    ],
)
def test_a_wrong_spelling_says_what_is_wrong(spelling: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        make(spelling)
    assert caught.value.do or told in str(caught.value)


def test_a_nested_codec_takes_all_that_follows() -> None:
    codec: Any = make(" matryoshka:m=16, then=binary:rescore=7,keep=matryoshka:m=8,then=int8")
    assert (codec.m, codec.rescore, codec.then.beside.m) == (16, 7, 8)
    assert type(codec.then.beside.then).__name__ == "Int8"


def test_a_codec_of_ones_own_is_spelled_by_its_path() -> None:
    assert type(make("lodesmith.codecs.int8.Int8")).__name__ == "Int8"
