"""What a teacher knows: vectors of a dataset's texts, in a store that every recipe shares, or scores of lists."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lodesmith.core.columns import FOLDER, Column, ColumnWriter
from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.files import read_json, write_json
from lodesmith.core.hashing import fingerprint, text_key
from lodesmith.core.progress import listen, tell
from lodesmith.core.protocols import Side
from lodesmith.core.records import Dataset
from lodesmith.core.vectors import Vectors
from lodesmith.recipes.mining import check_name
from lodesmith.recipes.scoring import cross_encoder, vector_scores
from lodesmith.recipes.systems import load_encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lodesmith.data.mine import PairScores
    from lodesmith.encoders.corpus import VectorCache
    from lodesmith.encoders.transformer import TransformerEncoder

__all__ = ["Part", "Teacher", "teach_scores", "teach_vectors", "teaching_text"]

Item = tuple[str, str]

_SAMPLE = 64
"""Texts whose vectors are made again in float32, to see what float16 took from them."""
_BATCH = 32
"""Queries whose candidates are scored together, and that a kill may lose."""


@dataclass(frozen=True)
class Part:
    """Which of a dataset's queries, and with which candidates.

    Args:
        split: whose queries.
        limit: only the first so many of them.
        candidates: the column that names candidates by `ids`.
    """

    split: str = "train"
    limit: int | None = None
    candidates: str = "negatives"

    def queries(self, dataset: Dataset) -> dict[str, str]:
        """Id → text.

        Raises:
            InputError: there is no such split.
        """
        return {key: query.content for key, query in islice(dataset.queries_of(self.split).items(), self.limit)}


def teach_vectors(
    folder: Path | str,
    model: str,
    part: Part | None = None,
    *,
    dtype: str = "float16",
    store: Path | None = None,
    name: str = "teacher",
) -> dict[str, Any]:
    """Encode documents and a split's queries by a teacher, each distinct text once, into a memory-mapped store.

    The store lies in the cache of vectors, in a folder named after the teacher's fingerprint, the side and the type: a
    text that any dataset or recipe has had encoded is not encoded again. `columns/NAME.meta.json` says where; `Teacher`
    reads it. An interrupted call is continued by the same one.

    Args:
        folder: the dataset.
        model: hub name, model folder, run directory or `minilm`; its own query and document prompts are used.
        part: whose queries. Without a limit all documents are encoded, with one those that its queries are judged
            against or have as candidates, where there is such a column.
        dtype: `float16` or `float32`.
        store: the cache to use; None for the usual one.
        name: of the meta file.

    Returns:
        What the meta file holds: `stores`, `dimension`, `counts`, `rounding` …

    Raises:
        InputError: a vector has a component that float16 cannot hold (above 65,504), or there is no such dataset …
        ConfigError: the type is neither.
    """
    from lodesmith.encoders.corpus import VectorCache

    if dtype not in ("float16", "float32"):
        raise ConfigError(f"vectors cannot be stored as {dtype!r}", "choose float16 or float32")
    start, folder, part = time.perf_counter(), Path(folder), part or Part()
    check_name(name)
    dataset = Dataset.load(folder)
    queries = part.queries(dataset)
    keys = dataset.documents if part.limit is None else _needed(dataset, part, queries, folder)
    if _is_cross(model):
        raise InputError(
            f"{model} is a cross-encoder: it gives scores of pairs, no vectors",
            "store its scores of candidates with --scores",
        )
    encoder, cache = cast("TransformerEncoder", load_encoder(model)), VectorCache(store, dtype=dtype)
    documents = _fill(cache, encoder, _documents(dataset, keys), "document")
    asked = _fill(cache, encoder, queries.items(), "query")
    made_by = {
        "annotator": "teach",
        "model": encoder.fingerprint,
        "dtype": dtype,
        "split": part.split,
        "limit": part.limit,
        "dataset": dataset.fingerprint,
    }
    info = {
        "column": name,
        "kind": "vectors",
        "made_by": made_by,
        "fingerprint": fingerprint(made_by),
        "encoder": getattr(encoder, "source", model),
        "dimension": encoder.dimension,
        "metric": encoder.metric,
        "stores": {"document": documents[0], "query": asked[0]},
        "counts": {"document": documents[1], "query": asked[1]},
        "rounding": _rounding(encoder, cache.folder(encoder, "document"), dataset, list(keys)),
        "seconds": round(time.perf_counter() - start, 3),
    }
    write_json(folder / FOLDER / f"{name}.meta.json", info)
    return info


def _fill(
    cache: VectorCache, encoder: TransformerEncoder, items: Iterable[Item], side: Side
) -> tuple[dict[str, Any], dict[str, int]]:
    """Where the vectors are, and what concerns these items."""
    found, counts = cache.fill(encoder, items, side)
    place = cache.folder(encoder, side)
    size = (place / "values.npy").stat().st_size
    inside = place.relative_to(cache.root).as_posix()
    return {"folder": str(place.resolve()), "cache": inside, "texts": len(found), "bytes": size}, counts


def _documents(dataset: Dataset, keys: Iterable[str]) -> Iterator[Item]:
    return ((key, dataset.documents[key].content) for key in keys)


def _needed(dataset: Dataset, part: Part, queries: Iterable[str], folder: Path) -> dict[str, None]:
    """The documents that these queries are judged against or have as candidates, once each."""
    has_column = (folder / FOLDER / f"{part.candidates}.jsonl").exists()
    candidates = _candidates(folder, part.candidates) if has_column else {}
    found: dict[str, None] = {}
    for query in queries:
        found |= dict.fromkeys([*dataset.split(part.split)[query], *candidates.get(query, ())])
    return {key: None for key in found if key in dataset.documents}


def _candidates(folder: Path, name: str) -> dict[str, list[str]]:
    """The ids of a column's rows by query, each query's first row.

    Raises:
        InputError: there is no such column, it belongs to documents, or a row has no list of ids.
    """
    column, path = Column.load(folder, name), folder / FOLDER / f"{name}.jsonl"
    if column.key != "query":
        raise InputError("its rows belong to documents, not to queries", "give a column of candidates", path=path)
    found = {}
    for query in column.rows:
        ids = (column.one(query) or {}).get("ids")
        if not isinstance(ids, list) or not all(isinstance(key, str) for key in ids):
            say = "mine it again, or give a column of candidates"
            raise InputError(f"the row of query {query!r} has no list of document ids in 'ids'", say, path=path)
        found[query] = ids
    return found


def _rounding(encoder: TransformerEncoder, store: Path, dataset: Dataset, keys: Sequence[str]) -> dict[str, Any]:
    """1 − cosine between stored vectors and fresh ones in float32, over a sample of the documents."""
    stored = Vectors.load(store)
    if stored.values.dtype == np.float32 or not keys:
        return {"texts": 0, "mean": 0.0, "largest": 0.0}
    chosen = [keys[at] for at in np.linspace(0, len(keys) - 1, min(_SAMPLE, len(keys))).astype(int).tolist()]
    texts = [dataset.documents[key].content for key in dict.fromkeys(chosen)]
    place = {key: at for at, key in enumerate(stored.ids)}
    kept = _unit(stored.take([place[text_key(text)] for text in texts]).values)
    with listen(lambda _: None):
        fresh = _unit(encoder.encode(texts, "document").values)
    loss = np.square(fresh - kept).sum(axis=1) / 2  # 1 − cosine of unit vectors, without its cancellation
    return {"texts": len(texts), "mean": float(loss.mean()), "largest": float(loss.max())}


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths > 0, lengths, 1)


@dataclass
class Teacher:
    """The vectors that `lode data teach` stored, read without loading the teacher.

    Args:
        info: what the meta file holds.
        stores: the vectors of each side under the keys of their texts, memory-mapped.
    """

    info: Mapping[str, Any]
    stores: Mapping[Side, Vectors]
    _places: dict[Side, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def load(cls, dataset: Path | str, name: str = "teacher") -> Teacher:
        """Open the teacher of a dataset folder.

        Raises:
            InputError: there is none, or its store is gone.
        """
        path = Path(dataset) / FOLDER / f"{name}.meta.json"
        if not path.exists():
            raise InputError(
                "this dataset has no teacher", f"make it: lode data teach {dataset} --with MODEL", path=path
            )
        info = read_json(path)
        if info.get("kind") != "vectors":
            raise InputError("this column holds no teacher's vectors", "give the name of one that does", path=path)
        return cls(info, {side: _open(entry, info) for side, entry in info["stores"].items()})

    def vectors(self, items: Iterable[Item], side: Side = "document") -> Vectors:
        """The vectors of (id, text) items, in memory.

        Raises:
            InputError: a text has none.
        """
        stored = self.stores[side]
        if side not in self._places:
            self._places[side] = {key: at for at, key in enumerate(stored.ids)}
        ids, rows = [], []
        for key, text in items:
            at = self._places[side].get(text_key(text))
            if at is None:
                raise InputError(f"the teacher has no vector of the {side} {key!r}", "teach again: it continues")
            ids.append(key)
            rows.append(at)
        taken = stored.take(rows)
        return Vectors(taken.values, taken.offsets, tuple(ids), dict(stored.info))


def _open(entry: Mapping[str, Any], info: Mapping[str, Any]) -> Vectors:
    """A store where it was, or where this user's cache has it."""
    from lodesmith.encoders.corpus.cache import default_cache

    for place in (Path(entry["folder"]), default_cache() / entry["cache"]):
        if (place / "manifest.json").exists():
            return Vectors.load(place)
    raise InputError(
        "the teacher's store is gone",
        f"teach again: lode data teach DIR --with {info['encoder']}",
        path=entry["folder"],
    )


