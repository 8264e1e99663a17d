"""Encode corpora, keep indexes, and search them."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.files import atomic_folder, read_json, sha256_folder, verify_files, write_json
from lodesmith.core.protocols import Retriever
from lodesmith.core.records import Dataset
from lodesmith.core.registry import did_you_mean, find, names
from lodesmith.core.vectors import begun_dtype
from lodesmith.recipes._document_vectors import contents, document_vectors, kept_dtype, kept_vectors
from lodesmith.recipes.systems import load_encoder

__all__ = ["Searcher", "answers", "beginning", "build_index", "encode_dataset", "open_searcher", "texts_of"]


def encode_dataset(
    model: str, folder: Path, out: Path, *, passages: int | None = None, dtype: str | None = None
) -> dict[str, Any]:
    """Encode a dataset's documents into a vectors folder; an interrupted one is continued, in its own `dtype` where
    none is given (see `kept_dtype`)."""
    from lodesmith.encoders.corpus import encode_to

    encoder = load_encoder(model, passages)
    dtype = kept_dtype(encoder, dtype or begun_dtype(out))
    dataset = Dataset.load(folder)
    items = contents(encoder, dataset.documents, dataset.folder)
    vectors = encode_to(encoder, items, out, dtype=dtype, total=len(dataset.documents))
    found = {"out": str(out), "items": len(vectors), "rows": len(vectors.values), "dimension": vectors.dimension}
    told = ("truncated", "docs_per_s", "seconds")
    return found | {"dtype": dtype} | {key: vectors.info[key] for key in told if key in vectors.info}


def build_index(
    model: str,
    folder: Path,
    out: Path,
    *,
    index: str = "flat",
    passages: int | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Encode a dataset's documents and index them; their vectors are kept in `dtype` (see `kept_dtype`)."""
    from lodesmith.indexes import folder as index_folder

    kinds = [name for name in names("indexes") if name != "folder"]
    if index not in kinds:
        raise ConfigError(f"no index is called {index!r}", did_you_mean(index, kinds))
    if out.exists() and any((out / f"corpus.jsonl{end}").exists() for end in ("", ".gz")):
        raise InputError("this is a dataset folder", "choose another folder for the index", path=out)
    dataset = Dataset.load(folder)
    encoder = load_encoder(model, passages)
    find("indexes", index)(metric=encoder.metric)  # what does not fit is refused before anything is encoded
    dtype = kept_dtype(encoder, dtype)
    vectors = kept_vectors(model, encoder, dataset.documents, dtype, folder=dataset.folder)
    info = {"model": _absolute(model), "dataset": str(folder.resolve()), "passages": passages}
    manifest = index_folder.create(
        out, index, vectors, metric=encoder.metric, model=encoder.fingerprint, info=info, dtype=dtype
    )
    found = {"out": str(out), "index": index, "documents": len(vectors), "dimension": vectors.dimension}
    found |= {"dtype": dtype, "truncated": vectors.info.get("truncated")}
    structure = out / manifest["folder"] / "structure.json"
    return found | (read_json(structure)["report"] if structure.is_file() else {})


def build_system(parts: Sequence[str], out: Path, dataset: Dataset, models: Mapping[str, str]) -> None:
    """Index a dataset for a system of one part or several fused, so that `lode search OUT/index` answers texts.

    Args:
        parts: part names; `bm25`, or what `models` names.
        out: the folder that holds `dataset/`; the index goes to `index/` beside it.
        dataset: that dataset.
        models: part name → model folder, run directory, hub name or `minilm`; a path relative to `out`.
    """
    from lodesmith.retrieval.bm25 import BM25

    with atomic_folder(out / "index") as new:
        if len(parts) == 1 and parts[0] != "bm25":
            _build_dense(new, models[parts[0]], out, dataset, up="..")
            return
        for part in parts:
            if part == "bm25":
                lexical = BM25().build((key, document.content) for key, document in dataset.documents.items())
                lexical.save(new / part)
                continue
            _build_dense(new / part, models[part], out, dataset, up="../..")
        digests = sha256_folder(new / "bm25")
        write_json(new / "system.json", {"parts": list(parts), "dataset": "../dataset", "bm25": digests})


