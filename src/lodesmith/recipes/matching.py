"""What a late-interaction model finds for a query, and why: the similarities of each token, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lodesmith.core.errors import InputError
from lodesmith.core.files import write_text
from lodesmith.core.progress import track
from lodesmith.core.records import Dataset
from lodesmith.recipes._document_vectors import page_image
from lodesmith.recipes.systems import Resolver

if TYPE_CHECKING:
    from lodesmith.reports.heat import Matched

__all__ = ["explain", "matches"]


def explain(model: str, folder: Path, query: str, out: Path, *, k: int = 3) -> dict[str, Any]:
    """Write the page of a query: its best documents, with the matches of each of its tokens.

    Args:
        model: a late-interaction model of texts or pages, by folder, run or name.
        folder: of the dataset.
        query: id of one of its queries, or any text.
        out: the HTML file.
        k: documents.

    Raises:
        InputError: the model gives one vector a text, or pools its tokens.
    """
    from lodesmith.reports.heat import render

    dataset = Dataset.load(folder)
    asked = dataset.queries[query].content if query in dataset.queries else query
    found = matches(model, dataset, query, k=k)
    write_text(out, render(f"{Path(model).name} on {dataset.name}", asked, found))
    told = [{"document": own.document, "score": own.score, "relevant": own.relevant} for own in found]
    return {"out": str(out), "query": asked, "documents": told}


def matches(model: str, dataset: Dataset, query: str, *, k: int = 3) -> list[Matched]:
    """The k best documents of a query with their token similarities; arguments and errors as of `explain`."""
    from lodesmith.encoders._page_image import opened
    from lodesmith.reports.heat import Matched
    from lodesmith.retrieval.dense import Dense

    known = query in dataset.queries
    asked = dataset.queries[query].content if known else query
    retriever = Resolver(dataset).resolve(model).retriever
    if not isinstance(retriever, Dense) or retriever.encoder.metric != "maxsim":
        raise InputError(f"{model} is no late-interaction model, and only of those tokens match", "choose one")
    encoder: Any = retriever.encoder
    tokens, vectors = encoder.labels(asked, "query"), encoder.encode([asked], "query").values
    judged = next((own[query] for own in dataset.judgements.values() if query in own), None) if known else None
    found = []
    for key, score in track(retriever.search({"q": asked}, k)["q"], "explain", unit="documents"):
        document, more = dataset.documents[key], {}
        if getattr(encoder, "reads", "text") == "images":
            content: str = page_image(document, dataset.folder)
            place = encoder.layout(content)
            more = {"page": opened(content), "places": place.tokens, "boxes": place.boxes}
        else:
            content = document.content
        own, words = encoder.encode([content]).values, encoder.labels(content, "document")
        if words is None or tokens is None:
            raise InputError(f"{model} pools its tokens: none has a vector of its own", "choose one without pooling")
        relevant = None if judged is None else judged.get(key, 0) > 0
        similarities = np.asarray(vectors @ own.T, np.float32)
        found.append(Matched(key, score, relevant, tokens, similarities, words, **more))
    return found
