"""Rows of ragged items as products take them, and the exact score of pairs.

The truth of a pair is Σ_i max_j q_i·d_j with every product by the exact kernel (float64, halving), the maxima added by
halving too, and one rounding to float32 at the end: nothing else in the batch can change a bit of it.

To find it, one product in float32 tells which document tokens can be a query token's best: a float32 inner product in
any order of additions is within γ‖q‖‖d‖ of the true one (Higham, Accuracy and Stability of Numerical Algorithms, §3.1),
so whatever is more than twice that below the best is not. The others, one a token mostly, are multiplied in float64.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lodesmith.core.errors import InputError, NotFiniteError
from lodesmith.core.vectors import Vectors
from lodesmith.similarity._rows import halving_sum, to_float32

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Shorts = NDArray[np.float32]
Dots = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Floats]

BLOCK = 1 << 19
"""Similarities that a thread holds at once (2 MB): more would leave the cache."""
PIECE = 1 << 13
"""Rows of documents that a thread takes at once."""
MOST_ROWS = 1 << 12
_PAIRS = 1 << 10
"""Pairs of rows that are multiplied at once in float64."""
_TINY = 2.0**-125
"""More than a product of float32 numbers loses where it falls below their range."""
_CERTAIN = 1.01
"""Covers the float64 roundings of bounds and of the exact kernel itself, which are 2⁻²⁹ of them."""


def gamma(dimension: int) -> float:
    """γ: how far a float32 inner product can be from the true one, as a share of ‖q‖‖d‖; twice the bound of d roundings
    in any order."""
    return (dimension + 4) * 2.0**-23


def tiny(dimension: int) -> float:
    """What underflow can take from an inner product, in addition."""
    return dimension * _TINY


class _Scratch(threading.local):
    """Memory that a thread uses again and again: fresh memory costs more than what is done with it here."""

    def __init__(self) -> None:
        self.parts: dict[str, torch.Tensor] = {}


_SCRATCH = _Scratch()


def scratch(name: str, size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Uninitialised numbers [size], valid until this thread asks for this name again; those beyond `BLOCK` are fresh,
    so that nothing large stays."""
    if size > BLOCK:
        return torch.empty(size, dtype=dtype)
    part = _SCRATCH.parts.get(name)
    if part is None or len(part) < size or part.dtype != dtype:
        part = _SCRATCH.parts[name] = torch.empty(size, dtype=dtype)
    return part[:size]


class Gathered:
    """Rows of some documents, one after another, read piece by piece.

    Args:
        documents: the collection; its values may be memory-mapped.
        positions: int64 [n], of the documents.
    """

    def __init__(self, documents: Vectors, positions: Ints) -> None:
        counts = documents.offsets[positions + 1] - documents.offsets[positions]
        self.starts: Ints = np.concatenate([[0], np.cumsum(counts)])
        self._values = documents.values
        self._first = int(documents.offsets[positions[0]]) if len(positions) else 0
        self._rows: Ints | None = None
        if (np.diff(positions) != 1).any():
            shift = documents.offsets[positions] - self.starts[:-1]
            self._rows = np.arange(self.starts[-1]) + np.repeat(shift, counts)

    def read(self, start: int, end: int) -> torch.Tensor:
        """Rows start to end: float32 [end − start, d], not to be written to."""
        if self._rows is None:
            rows = self._values[self._first + start : self._first + end]
        else:
            rows = self._values[self._rows[start:end]]
        # torch widens float16 several times as fast as numpy, to the same bits.
        kept = rows.dtype if rows.dtype == np.float16 else np.float32
        rows = np.ascontiguousarray(rows, kept)
        return torch.from_numpy(rows if rows.flags.writeable else rows.copy()).float()


def lengths(rows: torch.Tensor) -> Floats:
    """Upper bounds [n] of the Euclidean lengths of float32 rows [n, d].

    Raises:
        NotFiniteError: a value is NaN or infinite.
    """
    dimension = rows.shape[1]
    found = torch.linalg.vector_norm(rows, dim=1).double().numpy()
    if not np.isfinite(found).all() and not bool(torch.isfinite(rows).all()):
        raise NotFiniteError("a token's vector holds NaN or infinity", "repair the model, or encode again")
    # Squares add up within d·2⁻²⁴; those of components below 2⁻⁶⁰ may vanish.
    bounds: Floats = found * (1 + 1e-3 + dimension * 2.0**-22) + np.sqrt(dimension) * 2.0**-60
    return bounds


