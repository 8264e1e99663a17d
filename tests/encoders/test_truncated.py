"""Some layers of a transformer as a model: which, what is left as it was, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_models
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.encoders import TransformerEncoder, load_encoder, truncate
from lodesmith.encoders._finetuning import layers_of
from lodesmith.encoders._loading import load_model
from lodesmith.encoders._truncated import Keep, _cut, _of_each_layer, chosen
from tiny_models import TEXTS

KINDS = ["bert", "modernbert", "roberta", "mpnet", "qwen", "gemma"]
DEEP = 4


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """kind, layers … → the folder of a tiny model whose norms are not as they were made."""
    root, made = tmp_path_factory.mktemp("deep"), dict[str, Path]()

    def build(kind: str = "bert", layers: int = DEEP) -> Path:
        name = f"{kind}-{layers}"
        if name not in made:
            folder = tiny_models.build(root / name, kind, layers=layers, prompts={"query": "the cat ", "document": ""})
            made[name] = _unlike(folder)
        return made[name]

    return build


def _unlike(folder: Path) -> Path:
    """Give the norms weights that matter."""
    file = folder / "model.safetensors"
    torch.manual_seed(3)
    state = {
        name: value + torch.rand_like(value) if "norm" in name.lower() and value.ndim == 1 else value
        for name, value in load_file(file).items()
    }
    save_file(state, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("total", "layers", "keep", "expected"),
    [
        (6, 3, "first", [0, 1, 2]),
        (6, 3, "last", [3, 4, 5]),
        (6, 3, "spread", [0, 3, 5]),
        (12, 6, "spread", [0, 2, 4, 7, 9, 11]),
        (12, 2, "spread", [0, 11]),
        (6, 1, "spread", [5]),
        (6, 6, "spread", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_which_layers_are_kept(total: int, layers: int, keep: Keep, expected: list[int]) -> None:
    assert chosen(total, layers, keep) == expected


def test_spread_layers_are_different_ones_and_the_last_is_there() -> None:
    for total in range(1, 30):
        for layers in range(1, total + 1):
            found = chosen(total, layers, "spread")
            assert len(set(found)) == layers
            assert found == sorted(found)
            assert found[-1] == total - 1


@pytest.mark.parametrize(
    ("layers", "keep", "message"),
    [
        (5, "spread", "layers is 5, and the model has 4"),
        (0, "first", "layers is 0, and the model has 4\nchoose 1 to 4"),
        (2, "middle", "keep is 'middle'\nchoose spread, first or last"),
    ],
)
def test_what_cannot_be_kept_is_refused(deep: Callable[..., Path], layers: int, keep: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        truncate(deep(), layers, keep)


def _by_hand(folder: Path, kept: list[int]) -> np.ndarray[Any, Any]:
    """The vectors of a model whose other layers pass on what they get."""
    model = load_model(folder, "cpu")
    config = model.transformers_model.config
    config.use_cache = False
    blocks = layers_of(model.transformers_model)
    for at, block in enumerate(blocks):
        if at not in kept:
            block.register_forward_hook(
                lambda module, given, result: (given[0], *result[1:]) if isinstance(result, tuple) else given[0],
            )
    found: np.ndarray[Any, Any] = model.encode(TEXTS[1:], batch_size=1, show_progress_bar=False)
    return found


@pytest.mark.parametrize("keep", ["first", "spread", "last"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kept_layers_do_as_they_did(deep: Callable[..., Path], tmp_path: Path, kind: str, keep: Keep) -> None:
    if (kind, keep) == ("modernbert", "last"):
        with pytest.raises(ConfigError, match="layers 2, 3 of this model do not work at other places"):
            truncate(deep(kind), 2, keep, tmp_path / "model")
        assert not (tmp_path / "model").exists()
        return
    folder = truncate(deep(kind), 2, keep, tmp_path / "model")
    loaded = load_model(folder, "cpu")
    config = loaded.transformers_model.config
    assert config.num_hidden_layers == len(layers_of(loaded.transformers_model)) == 2
    types = getattr(load_model(deep(kind), "cpu").transformers_model.config, "layer_types", None)
    assert getattr(config, "layer_types", None) == (types and [types[at] for at in chosen(DEEP, 2, keep)])
    vectors = loaded.encode(TEXTS[1:], batch_size=1, show_progress_bar=False)
    np.testing.assert_allclose(vectors, _by_hand(deep(kind), chosen(DEEP, 2, keep)), atol=1e-5)
    assert not np.allclose(vectors, load_model(deep(kind), "cpu").encode(TEXTS[1:]), atol=1e-2)


def test_all_layers_are_the_model_itself(deep: Callable[..., Path], tmp_path: Path) -> None:
    teacher = load_encoder(deep())
    whole = load_encoder(truncate(deep(), DEEP, out=tmp_path / "whole"))
    assert whole.fingerprint == teacher.fingerprint
    assert load_encoder(truncate(deep(), 3, out=tmp_path / "less")).fingerprint != teacher.fingerprint


def test_all_else_is_the_teachers(deep: Callable[..., Path], tmp_path: Path) -> None:
    teacher, cut = (TransformerEncoder(folder) for folder in (deep(), truncate(deep(), 1, out=tmp_path / "m")))
    assert cut.reader.prompts == teacher.reader.prompts == {"query": "the cat ", "document": ""}
    assert cut.reader.limits == teacher.reader.limits == {"query": 96, "document": 96}
    assert [type(part).__name__ for part in cut.model] == ["Transformer", "Pooling", "Normalize"]
    assert (cut.metric, cut.dimension, cut.packed) == (teacher.metric, teacher.dimension, teacher.packed)
    old, new = (load_file(folder / "model.safetensors") for folder in (deep(), tmp_path / "m"))
    assert all(torch.equal(new[name], old[name]) for name in new if "embeddings" in name)
    assert torch.equal(
        new["encoder.layer.0.attention.self.query.weight"], old["encoder.layer.3.attention.self.query.weight"]
    )
    assert json.loads((tmp_path / "m" / "manifest.json").read_text())["layers"] == [3]


def test_the_cache_makes_a_model_once_and_mends_it(deep: Callable[..., Path], cache: Path) -> None:
    folder = truncate(deep(), 2)
    assert folder.parent == cache / "models"
    weights = folder / "model.safetensors"
    made = weights.stat().st_ino
    assert truncate(deep(), 2) == folder
    assert weights.stat().st_ino == made
    others = {truncate(deep(), 2, "last"), truncate(deep(), 3), truncate(deep("roberta"), 2)}
    assert len(others | {folder}) == 4
    raw = bytearray(weights.read_bytes())
    raw[-5] ^= 1
    weights.write_bytes(raw)
    assert truncate(deep(), 2) == folder
    raw[-5] ^= 1
    assert weights.read_bytes() == raw


def test_another_teacher_has_a_folder_of_its_own(deep: Callable[..., Path], cache: Path, tmp_path: Path) -> None:
    model = load_model(deep(), "cpu")
    model.prompts["query"] = "a dog "
    model.save_pretrained(str(tmp_path / "asks"))
    model.max_seq_length = 40
    model.save_pretrained(str(tmp_path / "short"))
    folders = [truncate(folder, 2) for folder in (deep(), tmp_path / "asks", tmp_path / "short")]
    assert len(set(folders)) == 3
    assert TransformerEncoder(folders[2]).reader.limits["document"] == 40


@pytest.mark.parametrize(
    ("name", "value", "cut"),
    [
        ("layer_types", ["full", "sliding"], True),
        ("block_types", ("a", "b"), True),
        ("layer_types", ["full"], False),
        ("eos_token_id", [3, 4], False),
        ("mlp_only_layers", [0, 1], False),
        ("architectures", ["A", "B"], False),
        ("num_hidden_layers", 2, False),
    ],
)
def test_which_settings_are_those_of_each_layer(name: str, value: Any, cut: bool) -> None:
    assert _of_each_layer(name, value, 2) == cut


def test_a_model_without_layers_is_refused(tmp_path: Path) -> None:
    from lodesmith.encoders import Bag, Vocabulary

    folder = Bag(Vocabulary.build(["a cat a dog"], min_count=1), 4).save(tmp_path / "bag")
    with pytest.raises(ConfigError, match="is no transformer: it has no layers"):
        truncate(folder, 1)
    with pytest.raises(InputError, match="no such model folder"):
        truncate(tmp_path / "missing", 1)


def test_the_real_one(minilm: TransformerEncoder, tmp_path: Path) -> None:
    """Three of six layers keep the direction of the teacher's vectors, more or less."""
    cut = TransformerEncoder(truncate("minilm", 3, out=tmp_path / "m"), precision="float32")
    assert 12_000_000 < cut.parameters < 18_000_000 < minilm.parameters
    texts = ["Vitamin D lowers the risk of falls.", "How are vectors compared?", "The cat sleeps in the barn."]
    cosines = (cut.encode(texts).values * minilm.encode(texts).values).sum(1)
    assert (cosines > 0.2).all()


@pytest.mark.parametrize("kind", ["qwen", "gemma"])
def test_the_kept_layers_are_numbered_anew(deep: Callable[..., Path], kind: str) -> None:
    transformer = load_model(deep(kind), "cpu").transformers_model
    blocks = layers_of(transformer)
    transformer.config.layer_types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    _cut(transformer, blocks, [1, 3])
    assert transformer.config.layer_types == ["full_attention", "sliding_attention"]
    numbered = [{vars(m)["layer_idx"] for m in layer.modules() if "layer_idx" in vars(m)} for layer in blocks]
    assert numbered == [{0}, {1}]  # places in a cache of two layers
