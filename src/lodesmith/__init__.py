"""lodesmith: train, distil, compress, index, search and prove neural retrievers.

>>> import lodesmith as lode
>>> lode.Dataset.__name__
'Dataset'

Importing this module loads neither torch nor any model library: names are fetched when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lodesmith.core.errors import LodesmithError
    from lodesmith.core.records import Dataset, Document, Query
    from lodesmith.core.results import Comparison, Evaluation
    from lodesmith.core.run import Run
    from lodesmith.core.vectors import Vectors
    from lodesmith.recipes.api import compare, evaluate, load, search, train
    from lodesmith.recipes.recipe import Recipe

_HOME = {
    "Comparison": "core.results",
    "Dataset": "core.records",
    "Document": "core.records",
    "Evaluation": "core.results",
    "LodesmithError": "core.errors",
    "Query": "core.records",
    "Recipe": "recipes.recipe",
    "Run": "core.run",
    "Vectors": "core.vectors",
    "compare": "recipes.api",
    "evaluate": "recipes.api",
    "load": "recipes.api",
    "search": "recipes.api",
    "train": "recipes.api",
}

__all__ = [
    "Comparison",
    "Dataset",
    "Document",
    "Evaluation",
    "LodesmithError",
    "Query",
    "Recipe",
    "Run",
    "Vectors",
    "compare",
    "evaluate",
    "load",
    "search",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lodesmith' has no attribute {name!r}")
    return getattr(import_module(f"lodesmith.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
