"""The vectors of a dataset's documents, which are texts or page images, from the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.files import read_object
from lodesmith.core.protocols import SEVERAL, Encoder
from lodesmith.core.records import Document, PageImage
from lodesmith.core.registry import did_you_mean
from lodesmith.core.vectors import Vectors
from lodesmith.recipes.recipe import load as load_recipe

__all__ = ["contents", "document_vectors", "kept_dtype", "kept_vectors", "page_image"]

_DTYPES = ("float32", "float16", "int8")
_INSTEAD = {
    "one": "give --dtype float16, or search codes: --index ivfpq; their cost: lode evaluate MODEL DATASET --codec int8",
    "several": "give --dtype float16, or pool the model's tokens",
}
"""What to do where int8 is refused, by the number of vectors that an item has."""


def document_vectors(
    model: str,
    encoder: Encoder,
    documents: Mapping[str, Document],
    dtype: str = "float32",
    *,
    folder: Path | None = None,
) -> Vectors:
    """The documents' vectors: from the cache, what is missing encoded now. Page images lie in the dataset's `folder`.

    Of a run over a frozen base it is the base's vectors that are cached, so a new projection encodes nothing again.
    """
    from lodesmith.encoders._head import through_head
    from lodesmith.encoders.corpus import VectorCache
    from lodesmith.encoders.transformer import TransformerEncoder

    items = contents(encoder, documents, folder)
    if encoder.metric in SEVERAL:  # several vectors an item: they take the room
        return VectorCache(dtype="float16").vectors(encoder, items, "document")
    run = Path(model)
    if (run / "recipe.yaml").is_file() and "base" in read_object(run / "manifest.json") and _is_frozen(run):
        base = TransformerEncoder(load_recipe(run / "recipe.yaml").base)
        if base.fingerprint == read_object(run / "manifest.json").get("base"):
            return through_head(cast(TransformerEncoder, encoder), base, VectorCache().vectors(base, items, "document"))
    return VectorCache(dtype=dtype).vectors(encoder, items, "document")


def kept_dtype(encoder: Encoder, dtype: str | None = None) -> str:
    """In which type a folder keeps an encoder's vectors: the given one, else float16 for several vectors an item, and
    float32 for one.

    Raises:
        ConfigError: there is no such type, or it is int8 and the vectors are no memory tokens.
    """
    if dtype is None:
        return "float16" if encoder.metric in SEVERAL else "float32"
    if dtype not in _DTYPES:
        raise ConfigError(f"no dtype is called {dtype!r}", did_you_mean(dtype, list(_DTYPES)))
    if dtype == "int8" and encoder.metric != "aligned":
        raise ConfigError(
            f"int8 keeps memory tokens, compared by aligned; this model's vectors are compared by {encoder.metric}",
            _INSTEAD["several" if encoder.metric in SEVERAL else "one"],
        )
    return dtype


def kept_vectors(
    model: str, encoder: Encoder, documents: Mapping[str, Document], dtype: str, *, folder: Path | None = None
) -> Vectors:
    """The documents' vectors for a folder that keeps them in `dtype`: those of `document_vectors`, which are float16
    for several vectors an item, unless all of float32 is asked for."""
    from lodesmith.encoders.corpus import VectorCache

    if dtype == "float32" and encoder.metric in SEVERAL:
        return VectorCache().vectors(encoder, contents(encoder, documents, folder), "document")
    return document_vectors(model, encoder, documents, folder=folder)


def contents(
    encoder: Encoder, documents: Mapping[str, Document], folder: Path | None = None
) -> Iterator[tuple[str, str]]:
    """What an encoder reads of documents, by id: their texts, or their page images.

    Raises:
        InputError: it reads images, and a document has none.
    """
    if getattr(encoder, "reads", "text") != "images":
        yield from ((key, document.content) for key, document in documents.items())
        return
    for key, document in documents.items():
        yield key, page_image(document, folder)


def page_image(document: Document, folder: Path | None) -> PageImage:
    """The image of a document; it lies in its dataset's folder, or where a link in that leads.

    Raises:
        InputError: it has none, it is not there, or its path leads out of the folder.
    """
    place = Path(document.image)
    if not document.image:
        raise InputError(
            f"the model reads page images, and the document {document.id!r} has none",
            "import PDFs with `lode data import --pages`, or pull a vidore/ dataset",
        )
    if ".." in place.parts or (place.is_absolute() and folder is not None):
        raise InputError(
            f"the image {document.image!r} of the document {document.id!r} is no path in the dataset's folder",
            "import the dataset again",
        )
    if folder is None and not place.is_absolute():
        raise InputError("the dataset is in no folder, and its images lie in one", "save it first")
    return PageImage(place if folder is None else folder / place)


def _is_frozen(run: Path) -> bool:
    """Whether a run left its base as it was."""
    return load_recipe(run / "recipe.yaml").encoder.settings.get("freeze_base", True) is True
