"""Several datasets as one: ids get their dataset's name in front, texts stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.core.tables import Judgements

__all__ = ["Joined", "folders_of", "join", "load_several"]

T = TypeVar("T")


class _Table(Mapping[str, T], Generic[T]):
    """The records of several tables, by `NAME/ID`."""

    def __init__(self, tables: Mapping[str, Mapping[str, T]], named: Callable[[str, T], T]) -> None:
        self._tables, self._named = tables, named

    def __getitem__(self, key: str) -> T:
        name, _, own = key.partition("/")
        if name not in self._tables:
            raise KeyError(key)
        return self._named(key, self._tables[name][own])

    def __iter__(self) -> Iterator[str]:
        return (f"{name}/{own}" for name, table in self._tables.items() for own in table)

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))


@dataclass(frozen=True)
class Joined(Dataset):
    """Several datasets as one.

    Args:
        parts: each dataset, by the name in front of its ids.
    """

    parts: Mapping[str, Dataset] = field(default_factory=dict)


def folders_of(paths: str) -> list[Path]:
    """The folders of a text that names several, with commas between them; a folder whose own name has commas is one."""
    if Path(paths).is_dir():
        return [Path(paths)]
    return [Path(part.strip()) for part in paths.split(",") if part.strip()]


def load_several(paths: str) -> Dataset:
    """The dataset of a folder, or of several (`A,B`) joined.

    Raises:
        InputError: a folder is no dataset, or they cannot be joined.
    """
    loaded = [Dataset.load(folder) for folder in folders_of(paths)]
    return loaded[0] if len(loaded) == 1 else join(loaded)


def join(datasets: Sequence[Dataset]) -> Joined:
    """One dataset of all documents, queries and judgements; a split has those of every dataset that has it.

    An id becomes `NAME/ID`, NAME being the dataset's name, with a number behind it where two have the same.

    Raises:
        InputError: there are none, or only some of them leave out results with the query's id.
    """
    if len({dataset.drop_same_id for dataset in datasets}) != 1:
        raise InputError(
            "datasets that leave out results with the query's own id cannot be joined with others"
            if datasets
            else "there are no datasets to join",
            "give datasets that agree in drop_same_id",
        )
    named = dict(zip(_names(datasets), datasets, strict=True))
    splits = dict.fromkeys(split for dataset in datasets for split in dataset.judgements)
    info: dict[str, Any] = {"name": "+".join(named), "drop_same_id": datasets[0].drop_same_id}
    return Joined(
        _Table({name: own.documents for name, own in named.items()}, _document(named)),
        _Table({name: own.queries for name, own in named.items()}, _query),
        {split: _judgements(named, split) for split in splits},
        info,
        parts=named,
    )


def _names(datasets: Sequence[Dataset]) -> list[str]:
    names: list[str] = []
    for dataset in datasets:
        plain = dataset.name.replace("/", "-")
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain}~{number}"
        names.append(name)
    return names


def _document(named: Mapping[str, Dataset]) -> Callable[[str, Document], Document]:
    def renamed(key: str, document: Document) -> Document:
        folder = named[key.partition("/")[0]].folder
        image = _inside(folder, document.image) if document.image and folder else document.image
        return replace(document, id=key, image=image)

    return renamed


def _inside(folder: Path, image: str) -> str:
    """An image's path for a dataset that has no folder of its own; one that leads out stays as it is, and is refused
    where it is read."""
    place = Path(image)
    return image if place.is_absolute() or ".." in place.parts else str((folder / place).absolute())


def _query(key: str, query: Query) -> Query:
    return replace(query, id=key)


def _judgements(named: Mapping[str, Dataset], split: str) -> Judgements:
    return {
        f"{name}/{query}": {f"{name}/{document}": grade for document, grade in grades.items()}
        for name, dataset in named.items()
        for query, grades in dataset.judgements.get(split, {}).items()
    }
