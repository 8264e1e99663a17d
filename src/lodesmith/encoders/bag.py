"""A bag of words: the mean of a text's word vectors, as one gather.

bag = Bag(Vocabulary.build(texts), dimension=256, weights="idf")
bag.encode(["What is a vector?"])
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.protocols import Metric
from lodesmith.encoders._gather import gather_sum
from lodesmith.encoders._tower import (
    Init,
    Tower,
    check_metric,
    digest_of,
    first_rows,
    unpack,
)
from lodesmith.encoders._tower_folder import Part, load_tensors, open_part, save
from lodesmith.encoders._words import PAD, UNKNOWN, Vocabulary

__all__ = ["Bag"]

Weights = Literal["uniform", "idf", "learned"]


class Bag(Tower):
    """Σ w(t)·e(t) / n over the n words t of a text; unknown words count in n and add nothing.

    The rows of padding and of unknown words are zero and get no gradient. A text without a known word has the zero
    vector. Parameters: `embedding.weight` [v, d]; `log_weights` [v] where they are learned; `projection.weight` where
    there is one.

    Args:
        vocabulary: of the words.
        dimension: d of the word vectors.
        weights: `uniform`, w = 1; `idf`, fixed, see `Vocabulary.idf`; `learned`, w = exp(log_weights), at first as
            `idf`, which serves words that training never meets.
        projection: dimension of the result, by a linear layer without bias on top; None for the mean itself.
        dropout: share of the words that is left out while training, others at random in each step.
        max_length: words of a text that are read; None for all.
        metric: how vectors are compared.
        init: where the rows begin, see `first_rows`.
        scale: of the first rows.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """

    budget = 1 << 18
    short = 1 << 16

    def __init__(  # noqa: PLR0913 - the settings of a model
        self,
        vocabulary: Vocabulary,
        dimension: int = 256,
        *,
        weights: Weights = "uniform",
        projection: int | None = None,
        dropout: float = 0.0,
        max_length: int | None = None,
        metric: Metric = "cosine",
        init: Init = "normal",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if weights not in ("uniform", "idf", "learned"):
            raise ConfigError(f"weights is {weights!r}", "choose uniform, idf or learned")
        if min(dimension, 1 if projection is None else projection) < 1 or not 0 <= dropout < 1:
            raise ConfigError(f"dimension {dimension}, projection {projection} or dropout {dropout} is out of range")
        self.vocabulary, self.weights, self.dropout = vocabulary, weights, dropout
        self.tokenizer = vocabulary.tokenizer(max_length)
        self.metric = check_metric(metric)
        rows = first_rows(vocabulary, dimension, init, scale)
        self.embedding = nn.Embedding(rows.shape[0], rows.shape[1], padding_idx=PAD, _weight=rows)
        idf = torch.from_numpy(vocabulary.idf())
        self.log_weights = nn.Parameter(idf.log()) if weights == "learned" else None
        self.term_weights: Tensor
        self.register_buffer("term_weights", idf if weights == "idf" else None)
        self.projection = None if projection is None else nn.Linear(dimension, projection, bias=False)

    @property
    def dimension(self) -> int:
        """d of the result."""
        return self.embedding.embedding_dim if self.projection is None else self.projection.out_features

    def _digest(self) -> str:
        tensors = {"rows": self.rows()}
        if self.projection is not None:
            tensors["projection"] = self.projection.weight
        return digest_of(tensors, {"bag": 1, "tokens": self.tokenizer.fingerprint, "metric": self.metric})

    def rows(self) -> Tensor:
        """The word vectors with the term weights in them, [v, d], without gradient."""
        rows = self.embedding.weight.detach()
        if self.weights == "uniform":
            return rows
        weights = self.term_weights if self.log_weights is None else self.log_weights.detach().exp()
        return rows * weights[:, None]

    def forward(self, packed: Mapping[str, Tensor]) -> Tensor:
        """The vectors [n, d] of n packed texts."""
        ids, offsets = unpack(packed)
        lengths = offsets.diff().clamp(min=1)[:, None]
        if self.training and self.dropout:
            lengths = lengths * (1 - self.dropout)
            kept = torch.rand(len(ids), device=ids.device) >= self.dropout
            ids, offsets = ids[kept], pad(kept.cumsum(0), (1, 0))[offsets]
        weights = None
        if self.log_weights is not None:
            weights = self.log_weights.exp()
        elif self.weights == "idf":
            weights = self.term_weights
        rows = self.embedding
        means = gather_sum(rows.weight, ids, offsets, weights, first=UNKNOWN + 1, sparse=rows.sparse) / lengths
        result: Tensor = means if self.projection is None else self.projection(means)
        return result

    # ------------------------------------------------------------------ the folder

    def part(self) -> Part:
        """The tower in sentence-transformers' own modules."""
        from sentence_transformers.base.modules import Dense
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        modules: list[nn.Module] = [StaticEmbedding(self.tokenizer.backend, self.rows().cpu().float().clone())]
        if self.projection is not None:
            width = self.projection.in_features
            dense = Dense(width, self.dimension, bias=False, activation_function=nn.Identity())
            dense.load_state_dict({"linear.weight": self.projection.weight.detach().cpu().float().clone()})
            modules.append(dense)
        settings = {
            "use": "bag",
            "dimension": self.embedding.embedding_dim,
            "projection": None if self.projection is None else self.dimension,
            "max_length": self.tokenizer.max_length,
            "dropout": self.dropout,
            "trained_weights": self.weights,
        }
        card = f"mean of {len(self.vocabulary):,} word vectors ({self.weights} weights), {self.dimension} dimensions"
        return Part(modules, settings, self.vocabulary, card)

    def save(self, folder: Path | str) -> Path:
        """Write a model folder of sentence-transformers' own modules: `SentenceTransformer(folder)` gives the same
        vectors without this package. The folder takes the place of one that is there, whole or not at all.

        The term weights are in the rows then, so a bag that is loaded has uniform weights, and the same vectors.
        """
        return save(folder, self.metric, {"both": self.part()})

    @classmethod
    def load(cls, folder: Path | str) -> Bag:
        """Read what `save` wrote, every byte compared with its SHA-256; in evaluation mode.

        Raises:
            InputError: it is no folder of a bag.
            IntegrityError: a file is damaged.
        """
        parts = open_part(folder)
        if set(parts) != {"both"} or parts["both"][0].get("use") != "bag":
            raise InputError("holds no bag for both sides", "use load_tower", path=folder)
        return cls.read(*parts["both"])

    @classmethod
    def read(cls, settings: Mapping[str, Any], place: Path, metric: Metric) -> Bag:
        """Make a tower of an opened model folder; see `open_part`."""
        rows = load_tensors(place / "model.safetensors")
        vocabulary = Vocabulary.load(place)
        names = ("dimension", "projection", "max_length", "dropout")
        made = cls(vocabulary, metric=metric, **{name: settings[name] for name in names})
        state = {"embedding.weight": rows.get("embedding.weight", torch.zeros(0))}
        if made.projection is not None:
            state["projection.weight"] = load_tensors(_dense(place) / "model.safetensors")["linear.weight"]
        try:
            made.load_state_dict(state)
        except RuntimeError as error:
            raise IntegrityError(f"{place}: the weights do not fit the settings: {error}", "restore a copy") from None
        return made.eval()

    def __repr__(self) -> str:
        return f"Bag({len(self.vocabulary)} words × {self.dimension}, {self.weights}, {self.metric})"


def _dense(place: Path) -> Path:
    """The folder of the module after the first one."""
    beside = place.name.replace("_0_StaticEmbedding", "_1_Dense")
    return place.with_name(beside) if "_0_StaticEmbedding" in place.name else place / "1_Dense"
