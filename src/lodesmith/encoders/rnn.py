"""A recurrent tower: words in their order through an RNN, GRU or LSTM, and one vector of the states.

tower = Recurrent(Vocabulary.build(texts), dimension=256, cell="gru", bidirectional=True)
tower.encode(["What is a vector?"])
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as zeroed
from torch.nn.functional import embedding, pad

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.protocols import Metric
from lodesmith.encoders._cells import Layout, layout, run_layers
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

__all__ = ["Recurrent"]

Cell = Literal["rnn", "gru", "lstm"]
Pooling = Literal["last", "mean", "max"]

_CELLS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(Tower):
    """Words → states → one vector: the last valid state, or mean or maximum over the valid steps.

    No step is ever padding, so padding cannot change a vector. `last` of both directions is the state after the last
    word and, of the other direction, after the first. A text without a known word has the zero vector; unknown words
    beside known ones are steps with a row of their own. Parameters: `embedding.weight`, `cell.*`, and
    `projection.weight` where there is one.

    Args:
        vocabulary: of the words.
        dimension: d of the result, by a linear layer without bias on top; None for the states as they are.
        cell: `rnn` (tanh), `gru` or `lstm`.
        words: dimension of the word vectors.
        hidden: of each direction.
        layers: above each other.
        bidirectional: a second cell reads from the end.
        dropout: of word vectors and between layers, while training.
        pooling: `last`, `mean` or `max`.
        max_length: words of a text that are read; None for all.
        metric: how vectors are compared.
        init: where the word vectors begin, see `first_rows`.
        scale: of the first word vectors.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """

    budget = 1 << 14
    short = 1 << 11

    def __init__(  # noqa: PLR0913 - the settings of a model
        self,
        vocabulary: Vocabulary,
        dimension: int | None = None,
        *,
        cell: Cell = "gru",
        words: int = 128,
        hidden: int = 128,
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        pooling: Pooling = "mean",
        max_length: int | None = 256,
        metric: Metric = "cosine",
        init: Init = "normal",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if cell not in _CELLS or pooling not in ("last", "mean", "max"):
            raise ConfigError(f"cell {cell!r} or pooling {pooling!r} is unknown", "rnn, gru, lstm; last, mean, max")
        if min(words, hidden, layers, 1 if dimension is None else dimension) < 1 or not 0 <= dropout < 1:
            raise ConfigError("dimension, words, hidden and layers are at least 1, dropout is from 0 to below 1")
        self.vocabulary, self.pooling, self.dropout = vocabulary, pooling, dropout
        self.tokenizer = vocabulary.tokenizer(max_length)
        self.metric = check_metric(metric)
        rows = first_rows(vocabulary, words, init, scale)
        rows[UNKNOWN] = rows[UNKNOWN + 1 :].mean(0) if len(rows) > UNKNOWN + 1 else 0.0
        self.embedding = nn.Embedding(rows.shape[0], rows.shape[1], padding_idx=PAD, _weight=rows)
        between = dropout if layers > 1 else 0.0
        self.cell: nn.RNNBase = _CELLS[cell](words, hidden, layers, bidirectional=bidirectional, dropout=between)
        _begin(self.cell)
        states = hidden * (1 + bidirectional)
        self.projection = None if dimension is None else nn.Linear(states, dimension, bias=False)

    @property
    def dimension(self) -> int:
        """d of the result."""
        states = self.cell.hidden_size * (1 + self.cell.bidirectional)
        return states if self.projection is None else self.projection.out_features

    def _digest(self) -> str:
        settings = {"use": "rnn", "cell": self.cell.mode, "layers": self.cell.num_layers, "pooling": self.pooling}
        tokens = {"tokens": self.tokenizer.fingerprint, "metric": self.metric}
        return digest_of(dict(self.state_dict()), settings | tokens)

    def forward(self, packed: Mapping[str, Tensor]) -> Tensor:
        """The vectors [n, d] of n packed texts."""
        ids, offsets = unpack(packed)
        places = pad((ids > UNKNOWN).cumsum(0), (1, 0))
        having = places[offsets[1:]] > places[offsets[:-1]]
        vectors = self.embedding.weight.new_zeros(len(having), self.dimension)
        if not bool(having.any()):
            nothing = sum(0 * parameter.sum() for parameter in self.parameters())
            return vectors + nothing  # each weight has a gradient, of zero: other processes wait for it
        kept = torch.repeat_interleave(having, offsets.diff())
        pooled = self._pooled(ids[kept], pad(offsets.diff()[having].cumsum(0), (1, 0)))
        if self.projection is not None:
            pooled = self.projection(pooled)
        return vectors.to(pooled.dtype).index_copy(0, having.nonzero()[:, 0], pooled)

    def _pooled(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """The states of texts that have words, pooled: [n, states]."""
        place = layout(offsets)
        words = embedding(ids[place.rows], self.embedding.weight, padding_idx=PAD, sparse=self.embedding.sparse)
        states = run_layers(self.cell, zeroed(words, self.dropout, self.training), place)
        pooled = self._pool(states, place, offsets.diff()[place.order])
        return pooled[place.order.argsort()]

    def _pool(self, states: Tensor, place: Layout, lengths: Tensor) -> Tensor:
        """[n, states], in the layout's order."""
        texts, width = len(lengths), states.shape[1]
        if self.pooling == "last":
            hidden = self.cell.hidden_size
            forward = states[place.last][:, :hidden]
            return torch.cat([forward, states[:texts, hidden:]], 1) if self.cell.bidirectional else forward
        if self.pooling == "mean":
            return states.new_zeros(texts, width).index_add(0, place.owner, states) / lengths[:, None]
        least = states.new_full((texts, width), float("-inf"))
        return least.scatter_reduce(0, place.owner[:, None].expand_as(states), states, "amax")

    # ------------------------------------------------------------------ the folder

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that make this tower, but for vocabulary and first rows, as JSON."""
        return {
            "dimension": None if self.projection is None else self.projection.out_features,
            "cell": {"RNN_TANH": "rnn", "GRU": "gru", "LSTM": "lstm"}[self.cell.mode],
            "words": self.embedding.embedding_dim,
            "hidden": self.cell.hidden_size,
            "layers": self.cell.num_layers,
            "bidirectional": self.cell.bidirectional,
            "dropout": self.dropout,
            "pooling": self.pooling,
            "max_length": self.tokenizer.max_length,
            "metric": self.metric,
        }

    def part(self) -> Part:
        """The tower as a module of sentence-transformers."""
        from lodesmith.encoders._sentence_module import RecurrentModule

        kind = f"{'bidirectional ' if self.cell.bidirectional else ''}{self.settings['cell']}"
        card = f"{kind} over {len(self.vocabulary):,} words, {self.pooling} pooling, {self.dimension} dimensions"
        return Part([RecurrentModule(self)], {"use": "rnn"} | self.settings, self.vocabulary, card)

    def save(self, folder: Path | str) -> Path:
        """Write a model folder that sentence-transformers loads where this package is installed:
        `SentenceTransformer(folder, trust_remote_code=True)`. It has no module for such a tower of its own, and asks
        for that word before it imports another package's. The folder takes the place of one that is there, whole or not
        at all.
        """
        return save(folder, self.metric, {"both": self.part()})

    @classmethod
    def load(cls, folder: Path | str) -> Recurrent:
        """Read what `save` wrote, every byte compared with its SHA-256; in evaluation mode.

        Raises:
            InputError: it is no folder of a recurrent tower.
            IntegrityError: a file is damaged.
        """
        parts = open_part(folder)
        if set(parts) != {"both"} or parts["both"][0].get("use") != "rnn":
            raise InputError("holds no recurrent tower for both sides", "use load_tower", path=folder)
        return cls.read(*parts["both"])

    @classmethod
    def read(cls, settings: Mapping[str, Any], place: Path, metric: Metric) -> Recurrent:
        """Make a tower of an opened model folder; see `open_part`."""
        arguments = {name: value for name, value in settings.items() if name not in ("use", "folder")}
        made = cls(Vocabulary.load(place), **(arguments | {"metric": metric}))
        try:
            made.load_state_dict(load_tensors(place / "model.safetensors"))
        except RuntimeError as error:
            raise IntegrityError(f"{place}: the weights do not fit the settings: {error}", "restore a copy") from None
        return made.eval()

    def __repr__(self) -> str:
        kind = f"{'bidirectional ' if self.cell.bidirectional else ''}{self.cell.mode}"
        return f"Recurrent({len(self.vocabulary)} words, {kind}, {self.pooling}, {self.dimension}, {self.metric})"


def _begin(cell: nn.RNNBase) -> None:
    """Orthogonal recurrent weights for each gate (Saxe et al. 2014), Xavier for the words', zero biases, and 1 for an
    LSTM's forget gates (Jozefowicz et al. 2015): what is read is remembered before anything is learned.
    """
    size = cell.hidden_size
    for name, parameter in cell.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
            if cell.mode == "LSTM" and "bias_ih" in name:
                parameter.data[size : 2 * size] = 1.0
        else:
            for gate in torch.split(parameter.data, size):
                (nn.init.orthogonal_ if "weight_hh" in name else nn.init.xavier_uniform_)(gate)
