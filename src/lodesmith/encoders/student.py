"""A student of a teacher: a transformer that trains, whole or some of its layers, and a projection to the teacher's
space. It is saved with the projection, and alone in its own dimension."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

from torch import nn

from lodesmith.core.protocols import Metric
from lodesmith.encoders._truncated import Keep, truncate
from lodesmith.encoders.projected import IsotropicGaussianEncoder, Kind, card
from lodesmith.encoders.transformer import TransformerEncoder

__all__ = ["StudentModelWithProjection"]


class Trained(TypedDict, total=False):
    """How a base trains; see `IsotropicGaussianEncoder`."""

    freeze_layers: int
    base_dropout: float | None
    activation_checkpointing: bool
    lora: Mapping[str, Any] | None


class StudentModelWithProjection(IsotropicGaussianEncoder):
    """A base that trains, with a projection to a teacher's dimension on top.

    Args:
        output_dim: d of the teacher; None for the base's own space, without a projection.
        base_model: a `TransformerEncoder`, or what one is made from.
        freeze_base: leave the base as it is; the projection alone trains.
        layers: keep so many of the base's layers, see `truncate`; None for all.
        keep: which ones: `spread` evenly, the `first` or the `last`.
        kind: of the `ProjectionLayer`; `none` for no projection.
        hidden: of the `ProjectionLayer`.
        dropout: of the `ProjectionLayer`.
        bias: of the `ProjectionLayer`.
        norm: of the `ProjectionLayer`.
        metric: how the results are compared; None for the base's way.
        trained: how the base trains: `freeze_layers`, `base_dropout`, `activation_checkpointing` and `lora`, as for an
            `IsotropicGaussianEncoder`.

    Raises:
        ConfigError: the settings do not fit each other or the base.
    """

    trained_on = "texts"

    def __init__(  # noqa: PLR0913 - what the recipes set, by name
        self,
        output_dim: int | None = None,
        base_model: TransformerEncoder | str | Path = "minilm",
        freeze_base: bool = False,
        *,
        layers: int | None = None,
        keep: Keep = "spread",
        kind: Kind = "mlp",
        hidden: int | None = None,
        dropout: float = 0.1,
        bias: bool = True,
        norm: bool = True,
        metric: Metric | None = None,
        **trained: Unpack[Trained],
    ) -> None:
        if not isinstance(base_model, TransformerEncoder):
            base_model = TransformerEncoder(base_model, precision="auto" if freeze_base else "float32")
        if layers is not None:
            base_model = _some_layers(base_model, layers, keep)
        super().__init__(
            output_dim,
            base_model,
            freeze_base,
            kind="none" if output_dim is None else kind,
            hidden=hidden,
            dropout=dropout,
            bias=bias,
            norm=norm,
            metric=metric,
            **trained,
        )

    def save_student(self, folder: Path | str) -> Path:
        """Write the base alone, as it is trained now, as a model folder of sentence-transformers' own modules.

        Its vectors have the base's own dimension; they are compared as the base's are, or by `metric` where there is no
        projection. The folder takes the place of one that is there, whole or not at all.
        """
        metric = self.metric if self.projection.kind == "none" else self.base.metric
        added: list[nn.Module] = []
        return self._write(folder, added, metric, self._described("", self.projection.input, metric))

    def _card(self) -> str:
        what = self.projection.kind.replace("_", " ")
        added = "" if what == "none" else f", with a trained {what} projection to {self.dimension} dimensions"
        return self._described(added, self.dimension, self.metric)

    def _described(self, added: str, dimension: int, metric: Metric) -> str:
        return card(
            f"A student from {self.base.source}",
            f"`{self.base.source}`, trained with lodesmith{added}. Vectors have {dimension} dimensions, compared "
            f"by {metric}.\nWeights are safetensors; it needs no code of its own.",
        )


def _some_layers(base: TransformerEncoder, layers: int, keep: Keep) -> TransformerEncoder:
    """A base with some of its layers, and its settings."""
    folder = truncate(base.folder, layers, keep)
    limits = base.reader.limits
    cut = TransformerEncoder(
        folder,
        precision="float32" if base.precision == "float32" else "auto",
        max_length=limits["document"] if limits["query"] == limits["document"] else None,
        passages=base.passages,
        query_prompt=base.reader.prompts["query"],
        document_prompt=base.reader.prompts["document"],
        batch_tokens=base.batch_tokens,
        device=str(base.device),
    )
    cut.source = f"{base.source} ({layers} layers, {keep})"
    return cut