def teach_scores(
    folder: Path | str,
    model: str,
    part: Part | None = None,
    *,
    store: Path | None = None,
    name: str = "teacher_scores",
) -> dict[str, Any]:
    """Write `columns/NAME.jsonl`: for each query of the candidates' column `{"query", "ids", "scores"}`.

    The list of a query is its positives, in the order of the judgements, then its candidates, in theirs. A dense model
    scores by its own similarity, from vectors in the cache; a cross-encoder by its output before the activation.
    An interrupted call is continued by the same one.

    Args:
        folder: the dataset.
        model: dense model or cross-encoder: hub name, folder, run directory or `minilm`.
        part: whose queries, with which candidates.
        store: the cache of vectors to use; None for the usual one.
        name: of the column.

    Raises:
        InputError: there is no such dataset, split, column or model.
        BusyError: another process writes this column.
    """
    start, folder, part = time.perf_counter(), Path(folder), part or Part()
    check_name(name)
    if name == part.candidates:
        raise ConfigError(f"the scores would take the place of the candidates, {name!r}", "choose another --name")
    dataset, candidates = Dataset.load(folder), _candidates(folder, part.candidates)
    queries = part.queries(dataset)
    lists = {q: _list(dataset, part.split, q, candidates[q]) for q in queries if q in candidates}
    if not lists:
        raise InputError(
            f"no query of {part.split} has candidates in columns/{part.candidates}.jsonl",
            f"mine them first: lode data mine {folder} --with bm25",
        )
    score, teacher = _scorer(model, dataset, lists, store)
    made_by = {
        "annotator": "teach",
        "teacher": teacher,
        "dataset": dataset.fingerprint,
        "split": part.split,
        "limit": part.limit,
        "candidates": fingerprint(lists),
    }
    with ColumnWriter(folder, name, "query", made_by) as writer:
        _score(score, {query: queries[query] for query in lists}, lists, writer)
        without = len(queries) - len(lists)
        return writer.finish(seconds=round(time.perf_counter() - start, 3), encoder=model, without_candidates=without)