def _build_dense(folder: Path, model: str, out: Path, dataset: Dataset, *, up: str) -> None:
    """An index folder whose model and dataset are found from where it lies, `up` from `out`."""
    from lodesmith.indexes import folder as index_folder

    place = str(out / model) if (out / model).exists() else model
    encoder = load_encoder(place)
    info = {"model": f"{up}/{model}" if place != model else model, "dataset": f"{up}/dataset"}
    vectors = document_vectors(place, encoder, dataset.documents, folder=dataset.folder)
    index_folder.create(folder, "flat", vectors, metric=encoder.metric, model=encoder.fingerprint, info=info)


ADDED = "added.json"


def add_to_index(folder: Path, dataset: Path) -> dict[str, Any]:
    """Add a dataset's documents to an index, encoded by the model it was built with."""
    from lodesmith.indexes import folder as index_folder

    manifest = _manifest(folder)
    info = manifest["info"]
    model = _beside(folder, info["model"])
    encoder = load_encoder(model, info.get("passages"))
    dtype = manifest.get("dtype") or kept_dtype(encoder)
    vectors = kept_vectors(model, encoder, Dataset.load(dataset).documents, dtype, folder=dataset)
    index_folder.add(folder, vectors, model=encoder.fingerprint)
    _remember(folder, dataset)
    return {"index": str(folder), "added": len(vectors)}


def _remember(folder: Path, dataset: Path) -> None:
    """Note where the texts of added documents lie, the last first: `lode search` shows them."""
    before = _added(folder)
    place = str(dataset.resolve())
    write_json(folder / ADDED, [place, *(other for other in before if other != place)])


def _added(folder: Path) -> list[str]:
    found = read_json(folder / ADDED) if (folder / ADDED).is_file() else []
    return [place for place in found if isinstance(place, str)] if isinstance(found, list) else []


def delete_from_index(folder: Path, ids: Path) -> dict[str, Any]:
    """Delete the documents whose ids stand in a file, one a line."""
    from lodesmith.indexes import folder as index_folder

    try:
        wanted = [line for line in ids.read_text(encoding="utf-8-sig").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path=ids) from None
    held = set(index_folder.open_index(folder).ids)  # type: ignore[attr-defined]
    missing = [key for key in dict.fromkeys(wanted) if key not in held]
    deleted = index_folder.delete(folder, wanted)
    return {"index": str(folder), "deleted": deleted, "asked": len(wanted), "not_there": missing}


def verify_index(folder: Path) -> dict[str, Any]:
    """Check every file of an index against its SHA-256."""
    from lodesmith.indexes import folder as index_folder

    if (folder / "system.json").is_file():
        info = read_json(folder / "system.json")
        verify_files(folder / "bm25", info.get("bm25", {}))
        dense = [verify_index(folder / part)["verified"] for part in info["parts"] if part != "bm25"]
        return {"index": str(folder), "verified": len(info.get("bm25", {})) + sum(dense)}
    index_folder.verify(folder)
    return {"index": str(folder), "verified": len(_manifest(folder)["files"])}


def compact_index(folder: Path) -> dict[str, Any]:
    """Rewrite an index without what was deleted."""
    from lodesmith.indexes import folder as index_folder

    index_folder.compact(folder)
    return {"index": str(folder), "generation": _manifest(folder)["generation"]}


def _manifest(folder: Path) -> dict[str, Any]:
    from lodesmith.indexes.folder import read_manifest

    manifest: dict[str, Any] = dict(read_manifest(folder))
    return manifest


