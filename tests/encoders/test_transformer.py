"""Our vectors are those of sentence-transformers, for any architecture, and each text's are its own."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import tiny_models
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.encoders import Passages, TransformerEncoder, _precision, load_encoder, transformer
from tiny_models import TEXTS, WORDS

Build = Callable[..., Path]


def peer(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("kind", ["bert", "modernbert", "roberta", "qwen"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_packed_vectors_equal_those_of_sentence_transformers(tiny: Build, kind: str, pooling: str) -> None:
    encoder = TransformerEncoder(tiny(kind, pooling))
    assert encoder.packed
    expected = peer(tiny(kind, pooling)).encode(TEXTS, batch_size=3)
    np.testing.assert_allclose(encoder.encode(TEXTS).values, expected, atol=2e-6)


@pytest.mark.parametrize("kind", ["mpnet", "gemma"])
def test_a_model_that_cannot_be_packed_is_padded_and_says_so(
    tiny: Build, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lodesmith"):
        encoder = TransformerEncoder(tiny(kind))
    assert not encoder.packed
    assert [record.message for record in caplog.records if "padded batches" in record.message]
    np.testing.assert_allclose(encoder.encode(TEXTS).values, peer(tiny(kind)).encode(TEXTS), atol=2e-6)


def test_a_wrong_packing_is_noticed_when_the_model_is_loaded(tiny: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(sequences: list[np.ndarray], *, first_position: int = 0) -> dict[str, object]:
        features = real(sequences, first_position=first_position)
        features["position_ids"] = torch.arange(features["input_ids"].shape[1])[None]
        return features

    real = transformer.pack
    monkeypatch.setattr(transformer, "pack", leaky)
    encoder = TransformerEncoder(tiny())
    assert not encoder.packed
    np.testing.assert_allclose(encoder.encode(TEXTS).values, peer(tiny()).encode(TEXTS), atol=2e-6)


def test_modules_after_the_pooling_count(tiny: Build) -> None:
    encoder = TransformerEncoder(tiny(dense=12))
    assert encoder.dimension == 12
    np.testing.assert_allclose(encoder.encode(TEXTS).values, peer(tiny(dense=12)).encode(TEXTS), atol=2e-6)


def test_a_model_of_static_embeddings_has_no_transformer_and_works(tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = tiny_models._tokenizer().backend_tokenizer
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    model.save_pretrained(str(tmp_path / "static"), create_model_card=False)
    encoder = TransformerEncoder(tmp_path / "static")
    texts = ["the cat", "a dog and an owl", "moon"]
    np.testing.assert_allclose(encoder.encode(texts).values, peer(tmp_path / "static").encode(texts), atol=1e-6)


def test_minilm_equals_sentence_transformers(minilm: TransformerEncoder) -> None:
    texts = ["", "a", "Hello, wörld! 👋", "  spaces  ", "long text about vectors " * 120, "\n\ttabs"]
    expected = peer(minilm.folder).encode(texts)
    assert minilm.packed
    assert minilm.dimension == 384
    assert minilm.parameters == 22_713_216
    np.testing.assert_allclose(minilm.encode(texts).values, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_the_vector_of_a_text_does_not_depend_on_the_others(tiny: Build, kind: str) -> None:
    encoder = TransformerEncoder(tiny(kind), batch_tokens=64)
    together = encoder.encode(TEXTS).values
    alone = np.concatenate([encoder.encode([text]).values for text in TEXTS])
    backwards = encoder.encode(TEXTS[::-1]).values[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together, backwards, atol=1e-6)
    np.testing.assert_allclose(together[2], together[5], atol=1e-6)  # the same text twice


def test_prompts_are_the_models_own_unless_given(tmp_path: Path) -> None:
    folder = tiny_models.build(tmp_path / "m", prompts={"query": "the cat ", "document": "a dog "})
    encoder, model = TransformerEncoder(folder), peer(folder)
    texts = ["owl eats apples", "moon"]
    np.testing.assert_allclose(encoder.encode(texts, "query").values, model.encode_query(texts), atol=2e-6)
    np.testing.assert_allclose(encoder.encode(texts, "document").values, model.encode_document(texts), atol=2e-6)
    given = TransformerEncoder(folder, query_prompt="bee ", document_prompt="")
    np.testing.assert_allclose(given.encode(texts, "query").values, model.encode(texts, prompt="bee "), atol=2e-6)
    np.testing.assert_allclose(given.encode(texts).values, model.encode(texts), atol=2e-6)


def test_a_prompt_that_the_pooling_leaves_out_is_left_out(tmp_path: Path) -> None:
    folder = tiny_models.build(tmp_path / "m", prompts={"query": "the cat ", "document": ""})
    config = json.loads((folder / "1_Pooling" / "config.json").read_text())
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config | {"include_prompt": False}))
    encoder = TransformerEncoder(folder)
    texts = ["owl eats apples", "moon", "the moon"]
    assert encoder.packed
    np.testing.assert_allclose(encoder.encode(texts, "query").values, peer(folder).encode_query(texts), atol=2e-6)


def test_the_metric_is_the_models(tmp_path: Path) -> None:
    for metric in ("dot", "euclidean", "cosine"):
        assert TransformerEncoder(tiny_models.build(tmp_path / metric, similarity_fn_name=metric)).metric == metric
    with pytest.raises(InputError, match="manhattan"):
        TransformerEncoder(tiny_models.build(tmp_path / "manhattan", similarity_fn_name="manhattan"))


def test_a_model_that_cuts_its_vectors_is_followed(tmp_path: Path, tiny_encoder: TransformerEncoder) -> None:
    folder = tiny_models.build(tmp_path / "m", truncate_dim=8)
    encoder = TransformerEncoder(folder)
    assert encoder.dimension == 8
    assert encoder.fingerprint != tiny_encoder.fingerprint
    np.testing.assert_allclose(encoder.encode(TEXTS).values, peer(folder).encode(TEXTS), atol=2e-6)


def test_truncation_is_counted(tiny_encoder: TransformerEncoder, tiny: Build) -> None:
    vectors = tiny_encoder.encode(["cat", "bee " * 94, "bee " * 95, "bee " * 5000])
    assert vectors.info["truncated"] == 0.5  # 94 words and two special tokens just fit into 96
    assert vectors.info["tokens"] == 3 + 96 + 96 + 96
    shorter = TransformerEncoder(tiny(), max_length=10)
    assert shorter.encode(["the cat eats apples", "bee " * 9]).info["truncated"] == 0.5
    model = peer(tiny())
    model.max_seq_length = 10
    np.testing.assert_allclose(shorter.encode(TEXTS).values, model.encode(TEXTS), atol=2e-6)


@pytest.mark.parametrize("wrong", [0, 3, 97])
def test_a_maximum_length_beyond_the_model_is_refused(tiny: Build, wrong: int) -> None:
    with pytest.raises(ConfigError, match="between 4 and the model's limit, 96"):
        TransformerEncoder(tiny(), max_length=wrong)


def test_long_documents_become_passages_and_queries_do_not(tiny: Build) -> None:
    encoder = TransformerEncoder(tiny(), passages=Passages(20, 5))
    words = (WORDS * 5)[:100]
    vectors = encoder.encode(["the cat", " ".join(words), ""], ids=["a", "b", "c"])
    assert vectors.ids == ("a", "b", "c")
    assert np.diff(vectors.offsets).tolist() == [1, 7, 1]
    assert vectors.info["truncated"] == 0.0
    plain = TransformerEncoder(tiny())
    passages = [" ".join(words[start : start + 20]) for start in range(0, 95, 15)]
    np.testing.assert_allclose(vectors.values[1:8], plain.encode(passages).values, atol=1e-6)
    assert encoder.encode([" ".join(words)], "query").is_dense


def test_passages_must_fit_the_model(tiny: Build) -> None:
    with pytest.raises(ConfigError, match="room for 94"):
        TransformerEncoder(tiny(), passages=Passages(95, 5)).encode(["cat"])


def test_awkward_texts(tiny_encoder: TransformerEncoder) -> None:
    family, reversed_text = "\U0001f469\u200d\U0001f467", "\u202eright to left"
    texts = ["", " ", "\x00", family, "\ud800 lone", reversed_text, "x" * 500_000, "the cat " * 1_250_000]
    values = tiny_encoder.encode(texts).values
    assert values.shape == (8, 32)
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values[-1], tiny_encoder.encode(["the cat " * 200]).values[0], atol=1e-6)


def test_no_texts_make_no_vectors(tiny_encoder: TransformerEncoder) -> None:
    assert tiny_encoder.encode([]).values.shape == (0, 32)


@pytest.mark.parametrize("wrong", ["one text", ["a", None], [b"bytes"], [1.0]])
def test_what_is_no_list_of_texts_is_refused(tiny_encoder: TransformerEncoder, wrong: list[str]) -> None:
    with pytest.raises(InputError, match=r"text"):
        tiny_encoder.encode(wrong)


def test_ids_must_be_as_many(tiny_encoder: TransformerEncoder) -> None:
    with pytest.raises(InputError, match="1 != 2"):
        tiny_encoder.encode(["a", "b"], ids=["x"])


def test_damaged_weights_are_noticed(tiny: Build) -> None:
    encoder = TransformerEncoder(tiny())
    with torch.no_grad():
        next(encoder.model.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match="NaN"):
        encoder.encode(["cat"])


def test_the_fingerprint_follows_everything_that_changes_a_vector(
    tiny: Build, tiny_encoder: TransformerEncoder
) -> None:
    same = TransformerEncoder(tiny(), batch_tokens=64)
    others = [
        TransformerEncoder(tiny(pooling="cls")),
        TransformerEncoder(tiny("modernbert")),
        TransformerEncoder(tiny(), max_length=50),
        TransformerEncoder(tiny(), query_prompt="the "),
        TransformerEncoder(tiny(), passages=Passages(20, 5)),
    ]
    prints = [encoder.fingerprint for encoder in others]
    assert same.fingerprint == tiny_encoder.fingerprint
    assert len({tiny_encoder.fingerprint, *prints}) == 6
    assert all(len(value) == 64 for value in prints)


def test_encoding_does_not_change_the_fingerprint(tiny: Build, tiny_encoder: TransformerEncoder) -> None:
    encoder = TransformerEncoder(tiny())
    encoder.encode(TEXTS)
    assert encoder.fingerprint == tiny_encoder.fingerprint


def test_embed_gives_the_same_vectors_with_gradients(tiny: Build) -> None:
    encoder = TransformerEncoder(tiny(), batch_tokens=100)
    rows = encoder.embed(TEXTS)
    np.testing.assert_allclose(rows.detach().numpy(), encoder.encode(TEXTS).values, atol=1e-6)
    rows[:, 0].sum().backward()
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in encoder.model.parameters())


def test_bfloat16_is_for_processors_that_have_it(tiny: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_precision, "multiplies_bfloat16", lambda device: False)
    assert TransformerEncoder(tiny()).precision == "float32"
    with pytest.raises(ConfigError, match="no precision is called 'int8'"):
        TransformerEncoder(tiny(), precision="int8")  # type: ignore[arg-type]


def test_bfloat16_that_misses_the_cosine_is_given_up(tiny: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_precision, "multiplies_bfloat16", lambda device: True)
    monkeypatch.setattr(_precision, "COSINE", 1.0)
    encoder = TransformerEncoder(tiny())
    assert encoder.precision == "float32"
    np.testing.assert_allclose(encoder.encode(TEXTS).values, peer(tiny()).encode(TEXTS), atol=2e-6)
    with pytest.raises(ConfigError, match="keeps a cosine"):
        TransformerEncoder(tiny(), precision="bfloat16")


@pytest.mark.parametrize("whole", [True, False])
def test_bfloat16_minilm_keeps_the_cosine(
    minilm: TransformerEncoder, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr(
            _precision, "_whole", lambda model: [next(model.children()).register_forward_pre_hook(_refuse)]
        )
    encoder = TransformerEncoder("minilm", precision="bfloat16")
    assert encoder.precision == ("bfloat16" if whole else "bfloat16-linear")
    assert encoder.fingerprint != minilm.fingerprint
    texts = ["What is a vector?", "Retrieval of documents by meaning. " * 5]
    a, b = encoder.encode(texts).values, minilm.encode(texts).values
    assert a.dtype == np.float32
    assert (a * b).sum(1).min() >= 0.9999


def _refusing(model: torch.nn.Module) -> list[object]:
    return [next(model.children()).register_forward_pre_hook(_refuse)]


def _refuse(*_: object) -> None:
    raise RuntimeError("not in bfloat16")


def test_load_encoder_passes_its_settings(tiny: Build) -> None:
    encoder = load_encoder(tiny(), max_length=12)
    assert encoder.reader.limits == {"query": 12, "document": 12}
    assert encoder.source == str(tiny())


@pytest.mark.data
@pytest.mark.slow
def test_bfloat16_keeps_the_cosine_on_real_texts(minilm: TransformerEncoder, collections: Path) -> None:
    from lodesmith.core.records import Dataset

    dataset = Dataset.load(collections / "scifact")
    texts = [document.content for document in list(dataset.documents.values())[:200]]
    a = TransformerEncoder("minilm", precision="bfloat16").encode(texts).values
    b = minilm.encode(texts).values
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() >= 0.9999


def test_threads_change_no_vector_and_are_left_as_they_were(tiny_encoder: TransformerEncoder) -> None:
    texts = [f"the cat {'likes apples ' * (n % 7)}and rivers {n}" for n in range(300)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(tiny_encoder.encode(texts).values)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    alone = np.concatenate([tiny_encoder.encode([text]).values for text in texts[:20]])
    np.testing.assert_allclose(found[1][:20], alone, atol=1e-6)
