"""A projection over a base encoder: trained over stored vectors, saved as a model that needs nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.files import atomic_folder, write_text
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Metric, Side
from lodesmith.core.vectors import Vectors
from lodesmith.encoders._finetuning import Tuning, merged, tune
from lodesmith.encoders._identity import digest
from lodesmith.encoders._loading import load_model, quiet
from lodesmith.encoders.transformer import TransformerEncoder

__all__ = ["IsotropicGaussianEncoder", "Kind", "ProjectionLayer", "card"]

Kind = Literal["mlp", "linear", "residual_linear", "none"]

_BLOCK = 65_536
"""Rows projected at once."""


class ProjectionLayer(nn.Module):
    """Vectors [n, input] → [n, output].

    Kinds: `mlp` is Linear(input, hidden), GELU, dropout, Linear(hidden, output); `linear` is one layer;
    `residual_linear` is x + Wx + b, which begins as the identity: training starts from the base model's quality; and
    `none` is the identity itself, without parameters.

    With `norm` an `mlp` is Linear, GELU, LayerNorm(hidden), dropout, Linear: in this order sentence-transformers' own
    modules, Dense with GELU, LayerNorm and Dense, hold it exactly. From a student of 768 dimensions to a teacher's
    3,584 it is 768 → 1,536 → 3,584.

    Args:
        input: dimension of the base vectors.
        output: dimension of the result.
        hidden: width between the two layers of `mlp`; None for twice the input.
        dropout: of `mlp`, while training.
        kind: see above.
        bias: learn the vectors b too. They move all vectors alike, to where the training texts are.
        norm: of `mlp`, bring the hidden values of each vector to mean 0 and variance 1 before the second layer.

    Raises:
        ConfigError: the kind is unknown, or the dimensions do not fit it.
    """

    def __init__(
        self,
        input: int,
        output: int,
        hidden: int | None = None,
        dropout: float = 0.1,
        kind: Kind = "mlp",
        *,
        bias: bool = True,
        norm: bool = False,
    ) -> None:
        super().__init__()
        if min(input, output, hidden or 1) < 1:
            raise ConfigError(f"a projection {input} → {hidden or 2 * input} → {output} is empty", "use at least 1")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, not {dropout}")
        if kind in ("residual_linear", "none") and input != output:
            what = "a residual needs" if kind == "residual_linear" else "without a projection there are"
            raise ConfigError(f"{what} equal dimensions, not {input} → {output}", "use kind linear or mlp")
        self.kind, self.input, self.output = kind, input, output
        if kind == "mlp":
            width = hidden or 2 * input
            normed = [nn.LayerNorm(width)] if norm else []
            first, last = nn.Linear(input, width, bias), nn.Linear(width, output, bias)
            self.layers = nn.Sequential(first, nn.GELU(), *normed, nn.Dropout(dropout), last)
        elif kind in ("linear", "residual_linear"):
            self.layers = nn.Sequential(nn.Linear(input, output, bias))
        elif kind == "none":
            self.layers = nn.Sequential()
        else:
            raise ConfigError(f"no projection is called {kind!r}", "choose mlp, linear, residual_linear or none")
        if kind == "residual_linear":
            for parameter in self.layers.parameters():
                nn.init.zeros_(parameter)

    def forward(self, vectors: Tensor) -> Tensor:
        """[n, input] → [n, output]."""
        out: Tensor = self.layers(vectors)
        return vectors + out if self.kind == "residual_linear" else out

    def affine(self) -> tuple[Tensor, Tensor] | None:
        """A [output, input] and b [output] where the layer is x → Ax + b; None for `mlp`."""
        if self.kind == "none":
            return torch.eye(self.input), torch.zeros(self.output)
        layer = self.layers[0]
        if self.kind == "mlp" or not isinstance(layer, nn.Linear):
            return None
        added = torch.eye(self.input, device=layer.weight.device) if self.kind == "residual_linear" else 0.0
        return layer.weight + added, layer.weight.new_zeros(self.output) if layer.bias is None else layer.bias

    def stock_modules(self) -> list[nn.Module]:
        """The same function, without dropout, in sentence-transformers' own modules; weights are copied."""
        made: list[nn.Module] = []
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                activation = nn.GELU() if self.kind == "mlp" and not made else nn.Identity()
                made.append(_dense(layer, activation, self._added(layer)))
            elif isinstance(layer, nn.LayerNorm):
                made.append(_layer_norm(layer))
        return made

    def _added(self, layer: nn.Linear) -> Tensor | float:
        """x + Wx + b = (I + W)x + b."""
        return torch.eye(layer.in_features) if self.kind == "residual_linear" else 0.0