@dataclass(frozen=True)
class Searcher:
    """An opened index that takes texts; `documents` shows what it finds, where the dataset is still there."""

    retriever: Retriever
    documents: Mapping[str, Any] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)


def open_searcher(folder: Path) -> Searcher:
    """Open an index folder for text queries: dense, lexical (`bm25/`), or both fused, as `system.json` says.

    Raises:
        InputError: it is no index folder.
        IntegrityError: its model is not the one that it was built with, or a file is damaged.
    """
    if (folder / "system.json").is_file():
        return _open_system(folder)
    if not (folder / "manifest.json").is_file():
        raise InputError("not an index folder", "build one: lode index build MODEL DATASET --out DIR", path=folder)
    return _open_dense(folder)


def _open_dense(folder: Path) -> Searcher:
    from lodesmith.indexes import folder as index_folder
    from lodesmith.retrieval.dense import Dense

    manifest = _manifest(folder)
    encoder = load_encoder(_beside(folder, manifest["info"]["model"]), manifest["info"].get("passages"))
    index = index_folder.open_index(folder, model=encoder.fingerprint)
    return Searcher(Dense(encoder, index), texts_of(folder, manifest["info"]), {"model": encoder.fingerprint})


def _open_system(folder: Path) -> Searcher:
    from lodesmith.retrieval.bm25 import BM25
    from lodesmith.retrieval.fuse import Fused

    info = read_json(folder / "system.json")
    if not isinstance(info, dict) or not isinstance(info.get("parts"), list) or not info["parts"]:
        raise IntegrityError(f"{folder / 'system.json'} is damaged", "build the index again")
    retrievers: list[Retriever] = []
    prints: dict[str, str] = {}
    for part in info["parts"]:
        if part == "bm25":
            verify_files(folder / "bm25", info.get("bm25", {}))
            lexical = BM25.load(folder / "bm25")
            prints["bm25"] = lexical.fingerprint
            retrievers.append(lexical)
        else:
            searcher = _open_dense(folder / part)
            prints |= searcher.fingerprints
            retrievers.append(searcher.retriever)
    retriever = retrievers[0] if len(retrievers) == 1 else Fused(retrievers)
    return Searcher(retriever, texts_of(folder, info), prints)


def _absolute(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).exists() else model


def _beside(folder: Path, name: str) -> str:
    """A model's path as the index's folder sees it, so that index and model can move together."""
    return str(folder / name) if (folder / name).exists() else name


def texts_of(folder: Path, info: Mapping[str, Any]) -> Mapping[str, Any]:
    """The texts, as far as the datasets are still there; of an id in several, that of the dataset added last."""
    places = [*_added(folder), *([_beside(folder, info["dataset"])] if info.get("dataset") else [])]
    return ChainMap(*(found for place in places if (found := _texts(Path(place)))))


def _texts(place: Path) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", Dataset.load(place).documents) if place.is_dir() else {}
    except InputError:
        return {}  # the texts are a courtesy: the index answers without them


def answers(searcher: Searcher, queries: Sequence[str], k: int = 10) -> list[dict[str, Any]]:
    """The k best documents of each query: rank, id, score, title and the beginning of the text."""
    run = searcher.retriever.search({str(number): query for number, query in enumerate(queries)}, k)
    found = []
    for number, query in enumerate(queries):
        ranking = enumerate(run.get(str(number), []), start=1)
        found.append({"query": query, "hits": [_hit(searcher, rank, *hit) for rank, hit in ranking]})
    return found


def _hit(searcher: Searcher, rank: int, key: str, score: float) -> dict[str, Any]:
    document = searcher.documents.get(key)
    title, text = (document.title, beginning(document.text)) if document else ("", "")
    return {"rank": rank, "id": key, "score": score, "title": title, "text": text}


def beginning(text: str, length: int = 160) -> str:
    """The first words of a text, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[:length].rsplit(" ", 1)[0] + " …"