def _list(dataset: Dataset, split: str, query: str, candidates: Sequence[str]) -> list[str]:
    positives = [key for key, grade in dataset.split(split)[query].items() if grade > 0]
    keys = dict.fromkeys([*positives, *candidates])
    return [key for key in keys if key in dataset.documents]


def _scorer(
    model: str, dataset: Dataset, lists: Mapping[str, Sequence[str]], store: Path | None
) -> tuple[PairScores, str]:
    """What scores pairs, and the teacher's fingerprint."""
    from lodesmith.encoders.corpus import VectorCache

    if _is_cross(model):
        cross = cross_encoder(model)
        return (lambda queries, keys: cross.score_lists(queries, keys, _text(dataset))), cross.fingerprint
    encoder = load_encoder(model)
    wanted = dict.fromkeys(key for keys in lists.values() for key in keys)
    cache = VectorCache(store, dtype="float16" if encoder.metric == "maxsim" else "float32")  # as they are searched
    vectors = cache.vectors(encoder, _documents(dataset, wanted), "document")
    return vector_scores(encoder, vectors), encoder.fingerprint


def _is_cross(model: str) -> bool:
    from lodesmith.encoders._loading import find_model
    from lodesmith.retrieval.rerank import is_cross_encoder

    return not (Path(model) / "recipe.yaml").is_file() and is_cross_encoder(find_model(model))


