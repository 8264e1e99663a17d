"""What every encoder promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import causal_models
import tiny_models
from lodesmith.core.protocols import Encoder, Metric
from lodesmith.core.registry import names
from lodesmith.encoders import (
    Bag,
    IsotropicGaussianEncoder,
    LateInteractionEncoder,
    MemoryEncoder,
    MLXMemoryEncoder,
    Passages,
    Recurrent,
    StudentModelWithProjection,
    TowerPair,
    TransformerEncoder,
    Vocabulary,
)
from lodesmith.testing import HashEncoder
from tiny_models import TEXTS, WORDS

NEAR = {"maxsim": 4e-6, "aligned": 2e-5}
"""A text's own vector is a mean, which rounds less than states do; memory tokens are not scaled to length 1."""
VOCABULARY = Vocabulary.build([" ".join(WORDS)] * 2)


def _whole(folder: Path) -> TransformerEncoder:
    return TransformerEncoder(tiny_models.build(folder), precision="float32")


def _by_mlx(folder: Path) -> Encoder:
    pytest.importorskip("mlx.core", reason="mlx has no wheel for this machine: pip install 'lodesmith[mlx]'")
    model = causal_models.build(folder, "llama", words=WORDS, bos=True)
    return MLXMemoryEncoder(model, rate=8, document_length=90, batch_tokens=256)


MAKERS: dict[str, Callable[[Path], Encoder]] = {
    "hash": lambda folder: HashEncoder(),
    "transformer": lambda folder: TransformerEncoder(tiny_models.build(folder)),
    "transformer, padded": lambda folder: TransformerEncoder(tiny_models.build(folder, "mpnet")),
    "transformer, passages": lambda folder: TransformerEncoder(tiny_models.build(folder), passages=Passages(20, 5)),
    "bag": lambda folder: Bag(VOCABULARY, 16, weights="learned", max_length=90),
    "bag, projected": lambda folder: Bag(VOCABULARY, 16, weights="idf", projection=7, metric="dot"),
    "rnn": lambda folder: Recurrent(VOCABULARY, words=8, hidden=6, max_length=90),
    "rnn, pair": lambda folder: TowerPair(Bag(VOCABULARY, 6), Recurrent(VOCABULARY, 6, cell="lstm", pooling="last")),
    "projected": lambda folder: IsotropicGaussianEncoder(7, TransformerEncoder(tiny_models.build(folder))),
    "tokens": lambda folder: LateInteractionEncoder(tiny_models.build(folder), dimension=8),
    "tokens, padded": lambda folder: LateInteractionEncoder(
        tiny_models.build(folder, "mpnet"), dimension=8, skip=["a"]
    ),
    "tokens, expanded": lambda folder: LateInteractionEncoder(tiny_models.build(folder), dimension=8, expansion=12),
    "memory": lambda folder: MemoryEncoder(
        causal_models.build(folder, words=WORDS, bos=True), rate=8, document_length=90, batch_tokens=256
    ),
    "memory, other layers": lambda folder: MemoryEncoder(
        causal_models.build(folder, "gpt2", words=WORDS), rate=90, document_length=90
    ),
    "memory, by MLX": _by_mlx,
    "student": lambda folder: StudentModelWithProjection(7, _whole(folder)),
    "student, alone": lambda folder: StudentModelWithProjection(base_model=_whole(folder)),
}


@pytest.fixture(scope="module", params=MAKERS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each encoder in turn."""
    return MAKERS[request.param](tmp_path_factory.mktemp("model") / "m")


def test_every_component_has_its_row() -> None:
    images = {"patches"}  # reads no texts: tests/encoders/test_patches.py holds each of its classes to the same
    assert {name.partition(",")[0] for name in MAKERS} | images == {"hash", *names("encoders")}


def test_it_is_an_encoder(encoder: Encoder) -> None:
    assert isinstance(encoder, Encoder)
    assert encoder.metric in get_args(Metric)
    assert len(encoder.fingerprint) == 64


@pytest.mark.parametrize("side", ["query", "document"])
def test_vectors_have_the_shape_it_says(encoder: Encoder, side: Any) -> None:
    vectors = encoder.encode(TEXTS, side, [f"id{i}" for i in range(len(TEXTS))])
    assert vectors.ids[:2] == ("id0", "id1")
    assert len(vectors) == len(TEXTS)
    assert vectors.dimension == encoder.dimension
    assert vectors.values.dtype == np.float32
    assert (np.diff(vectors.offsets) >= 1).all()
    assert np.isfinite(vectors.values).all()
    assert vectors.info["model"] == encoder.fingerprint


def test_ids_are_numbers_where_none_are_given(encoder: Encoder) -> None:
    assert encoder.encode(["a", "b", "c"]).ids == ("0", "1", "2")


def test_the_vector_of_a_text_never_depends_on_the_others(encoder: Encoder) -> None:
    together = encoder.encode(TEXTS)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = encoder.encode([TEXTS[at] for at in order])
    near = NEAR.get(encoder.metric, 1e-6)
    for position, at in enumerate(order):
        alone = encoder.encode([TEXTS[at]]).values
        np.testing.assert_allclose(together.take([at]).values, alone, atol=near)
        np.testing.assert_allclose(shuffled.take([position]).values, alone, atol=near)


def test_encoding_twice_gives_the_same_bits(encoder: Encoder) -> None:
    np.testing.assert_array_equal(encoder.encode(TEXTS).values, encoder.encode(TEXTS).values)


def test_no_texts_make_an_empty_result(encoder: Encoder) -> None:
    vectors = encoder.encode([])
    assert vectors.values.shape == (0, encoder.dimension)


def test_any_text_will_do(encoder: Encoder) -> None:
    texts = ["", " \n", "\U0001f469\u200d\U0001f467", "\x00", "\ud800", "a" * 100_000]
    assert np.isfinite(encoder.encode(texts).values).all()
