"""A transformer as a graph that other programs run: ONNX, ONNX in int8, and OpenVINO.

The graph takes what the tokenizer gives, `[texts, tokens]` of any size, and gives the states of the tokens; pooling and
later modules stay sentence-transformers'. That is the layout which sentence-transformers reads with `backend="onnx"`.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lodesmith.core.errors import ConfigError, MissingExtraError
from lodesmith.core.registry import EXTRAS

__all__ = ["OUTPUT", "need", "quantised", "traced", "write_onnx", "write_openvino"]

_log = logging.getLogger(__name__)

OUTPUT = "last_hidden_state"
_STEPS = 127
_SMALLEST = 1e-12
_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx", "torch._dynamo")


def need(package: str) -> Any:
    """An optional package.

    Raises:
        MissingExtraError: it is not installed; the message says how to.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        root = (error.name or package).partition(".")[0]
        raise MissingExtraError(root, EXTRAS.get(root, EXTRAS[package])) from None


class _States(nn.Module):
    """A transformer as a function of tensors alone."""

    def __init__(self, transformer: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.transformer, self.names = transformer, tuple(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        made = self.transformer(**dict(zip(self.names, inputs, strict=True)), return_dict=True)
        return made[OUTPUT]  # type: ignore[no-any-return]


def traced(transformer: Any, inputs: Mapping[str, Tensor], attention: str) -> Any:
    """The program of a transformer, for any number of texts and tokens.

    Args:
        transformer: on the CPU, in float32 and evaluation mode.
        inputs: what it takes, by name, [texts, tokens]: several texts of unequal length.
        attention: transformers' name of the way that attention is computed.

    Raises:
        ConfigError: its class does something that no graph can hold.
    """
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    module = _States(transformer, tuple(inputs)).eval()
    try:
        transformer.set_attn_implementation(attention)
        with torch.no_grad(), _quietly():
            return torch.export.export(module, tuple(inputs.values()), dynamic_shapes=(tuple(free for _ in inputs),))
    except Exception as error:  # whatever the tracing of a model's own code raises means the same
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        what = f"{type(transformer).__name__} cannot be exported as a graph: {reason}"
        raise ConfigError(what, "export it to int8") from error


def write_onnx(program: Any, names: Sequence[str], file: Path, embeddings: tuple[int, ...] | None = None) -> None:
    """Write a traced program as an ONNX file.

    Args:
        program: of `traced`.
        names: of its inputs.
        file: where; weights beyond 2 GB go beside it.
        embeddings: shape of the table of word embeddings, to keep in int8 all that can be; None for float32.
    """
    onnx = need("onnx")
    need("onnxscript")
    with _quietly():
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=list(names), output_names=[OUTPUT], optimize=True
        )
    assert made is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    model = made.model_proto
    if embeddings is not None:
        quantised(model, embeddings)
    large = model.ByteSize() >= 2**31 - 1
    onnx.save(model, str(file), save_as_external_data=large, location=f"{file.name}_data")


def write_openvino(program: Any, names: Sequence[str], file: Path) -> None:
    """Write a traced program as an OpenVINO file with its weights beside it, in float32."""
    openvino = need("openvino")
    with _quietly():
        model = openvino.convert_model(program)
    for given, name in zip(model.inputs, names, strict=True):
        given.get_tensor().set_names({name})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    file.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, str(file), compress_to_fp16=False)


