"""Exported folders load as models do, and give the vectors of their source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lodesmith.core.errors import ConfigError, InputError, IntegrityError, MissingExtraError
from lodesmith.core.files import read_json, write_json
from lodesmith.encoders import _graphs
from lodesmith.encoders._exported import KINDS, Kind, is_exported, kind_of, open_exported, write_exported
from lodesmith.encoders.projected import IsotropicGaussianEncoder
from lodesmith.encoders.transformer import TransformerEncoder
from tiny_models import TEXTS, build


def source(folder: Path, kind: str = "bert") -> TransformerEncoder:
    model = build(folder / "model", kind, dense=24, prompts={"query": "the ", "document": "a "})
    return TransformerEncoder(model, precision="float32")


def exported(model: TransformerEncoder, kind: Kind, folder: Path) -> TransformerEncoder:
    folder.mkdir()
    write_exported(model, kind, folder)
    return TransformerEncoder(folder)


def alike(a: TransformerEncoder, b: TransformerEncoder) -> tuple[float, float]:
    """The largest difference relative to the largest component, and the least cosine, over both sides."""
    pairs = [(a.encode(TEXTS, side).values, b.encode(TEXTS, side).values) for side in ("query", "document")]
    wanted, found = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return float(np.abs(wanted - found).max() / np.abs(wanted).max()), float((wanted * found).sum(1).min())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TransformerEncoder:
    return source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def int8(plain: TransformerEncoder, tmp_path_factory: pytest.TempPathFactory) -> TransformerEncoder:
    return exported(plain, "int8", tmp_path_factory.mktemp("int8") / "model")


def test_int8_keeps_all_but_the_weights(plain: TransformerEncoder, int8: TransformerEncoder) -> None:
    difference, cosine = alike(plain, int8)
    assert 1e-4 < difference < 0.2
    assert cosine > 0.99
    assert (int8.precision, int8.packed, int8.dimension, int8.metric) == ("int8", True, 24, "cosine")
    assert int8.reader.prompts == plain.reader.prompts
    assert int8.reader.limits == plain.reader.limits
    assert int8.fingerprint != plain.fingerprint


def test_int8_loads_to_the_same_bits(int8: TransformerEncoder) -> None:
    again = TransformerEncoder(int8.folder)
    assert again.fingerprint == int8.fingerprint
    assert np.array_equal(again.encode(TEXTS).values, int8.encode(TEXTS).values)


def test_int8_vectors_do_not_depend_on_the_batch(int8: TransformerEncoder) -> None:
    together = int8.encode(TEXTS).values
    alone = np.concatenate([int8.encode([text]).values for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-6


@pytest.mark.parametrize("kind", ["modernbert", "roberta", "mpnet", "qwen"])
def test_int8_of_other_architectures(kind: str, tmp_path: Path) -> None:
    model = source(tmp_path, kind)
    _, cosine = alike(model, exported(model, "int8", tmp_path / "int8"))
    assert 0.97 < cosine < 1 - 1e-6


def test_the_manifest_says_of_what(plain: TransformerEncoder, int8: TransformerEncoder) -> None:
    manifest = read_json(int8.folder / "manifest.json")
    assert manifest["source_fingerprint"] == plain.fingerprint
    assert manifest["exported"] == kind_of(int8.folder) == "int8"
    assert manifest["versions"]["torch"] == torch.__version__
    assert "int8.safetensors" in manifest["files"]
    assert not (int8.folder / "model.safetensors").exists()
    assert is_exported(int8.folder)
    assert not is_exported(plain.folder)


def copied(model: TransformerEncoder, folder: Path) -> Path:
    folder.mkdir()
    for file in model.folder.rglob("*"):
        if file.is_file():
            place = folder / file.relative_to(model.folder)
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(file.read_bytes())
    return folder


def test_a_damaged_folder_is_refused(int8: TransformerEncoder, tmp_path: Path) -> None:
    folder = copied(int8, tmp_path / "copy")
    weights = bytearray((folder / "int8.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "int8.safetensors").write_bytes(weights)
    with pytest.raises(IntegrityError, match=r"int8\.safetensors"):
        TransformerEncoder(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"), [("exported", "coreml", "coreml"), ("architecture", "os", "'os'")]
)
def test_what_this_version_does_not_know_is_refused(
    int8: TransformerEncoder, tmp_path: Path, key: str, value: str, message: str
) -> None:
    folder = copied(int8, tmp_path / "copy")
    write_json(folder / "manifest.json", read_json(folder / "manifest.json") | {key: value})
    with pytest.raises(InputError, match=message):
        TransformerEncoder(folder)


def test_an_exported_model_is_no_source(int8: TransformerEncoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is an exported model"):
        write_exported(int8, "int8", tmp_path)
    with pytest.raises(ConfigError, match="cannot be saved"):
        int8.model.save_pretrained(str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be trained"):
        IsotropicGaussianEncoder(base_model=int8, freeze_base=False)
    with pytest.raises(ConfigError, match="run on the CPU"):
        open_exported(int8.folder, "cuda")


def test_a_missing_package_names_its_extra(
    plain: TransformerEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(_graphs.importlib, "import_module", absent)
    for kind, extra in (("onnx", "onnx"), ("onnx-int8", "onnx"), ("openvino", "openvino")):
        with pytest.raises(MissingExtraError, match=rf"lodesmith\[{extra}\]"):
            write_exported(plain, kind, tmp_path)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------- graphs


def toy_graph() -> bytes:
    """Ids → table of words → x W + b, and x V."""
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    rng, helper, types = np.random.default_rng(0), onnx.helper, onnx.TensorProto
    tables = {"words": rng.normal(size=(50, 16)), "W": rng.normal(size=(16, 8)), "V": rng.normal(size=(16, 4))}
    tables["b"] = rng.normal(size=8)
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "W"], ["xW"]),
        helper.make_node("Add", ["xW", "b"], ["left"]),
        helper.make_node("MatMul", ["x", "V"], ["right"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("ids", types.INT64, [None, None])],
        [helper.make_tensor_value_info(name, types.FLOAT, None) for name in ("left", "right")],
        [onnx.numpy_helper.from_array(values.astype(np.float32), name) for name, values in tables.items()],
    )
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    ).SerializeToString()
    return made


def test_a_rewritten_graph_is_int8_and_gives_each_row_by_itself() -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    model = onnx.load_from_string(toy_graph())
    _graphs.quantised(model, (50, 16))
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("MatMulIntegerToFloat"), kinds.count("QuantizeLinear"), kinds.count("MatMul")) == (2, 1, 0)
    names = {table.name for table in model.graph.initializer}
    assert {"words", "W", "V"}.isdisjoint(names)
    before, after = (runtime.InferenceSession(made) for made in (toy_graph(), model.SerializeToString()))
    ids = np.arange(50).reshape(5, 10)
    for name in ("left", "right"):
        wanted, found = (session.run([name], {"ids": ids})[0] for session in (before, after))
        assert 0 < np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()
        alone = after.run([name], {"ids": ids[3:4, 2:3]})[0]
        np.testing.assert_allclose(alone, found[3:4, 2:3], rtol=1e-5, atol=1e-6)


def test_a_graph_without_products_is_refused() -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    model = onnx.load_from_string(toy_graph())
    del model.graph.node[1:]
    with pytest.raises(ConfigError, match="no products"):
        _graphs.quantised(model, (50, 16))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "int8"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "qwen"])
def test_graphs_give_the_vectors_of_their_source(architecture: str, kind: Kind, tmp_path: Path) -> None:
    for package in ("openvino",) if kind == "openvino" else ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs the package {package}")
    model = source(tmp_path, architecture)
    made = exported(model, kind, tmp_path / "out")
    difference, cosine = alike(model, made)
    assert difference < 1e-4 if kind != "onnx-int8" else 0.97 < cosine < 1 - 1e-6
    assert (made.precision, made.packed) == (kind, False)
    together = made.encode(TEXTS).values
    alone = np.concatenate([made.encode([text]).values for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-5
    again = TransformerEncoder(made.folder)
    assert again.fingerprint == made.fingerprint != model.fingerprint
    json.dumps(read_json(made.folder / "manifest.json"))
    with pytest.raises(ConfigError, match="cannot be trained"):
        IsotropicGaussianEncoder(base_model=made, freeze_base=False)


def test_a_model_whose_class_no_graph_holds_is_refused(plain: TransformerEncoder) -> None:
    class Stubborn(torch.nn.Module):
        def set_attn_implementation(self, _: str) -> None: ...

        def forward(self, input_ids: torch.Tensor, **_: object) -> dict[str, torch.Tensor]:
            if input_ids.sum() > 0:
                input_ids = input_ids + 1
            return {"last_hidden_state": input_ids.float()}

    with pytest.raises(ConfigError, match="Stubborn cannot be exported as a graph"):
        _graphs.traced(Stubborn(), {"input_ids": torch.ones(2, 3, dtype=torch.int64)}, "eager")
