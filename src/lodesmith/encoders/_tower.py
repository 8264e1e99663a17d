"""What the towers over words share: packed texts, first rows and encoding.

A packed mapping is {"ids": int64 [total], "offsets": int64 [n + 1]}: the words of n texts, one text after another.
"""

from __future__ import annotations

import hashlib
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lodesmith.core.errors import ConfigError, InputError, NotFiniteError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Metric, Side
from lodesmith.core.vectors import Vectors
from lodesmith.encoders._cores import budget_of, each_on_one_core
from lodesmith.encoders._packing import batches
from lodesmith.encoders._reading import named
from lodesmith.encoders._teacher_rows import teacher_rows
from lodesmith.encoders._words import PAD, UNKNOWN, Tokenised, Vocabulary, WordTokenizer
from lodesmith.encoders.transformer import TransformerEncoder
from lodesmith.encoders.word_vectors import WordVectors, coverage, read_word_vectors

__all__ = ["Init", "Remembered", "Tower", "check_metric", "digest_of", "encode", "first_rows", "packed_of", "unpack"]

_log = logging.getLogger(__name__)

_LITTLE = 0.5
"""Given vectors that cover no more of the tokens are probably of another language or kind of text."""

Init = str | Path | WordVectors | TransformerEncoder
"""Where the rows of an embedding begin: `normal`, `uniform`, a file or folder of word vectors, such vectors, or a
transformer that is asked for each word; `distil:MODEL` names one. `teacher:MODEL` keeps its vectors as they are."""


