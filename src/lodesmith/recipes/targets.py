"""A teacher's vectors of the texts that a student learns from: read from a store, while the teacher is not loaded.

Each text is encoded once, in float16, into the cache that every recipe and `lode data teach` share. Where a dataset has
been taught by that command, the teacher's weights need not even be there; where they are, they must be the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.hashing import text_key
from lodesmith.core.protocols import Encoder, Side
from lodesmith.core.vectors import Vectors
from lodesmith.recipes._beside import Beside
from lodesmith.recipes.systems import load_encoder, model_of
from lodesmith.recipes.teaching import Teacher

if TYPE_CHECKING:
    from lodesmith.training.stage import Batches

__all__ = ["Ceiling", "Source", "Targets", "Taught", "ceiling", "dimension_of", "sources"]

SAMPLE = 4096
"""Texts whose vectors show how much of them a student of fewer dimensions can hold."""


@dataclass(frozen=True)
class Source:
    """One teacher, by what it has stored.

    Args:
        name: as the recipe spells it.
        fingerprint: of its weights and settings.
        metric: how its vectors are compared.
        dimension: t of them.
        stores: the vectors of each side under the keys of their texts, memory-mapped.
    """

    name: str
    fingerprint: str
    metric: str
    dimension: int
    stores: Mapping[Side, Vectors]


def sources(names: Sequence[str], folders: Sequence[Path], texts: Mapping[Side, Sequence[str]]) -> list[Source]:
    """The teachers with vectors of all texts: as they were stored, or encoded now.

    Args:
        names: models, as `lode data teach --with` takes them.
        folders: of the dataset, which may have been taught.
        texts: of each side.

    Raises:
        InputError: there is no such model, and the dataset was not taught by it; or it gives several vectors a text.
    """
    return [_source(name, folders, texts) for name in names]


def dimension_of(name: str, folders: Sequence[Path]) -> int:
    """Dimensions of a teacher's vectors, by the model or, where it is gone, by what it stored.

    Raises:
        InputError: neither is there.
    """
    try:
        return load_encoder(name).dimension
    except InputError:
        if (teacher := _taught(name, folders)) is None:
            raise
        return int(teacher.info["dimension"])


def _source(name: str, folders: Sequence[Path], texts: Mapping[Side, Sequence[str]]) -> Source:
    """Its weights say which vectors are a teacher's; where they are gone, the name that the store was made by."""
    teacher = _taught(name, folders)
    try:
        encoder = load_encoder(name)
    except InputError:
        if teacher is None or not _whole(teacher, texts):
            raise
        return _read(name, teacher)
    if teacher is not None and teacher.info["made_by"]["model"] == encoder.fingerprint and _whole(teacher, texts):
        return _read(name, teacher)
    return _encoded(name, encoder, texts)


def _taught(name: str, folders: Sequence[Path]) -> Teacher | None:
    """What `lode data teach` stored for all of the folders, in one place."""
    try:
        teachers = [Teacher.load(folder) for folder in folders]
    except InputError:
        return None
    places = {tuple(entry["folder"] for entry in teacher.info["stores"].values()) for teacher in teachers}
    if len(places) != 1 or teachers[0].info["encoder"] not in (name, model_of(name)):
        return None
    return teachers[0]


def _whole(teacher: Teacher, texts: Mapping[Side, Sequence[str]]) -> bool:
    """Whether it has every text."""
    known = {side: set(teacher.stores[side].ids) for side in texts}
    return all(text_key(text) in known[side] for side, own in texts.items() for text in own)


def _read(name: str, teacher: Teacher) -> Source:
    info = teacher.info
    return Source(name, info["made_by"]["model"], info["metric"], int(info["dimension"]), teacher.stores)


def _encoded(name: str, encoder: Encoder, texts: Mapping[Side, Sequence[str]]) -> Source:
    """Encode what is missing."""
    from lodesmith.encoders.corpus import VectorCache

    cache, stores = VectorCache(dtype="float16"), {}
    for side, own in texts.items():
        stores[side], _ = cache.fill(encoder, ((str(at), text) for at, text in enumerate(own)), side)
        if not stores[side].is_dense:
            raise InputError(f"the teacher {name} gives several vectors a text", "choose a teacher that gives one")
    return Source(name, encoder.fingerprint, encoder.metric, encoder.dimension, stores)


