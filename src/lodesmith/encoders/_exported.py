"""Exported models: a sentence-transformers folder whose transformer is a graph, or has its weights in int8.

Tokenizer, prompts, pooling, later modules and limits are the model's own files. In the place of its weights is
`onnx/model.onnx`, `onnx/model_qint8.onnx`, `openvino/openvino_model.xml` or `int8.safetensors`, and `manifest.json`
says which, of what, with SHA-256 of every file. Such a folder loads wherever a model folder does.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.files import read_object, sha256_file, sha256_folder, verify_files, write_json
from lodesmith.encoders import _graphs, _int8
from lodesmith.encoders._cores import one_core
from lodesmith.encoders._loading import load_model, quiet
from lodesmith.encoders._signal_stack import same_signal_stack
from lodesmith.encoders.transformer import TransformerEncoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KINDS", "Kind", "is_exported", "kind_of", "open_exported", "write_exported"]

Kind = Literal["onnx", "openvino", "int8", "onnx-int8"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_FILES: Mapping[Kind, str] = {
    "onnx": "onnx/model.onnx",
    "onnx-int8": "onnx/model_qint8.onnx",
    "openvino": "openvino/openvino_model.xml",
    "int8": "int8.safetensors",
}
_PACKAGES: Mapping[Kind, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "onnx-int8": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "int8": (),
}
_ALWAYS = ("lodesmith", "torch", "transformers", "sentence-transformers")
_MANIFEST = "manifest.json"
_LIKE = 0.8
"""Cosine of a token's states below which a graph is wrong, in int8 too."""
_AGAIN = "load its source, and export that again"
Run = Callable[[Mapping[str, "NDArray[np.int64]"]], "NDArray[np.float32]"]


# ---------------------------------------------------------------------------- reading


def kind_of(folder: Path) -> Kind | None:
    """How a folder was exported; None where it is an ordinary model.

    Raises:
        InputError: its manifest is damaged, or names a kind that this version does not know.
    """
    manifest = folder / _MANIFEST
    kind = read_object(manifest).get("exported") if manifest.is_file() else None
    if kind is not None and kind not in KINDS:
        raise InputError(f"exported as {kind!r}, which this version does not know", "update lodesmith", path=folder)
    return kind


def is_exported(folder: Path) -> bool:
    """Whether a model folder is an exported one."""
    return kind_of(folder) is not None


def open_exported(folder: Path, device: str | None) -> SentenceTransformer:
    """The model of an exported folder, as sentence-transformers' class, on the CPU.

    Raises:
        IntegrityError: a file is not the one that was written.
        MissingExtraError: the program that runs the graph is not installed.
        ConfigError: another device is asked for.
    """
    if device not in (None, "cpu"):
        raise ConfigError(
            f"exported models run on the CPU, not on {device}", "leave the device out, or load the source"
        )
    verify_files(folder, read_object(folder / _MANIFEST).get("files"))
    return _open(folder).eval()


def _open(folder: Path) -> SentenceTransformer:
    kind = kind_of(folder)
    assert kind is not None
    for package in _PACKAGES[kind][-1:]:
        _graphs.need(package)
    with quiet():
        model = _Model(str(folder), device="cpu", trust_remote_code=False, local_files_only=True)
    model.exported = kind
    return model


class _Model(SentenceTransformer):  # type: ignore[misc]
    """A `SentenceTransformer` whose first module reads what was exported."""

    exported: str

    def _load_module_class_from_ref(self, *given: Any, **settings: Any) -> Any:
        found = super()._load_module_class_from_ref(*given, **settings)
        return _Transformer if found is Transformer else found

    def _get_model_type(self, *_: Any, **__: Any) -> str:
        return str(self.model_type)

    def save(self, *_: Any, **__: Any) -> None:
        """Refused: what is exported is not a source."""
        raise ConfigError("an exported model cannot be saved as another", _AGAIN)

    save_pretrained = save


class _Transformer(Transformer):  # type: ignore[misc]
    """The module that reads texts, with what was exported as its model."""

    def _load_model(self, model_name_or_path: str, _: Any, config: Any, *__: Any, **___: Any) -> Any:
        folder = Path(model_name_or_path)
        kind = kind_of(folder)
        assert kind is not None
        file = folder / _FILES[kind]
        if kind == "int8":
            return _quantised(folder, config)
        manifest = read_object(folder / _MANIFEST)
        return Graph(file, _onnx(file) if kind != "openvino" else _openvino(file), config, manifest["inputs"])


def _quantised(folder: Path, config: Any) -> Any:
    import transformers
    from safetensors.torch import load_file

    name = read_object(folder / _MANIFEST).get("architecture")
    architecture = getattr(transformers, str(name), None)
    if not (isinstance(architecture, type) and issubclass(architecture, transformers.PreTrainedModel)):
        raise InputError(
            f"transformers has no model class {name!r}", "install the version of the manifest", path=folder
        )
    model = architecture(config).eval().requires_grad_(False)
    file = folder / _FILES["int8"]
    _int8.restore(model, load_file(file), file)
    return model


