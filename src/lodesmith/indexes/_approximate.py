"""What the approximate indexes share: FAISS names candidates, the exact kernel scores them.

Scores are therefore those of `flat`, whatever the batch; what may be missing is an item that FAISS did not name. How
often that happens is measured when the structure is built, and the effort of a search is raised until the target is
reached. The queries of this measurement are midpoints of two random items: items themselves lie where the structure was
made to be good, and flatter it; real queries do not (docs/log.md).
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, IntegrityError
from lodesmith.core.files import read_json, write_json
from lodesmith.core.progress import tell
from lodesmith.core.protocols import Metric
from lodesmith.core.run import Run
from lodesmith.core.vectors import Vectors
from lodesmith.indexes.flat import Flat
from lodesmith.similarity.cosine import cosine_rows
from lodesmith.similarity.dot import dot_rows
from lodesmith.similarity.euclidean import euclidean_rows

SMALL = 4096
"""With no more rows than this every item is scored: a structure would save nothing."""
SAMPLE = 200
DEPTH = 11
_BLOCK = 1 << 14
_MOST_BYTES = 1 << 36  # that a structure file may ask for

Ints = NDArray[np.int64]
_KERNELS: dict[str, Callable[..., NDArray[np.float32]]] = {
    "cosine": cosine_rows,
    "dot": dot_rows,
    "euclidean": euclidean_rows,
}
_ELSEWHERE = {"maxsim": ", or multivector", "aligned": ""}
"""Which approximate indexes compare by a metric of several vectors."""


class Approximate:
    """An index over a FAISS structure; each kind says how it is made and how its effort is set.

    Args:
        metric: one of the kind's `metrics`; the first where None.
        small: up to so many rows search is exact; None for `SMALL`.
        refine: so many times k rows are named and scored exactly; None for the kind's own number.
        target: recall against exact search that the effort is raised for; None for the kind's own.

    Raises:
        ConfigError: a setting is out of range.
    """

    structured: ClassVar[bool] = True
    """An index folder, which keeps the vectors, keeps only this index's structure beside them."""
    metrics: ClassVar[tuple[Metric, ...]] = ("dot", "cosine", "euclidean")
    efforts: ClassVar[tuple[int, ...]] = (16, 32, 64, 128, 256, 512)
    named: ClassVar[int] = 4
    """How many times k rows are named unless the caller says otherwise."""
    aimed: ClassVar[float] = 0.99
    """The recall that is aimed at unless the caller says otherwise."""
    threads: ClassVar[int | None] = None
    """Threads that build it; None for all. One where the order of insertion decides the result."""

    def __init__(
        self,
        metric: Metric | None = None,
        *,
        small: int | None = None,
        refine: int | None = None,
        target: float | None = None,
    ) -> None:
        metric, target = metric or self.metrics[0], self.aimed if target is None else target
        small, refine = SMALL if small is None else small, self.named if refine is None else refine
        if small < 0 or refine < 1 or not 0 < target <= 1:
            raise ConfigError(f"small {small}, refine {refine} or target {target} is out of range")
        if metric not in self.metrics:
            kind, known = type(self).__name__.lower(), " or ".join(self.metrics)
            raise ConfigError(
                f"the index {kind} compares by {known}, and the model's vectors are compared by {metric}",
                "choose flat" + _ELSEWHERE.get(metric, ", or hnsw, ivf or ivfpq"),
            )
        self.exact = Flat(metric)
        """The same items, scored one and all."""
        self.metric: Metric = metric
        self.small, self.refine, self.target = small, refine, target
        self._lock = threading.RLock()
        self._clear()

    def _clear(self) -> None:
        self._parts: list[Vectors] = []
        self._first = np.zeros(1, np.int64)
        self._items: list[tuple[int, int]] = []
        self._at: dict[str, int] = {}
        self._owner = np.zeros(0, np.int64)
        self._alive = np.zeros(0, bool)
        self._graph: Any = None
        self._labels = np.zeros(0, np.int64)
        self.report: dict[str, Any] = {}
        """Of the structure: rows, effort, and the recall@11 measured on midpoints of items."""

    @abstractmethod
    def make(self, rows: int, dimension: int, measure: int) -> Any:
        """An empty FAISS index for so many rows, under a FAISS metric."""

    @abstractmethod
    def effort(self, value: int, selector: Any) -> Any:
        """FAISS search parameters."""

    def __len__(self) -> int:
        return len(self.exact)

    @property
    def ids(self) -> list[str]:
        """The ids of all items."""
        return self.exact.ids

    @property
    def dimension(self) -> int | None:
        """d, once something has been added."""
        return self.exact.dimension

    def add(self, vectors: Vectors) -> None:
        """Add items by id; an id that is there is replaced. The values are kept by reference: do not change them.

        Raises:
            InputError: the dimension is another, a value is NaN or infinite, an id occurs twice, or an item has no row.
        """
        with self._lock:
            self.exact.add(vectors)
            self._hide(vectors.ids)
            start, rows = len(self._items), len(vectors.values)
            self._items += [(len(self._parts), i) for i in range(len(vectors))]
            self._at |= {name: start + i for i, name in enumerate(vectors.ids)}
            owner = start + np.repeat(np.arange(len(vectors)), np.diff(vectors.offsets))
            self._owner = np.concatenate([self._owner, owner])
            self._alive = np.concatenate([self._alive, np.ones(rows, bool)])
            self._parts.append(vectors)
            self._first = np.append(self._first, self._first[-1] + rows)
            if self._graph is not None:
                self._extend(np.arange(self._first[-2], self._first[-1]))

    def delete(self, ids: Iterable[str]) -> int:
        """Take items out; returns how many there were. The structure keeps their place until it is built anew."""
        wanted = list(ids)
        with self._lock:
            self._hide(wanted)
            return self.exact.delete(wanted)

    def _hide(self, ids: Iterable[str]) -> None:
        gone = [self._at.pop(name) for name in ids if name in self._at]
        if gone:
            self._alive[np.isin(self._owner, gone)] = False

    def search(self, queries: Vectors, k: int) -> Run:
        """The k best items that are found, with exact scores, ties by id descending.

        Raises:
            InputError: as `Flat.search`.
        """
        self.exact.check_queries(queries, k)
        with self._lock:
            live = int(self._alive.sum())
            if live <= self.small or k * self.refine * 2 >= live:
                return self.exact.search(queries, k)
            self.build()
            found: dict[str, list[tuple[str, float]]] = {}
            for start in range(0, len(queries), 256):
                part = queries.take(range(start, min(start + 256, len(queries))))
                found |= self._found(part, k, live)
                tell("search", start + len(part), len(queries), "queries")
        return Run.of({query: dict(ranking) for query, ranking in found.items()})

    def build(self) -> None:
        """Make the structure where it is missing, and measure it."""
        if self._graph is not None or not self._alive.any():
            return
        rows = np.flatnonzero(self._alive)
        measure = faiss.METRIC_L2 if self.metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
        assert self.dimension is not None
        graph = self.make(len(rows), self.dimension, measure)
        with _building(self.threads):
            if not graph.is_trained:
                sample = np.random.default_rng(0).permutation(rows)[: 1 << 17]
                graph.train(self._values(np.sort(sample)))
            self._graph, self._labels = graph, np.zeros(0, np.int64)
            self._extend(rows)
        self._measure(rows)

    def _extend(self, rows: Ints) -> None:
        with _building(self.threads):
            for start in range(0, len(rows), _BLOCK):
                part = rows[start : start + _BLOCK]
                self._graph.add(self._values(part))
                self._labels = np.concatenate([self._labels, part])
                tell(f"build {type(self).__name__}", start + len(part), len(rows), "rows")

    def _values(self, rows: Ints, *, raw: bool = False) -> NDArray[np.float32]:
        """Rows as float32; under the cosine of unit length unless `raw`."""
        values = np.empty((len(rows), self.dimension or 0), np.float32)
        part = np.searchsorted(self._first, rows, side="right") - 1
        for number in np.unique(part):
            mine = part == number
            values[mine] = self._parts[number].values[rows[mine] - self._first[number]]
        return values if raw else self._unit(values)

    def _unit(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.metric != "cosine":
            return values
        lengths = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
        return np.asarray(values / np.where(lengths > 0, lengths, 1), np.float32)

    # ----------------------------------------------------------------- searching

    def _found(self, queries: Vectors, k: int, live: int) -> dict[str, list[tuple[str, float]]]:
        """The ranking of each query; one that gets fewer than k items asks for more, and at last for all."""
        values = np.asarray(queries.values, np.float32)
        rankings: dict[str, list[tuple[str, float]]] = {}
        waiting = list(range(len(queries)))
        count = k * self.refine
        while waiting and count < live:
            named = self._named(self._unit(values[waiting]), count)
            short = []
            for query, rows in zip(waiting, named, strict=True):
                ranking = self._ranked(values[query], rows[rows >= 0], k)
                rankings[queries.ids[query]] = ranking
                if len(ranking) < min(k, len(self)):
                    short.append(query)
            waiting, count = short, count * 4
        if waiting:
            run = self.exact.search(queries.take(waiting), k)
            rankings |= {query: list(run[query]) for query in run}
        return {query: rankings[query] for query in queries.ids}

    def _named(self, queries: NDArray[np.float32], count: int) -> Ints:
        """Row numbers [q, count] that FAISS names, −1 where it names none."""
        settings = self.effort(self.report["effort"], self._selector())
        with alone():
            _, places = self._graph.search(np.ascontiguousarray(queries), count, params=settings)
        return np.where(places < 0, -1, self._labels[places.clip(min=0)])

    def _selector(self) -> Any:
        """What keeps deleted rows out; None where there are none."""
        alive = self._alive[self._labels]
        return None if alive.all() else faiss.IDSelectorBitmap(np.packbits(alive, bitorder="little"))

    def _ranked(self, query: NDArray[np.float32], rows: Ints, k: int) -> list[tuple[str, float]]:
        """The k best items of some rows: an item's score is its best row's."""
        candidates = self._values(rows, raw=True)
        scores = _KERNELS[self.metric](np.broadcast_to(query, candidates.shape), candidates)
        best: dict[int, float] = {}
        for item, score in zip(self._owner[rows].tolist(), scores.tolist(), strict=True):
            best[item] = max(score, best.get(item, score))
        named = [(self._name(item), score) for item, score in best.items()]
        return sorted(named, key=lambda pair: (pair[1], pair[0]), reverse=True)[:k]

    def _name(self, item: int) -> str:
        part, place = self._items[item]
        return self._parts[part].ids[place]

    def _measure(self, rows: Ints) -> None:
        """Raise the effort until queries between items find their true neighbours."""
        random = np.random.default_rng(1)
        first, second = (random.permutation(rows)[:SAMPLE] for _ in range(2))
        queries = self._unit((self._values(first) + self._values(second)) / np.float32(2))
        truth = self._neighbours(queries, rows)
        for value in self.efforts:
            self.report = {"rows": len(rows), "effort": value}
            named = self._named(queries, DEPTH * self.refine)
            hits = sum(len(np.intersect1d(a, b)) for a, b in zip(truth, named, strict=True))
            self.report["recall"] = round(hits / truth.size, 4)
            if self.report["recall"] >= self.target:
                return

    def _neighbours(self, queries: NDArray[np.float32], rows: Ints) -> Ints:
        """Rows [q, DEPTH] nearest to each query by products in float32."""
        best = np.full((len(queries), DEPTH), -np.inf, np.float32)
        near = np.full(best.shape, -1, np.int64)
        # Distances do not change with the origin; far from it the products in float32 would cancel.
        origin = queries.mean(0) if self.metric == "euclidean" else np.zeros(queries.shape[1], np.float32)
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            values = self._values(part) - origin
            scores = (queries - origin) @ values.T
            if self.metric == "euclidean":
                scores = 2 * scores - (values**2).sum(1)
            scores, numbers = np.hstack([best, scores]), np.hstack([near, np.broadcast_to(part, scores.shape)])
            top = np.argpartition(-scores, DEPTH - 1, axis=1)[:, :DEPTH]
            best, near = np.take_along_axis(scores, top, 1), np.take_along_axis(numbers, top, 1)
        return near

    # -------------------------------------------------------------------- files

    def save(self, folder: Path) -> None:
        """Write items and structure into an empty folder."""
        self.exact.save(folder)
        again = type(self)(self.metric, small=self.small, refine=self.refine, target=self.target)
        again.add(Vectors.load(folder / "vectors"))
        again.save_structure(folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, in place of what is here.

        Raises:
            IntegrityError: the files are damaged or do not fit each other.
        """
        self.exact.load(folder)
        with self._lock:
            self._clear()
            self.exact, vectors = Flat(self.metric), Vectors.load(folder / "vectors", verify=True)
            self.add(vectors)
            self.load_structure(folder)

    def save_structure(self, folder: Path) -> None:
        """Write the structure alone (`structure.json`, and above `small` rows `structure.faiss` and `labels.npy`)."""
        kind = {"kind": type(self).__name__, "metric": self.metric, "dimension": self.dimension}
        if int(self._alive.sum()) > self.small:
            self.build()
            faiss.write_index(self._graph, str(folder / "structure.faiss"))
            np.save(folder / "labels.npy", self._labels, allow_pickle=False)
        write_json(folder / "structure.json", kind | {"report": self.report})

    def load_structure(self, folder: Path) -> None:
        """Take the structure that `save_structure` wrote for the same items in the same order.

        Raises:
            IntegrityError: it is damaged, or another index's.
        """
        settings = read_json(folder / "structure.json")
        kind = {"kind": type(self).__name__, "metric": self.metric, "dimension": self.dimension}
        if any(settings.get(name) != value for name, value in kind.items()):
            raise IntegrityError(f"{folder}: the structure is of {settings}, not {kind}", "build the index again")
        if not (folder / "structure.faiss").is_file():
            return
        try:
            faiss.set_deserialization_vector_byte_limit(_MOST_BYTES)
            graph = faiss.read_index(str(folder / "structure.faiss"))
            labels = np.load(folder / "labels.npy", allow_pickle=False)
        except (RuntimeError, OSError, ValueError, EOFError) as error:
            raise IntegrityError(f"{folder}: the structure cannot be read: {error}", "build the index again") from None
        fits = not len(labels) or 0 <= labels.min() <= labels.max() < len(self._owner)
        if graph.ntotal != len(labels) or not fits:
            raise IntegrityError(f"{folder}: the structure does not fit the items", "build the index again")
        self._graph, self._labels, self.report = graph, labels, dict(settings["report"])


@contextmanager
def _building(threads: int | None) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def alone() -> Iterator[None]:
    """FAISS scores each query by itself inside the block: with BLAS its roundings depend on the batch."""
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1 << 30
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