@contextmanager
def _quietly() -> Iterator[None]:
    """Exporters tell of every operator that they pass over; what matters comes as an error."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# ------------------------------------------------------------------------------ int8


def quantised(model: Any, embeddings: tuple[int, ...]) -> None:
    """Put int8 products in the place of an ONNX model's products with weights, and keep its word embeddings in int8.

    ONNX's own dynamic quantisation has one scale for a whole batch, so that a text's vector would depend on the others.
    Here each token has a scale and a middle of its own; weights have a scale for each output, embeddings for each word.

    Args:
        model: an ONNX `ModelProto`, which is changed.
        embeddings: shape of the table of word embeddings.

    Raises:
        ConfigError: it has no products with weights.
    """
    _Rewriting(model, embeddings).done()


class _Rewriting:
    """The nodes and tables of a graph while products are replaced."""

    def __init__(self, model: Any, embeddings: tuple[int, ...]) -> None:
        self.onnx = need("onnx")
        self.model, self.graph, self.embeddings = model, model.graph, tuple(embeddings)
        self.tables = {table.name: table for table in self.graph.initializer}
        self.nodes: list[Any] = []
        self.rows: dict[str, tuple[str, str, str]] = {}
        self.last = self._table("lodesmith_last_axis", np.asarray([-1], np.int64))
        self.half = self._table("lodesmith_half", np.asarray(0.5, np.float32))
        self.smallest = self._table("lodesmith_smallest", np.asarray(_SMALLEST, np.float32))
        self.step = self._table("lodesmith_step", np.asarray(1 / _STEPS, np.float32))
        self.zero = self._table("lodesmith_zero", np.asarray(_STEPS, np.uint8))

    def done(self) -> None:
        products = 0
        for node in list(self.graph.node):
            if node.op_type == "MatMul" and self._is_weight(node.input[1]):
                self._product(node)
                products += 1
            elif node.op_type == "Gather" and self._shape(node.input[0]) == self.embeddings:
                self._lookup(node)
            else:
                self.nodes.append(node)
        if not products:
            raise ConfigError("the graph has no products with weights to keep in int8", "export it to onnx")
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input} | {out.name for out in self.graph.output}
        kept = [table for table in self.tables.values() if table.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        self.model.opset_import.extend([self.onnx.helper.make_opsetid("com.microsoft", 1)])

    def _shape(self, name: str) -> tuple[int, ...] | None:
        return tuple(self.tables[name].dims) if name in self.tables else None

    def _is_weight(self, name: str) -> bool:
        table = self.tables.get(name)
        return table is not None and len(table.dims) == 2 and table.data_type == self.onnx.TensorProto.FLOAT

    def _table(self, name: str, values: NDArray[Any]) -> str:
        self.tables[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _node(self, kind: str, inputs: Sequence[str], out: str, **settings: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [out], name=f"{out}_node", **settings))
        return out

    def _rounded_rows(self, rows: str) -> tuple[str, str, str]:
        """Names of a tensor's rows in uint8, their middles and half ranges; made once for all that read it."""
        if rows not in self.rows:
            highest = self._node("ReduceMax", [rows, self.last], f"{rows}_highest", keepdims=1)
            lowest = self._node("ReduceMin", [rows, self.last], f"{rows}_lowest", keepdims=1)
            total = self._node("Add", [highest, lowest], f"{rows}_total")
            middle = self._node("Mul", [total, self.half], f"{rows}_middle")
            around = self._node("Sub", [highest, middle], f"{rows}_around")
            reach = self._node("Max", [around, self.smallest], f"{rows}_reach")
            moved = self._node("Sub", [rows, middle], f"{rows}_moved")
            unit = self._node("Div", [moved, reach], f"{rows}_unit")
            codes = self._node("QuantizeLinear", [unit, self.step, self.zero], f"{rows}_uint8")
            self.rows[rows] = codes, middle, reach
        return self.rows[rows]

    def _product(self, node: Any) -> None:
        rows, middle, reach = self._rounded_rows(node.input[0])
        name, out = node.input[1], node.output[0]
        codes, scale = _rounded(self.onnx.numpy_helper.to_array(self.tables[name]), 0)
        weight = self._table(f"{name}_int8", codes)
        scales = self._table(f"{name}_scale", scale[0])
        sums = self._table(f"{name}_sum", codes.sum(0, dtype=np.int64).astype(np.float32) * scale[0])
        parts = [rows, weight, self.step, scales, self.zero]
        product = self._node("MatMulIntegerToFloat", parts, f"{out}_product", domain="com.microsoft")
        large = self._node("Mul", [product, reach], f"{out}_large")
        self._node("Add", [large, self._node("Mul", [middle, sums], f"{out}_shift")], out)

    def _lookup(self, node: Any) -> None:
        name, out = node.input[0], node.output[0]
        codes, scale = _rounded(self.onnx.numpy_helper.to_array(self.tables[name]), 1)
        found = self._node("Gather", [self._table(f"{name}_int8", codes), node.input[1]], f"{out}_codes", axis=0)
        real = self._node("Cast", [found], f"{out}_real", to=self.onnx.TensorProto.FLOAT)
        own = self._node("Gather", [self._table(f"{name}_scale", scale), node.input[1]], f"{out}_scale", axis=0)
        self._node("Mul", [real, own], out)


def _rounded(values: NDArray[np.float32], along: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 codes, and scales for all that is not `along` that axis, with it of size 1."""
    scale = np.maximum(np.abs(values).max(along, keepdims=True), _SMALLEST) / _STEPS
    return np.rint(values / scale).astype(np.int8), scale.astype(np.float32)