class Targets:
    """The teachers' vectors of numbered texts. Those of several stand side by side, each of length 1 where cosine
    compares them, over √n: then the cosine of two texts is the mean of the n teachers'.

    Args:
        teachers: one or more.
        texts: of each side, in the order of their numbers.

    Raises:
        InputError: a text has no vector.
        ConfigError: the teachers compare their vectors in different ways.
    """

    def __init__(self, teachers: Sequence[Source], texts: Mapping[Side, Sequence[str]]) -> None:
        self.teachers = tuple(teachers)
        metrics = {teacher.metric for teacher in teachers}
        if len(metrics) > 1:
            raise ConfigError(f"the teachers compare by {' and '.join(sorted(metrics))}", "choose teachers of one kind")
        self.metric = metrics.pop()
        self.dimension = sum(teacher.dimension for teacher in teachers)
        self._rows = {side: [_rows(teacher.stores[side], own) for teacher in teachers] for side, own in texts.items()}

    def take(self, side: Side, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [len(numbers), t]."""
        parts = []
        for teacher, places in zip(self.teachers, self._rows[side], strict=True):
            rows = places[numbers]
            order = np.argsort(rows)  # a disk is read forwards
            part = np.empty((len(rows), teacher.dimension), np.float32)
            part[order] = teacher.stores[side].values[rows[order]]
            if len(self.teachers) > 1 and teacher.metric == "cosine":
                part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) * np.sqrt(len(self.teachers))
            parts.append(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def all(self, side: Side) -> NDArray[np.float32]:
        """float32 [n, t] of every text of a side."""
        return self.take(side, np.arange(len(self._rows[side][0])))

    def sample(self, seed: int = 0) -> NDArray[np.float32]:
        """The vectors of at most `SAMPLE` texts of both sides, drawn by the seed."""
        counts = {side: len(rows[0]) for side, rows in self._rows.items()}
        drawn = np.sort(np.random.default_rng(seed).permutation(sum(counts.values()))[:SAMPLE])
        parts, start = [], 0
        for side, count in counts.items():
            own = drawn[(drawn >= start) & (drawn < start + count)] - start
            parts.append(self.take(side, own))
            start += count
        return np.concatenate(parts)


def _rows(store: Vectors, texts: Sequence[str]) -> NDArray[np.int64]:
    places = {key: at for at, key in enumerate(store.ids)}
    try:
        return np.asarray([places[text_key(text)] for text in texts], np.int64)
    except KeyError:
        raise InputError("the teacher has no vector of a text", "teach again: it continues") from None


class Taught(Beside):
    """Batches of texts with the teacher's vectors of them: `query_targets` [q, t], `document_targets` [d, t] and, with
    mined negatives, `negative_targets` [k, t] of the filled places, row by row.

    Args:
        batches: whose `query_ids`, `document_ids` and `negative_ids` are the numbers of the targets' texts.
        targets: of the same texts.
    """

    def __init__(self, batches: Batches, targets: Targets) -> None:
        super().__init__(batches)
        self._targets = targets

    def beside(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The teacher's vectors of the batch's texts."""
        import torch

        found = {}
        for name, side in (("query", "query"), ("document", "document"), ("negative", "document")):
            if f"{name}_ids" in batch:
                numbers = batch[f"{name}_ids"].numpy()
                found[f"{name}_targets"] = torch.from_numpy(self._targets.take(side, numbers[numbers >= 0]))  # type: ignore[arg-type]
        return found


@dataclass(frozen=True)
class Ceiling:
    """What k dimensions can hold of a teacher's vectors, by their principal components.

    Args:
        dimensions: k, of the student before its projection.
        teacher: t, of the teacher.
        texts: that the components are of.
        explained: share of the variance in the first k components.
        cosine: mean cosine of the vectors to what is left of them in k components: about the most that a linear
            projection of k dimensions reaches on these texts.
    """

    dimensions: int
    teacher: int
    texts: int
    explained: float
    cosine: float

    @property
    def speaks(self) -> bool:
        """Whether there is a ceiling, and texts enough to see it."""
        return self.dimensions < min(self.teacher, self.texts)

    def to_text(self) -> str:
        """One sentence."""
        return (
            f"{self.dimensions} dimensions hold {self.explained:.1%} of the variance of the teacher's {self.teacher} "
            f"(PCA of {self.texts:,} texts): a linear projection reaches a cosine of about {self.cosine:.3f} at most"
        )


def ceiling(vectors: NDArray[np.floating], dimensions: int) -> Ceiling:
    """The bound on a student of so many dimensions whose projection is linear.

    Args:
        vectors: of the teacher, [n, t].
        dimensions: k.
    """
    rows = np.asarray(vectors, np.float64)
    total = rows.shape[1]
    mean = rows.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(rows - mean, rowvar=False, bias=True).reshape(total, total))
    kept = axes[:, ::-1][:, :dimensions]
    near = (rows - mean) @ kept @ kept.T + mean
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(near, axis=1)
    cosines = (rows * near).sum(axis=1)[lengths > 0] / lengths[lengths > 0]
    whole = max(float(values.sum()), 1e-300)
    explained = min(1.0, float(values[::-1][:dimensions].sum()) / whole)
    return Ceiling(dimensions, total, len(rows), explained, float(cosines.mean()) if len(cosines) else 1.0)