def _dense(layer: nn.Linear, activation: nn.Module, added: Tensor | float) -> nn.Module:
    from sentence_transformers.base.modules import Dense

    dense: nn.Module = Dense(layer.in_features, layer.out_features, activation_function=activation)
    weight = layer.weight.detach().cpu().float()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().cpu().float()
    dense.load_state_dict({"linear.weight": weight + added, "linear.bias": bias.clone()})
    return dense


def _layer_norm(layer: nn.LayerNorm) -> nn.Module:
    from sentence_transformers.sentence_transformer.modules import LayerNorm

    norm: nn.Module = LayerNorm(layer.normalized_shape[0])
    norm.load_state_dict({f"norm.{name}": tensor.detach().cpu().float() for name, tensor in layer.state_dict().items()})
    return norm


def _predictor(dimension: int) -> nn.Module:
    """Query vectors [n, d] → document vectors [n, d]."""
    return nn.Sequential(nn.Linear(dimension, 2 * dimension), nn.GELU(), nn.Linear(2 * dimension, dimension))


class IsotropicGaussianEncoder(nn.Module):
    """A base encoder, frozen or not, with a projection on top.

    With a frozen base each text is encoded once: train on `base.encode(...)` from a store, through `projection` alone,
    and `project` stored vectors when training is done.

    Args:
        output_dim: d of the result; None for the base's.
        base_model: a `TransformerEncoder`, or what one is made from.
        freeze_base: leave the base as it is.
        freeze_layers: of a base that trains, leave the embeddings and so many of the first layers as they are.
        base_dropout: of a base while it trains; None for what its configuration says.
        activation_checkpointing: of a base that trains, keep the layers' inputs only and compute them again when their
            gradients are due: less memory, a third more time.
        lora: train low-rank adapters of the base instead of its weights: `rank`, `alpha`, `dropout` and `layers`. What
            is saved has them added.
        kind: of the `ProjectionLayer`.
        hidden: of the `ProjectionLayer`.
        dropout: of the `ProjectionLayer`.
        bias: of the `ProjectionLayer`.
        norm: of the `ProjectionLayer`.
        metric: how the results are compared; None for the base's way.
        predictor: train beside them a `predictor` of document vectors from query vectors, for an objective that has a
            prediction (LeJEPA, arXiv 2511.08544). It is no part of the encoder, and not saved.

    Raises:
        ConfigError: the settings do not fit each other or the base.
    """

    def __init__(  # noqa: PLR0913 - what the recipes set, by name
        self,
        output_dim: int | None = None,
        base_model: TransformerEncoder | str | Path = "minilm",
        freeze_base: bool = True,
        *,
        freeze_layers: int = 0,
        base_dropout: float | None = None,
        activation_checkpointing: bool = False,
        lora: Mapping[str, Any] | None = None,
        kind: Kind = "mlp",
        hidden: int | None = None,
        dropout: float = 0.1,
        bias: bool = True,
        norm: bool = False,
        metric: Metric | None = None,
        predictor: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(base_model, TransformerEncoder):
            base_model = TransformerEncoder(base_model, precision="auto" if freeze_base else "float32")
        if not freeze_base and base_model.precision != "float32":
            raise ConfigError(f"a base in {base_model.precision} cannot be trained", "load it with precision float32")
        self.base = base_model
        self.freeze_base = freeze_base
        self.base_module = base_model.model.requires_grad_(not freeze_base)
        how = Tuning(freeze_layers, base_dropout, activation_checkpointing, lora)
        if not freeze_base:
            tune(base_model, how)
        elif how != Tuning():
            raise ConfigError("the base is frozen, and settings say how it trains", "set freeze_base to false")
        width = base_model.dimension
        projection = ProjectionLayer(width, output_dim or width, hidden, dropout, kind, bias=bias, norm=norm)
        self.projection = projection.to(base_model.device)
        self.metric: Metric = metric or base_model.metric
        # Drawn last: the projection begins the same with it and without.
        self.predictor = _predictor(self.dimension).to(base_model.device) if predictor else None

    @property
    def dimension(self) -> int:
        """d of the result."""
        return self.projection.output

    @property
    def parameters_total(self) -> int:
        """Parameters of base and projection."""
        return sum(p.numel() for part in (self.base_module, self.projection) for p in part.parameters())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights as they are now and every setting that changes a vector."""
        base = self.base.fingerprint if self.freeze_base else [self.base.fingerprint, digest(self.base_module)]
        own = {"kind": self.projection.kind, "weights": digest(self.projection), "metric": self.metric}
        return fingerprint({"base": base, "projection": own})

    def get_trainable_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that training may change, by group: `base` (none where it is frozen), `projection` and
        `predictor` (none where there is none)."""
        return {
            "base": [p for p in self.base_module.parameters() if p.requires_grad],
            "projection": list(self.projection.parameters()),
            "predictor": [] if self.predictor is None else list(self.predictor.parameters()),
        }

    def train(self, mode: bool = True) -> IsotropicGaussianEncoder:
        """Training mode; a frozen base stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.freeze_base:
            self.base_module.eval()
        return self

    def forward(self, inputs: Tensor | Sequence[str], side: Side = "document") -> Tensor:
        """Base vectors [n, input], or texts, → [n, d], with gradients."""
        if not isinstance(inputs, Tensor):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_base):
                inputs = self.base.embed(inputs, side)
        return self.projection(inputs)  # type: ignore[no-any-return]

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        """Encode texts: float32, as `TransformerEncoder.encode` does."""
        training = self.training
        self.eval()
        try:
            return self.project(self.base.encode(texts, side, ids))
        finally:
            self.train(training)

    def project(self, vectors: Vectors) -> Vectors:
        """The base's stored vectors → this encoder's, without reading a text.

        Raises:
            InputError: the vectors have another dimension than the base.
        """
        if vectors.dimension != self.projection.input:
            raise InputError(f"vectors of {vectors.dimension} dimensions, the base has {self.projection.input}")
        values = np.empty((len(vectors.values), self.dimension), np.float32)
        training = self.projection.training
        self.projection.eval()
        with torch.inference_mode():
            for start in range(0, len(values), _BLOCK):
                block = torch.from_numpy(np.array(vectors.values[start : start + _BLOCK], np.float32))
                values[start : start + _BLOCK] = self.projection(block.to(self.base.device)).cpu().numpy()
        self.projection.train(training)
        info = vectors.info | {"model": self.fingerprint, "metric": self.metric}
        return Vectors(values, vectors.offsets, vectors.ids, info)

    def save(self, folder: Path | str) -> Path:
        """Write a model folder of sentence-transformers' own modules.

        `SentenceTransformer(folder)` gives the same vectors without this package; `load_encoder(folder)` gives them
        fast. The folder takes the place of one that is there, whole or not at all.
        """
        return self._write(folder, self.projection.stock_modules(), self.metric, self._card())

    def _write(self, folder: Path | str, added: Sequence[nn.Module], metric: Metric, card: str) -> Path:
        """Write a model folder of the base and what is added to it."""
        from sentence_transformers import SentenceTransformer

        if self.base.model.truncate_dim is not None:
            raise InputError("a base that truncates its vectors cannot be saved under a projection", "choose another")
        rounded = self.base.precision != "float32"
        base = load_model(self.base.folder, "cpu") if rounded else merged(self.base_module)
        model = SentenceTransformer(
            modules=[*base, *added],
            device=str(self.base.device),
            prompts=dict(self.base.reader.prompts),
            similarity_fn_name=metric,
        )
        model.max_seq_length = max(self.base.reader.limits.values())
        with atomic_folder(folder) as new, quiet():
            model.save_pretrained(str(new), create_model_card=False, safe_serialization=True)
            write_text(new / "README.md", card)
        return Path(folder)

    def _card(self) -> str:
        """The model card."""
        kind, shape = self.projection.kind.replace("_", " "), f"{self.projection.input} → {self.dimension}"
        return card(
            f"{self.base.source} with a trained projection",
            f"A {kind} projection ({shape}) over `{self.base.source}`, trained with lodesmith. Vectors are compared by "
            f"{self.metric}.\n{self.parameters_total:,} parameters; safetensors; it needs no code of its own.",
        )


_HEAD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, retrieval, lodesmith]
---
"""
_USE = """
```python
from sentence_transformers import {kind}

model = {kind}("path/of/this/folder")
queries = model.encode_query(["a question"])
documents = model.encode_document(["a passage", "another passage"])
print(model.similarity(queries, documents))
```
"""


def card(title: str, text: str, kind: str = "SentenceTransformer") -> str:
    """A model card: what the hub reads, a title, a paragraph, and how a folder of this kind is used."""
    return f"{_HEAD}# {title}\n\n{text}\n{_USE.format(kind=kind)}"
