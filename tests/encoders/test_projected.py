"""The projection, its training groups, and the folder that sentence-transformers loads without us."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.encoders import IsotropicGaussianEncoder, ProjectionLayer, TransformerEncoder, load_encoder
from lodesmith.encoders.projected import Kind
from tiny_models import TEXTS

KINDS: list[Kind] = ["mlp", "linear", "residual_linear", "none"]


def trained(base: TransformerEncoder, kind: Kind, output: int | None = None) -> IsotropicGaussianEncoder:
    """An encoder whose projection is no longer what it began as."""
    torch.manual_seed(1)
    encoder = IsotropicGaussianEncoder(output, base, kind=kind)
    with torch.no_grad():
        for parameter in encoder.projection.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return encoder


def test_the_mlp_is_two_layers_with_gelu_and_dropout_between() -> None:
    layer = ProjectionLayer(6, 3)
    assert [type(module).__name__ for module in layer.layers] == ["Linear", "GELU", "Dropout", "Linear"]
    first, last = layer.layers[0], layer.layers[3]
    x = torch.randn(4, 6)
    expected = last(torch.nn.functional.gelu(first(x)))
    torch.testing.assert_close(layer.eval()(x), expected)
    assert first.out_features == 12
    assert not torch.equal(layer.train()(x), expected)  # dropout


def test_a_residual_begins_as_the_identity() -> None:
    x = torch.randn(4, 6)
    assert torch.equal(ProjectionLayer(6, 6, kind="residual_linear")(x), x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": 6, "output": 3, "kind": "residual_linear"}, "equal dimensions, not 6 → 3"),
        ({"input": 6, "output": 3, "kind": "none"}, "without a projection there are equal dimensions, not 6 → 3"),
        ({"input": 6, "output": 3, "kind": "cubic"}, "no projection is called 'cubic'"),
        ({"input": 6, "output": 0}, "is empty"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProjectionLayer(**settings)  # type: ignore[arg-type]


def test_a_normed_mlp_has_its_norm_after_gelu() -> None:
    layer = ProjectionLayer(6, 3, norm=True)
    assert [type(module).__name__ for module in layer.layers] == ["Linear", "GELU", "LayerNorm", "Dropout", "Linear"]
    first, last = layer.layers[0], layer.layers[4]
    x = torch.randn(4, 6)
    hidden = torch.nn.functional.gelu(first(x))
    hidden = (hidden - hidden.mean(1, keepdim=True)) / (hidden.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(layer.eval()(x), last(hidden))
    assert layer.affine() is None
    # The linear layers are drawn as without a norm.
    torch.manual_seed(0)
    without = ProjectionLayer(6, 3).state_dict()
    torch.manual_seed(0)
    drawn = ProjectionLayer(6, 3, norm=True).state_dict()
    assert torch.equal(without["layers.3.weight"], drawn["layers.4.weight"])
    assert list(without) == ["layers.0.weight", "layers.0.bias", "layers.3.weight", "layers.3.bias"]


@pytest.mark.parametrize("kind", ["linear", "residual_linear"])
def test_the_norm_is_that_of_an_mlp(kind: Kind) -> None:
    assert [type(module).__name__ for module in ProjectionLayer(6, 6, kind=kind, norm=True).layers] == ["Linear"]


def test_no_projection_is_the_identity_without_parameters() -> None:
    layer, x = ProjectionLayer(6, 6, kind="none"), torch.randn(4, 6)
    assert layer(x) is x
    assert list(layer.parameters()) == layer.stock_modules() == []


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_stock_modules_compute_the_same(kind: Kind, bias: bool, norm: bool) -> None:
    layer = ProjectionLayer(6, 6, kind=kind, bias=bias, norm=norm).eval()
    linears = [module for module in layer.layers if isinstance(module, torch.nn.Linear)]
    assert all((module.bias is not None) == bias for module in linears)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(5, 6)
    features = {"sentence_embedding": x}
    for module in layer.stock_modules():
        assert type(module).__module__.startswith("sentence_transformers.")
        features = module(features)
    torch.testing.assert_close(features["sentence_embedding"], layer(x), atol=1e-6, rtol=1e-6)
    if found := layer.affine():
        torch.testing.assert_close(layer(x), x @ found[0].T + found[1])


def test_a_frozen_base_gives_no_parameters_to_train(tiny_encoder: TransformerEncoder) -> None:
    encoder = IsotropicGaussianEncoder(5, tiny_encoder)
    groups = encoder.get_trainable_parameters()
    assert groups["base"] == []
    assert len(groups["projection"]) == 4
    assert not encoder.train().base_module.training
    assert encoder.dimension == 5


def test_a_predictor_trains_beside_and_is_no_part_of_the_encoder(
    tiny_encoder: TransformerEncoder, tmp_path: Path
) -> None:
    def made(predictor: bool) -> IsotropicGaussianEncoder:
        torch.manual_seed(1)
        return IsotropicGaussianEncoder(5, tiny_encoder, predictor=predictor)

    without, encoder = made(False), made(True)
    assert without.predictor is None
    assert without.get_trainable_parameters()["predictor"] == []
    groups = encoder.get_trainable_parameters()
    assert [tuple(p.shape) for p in groups["predictor"]] == [(10, 5), (10,), (5, 10), (5,)]
    assert encoder.predictor is not None
    assert encoder.predictor(torch.zeros(3, 5)).shape == (3, 5)
    # The projection is drawn as without it, and what is said of the encoder and saved is the same.
    assert encoder.fingerprint == without.fingerprint
    assert encoder.parameters_total == without.parameters_total
    np.testing.assert_array_equal(encoder.encode(TEXTS).values, without.encode(TEXTS).values)
    names = [
        sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))
        for folder in (encoder.save(tmp_path / "with"), without.save(tmp_path / "without"))
    ]
    assert names[0] == names[1]


def test_a_base_that_trains_gets_gradients(tiny: Callable[..., Path]) -> None:
    encoder = IsotropicGaussianEncoder(5, TransformerEncoder(tiny()), freeze_base=False).train()
    before = encoder.fingerprint
    groups = encoder.get_trainable_parameters()
    optimiser = torch.optim.SGD([p for group in groups.values() for p in group], lr=0.1)
    encoder(TEXTS).square().sum().backward()
    assert sum(p.grad is not None for p in groups["base"]) > 10
    optimiser.step()
    assert encoder.fingerprint != before


def test_a_frozen_base_gets_none(tiny: Callable[..., Path]) -> None:
    encoder = IsotropicGaussianEncoder(5, TransformerEncoder(tiny()))
    encoder(TEXTS).sum().backward()
    assert all(p.grad is None for p in encoder.base_module.parameters())
    assert all(p.grad is not None for p in encoder.projection.parameters())


def test_projecting_stored_vectors_is_encoding(tiny_encoder: TransformerEncoder) -> None:
    encoder = trained(tiny_encoder, "mlp", 7).train()
    encoded = encoder.encode(TEXTS, ids=[f"t{i}" for i in range(len(TEXTS))])
    projected = encoder.project(tiny_encoder.encode(TEXTS, ids=encoded.ids))
    np.testing.assert_array_equal(encoded.values, projected.values)
    assert encoded.ids[3] == "t3"
    assert encoded.info["model"] == encoder.fingerprint
    assert encoder.training
    with pytest.raises(InputError, match="7 dimensions, the base has 32"):
        encoder.project(encoded)


def test_the_fingerprint_follows_the_weights(tiny_encoder: TransformerEncoder) -> None:
    one, other = trained(tiny_encoder, "linear"), IsotropicGaussianEncoder(None, tiny_encoder, kind="linear")
    assert one.fingerprint != other.fingerprint
    other.load_state_dict(one.state_dict())
    assert one.fingerprint == other.fingerprint


LOAD = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
texts = json.loads(sys.argv[2])
vectors = [model.encode_query(texts).tolist(), model.encode_document(texts).tolist()]
modules = [type(module).__name__ for module in model]
ours = any(name.startswith("lodesmith") for name in sys.modules)
print(json.dumps({"vectors": vectors, "modules": modules, "metric": model.similarity_fn_name, "ours": ours}))
"""


