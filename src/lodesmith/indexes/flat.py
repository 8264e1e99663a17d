"""`Flat`: exact search. Every answer is the one that scoring every row with the exact kernel would give."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError, IntegrityError, NotFiniteError
from lodesmith.core.files import read_json, write_json
from lodesmith.core.progress import tell
from lodesmith.core.protocols import SEVERAL, Metric
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors, VectorWriter
from lodesmith.indexes._batch import Batch
from lodesmith.indexes._merge import merge
from lodesmith.indexes._precision import MAX_INT8_DIMENSION, Product, choose
from lodesmith.indexes._scan import Found, Scan
from lodesmith.indexes._segment import Block, Segment, portions
from lodesmith.indexes._threads import in_threads, parts
from lodesmith.indexes._truth import Truth
from lodesmith.similarity._machine import full_float32
from lodesmith.similarity.aligned import flattened, unflattened
from lodesmith.similarity.maxsim import maxsim_top

__all__ = ["Flat"]

_READ_BYTES = 64 << 20
_QUERIES = 1024
_BATCH_RESULTS = 1 << 16
_SAMPLE = 4096
_MERGE_ROWS = 1 << 16
_MERGE_COMPONENTS = 1 << 26
_BATCH_COMPONENTS = 1 << 22


class Flat:
    """An exact index.

    The truth is the exact kernel of `similarity`: a score's sum is taken in float64 in a fixed order and rounded once
    to float32, so it has the same bits in any batch, block or number of threads. Results are the k items with the best
    true scores, ties by id descending, whatever finds the candidates: products in few bits, each with a certified bound
    on its error, name every row that could be among the k best, and those alone are scored exactly.

    Items may have several rows; an item's score is its best row's. Values are kept by reference and may be
    memory-mapped. In memory stands their copy in few bits (1, 2 or 4 bytes a component and 32 a row), which the first
    search makes; a search needs about 60 MB more.

    Args:
        metric: `"dot"`, `"cosine"` (0 for a zero vector), `"euclidean"` (minus the squared distance), or one of two
            under which queries have several rows too: `"aligned"`, where all items and queries have as many, and each
            is compared as one long vector; `"maxsim"`, where nothing is copied, and `precision` says nothing.
        precision: of the candidates' products: `"int8"`, `"bfloat16"`, `"float32"`, or `"auto"` for the fastest on this
            CPU that takes so many dimensions. It changes the time, never a result.

    Raises:
        ConfigError: the metric or precision is unknown or impossible here.
    """

    follows_from_vectors: ClassVar[bool] = True
    """An index folder, which keeps the vectors, need not keep a file of this index."""

    def __init__(self, metric: Metric = "dot", precision: str = "auto") -> None:
        if metric not in get_args(Metric):
            raise ConfigError(f"no metric is called {metric!r}", f"choose one of: {', '.join(get_args(Metric))}")
        self.metric: Metric = metric
        self.precision = choose(precision)
        self.dimension: int | None = None
        """d, once something has been added."""
        self._auto = precision == "auto"
        self._kernel: Metric = "cosine" if metric == "aligned" else metric
        self._tokens: int | None = None  # rows of every item, under `aligned`
        self._segments: list[Segment] = []
        self._centre: NDArray[np.float32] | None = None
        self._largest = 0.0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return sum(segment.live for segment in self._segments)

    def __repr__(self) -> str:
        return f"Flat({len(self)} items, dimension {self.dimension}, {self.metric}, {self.precision})"

    @property
    def ids(self) -> list[str]:
        """The ids of all items."""
        return [n for s in self._segments for n, alive in zip(s.vectors.ids, s.alive.tolist(), strict=True) if alive]

    def bytes_for(self, vectors: Vectors) -> int:
        """What these vectors will take in memory once they are searched, beside what holds their values."""
        if self.metric == "maxsim":
            return 0
        rows = len(vectors) if self.metric == "aligned" else len(vectors.values)
        width = vectors.values.size // max(1, rows)
        return rows * (width * {"int8": 1, "bfloat16": 2, "float32": 4}[self._precision(width)] + 32)

    def _precision(self, width: int) -> str:
        """For rows of so many components: not int8 where that is too many, unless it was asked for."""
        return "float32" if self._auto and self.precision == "int8" and width > MAX_INT8_DIMENSION else self.precision

    def _compared(self, vectors: Vectors) -> Vectors:
        """What is compared: under `aligned` each item as one vector."""
        return flattened(vectors, self._tokens) if self.metric == "aligned" else vectors

    def add(self, vectors: Vectors) -> None:
        """Add items by id; an id that is there is replaced. The values are kept by reference: do not change them.

        Raises:
            InputError: the dimension is another, a value is NaN or infinite, an id occurs twice, or an item has no row
                (under `aligned`: another number of rows).
        """
        largest = self._check(vectors)
        with self._lock:
            rows = self._compared(vectors)
            precision = self._precision(rows.dimension)
            if precision == "int8" and rows.dimension > MAX_INT8_DIMENSION:
                raise InputError(
                    f"int8 takes 1 to {MAX_INT8_DIMENSION} dimensions, not {rows.dimension}", "choose precision auto"
                )
            self.dimension = vectors.dimension
            if not len(vectors):
                return
            self.precision, self._tokens = precision, rows.dimension // vectors.dimension
            self._largest = max(self._largest, largest)
            self.delete(rows.ids)
            self._segments.append(Segment(rows))
            self._join_small()

    def _check(self, vectors: Vectors) -> float:
        """The largest absolute value."""
        _fits(vectors, self.dimension, "the vectors")
        if vectors.dimension < 1:
            raise InputError("vectors have at least 1 dimension, not 0")
        if len(set(vectors.ids)) != len(vectors.ids):
            twice = next(name for i, name in enumerate(vectors.ids) if name in vectors.ids[:i])
            raise InputError(f"the id {twice!r} occurs twice among the vectors", "give each item one id")
        if (empty := np.flatnonzero(np.diff(vectors.offsets) == 0)).size:
            raise InputError(f"the item {vectors.ids[empty[0]]!r} has no vector", "leave it out")
        return _largest(vectors, "item")

    def _join_small(self) -> None:
        """Join the last segments while they are small and of like size, so that many small adds stay few segments."""
        while len(self._segments) > 1:
            before, last = (len(segment.vectors.values) for segment in self._segments[-2:])
            width = self._segments[-1].vectors.dimension
            if before > 2 * last or before + last > min(_MERGE_ROWS, _MERGE_COMPONENTS // width):
                return
            pair = [s.vectors.take(np.flatnonzero(s.alive)) for s in self._segments[-2:]]
            joined = Vectors.joined(pair)
            self._segments[-2:] = [Segment(joined)] if len(joined) else []

    def delete(self, ids: Iterable[str]) -> int:
        """Take items out; returns how many there were."""
        wanted = set(ids)
        with self._lock:
            count = sum(segment.hide(wanted) for segment in self._segments)
            self._segments = [segment for segment in self._segments if segment.live]
        return count

    def search(self, queries: Vectors, k: int) -> Run:
        """The k best items of each query, ties by id descending; all items where there are fewer than k.

        Raises:
            InputError: k is below 1, or the queries have another dimension, NaN or infinite values, an id twice, or
                not one row each; or scores would leave the range of float32.
        """
        self.check_queries(queries, k)
        if not self._segments or not len(queries):
            return Run.ranked(queries.ids, [], np.zeros(0), np.zeros(0), np.zeros(len(queries) + 1))
        with self._lock:
            segments = list(self._segments)
            if self.metric == "maxsim":
                return _interacted(segments, queries, k)
            blocks = self._prepare(segments)
        queries, own = self._compared(queries), threading.local()

        def work(part: slice) -> tuple[Found, dict[int, str]]:
            if not hasattr(own, "product"):
                own.product = Product(self.precision, queries.dimension)
            query, item, score, names = self._find(queries.values[part], segments, blocks, k, own.product)
            return (query + part.start, item, score), names

        most = min(_QUERIES, _BATCH_RESULTS // k, _BATCH_COMPONENTS // queries.dimension)
        pieces = parts(len(queries), max(1, most))
        found: list[Found] = []
        names: dict[int, str] = {}
        with full_float32():
            for piece, (result, known) in zip(pieces, in_threads(work, pieces), strict=True):
                found.append(result)
                names |= known
                tell("search", piece.stop, len(queries), "queries")
        return _run(queries.ids, names, found)

    def _find(
        self,
        queries: NDArray[np.floating],
        segments: list[Segment],
        blocks: list[tuple[int, Block]],
        k: int,
        product: Product,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], dict[int, str]]:
        """Queries, items, scores, and the items' ids."""
        assert self._centre is not None
        raw = np.asarray(queries, np.float32)
        batch = Batch.of(raw, self._kernel, self.precision, self._centre, [block for _, block in blocks])
        longest = max(float(block.norm.max()) for _, block in blocks) + batch.centre
        truth = Truth(segments, batch, longest)
        scan = Scan(batch, truth, k, product)
        for number, block in blocks:
            scan.visit(number, block)
        query, item, score = scan.finish()
        unique = np.unique(item)
        return query, item, score, dict(zip(unique.tolist(), truth.names(unique), strict=True))

    def check_queries(self, queries: Vectors, k: int) -> None:
        """Refuse what cannot be searched for, as `search` says."""
        if not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k is {k!r}", "ask for at least 1 item")
        _fits(queries, self.dimension, "the queries")
        if self.metric not in SEVERAL and not queries.is_dense:
            raise InputError(
                f"queries of several vectors each are compared by {' or '.join(SEVERAL)}, and this index compares by "
                f"{self.metric}",
                "build it with a late-interaction model, or ask with one vector each",
            )
        self._compared(queries)  # which refuses another number of rows
        if len(set(queries.ids)) != len(queries.ids):
            raise InputError("a query id occurs twice", "give each query one id")
        largest = _largest(queries, "query")
        highest = (largest + self._largest) ** 2 if self.metric == "euclidean" else largest * self._largest
        if self._kernel != "cosine" and highest * queries.dimension > float(np.finfo(np.float32).max):
            raise InputError(
                f"scores could leave the range of float32: queries reach {largest:.3g}, items {self._largest:.3g}",
                "scale the vectors down",
            )

    def _prepare(self, segments: list[Segment]) -> list[tuple[int, Block]]:
        """All blocks with their segments' numbers, in a scattered order: what stands first sets the first limits, and
        neighbours are often alike."""
        if self._centre is None:
            self._centre = self._mean(segments)
        blocks: list[tuple[int, Block]] = []
        for number, segment in enumerate(segments):
            blocks += [(number, block) for block in segment.prepare(self._kernel, self.precision, self._centre)]
        order: list[int] = np.random.default_rng(0).permutation(len(blocks)).tolist()
        return [blocks[i] for i in order]

    def _mean(self, segments: list[Segment]) -> NDArray[np.float32]:
        """The mean of a sample: subtracting it takes out what all vectors share, and leaves less to round."""
        largest = max(segments, key=lambda segment: len(segment.vectors.values))
        total = len(largest.vectors.values)
        sample = largest.gather(np.unique(np.linspace(0, total - 1, min(total, _SAMPLE)).astype(np.int64)))
        exact = sample.astype(np.float64)
        if self._kernel == "cosine":
            lengths = np.linalg.norm(exact, axis=1, keepdims=True)
            exact /= np.where(lengths > 0, lengths, 1.0)
        return np.asarray(exact.mean(axis=0), np.float32)

    def save(self, folder: Path) -> None:
        """Write the items into an empty folder: `flat.json` and `vectors/`."""
        with VectorWriter(Path(folder) / "vectors", self.dimension or 1, np.float32, {}) as writer:
            for segment in self._segments:
                for part in portions(np.flatnonzero(segment.alive), segment.vectors):
                    piece = segment.vectors.take(part)
                    if self.metric == "aligned":
                        piece = unflattened(piece, self._tokens or 1)
                    writer.append(piece.ids, piece.values, piece.offsets)
            writer.finish()
        write_json(Path(folder) / "flat.json", {"metric": self.metric, "dimension": self.dimension})

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, in place of what is here.

        Raises:
            IntegrityError: the files are damaged or were made with another metric.
        """
        settings = read_json(Path(folder) / "flat.json")
        if settings.get("metric") != self.metric:
            raise IntegrityError(
                f"{folder}: the index was saved with the metric {settings.get('metric')}, this one has {self.metric}",
                "open it with its own metric",
            )
        vectors = Vectors.load(Path(folder) / "vectors", verify=True)
        with self._lock:
            self._segments, self._centre, self._largest, self.dimension = [], None, 0.0, None
            self._tokens = None
            self.add(vectors)
            self.dimension = settings["dimension"]


def _interacted(segments: list[Segment], queries: Vectors, k: int) -> Run:
    """The k best items of several segments under MaxSim."""
    runs = [maxsim_top(queries, segment.kept, k) for segment in segments]
    return reduce(lambda best, found: merge(best, found, k), runs)


def _fits(vectors: Vectors, dimension: int | None, label: str) -> None:
    if dimension is not None and vectors.dimension != dimension:
        raise InputError(
            f"{label} have {vectors.dimension} dimensions, the index has {dimension}", "encode both with one model"
        )


def _largest(vectors: Vectors, noun: str) -> float:
    """The largest absolute value; refuses NaN and infinity and names the first item that has one."""
    step = max(1, _READ_BYTES // (4 * vectors.dimension))
    largest = 0.0
    for start in range(0, len(vectors.values), step):
        part = np.abs(np.asarray(vectors.values[start : start + step]))
        top = float(part.max())
        if not np.isfinite(top):
            row = start + int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
            owner = int(np.searchsorted(vectors.offsets, row, side="right")) - 1
            raise NotFiniteError(
                f"the {noun} {vectors.ids[owner]!r} has a vector with NaN or infinite values", "encode it again"
            )
        largest = max(largest, top)
    return largest


def _run(ids: tuple[str, ...], names: dict[int, str], found: list[Found]) -> Run:
    query, item, score = (np.concatenate(parts) for parts in zip(*found, strict=True))
    unique, rows = np.unique(item, return_inverse=True)
    offsets = np.searchsorted(query, np.arange(len(ids) + 1))
    return Run.ranked(ids, [names[i] for i in unique.tolist()], rows, score, offsets)
