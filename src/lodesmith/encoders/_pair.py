"""Separate towers for queries and documents, and the way back from a model folder to towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Metric, Side
from lodesmith.core.vectors import Vectors
from lodesmith.encoders._tower_folder import open_part, save
from lodesmith.encoders.bag import Bag
from lodesmith.encoders.rnn import Recurrent

__all__ = ["TowerPair", "load_tower"]

_KINDS: Mapping[str, type[Bag] | type[Recurrent]] = {"bag": Bag, "rnn": Recurrent}


class TowerPair:
    """A tower for queries and another for documents, as one encoder.

    Args:
        query: encodes queries.
        document: encodes documents.

    Raises:
        ConfigError: their vectors cannot be compared.
    """

    trained_on = "tokens"

    def __init__(self, query: Bag | Recurrent, document: Bag | Recurrent) -> None:
        if (query.dimension, query.metric) != (document.dimension, document.metric):
            raise ConfigError(
                f"the towers' vectors cannot be compared: {query.dimension} dimensions by {query.metric}, "
                f"{document.dimension} by {document.metric}",
                "give both the same dimension and metric",
            )
        self.query, self.document = query, document

    @property
    def dimension(self) -> int:
        """d of both towers."""
        return self.query.dimension

    @property
    def metric(self) -> Metric:
        """How vectors are compared."""
        return self.query.metric

    @property
    def parameters_total(self) -> int:
        """Parameters of both towers."""
        return self.query.parameters_total + self.document.parameters_total

    @property
    def fingerprint(self) -> str:
        """SHA-256 over both towers."""
        return fingerprint({"query": self.query.fingerprint, "document": self.document.fingerprint})

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        """Encode texts by the tower of their side."""
        found = (self.query if side == "query" else self.document).encode(texts, side, ids)
        return Vectors(found.values, found.offsets, found.ids, found.info | {"model": self.fingerprint})

    def save(self, folder: Path | str) -> Path:
        """Write one model folder: in sentence-transformers `encode_query` and `encode_document` take their tower."""
        return save(folder, self.metric, {"query": self.query.part(), "document": self.document.part()})


def load_tower(folder: Path | str) -> Bag | Recurrent | TowerPair:
    """The tower or towers of a model folder, in evaluation mode.

    Raises:
        InputError: it holds none that this package knows.
        IntegrityError: a file is damaged.
    """
    towers: dict[str, Any] = {}
    for side, (settings, place, metric) in open_part(folder).items():
        if settings.get("use") not in _KINDS:
            raise InputError(
                f"holds an unknown tower, {settings.get('use')!r}",
                "load it with the class that wrote it, or use a newer version",
                path=folder,
            )
        towers[side] = _KINDS[settings["use"]].read(settings, place, metric)
    return TowerPair(towers["query"], towers["document"]) if "query" in towers else next(iter(towers.values()))
