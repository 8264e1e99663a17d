"""Late interaction: the vectors of sentence-transformers' own class, in any batch, and what is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.vectors import Vectors
from lodesmith.encoders import load_encoder
from lodesmith.encoders._loading import is_late
from lodesmith.encoders.tokens import LateInteractionEncoder, PackedTokens
from lodesmith.recipes.systems import load_encoder as load_any
from lodesmith.similarity.maxsim import maxsim_rows
from tiny_models import TEXTS

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "expanded": {"expansion": 14},
    "attended": {"expansion": 14, "attend": True},
    "short": {"query_length": 6, "document_length": 9, "skip": ["the", "of"]},
    "pooled": {"pool": 3},
    "prompted": {"query_prompt": "owl ", "document_prompt": "bee bee "},
}


def rows(vectors: Vectors, at: int) -> np.ndarray[Any, Any]:
    return np.asarray(vectors.values[vectors.offsets[at] : vectors.offsets[at + 1]])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_its_vectors_are_those_of_the_folder_in_sentence_transformers(
    tiny: Callable[..., Path], tmp_path: Path, kind: str, way: str
) -> None:
    from sentence_transformers import MultiVectorEncoder

    torch.manual_seed(1)
    encoder = LateInteractionEncoder(tiny(kind), dimension=8, **WAYS[way])
    assert encoder.packed == (kind == "bert")
    folder = encoder.save(tmp_path / "late")
    theirs = MultiVectorEncoder(str(folder), device="cpu")
    again = LateInteractionEncoder(folder)
    assert again.fingerprint == encoder.fingerprint
    for side, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
        found, wanted = encoder.encode(TEXTS, side), encode(TEXTS, convert_to_numpy=True)  # type: ignore[arg-type]
        for at, own in enumerate(wanted):
            np.testing.assert_allclose(rows(found, at), own, atol=2e-5)
        np.testing.assert_allclose(again.encode(TEXTS, side).values, found.values, atol=1e-6)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=9), st.integers(0, 8), st.sampled_from([40, 4096]))
def test_a_score_is_the_same_in_any_batch(
    expanded: LateInteractionEncoder, others: list[str], at: int, tokens: int
) -> None:
    at = at % len(others)
    expanded.batch_tokens = tokens
    query = expanded.encode(["the cat likes the moon"], "query")
    alone, together = expanded.encode([others[at]]), expanded.encode(others)
    wanted = maxsim_rows(query, alone)
    found = maxsim_rows(query, together, np.array([[0, at]]))
    np.testing.assert_allclose(found, wanted, rtol=2e-6)


@pytest.fixture(scope="module")
def expanded(tiny: Callable[..., Path]) -> LateInteractionEncoder:
    torch.manual_seed(1)
    return LateInteractionEncoder(tiny(), dimension=8, expansion=10, skip=["the"], pool=2)


def test_training_sees_the_vectors_of_encoding_and_every_weight_gets_a_gradient(tiny: Callable[..., Path]) -> None:
    encoder = LateInteractionEncoder(tiny(), dimension=8, skip=["the"])
    encoder.eval()
    ids = encoder.reader.read(TEXTS, "document").ids
    packed = {
        "ids": torch.from_numpy(np.concatenate(ids)).long(),
        "offsets": torch.from_numpy(np.cumsum([0, *map(len, ids)])),
    }
    tower = PackedTokens(encoder)
    encoder.batch_tokens = 30  # several groups, which must come back in order
    found = tower(packed)
    wanted = encoder.encode(TEXTS)
    assert found["offsets"].tolist() == wanted.offsets.tolist()
    np.testing.assert_allclose(found["values"].detach().numpy(), wanted.values, atol=1e-5)
    (found["values"] * torch.randn_like(found["values"])).sum().backward()
    trained = encoder.get_trainable_parameters()
    assert {name: len(own) > 0 for name, own in trained.items()} == {"base": True, "projection": True}
    assert all(parameter.grad is not None for own in trained.values() for parameter in own)
    nothing = tower({"ids": torch.zeros(0, dtype=torch.int64), "offsets": torch.zeros(1, dtype=torch.int64)})
    assert nothing["values"].shape == (0, 8)


def test_a_frozen_base_leaves_the_projection_to_train(tiny: Callable[..., Path]) -> None:
    encoder = LateInteractionEncoder(tiny(), dimension=8, freeze_base=True)
    assert {name: len(own) for name, own in encoder.get_trainable_parameters().items()} == {"base": 0, "projection": 1}
    with pytest.raises(ConfigError, match="frozen"):
        LateInteractionEncoder(tiny(), freeze_base=True, freeze_layers=1)

    encoder.train()
    tower = PackedTokens(encoder).train()
    assert (encoder.training, encoder.model[0].training, tower.base.training) == (True, False, False)


def test_the_fingerprint_follows_the_weights_and_encoding_leaves_the_mode_alone(tiny: Callable[..., Path]) -> None:
    encoder = LateInteractionEncoder(tiny(), dimension=8)
    before = encoder.fingerprint
    assert not encoder.training
    assert encoder.encode(["cat"]).info["model"] == before
    encoder.train()
    encoder.encode(["cat"])
    assert encoder.training
    with torch.no_grad():
        encoder.model[1].linear.weight[0, 0] += 1
    assert encoder.fingerprint != before


def test_threads_that_encode_at_once_get_what_each_gets_alone(tiny: Callable[..., Path]) -> None:
    encoder = LateInteractionEncoder(tiny(), dimension=8, precision="float32")
    sides = [("query" if number % 2 else "document", TEXTS[number % len(TEXTS) :] + TEXTS) for number in range(8)]
    alone = [encoder.encode(texts, side) for side, texts in sides]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda asked: encoder.encode(asked[1], asked[0]), sides))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.offsets, other.offsets)
        np.testing.assert_allclose(one.values, other.values, atol=1e-6)


def test_low_rank_adapters_are_saved_within_the_weights(tiny: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="pip install 'lodesmith[lora]'")
    torch.manual_seed(1)
    encoder = LateInteractionEncoder(tiny(), dimension=8, lora={"rank": 2})
    before = encoder.encode(TEXTS).values
    for name, parameter in encoder.named_parameters():
        if "pooler" not in name:  # no vector depends on it
            assert parameter.requires_grad == ("lora_" in name or name.startswith("model.1")), name
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    wanted = encoder.encode(TEXTS).values
    assert np.abs(before - wanted).max() > 0.05
    again = LateInteractionEncoder(encoder.save(tmp_path / "late"))
    np.testing.assert_allclose(again.encode(TEXTS).values, wanted, atol=3e-4)  # the sum of weights is rounded once more


def test_a_projection_that_begins_at_the_data_keeps_inner_products(tiny: Callable[..., Path]) -> None:
    def lost(begun: bool) -> float:
        torch.manual_seed(3)
        encoder = LateInteractionEncoder(tiny(), dimension=16)
        if begun:
            encoder.begin(TEXTS)
        encoder.eval()
        whole = _states(encoder, TEXTS[2:5])
        projected = whole @ encoder.model[1].linear.weight.detach().T
        products, kept = whole @ whole.T, projected @ projected.T
        scale = (products * kept).sum() / (kept * kept).sum()
        return float((products - scale * kept).square().sum() / products.square().sum())

    assert lost(True) < 0.5 * lost(False)


def _states(encoder: LateInteractionEncoder, texts: list[str]) -> torch.Tensor:
    """What goes into the projection."""
    seen: list[torch.Tensor] = []
    hook = encoder.model[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]["token_embeddings"]))
    encoder.embed(texts)
    hook.remove()
    return torch.cat([own.reshape(-1, own.shape[-1]) for own in seen]).detach()


def test_a_document_of_skipped_words_alone_keeps_them(tiny: Callable[..., Path]) -> None:
    encoder = LateInteractionEncoder(tiny(), dimension=8, skip=["[CLS]", "[SEP]", "bee"])
    assert np.diff(encoder.encode(["bee bee", "bee cat", ""]).offsets).tolist() == [4, 1, 2]


def test_what_is_cut_off_is_told(tiny: Callable[..., Path]) -> None:
    encoder = LateInteractionEncoder(tiny(), dimension=8, document_length=6)
    info = encoder.encode(["cat", "bee " * 50], ids=("a", "b")).info
    assert (info["truncated"], info["cut"], info["metric"], info["tokens"]) == (0.5, ["b"], "maxsim", 9)


def test_models_are_known_by_their_folder(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = LateInteractionEncoder(tiny(), dimension=8).save(tmp_path / "late")
    assert is_late(folder)
    assert not is_late(tiny())
    assert isinstance(load_any(str(folder)), LateInteractionEncoder)
    assert not isinstance(load_any(str(tiny())), LateInteractionEncoder)
    with pytest.raises(InputError, match="late-interaction"):
        load_any(str(folder), passages=20)
    with pytest.raises(InputError, match="late-interaction"):
        load_encoder(folder)


def test_colbert_checkpoints_of_their_first_home_load(tiny: Callable[..., Path], tmp_path: Path) -> None:
    from sentence_transformers import MultiVectorEncoder
    from transformers import AutoConfig, AutoTokenizer

    folder, source = tmp_path / "colbert", tiny()
    config = AutoConfig.from_pretrained(source)
    config.architectures = ["HF_ColBERT"]
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    weights = {f"bert.{name}": value for name, value in load_file(source / "model.safetensors").items()}
    save_file(weights | {"linear.weight": torch.randn(8, 32)}, folder / "model.safetensors", {"format": "pt"})
    told = {"query_maxlen": 12, "doc_maxlen": 40, "mask_punctuation": True, "attend_to_mask_tokens": False, "dim": 8}
    (folder / "artifact.metadata").write_text(json.dumps(told), encoding="utf-8")
    assert is_late(folder)
    encoder, theirs = LateInteractionEncoder(folder), MultiVectorEncoder(str(folder), device="cpu")
    assert encoder.reader.limits == {"query": 12, "document": 40}
    for side, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
        found = encoder.encode(TEXTS, side)  # type: ignore[arg-type]
        for at, own in enumerate(encode(TEXTS, convert_to_numpy=True)):
            np.testing.assert_allclose(rows(found, at), own, atol=2e-5)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"dimension": 0}, "dimension"),
        ({"pool": 0}, "pool"),
        ({"skip": "stopwords"}, "punctuation"),
        ({"expansion": 500}, "expansion is 500"),
        ({"document_length": 2}, "document_length"),
        ({"query_length": 5, "expansion": 9}, "expansion"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tiny: Callable[..., Path], asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LateInteractionEncoder(tiny(), **asked)


def test_a_late_model_keeps_its_dimension(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = LateInteractionEncoder(tiny(), dimension=8).save(tmp_path / "late")
    assert not LateInteractionEncoder(folder).is_new
    with pytest.raises(ConfigError, match="the model has 8"):
        LateInteractionEncoder(folder, dimension=16)


def test_texts_that_are_none_and_models_that_are_none(tiny: Callable[..., Path], tmp_path: Path) -> None:
    encoder = LateInteractionEncoder(tiny(), dimension=8)
    with pytest.raises(InputError, match="not a string"):
        encoder.encode(["a", None])  # type: ignore[list-item]
    with pytest.raises(InputError, match="not the same number"):
        encoder.encode(["a"], ids=("x", "y"))
    assert len(encoder.encode([])) == 0
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError):
        LateInteractionEncoder(tmp_path / "none")