class Tower(nn.Module):
    """A module from packed texts to vectors [n, d], with what every tower over words has alike."""

    trained_on: ClassVar[str] = "tokens"
    budget: ClassVar[int]
    """Words a batch."""
    short: ClassVar[int]
    """Words that one core reads sooner than several would share them."""
    metric: Metric
    tokenizer: WordTokenizer

    def __init__(self) -> None:
        super().__init__()
        self._fingerprint = Remembered()

    @property
    @abstractmethod
    def dimension(self) -> int:
        """d of the result."""

    @abstractmethod
    def _digest(self) -> str:
        """SHA-256 over the weights as they are now and every setting that changes a vector."""

    @property
    def parameters_total(self) -> int:
        """Parameters of the tower."""
        return sum(p.numel() for p in self.parameters())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights as they are now and every setting that changes a vector."""
        return self._fingerprint.get(self, self._digest)

    def train(self, mode: bool = True) -> Self:
        """Training mode, or evaluation mode."""
        if mode:
            self._fingerprint.forget()
        super().train(mode)
        return self

    def load_state_dict(self, *arguments: Any, **settings: Any) -> Any:
        """As torch does."""
        self._fingerprint.forget()
        return super().load_state_dict(*arguments, **settings)

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        """Encode texts; both sides alike. `info` says what was cut, unknown or empty."""
        return encode(self, texts, side, ids)


def check_metric(metric: str) -> Metric:
    """The metric.

    Raises:
        ConfigError: there is none of this name.
    """
    found: dict[str, Metric] = {"cosine": "cosine", "dot": "dot", "euclidean": "euclidean"}
    if metric not in found:
        raise ConfigError(f"no metric is called {metric!r}", f"choose one of: {', '.join(found)}")
    return found[metric]


# ---------------------------------------------------------------------- first rows


def first_rows(vocabulary: Vocabulary, dimension: int, init: Init, scale: float) -> Tensor:
    """Rows for the words of a vocabulary, float32 [v, d]; those of padding and of unknown words are zero.

    `normal` has the standard deviation scale / √d, so that a word's vector has about the length `scale`; `uniform` is
    even between ±scale·√(3/d), which has the same deviation. Given vectors are multiplied by `scale`; words that they
    lack begin as normal with the deviation of those that they have.

    Raises:
        InputError: the vectors cannot be read, or fit neither the words nor the dimension.
        ConfigError: the scale is not above 0.
    """
    if not scale > 0:
        raise ConfigError(f"scale must be above 0, not {scale}", "the default is 1")
    size, deviation = (len(vocabulary), dimension), scale / math.sqrt(dimension)
    if init == "normal":
        rows = torch.randn(size) * deviation
    elif init == "uniform":
        rows = (torch.rand(size) * 2 - 1) * deviation * math.sqrt(3)
    elif isinstance(init, TransformerEncoder) or str(init).startswith("distil:"):
        teacher = (
            init if isinstance(init, TransformerEncoder) else TransformerEncoder(str(init).removeprefix("distil:"))
        )
        rows = _distilled(vocabulary, dimension, teacher) * scale
    else:
        rows = _from_vectors(vocabulary, dimension, _given(init, vocabulary)) * scale
    rows[: UNKNOWN + 1] = 0
    return rows


def _given(init: str | Path | WordVectors, vocabulary: Vocabulary) -> WordVectors:
    if isinstance(init, WordVectors):
        return init
    if str(init).startswith("teacher:"):
        teacher = TransformerEncoder(str(init).removeprefix("teacher:"))
        return teacher_rows(teacher, vocabulary.words[UNKNOWN + 1 :])
    return read_word_vectors(str(init), only=vocabulary.ids)


def _from_vectors(vocabulary: Vocabulary, dimension: int, vectors: WordVectors) -> Tensor:
    if vectors.dimension != dimension:
        raise InputError(
            f"the word vectors have {vectors.dimension} dimensions, the embedding {dimension}", "give both the same"
        )
    places = np.array([vectors.ids.get(word, -1) for word in vocabulary.words])
    known = places >= 0
    known[: UNKNOWN + 1] = False
    if not known.any():
        raise InputError("the word vectors have none of the vocabulary's words", "choose others")
    given = vectors.values[places[known]]
    rows = torch.randn(len(vocabulary), dimension) * float(given.std())
    rows[torch.from_numpy(known)] = torch.from_numpy(np.ascontiguousarray(given))
    found = coverage(vocabulary, vectors.ids)
    _log.log(
        logging.INFO if found["tokens_known"] > _LITTLE else logging.WARNING,
        "word vectors for %d of %d words, %.1f %% of the tokens%s",
        known.sum(),
        found["types"],
        100 * found["tokens_known"],
        f"; without one: {', '.join(found['missing'])}" if found["missing"] else "",
    )
    return rows


def _distilled(vocabulary: Vocabulary, dimension: int, teacher: TransformerEncoder) -> Tensor:
    """Each word through the transformer once, centred and turned to its principal components, of length 1 on average.

    As model2vec does (Tulkens & van Dongen 2024); the weighting by frequency is left to the tower's term weights.
    """
    if dimension > teacher.dimension:
        raise InputError(
            f"a transformer of {teacher.dimension} dimensions gives no {dimension}", "choose at most as many"
        )
    words = list(vocabulary.words[UNKNOWN + 1 :])
    if len(words) < dimension:
        raise InputError(f"{len(words)} words span no {dimension} dimensions", "choose fewer, or give more texts")
    found = teacher.encode(words).values.astype(np.float64)
    found -= found.mean(0)
    _, axes = np.linalg.eigh(found.T @ found)  # rising: the last are the principal ones
    turned = found @ axes[:, ::-1][:, :dimension]
    turned /= max(1e-30, float(np.sqrt((turned**2).sum(1).mean())))
    rows = torch.zeros(len(vocabulary), dimension)
    rows[UNKNOWN + 1 :] = torch.from_numpy(turned.astype(np.float32))
    return rows


# ------------------------------------------------------------------------ encoding


def unpack(packed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """ids and offsets of a packed mapping, without padding.

    Raises:
        InputError: it is no packed mapping.
    """
    if "ids" not in packed or "offsets" not in packed:
        raise InputError(f"a tower takes packed texts, ids and offsets, not {sorted(packed)}", "batch them unpadded")
    ids, offsets = packed["ids"], packed["offsets"]
    real = ids != PAD
    if bool(real.all()):
        return ids, offsets
    places = torch.nn.functional.pad(real.cumsum(0), (1, 0))
    return ids[real], places[offsets]


def encode(tower: Tower, texts: Sequence[str], side: Side, ids: Sequence[str] | None) -> Vectors:
    """The vectors of texts, float32, one row each; in evaluation mode, in batches of like length.

    `info` has `cut` and `truncated` (texts longer than the maximum length), `tokens`, `unknown` (the share of words
    that the vocabulary lacks) and `empty`, the ids of texts without any known word: their vectors are zero.
    """
    texts, names = named(texts, ids)
    made = tower.tokenizer(texts)
    training = tower.training
    tower.train(False)
    try:
        values = _forward(tower, made)
    finally:
        tower.train(training)
    if not np.isfinite(values).all():
        raise NotFiniteError("the tower gave vectors with NaN or infinity", "its weights are damaged: train again")
    return Vectors(values, np.arange(len(texts) + 1, dtype=np.int64), names, _info(tower, made, names, side))


def _forward(tower: Tower, made: Tokenised) -> NDArray[np.float32]:
    values = np.empty((len(made.lengths), tower.dimension), np.float32)
    offsets = np.concatenate([[0], np.cumsum(made.lengths)]).astype(np.int64)
    device = next(iter(tower.parameters())).device

    def fill(batch: NDArray[np.int64]) -> None:
        with torch.inference_mode():  # it holds for one thread only
            values[batch] = tower.forward(packed_of(made.ids, offsets, batch, device)).float().cpu().numpy()

    budget = budget_of(len(made.ids), tower.budget, device)
    each_on_one_core(fill, list(batches(made.lengths + 1, budget)), device, short=len(made.ids) < tower.short)
    return values


def packed_of(
    ids: NDArray[np.int64], offsets: NDArray[np.int64], numbers: NDArray[np.int64], device: torch.device
) -> dict[str, Tensor]:
    """The packed mapping of some of the texts."""
    lengths = np.diff(offsets)[numbers]
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.arange(bounds[-1]) + np.repeat(offsets[numbers] - bounds[:-1], lengths)
    packed = {"ids": torch.from_numpy(ids[rows]), "offsets": torch.from_numpy(bounds)}
    return {name: tensor.to(device) for name, tensor in packed.items()}


def _info(tower: Tower, made: Tokenised, names: Sequence[str], side: Side) -> dict[str, Any]:
    offsets = np.concatenate([[0], np.cumsum(made.lengths)])
    known = np.concatenate([[0], np.cumsum(made.ids > UNKNOWN)])
    empty = np.diff(known[offsets]) == 0
    return {
        "encoder": type(tower).__name__,
        "model": tower.fingerprint,
        "side": side,
        "metric": tower.metric,
        "truncated": float(made.cut.mean()) if len(made.cut) else 0.0,
        "cut": [names[at] for at in np.flatnonzero(made.cut).tolist()],
        "tokens": len(made.ids),
        "unknown": 1 - int(known[-1]) / len(made.ids) if len(made.ids) else 0.0,
        "empty": [names[at] for at in np.flatnonzero(empty).tolist()],
    }


def digest_of(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """SHA-256 over tensors, by name, and settings."""
    digests = {}
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        raw = hashlib.sha256(plain.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
        digests[name] = [str(plain.dtype), list(plain.shape), raw]
    return fingerprint({"tensors": digests, "settings": dict(settings)})


class Remembered:
    """A value that is computed once while a module is not trained, and each time while it is.

    The fused optimisers move weights without a trace that could be read off them, so the mode is what counts: what
    `train` forgets is computed anew.
    """

    def __init__(self) -> None:
        self._value: str | None = None

    def get(self, module: Tower, compute: Callable[[], str]) -> str:
        """The value."""
        if module.training or any(p.grad is not None for p in module.parameters()):
            return compute()
        if self._value is None:
            self._value = compute()
        return self._value

    def forget(self) -> None:
        """The module is going to change."""
        self._value = None