def _text(dataset: Dataset) -> Any:
    return lambda key: dataset.documents[key].content


def _score(
    score: PairScores, queries: Mapping[str, str], lists: Mapping[str, Sequence[str]], writer: ColumnWriter
) -> None:
    missing = writer.missing(queries)
    for at in range(0, len(missing), _BATCH):
        tell("teach", len(queries) - len(missing) + at, len(queries), "queries")
        batch = missing[at : at + _BATCH]
        with listen(lambda _: None):  # what encodes a batch would only flicker
            found = score({query: queries[query] for query in batch}, {query: lists[query] for query in batch})
        for query in batch:
            values = [float(str(np.float32(found[query][key]))) for key in lists[query]]
            writer.add(query, [{"ids": list(lists[query]), "scores": values}], {"scores": len(values)})
        writer.sync()
    tell("teach", len(queries), len(queries), "queries")


def teaching_text(info: Mapping[str, Any]) -> str:
    """The report as lines of text."""
    if info.get("kind") != "vectors":
        counts = info["counts"]
        more = f"; {info['without_candidates']:,} queries have no candidates" if info["without_candidates"] else ""
        return (
            f"columns/{info['column']}.jsonl: {counts.get('scores', 0):,} scores for {counts['rows']:,} queries by "
            f"{info['encoder']} in {info['seconds']:,.1f} s{more}"
        )
    kind = info["made_by"]["dtype"]
    lines = [f"{info['encoder']}: {info['dimension']} dimensions, {kind}, in {info['seconds']:,.1f} s"]
    for side, entry in info["stores"].items():
        count = info["counts"][side]
        plural = {"query": "queries", "document": "documents"}[side]
        cut = f", {count['truncated']:,} of them cut to the model's length" if count["truncated"] else ""
        lines += [
            f"{count['items']:,} {plural}, {count['texts']:,} distinct texts{cut}",
            f"  {entry['folder']} ({entry['texts']:,} texts, {entry['bytes'] / 2**20:,.1f} MiB)",
        ]
    if (rounding := info["rounding"])["texts"]:
        lines.append(
            f"rounding: 1 − cosine is {rounding['mean']:.1e} on average and at most {rounding['largest']:.1e} "
            f"over {rounding['texts']} texts"
        )
    return "\n".join(lines)