@dataclass(frozen=True)
class Asked:
    """Queries, made ready for products.

    Args:
        rows: float32 or bfloat16 [total, d].
        offsets: int64 [q + 1].
        norm: [total], ‖q‖ is at most this.
        lost: [total], what rounding to `rows` has taken is at most this long.
    """

    rows: torch.Tensor
    offsets: Ints
    norm: Floats
    lost: Floats

    @classmethod
    def of(cls, queries: Vectors) -> Asked:
        """In float32.

        Raises:
            NotFiniteError: a value is NaN or infinite.
        """
        rows = Gathered(queries, np.arange(len(queries))).read(0, len(queries.values))
        norm = lengths(rows)
        return cls(rows, queries.offsets, norm, np.zeros_like(norm))

    def narrow(self) -> Asked:
        """In bfloat16."""
        rows = self.rows.bfloat16()
        return Asked(rows, self.offsets, self.norm, lengths(self.rows - rows.float()))


def pieces(starts: Ints, most: int) -> list[tuple[int, int]]:
    """Cut items into runs of at most `most` rows, one item at least: (first, last) of each.

    Args:
        starts: int64 [n + 1], where the rows of the items begin, and where the last ends.
        most: rows.
    """
    found, first = [], 0
    while first < len(starts) - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + most, side="right")) - 1)
        found.append((first, last))
        first = last
    return found


