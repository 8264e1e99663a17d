"""A base that trains: packed ids give the vectors of texts, with the same gradients; and what of it may change."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import tiny_models
from lodesmith.core.errors import ConfigError, MissingExtraError
from lodesmith.data.tokens import FastTokenizer
from lodesmith.encoders._finetuning import PackedEncoder, merged, sides_differ
from lodesmith.encoders.projected import IsotropicGaussianEncoder
from lodesmith.encoders.transformer import TransformerEncoder

TEXTS = tiny_models.TEXTS
Folders = Callable[..., Path]


def tunable(folder: Path, **settings: Any) -> IsotropicGaussianEncoder:
    torch.manual_seed(0)
    base = TransformerEncoder(folder, precision="float32")
    return IsotropicGaussianEncoder(16, base, False, **settings)


def ids(encoder: IsotropicGaussianEncoder, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    reader = encoder.base.reader
    made = FastTokenizer(encoder.base.model[0].tokenizer, reader.limits["document"], reader.prompts["document"])(texts)
    return made.ids, np.concatenate([[0], np.cumsum(made.lengths)])


def packed(encoder: IsotropicGaussianEncoder, texts: list[str]) -> dict[str, torch.Tensor]:
    flat, bounds = ids(encoder, texts)
    return {"ids": torch.from_numpy(flat), "offsets": torch.from_numpy(bounds)}


def trained(module: torch.nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", ["bert", "modernbert", "roberta", "mpnet", "qwen", "gemma"])
def test_ids_give_the_vectors_of_their_texts(tiny: Folders, kind: str) -> None:
    encoder = tunable(tiny(kind)).eval()
    tower = PackedEncoder(encoder).eval()
    encoder.base.batch_tokens = 60  # several batches
    texts = [*TEXTS[1:], TEXTS[3]]
    expected = encoder.encode(texts).values
    np.testing.assert_allclose(tower(packed(encoder, texts)).detach().numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(tower.vectors(*ids(encoder, texts)), expected, atol=2e-5)


def test_gradients_are_those_of_encoding_the_texts(tiny: Folders) -> None:
    encoder = tunable(tiny()).eval()
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    weights = torch.randn(len(TEXTS), 16)
    expected = torch.autograd.grad((encoder(TEXTS) * weights).sum(), parameters)
    found = torch.autograd.grad((PackedEncoder(encoder)(packed(encoder, TEXTS)) * weights).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_no_texts_give_no_vectors(tiny: Folders) -> None:
    encoder = tunable(tiny())
    none = {"ids": torch.zeros(0, dtype=torch.int64), "offsets": torch.zeros(1, dtype=torch.int64)}
    assert PackedEncoder(encoder)(none).shape == (0, 16)


def test_vectors_leave_training_as_it_is(tiny: Folders) -> None:
    encoder = tunable(tiny())
    tower = PackedEncoder(encoder).train()
    first, second = (tower.vectors(*ids(encoder, TEXTS)) for _ in range(2))
    assert np.array_equal(first, second)  # without dropout
    assert tower.base.training
    assert not np.array_equal(tower(packed(encoder, TEXTS)).detach().numpy(), first)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "qwen"])
def test_dropout_of_the_base_can_be_off(tiny: Folders, kind: str) -> None:
    encoder = tunable(tiny(kind), base_dropout=0.0, kind="linear")
    tower = PackedEncoder(encoder)
    batch = packed(encoder, TEXTS[1:])
    assert torch.equal(tower.train()(batch), tower.eval()(batch))
    with pytest.raises(ConfigError, match=r"base_dropout must be at least 0 and below 1, not 1\.0"):
        tunable(tiny(kind), base_dropout=1.0)


def test_the_first_layers_stay_as_they_are(tiny: Folders) -> None:
    names = trained(tunable(tiny(), freeze_layers=1).base_module)
    assert names
    assert all(".layer.1." in name for name in names)
    everything = trained(tunable(tiny()).base_module)
    assert any("embeddings" in name for name in everything)
    assert not any("pooler" in name for name in everything)  # no vector depends on it
    with pytest.raises(ConfigError, match="freeze_layers is 3, and the base has 2 layers"):
        tunable(tiny(), freeze_layers=3)
    with pytest.raises(ConfigError, match="nothing of the base is left"):
        tunable(tiny(), freeze_layers=2)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "qwen"])
def test_layers_computed_again_give_the_same_gradients(tiny: Folders, kind: str) -> None:
    found = []
    for again in (False, True):
        encoder = tunable(tiny(kind), activation_checkpointing=again, kind="linear").train()
        tower = PackedEncoder(encoder)
        torch.manual_seed(3)
        tower(packed(encoder, TEXTS[1:])).square().sum().backward()
        found.append({n: p.grad for n, p in tower.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any("layer" in name for name in found[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-6, atol=1e-6 * float(gradient.abs().max()))


def test_activation_checkpointing_computes_layers_twice(tiny: Folders) -> None:
    encoder = tunable(tiny(), activation_checkpointing=True, base_dropout=0.0)
    layer, calls = encoder.base.model.transformers_model.encoder.layer[1].attention, []
    layer.register_forward_hook(lambda *_: calls.append(1))
    PackedEncoder(encoder).train()(packed(encoder, TEXTS[1:4])).sum().backward()
    assert len(calls) == 2


def test_settings_of_training_need_a_base_that_trains(tiny: Folders) -> None:
    base = TransformerEncoder(tiny(), precision="float32")
    for settings in ({"freeze_layers": 1}, {"base_dropout": 0.0}, {"activation_checkpointing": True}, {"lora": {}}):
        with pytest.raises(ConfigError, match="the base is frozen"):
            IsotropicGaussianEncoder(16, base, True, **settings)


def test_prompts_that_are_not_pooled_need_a_module_for_each_side(tiny: Folders, tmp_path: Path) -> None:
    assert not sides_differ(TransformerEncoder(tiny()))
    folder = tiny_models.build(tmp_path / "model", prompts={"query": "the cat ", "document": ""})
    assert not sides_differ(TransformerEncoder(folder))
    base = TransformerEncoder(folder, precision="float32")
    base.model[1].include_prompt = False
    assert sides_differ(base)
    encoder = IsotropicGaussianEncoder(16, base, False, kind="linear").eval()
    flat = FastTokenizer(base.model[0].tokenizer, base.reader.limits["query"], base.reader.prompts["query"])(TEXTS[1:4])
    found = PackedEncoder(encoder, "query").vectors(flat.ids, np.concatenate([[0], np.cumsum(flat.lengths)]))
    np.testing.assert_allclose(found, encoder.encode(TEXTS[1:4], "query").values, atol=2e-5)


# ------------------------------------------------------------------------ LoRA


@pytest.fixture
def adapted(tiny: Folders) -> IsotropicGaussianEncoder:
    pytest.importorskip("peft", reason="pip install 'lodesmith[lora]'")
    encoder = tunable(tiny(), lora={"rank": 2, "alpha": 8}, kind="linear").eval()
    with torch.no_grad():
        for name, parameter in encoder.base_module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    return encoder


def test_adapters_alone_train_and_begin_as_the_base(tiny: Folders) -> None:
    pytest.importorskip("peft", reason="pip install 'lodesmith[lora]'")
    encoder, plain = (tunable(tiny(), lora=lora, kind="linear").eval() for lora in ({"rank": 2}, None))
    names = trained(encoder.base_module)
    assert names
    assert all("lora_" in name for name in names)
    np.testing.assert_allclose(encoder.base.encode(TEXTS).values, plain.base.encode(TEXTS).values, atol=1e-6)
    PackedEncoder(encoder)(packed(encoder, TEXTS)).square().sum().backward()
    assert all(p.grad is not None for p in encoder.base_module.parameters() if p.requires_grad)


def test_adapters_are_merged_into_what_is_saved(adapted: IsotropicGaussianEncoder, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    expected = adapted.encode(TEXTS[1:]).values
    saved = SentenceTransformer(str(adapted.save(tmp_path / "model")), device="cpu")
    np.testing.assert_allclose(saved.encode(TEXTS[1:]), expected, atol=2e-5)
    assert not any("lora" in name for name in saved.state_dict())
    np.testing.assert_allclose(adapted.encode(TEXTS[1:]).values, expected, atol=1e-6)  # training can go on
    assert merged(tiny := TransformerEncoder(tmp_path / "model").model) is tiny


def test_settings_of_adapters_are_checked(tiny: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft", reason="pip install 'lodesmith[lora]'")
    with pytest.raises(ConfigError, match="lora has no setting 'rnak'"):
        tunable(tiny(), lora={"rnak": 2})
    with pytest.raises(ConfigError, match="lora does not fit the base"):
        tunable(tiny(), lora={"rank": 0})
    with pytest.raises(ConfigError, match="lora does not fit the base"):
        tunable(tiny(), lora={"layers": ["no_such_layer"]})
    for layers in ([3], "(["):
        with pytest.raises(ConfigError, match="lora does not fit the base"):
            tunable(tiny(), lora={"layers": layers})
    with pytest.raises(ConfigError, match="freeze_layers and lora"):
        tunable(tiny(), lora={}, freeze_layers=1)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"peft is not installed"):
        tunable(tiny(), lora={})


# ---------------------------------------------------------------------- saving


def test_a_trained_base_is_saved_as_it_is(tiny: Folders, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = tunable(tiny(), kind="mlp")
    tower = PackedEncoder(encoder).train()
    optimizer = torch.optim.SGD([p for p in tower.parameters() if p.requires_grad], lr=0.5)
    before, name = tower.vectors(*ids(encoder, TEXTS[1:])), encoder.fingerprint
    tower(packed(encoder, TEXTS)).square().sum().backward()
    optimizer.step()
    after = tower.vectors(*ids(encoder, TEXTS[1:]))
    assert np.abs(after - before).max() > 1e-2
    assert encoder.fingerprint != name
    saved = SentenceTransformer(str(encoder.save(tmp_path / "model")), device="cpu")
    np.testing.assert_allclose(saved.encode(TEXTS[1:]), after, atol=2e-5)