def test_sentence_transformers_loads_it_without_us(tiny_encoder: TransformerEncoder, tmp_path: Path) -> None:
    encoder = trained(tiny_encoder, "mlp", 7)
    encoder.metric = "euclidean"
    folder = encoder.save(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), json.dumps(TEXTS)], capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded["modules"] == ["Transformer", "Pooling", "Normalize", "Dense", "Dense"]
    assert loaded["metric"] == "euclidean"
    assert not loaded["ours"]
    for side, vectors in zip(("query", "document"), loaded["vectors"], strict=True):
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS, side).values, atol=2e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_loads_as_an_encoder(tiny_encoder: TransformerEncoder, tmp_path: Path, kind: Kind) -> None:
    encoder = trained(tiny_encoder, kind)
    loaded = load_encoder(encoder.save(tmp_path / "model"))
    assert loaded.packed
    assert loaded.metric == "cosine"
    np.testing.assert_allclose(loaded.encode(TEXTS).values, encoder.encode(TEXTS).values, atol=2e-6)


def test_a_norm_comes_back_from_its_folder(tiny_encoder: TransformerEncoder, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    torch.manual_seed(1)
    encoder = IsotropicGaussianEncoder(48, tiny_encoder, norm=True).eval()
    with torch.no_grad():
        for parameter in encoder.projection.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    folder = encoder.save(tmp_path / "model")
    saved = load_file(folder / "4_LayerNorm" / "model.safetensors")
    assert torch.equal(saved["norm.weight"], encoder.projection.layers[2].weight)
    assert torch.equal(saved["norm.bias"], encoder.projection.layers[2].bias)
    expected = encoder.encode(TEXTS).values
    np.testing.assert_allclose(load_encoder(folder).encode(TEXTS).values, expected, atol=1e-6 * np.abs(expected).max())


def test_saving_replaces_whole_folders_and_writes_no_pickles(tiny_encoder: TransformerEncoder, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("stale")
    folder = trained(tiny_encoder, "mlp").save(tmp_path / "model")
    names = [file.name for file in folder.rglob("*") if file.is_file()]
    assert "old" not in names
    assert names.count("model.safetensors") == 3
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert "library_name: sentence-transformers" in (folder / "README.md").read_text()


def test_prompts_and_length_are_saved(tiny: Callable[..., Path], tmp_path: Path) -> None:
    base = TransformerEncoder(tiny(), query_prompt="the cat ", max_length=20)
    loaded = load_encoder(trained(base, "linear").save(tmp_path / "model"))
    assert loaded.reader.prompts == {"query": "the cat ", "document": ""}
    assert loaded.reader.limits == {"query": 20, "document": 20}


def test_a_rounded_base_is_saved_in_float32(tiny: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base = TransformerEncoder(tiny())
    for parameter in base.model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    base.precision = "bfloat16"
    trained(base, "linear").save(tmp_path / "model")
    saved, original = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", tiny()))
    assert all(torch.equal(saved[name], original[name]) for name in original)
    with pytest.raises(ConfigError, match="cannot be trained"):
        IsotropicGaussianEncoder(5, base, freeze_base=False)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 2.0, float("nan")])
def test_a_dropout_out_of_range_is_refused(dropout: float) -> None:
    with pytest.raises(ConfigError, match="dropout must be"):
        ProjectionLayer(4, 4, dropout=dropout)