def exact(asked: Asked, wanted: Ints, documents: Gathered) -> Shorts:
    """The true scores [n, q] of the gathered documents and the queries at `wanted`; 0 for a query without tokens."""
    counts = asked.offsets[wanted + 1] - asked.offsets[wanted]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    tokens = np.arange(offsets[-1]) + np.repeat(asked.offsets[wanted] - offsets[:-1], counts)
    queries, norm = asked.rows.index_select(0, torch.from_numpy(tokens)), asked.norm[tokens]
    found, starts = [], documents.starts
    for first, last in pieces(starts, min(MOST_ROWS, BLOCK // max(1, len(tokens)))):
        block = documents.read(int(starts[first]), int(starts[last]))
        cuts = starts[first : last + 1] - starts[first]
        found.append(_scores(queries, norm, offsets, block, cuts))
    return np.concatenate(found) if found else np.zeros((0, len(wanted)), np.float32)


def _scores(queries: torch.Tensor, norm: Floats, offsets: Ints, block: torch.Tensor, starts: Ints) -> Shorts:
    """Scores [n, q] of queries, whose tokens begin at `offsets`, and of the documents of a block.

    Sums in float64 in the machine's own order are off by less than 2⁻⁵² a summand. Where all numbers that near round to
    one float32, that is the exact kernel's too; it is asked for the others, a few in a million.
    """
    longest = np.maximum.reduceat(lengths(block), starts[:-1])
    step = max(1, BLOCK // len(block))
    best = np.concatenate(
        [
            _best(queries[at : at + step], norm[at : at + step], block, starts, longest, _fast)
            for at in range(0, len(queries), step)
        ]
        or [np.zeros((0, len(longest)))]
    ).T
    sums, share = run_sums(best, offsets), run_sums(norm[None], offsets)[0]
    with np.errstate(over="ignore", invalid="ignore"):
        error = (queries.shape[1] + np.diff(offsets) + 8) * 2.0**-51 * share * longest[:, None]
        error[:, np.diff(offsets) == 0] = 0
        low = (sums - error).astype(np.float32)
        scores: Shorts = (sums + error).astype(np.float32)
    for document, query in zip(*np.nonzero(~(low == scores)), strict=True):
        part, rows = slice(*offsets[query : query + 2]), slice(*starts[document : document + 2])
        ends = np.array([0, rows.stop - rows.start])
        one = _best(queries[part], norm[part], block[rows], ends, longest[document : document + 1], _kernel)
        scores[document, query] = to_float32(halving_sum(torch.from_numpy(one.T.copy())))[0]
    scores[scores == 0] = 0  # no −0
    return scores


def run_sums(values: NDArray[np.floating], offsets: Ints) -> Floats:
    """Sums of runs of columns in float64, [n, s] → [n, q]; 0 for an empty run."""
    sums = np.zeros((len(values), len(offsets) - 1))
    filled = np.flatnonzero(np.diff(offsets))
    if len(filled):
        sums[:, filled] = np.add.reduceat(values, offsets[filled], axis=1, dtype=np.float64)
    return sums


@np.errstate(invalid="ignore", over="ignore")
def _best(
    queries: torch.Tensor, norm: Floats, block: torch.Tensor, starts: Ints, longest: Floats, dots: Dots
) -> Floats:
    """max_j q·d_j of query tokens [s, d] and documents of a block [rows, d]: float64 [s, n]."""
    dimension = queries.shape[1]
    out = scratch("products", len(queries) * len(block)).view(len(queries), len(block))
    products = torch.mm(queries, block.T, out=out).numpy()
    highest = np.maximum.reduceat(products, starts[:-1], axis=1).astype(np.float64)
    highest -= 2 * _CERTAIN * (gamma(dimension) * norm[:, None] * longest[None, :] + tiny(dimension))
    limit = np.nextafter(highest.astype(np.float32), np.float32(-np.inf))  # rounded down
    counts = np.diff(starts)
    threshold = limit if len(counts) == 1 else np.repeat(limit, counts, axis=1)
    # Asked the other way round, since a product that overflowed to NaN can still be the best.
    below = np.less(
        products, threshold, out=scratch("below", products.size, torch.bool).numpy().reshape(products.shape)
    )
    token, row = np.divmod(np.flatnonzero(np.logical_not(below, out=below)), len(block))
    values = dots(queries, block, torch.from_numpy(token), torch.from_numpy(row))
    group = token * len(counts) + np.repeat(np.arange(len(counts)), counts)[row]
    firsts = np.flatnonzero(np.append(True, np.diff(group) != 0))
    best: Floats = np.maximum.reduceat(values, firsts).reshape(len(queries), len(counts))
    return best


def _kernel(queries: torch.Tensor, block: torch.Tensor, token: torch.Tensor, row: torch.Tensor) -> Floats:
    """q·d of pairs of rows, by the exact kernel: float64."""
    values = np.empty(len(token))
    for start in range(0, len(token), _PAIRS):
        part = slice(start, start + _PAIRS)
        values[part] = halving_sum(queries[token[part]].double().mul_(block[row[part]])).numpy()
    return values


def _fast(queries: torch.Tensor, block: torch.Tensor, token: torch.Tensor, row: torch.Tensor) -> Floats:
    """q·d of pairs of rows, in float64 and any order."""
    first, width = queries.double(), queries.shape[1]
    second = block.double() if len(token) > len(block) else block  # few winners: they alone are widened
    values, size = np.empty(len(token)), _PAIRS * width
    left, right = (scratch(name, size, torch.float64).view(-1, width) for name in ("left", "right"))
    for start in range(0, len(token), _PAIRS):
        these, those = token[start : start + _PAIRS], row[start : start + _PAIRS]
        a = torch.index_select(first, 0, these, out=left[: len(these)])
        if second is block:
            b = right[: len(those)].copy_(block.index_select(0, those))
        else:
            b = torch.index_select(second, 0, those, out=right[: len(those)])
        np.einsum("ij,ij->i", a.numpy(), b.numpy(), out=values[start : start + _PAIRS])
    return values


def check(queries: Vectors, documents: Vectors) -> None:
    """Refuse what has no score.

    Raises:
        InputError: the dimensions differ, or a document has no token: a maximum over nothing is no number.
    """
    if queries.dimension != documents.dimension:
        raise InputError(
            f"queries of {queries.dimension} dimensions cannot be compared with documents of {documents.dimension}",
            "encode both with one model",
        )
    if (empty := np.flatnonzero(np.diff(documents.offsets) == 0)).size:
        raise InputError(f"the document {documents.ids[empty[0]]!r} has no token vector", "leave it out")