class Graph(nn.Module):
    """A graph as a module, in the place of a transformer. It has no gradients.

    Args:
        file: the graph; its SHA-256 stands for the weights.
        run: inputs by name, [texts, tokens] → states, [texts, tokens, d]; may be called from several threads.
        config: the transformer's.
        inputs: names of what it takes.
    """

    digest: Tensor

    def __init__(self, file: Path, run: Run, config: Any, inputs: list[str]) -> None:
        super().__init__()
        self.config, self._run, self.inputs = config, run, inputs
        beside = [other for other in sorted(file.parent.iterdir()) if other.is_file()]
        digests = bytes.fromhex("".join(sha256_file(other) for other in beside))
        self.register_buffer("digest", torch.frombuffer(bytearray(digests), dtype=torch.uint8))

    def _can_set_attn_implementation(self) -> bool:
        return False

    def set_attn_implementation(self, _: str) -> None:
        """Without effect: the graph has its own."""

    def forward(self, **features: Any) -> dict[str, Tensor]:
        """Token ids and masks, [texts, tokens] → `last_hidden_state`, [texts, tokens, d] in float32."""
        given = {name: np.asarray(features[name].cpu().numpy(), np.int64) for name in self.inputs}
        return {_graphs.OUTPUT: torch.from_numpy(self._run(given))}


def _onnx(file: Path) -> Run:
    runtime = _graphs.need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # batches run side by side, each on one core
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class of their own
        raise _unreadable(file, error) from error
    return lambda given: session.run([_graphs.OUTPUT], dict(given))[0]  # type: ignore[no-any-return]


def _openvino(file: Path) -> Run:
    openvino = _graphs.need("openvino")
    cores = torch.get_num_threads()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores, "NUM_STREAMS": cores}
    try:
        with same_signal_stack():
            compiled = openvino.Core().compile_model(str(file), "CPU", settings)
    except RuntimeError as error:
        raise _unreadable(file, error) from error
    own = threading.local()  # a request serves one thread at a time

    def run(given: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        found = own.request.infer(dict(given), share_inputs=False, share_outputs=False)
        return np.array(found[0])

    return run


def _unreadable(file: Path, error: Exception) -> IntegrityError:
    reason = str(error).strip().partition("\n")[0]
    return IntegrityError(f"{file}: cannot be run here: {reason}", "export the model again, with the versions of here")


# ---------------------------------------------------------------------------- writing


def write_exported(source: TransformerEncoder, kind: Kind, folder: Path) -> None:
    """Write a model as another program runs it, into an empty folder.

    Args:
        source: in float32.
        kind: what is written.
        folder: empty.

    Raises:
        ConfigError: the model cannot be exported so.
        MissingExtraError: a package for it is not installed.
    """
    for package in _PACKAGES[kind]:
        _graphs.need(package)
    if is_exported(source.folder):
        raise ConfigError(f"{source.source} is an exported model", _AGAIN)
    model = load_model(source.folder, "cpu")
    if type(model[0]) is not Transformer:
        raise ConfigError(f"{source.source} does not begin with a transformer", "export a transformer's model")
    with quiet():
        model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)
    for weights in (*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")):
        weights.unlink()
    versions = {name: importlib.metadata.version(name) for name in (*_ALWAYS, *_PACKAGES[kind])}
    manifest = {
        "exported": kind,
        "source": source.source,
        "source_fingerprint": source.fingerprint,
        "architecture": type(model.transformers_model).__name__,
        "versions": versions,
    }
    with one_core():
        if kind == "int8":
            _write_int8(model, folder, manifest)
        else:
            _write_graph(model, source, folder, manifest)


def _write_int8(model: Any, folder: Path, manifest: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    transformer = model.transformers_model
    _int8.quantise(transformer)
    state = {name: tensor.clone().contiguous() for name, tensor in transformer.state_dict().items()}
    save_file(state, folder / _FILES["int8"])
    write_json(folder / _MANIFEST, manifest | {"files": sha256_folder(folder)})


def _write_graph(model: Any, source: TransformerEncoder, folder: Path, manifest: dict[str, Any]) -> None:
    """Trace and write it. Rows of a mask that let nothing through are NaN in some programs with the usual attention;
    transformers' eager one has large negative numbers instead."""
    kind, transformer = manifest["exported"], model.transformers_model
    file, features = folder / _FILES[kind], model.preprocess(source._check_texts())
    inputs = {name: value for name, value in features.items() if isinstance(value, Tensor)}
    usual = transformer.config._attn_implementation
    ways = list(dict.fromkeys((usual, "eager")))
    for attention in ways:
        try:
            program = _graphs.traced(transformer, inputs, attention)
        except ConfigError:
            if attention == ways[-1]:
                raise
            continue
        if kind == "openvino":
            _graphs.write_openvino(program, list(inputs), file)
        else:
            table = tuple(transformer.get_input_embeddings().weight.shape)
            _graphs.write_onnx(program, list(inputs), file, table if kind == "onnx-int8" else None)
        told = {"inputs": list(inputs), "attention": attention}
        write_json(folder / _MANIFEST, manifest | told | {"files": sha256_folder(folder)})
        if _agrees(folder, inputs, transformer):
            return
        for written in file.parent.glob("*"):  # a second attempt would be added to large weights
            written.unlink()
    raise ConfigError(
        f"{source.source} in {kind} gives other states than the model, with {' and '.join(ways)} attention",
        "export it to another kind, or with other versions of the packages",
    )


def _agrees(folder: Path, inputs: Mapping[str, Tensor], transformer: Any) -> bool:
    """Whether a graph's states are near those of the transformer wherever there is a token, and numbers elsewhere."""
    with torch.no_grad():
        wanted = transformer(**inputs)[_graphs.OUTPUT]
        found = _open(folder)[0].model(**inputs)[_graphs.OUTPUT]
    mask = inputs.get("attention_mask", torch.ones(wanted.shape[:2])).bool()
    if not bool(found.isfinite().all()):
        return False
    return bool(torch.cosine_similarity(found[mask], wanted[mask], dim=-1).min() > _LIKE)
