"""A model or run as an encoder of the Massive Text Embedding Benchmark (mteb 2, Muennighoff et al. 2023).

>>> import mteb                                                                             # doctest: +SKIP
>>> mteb.evaluate(wrap("runs/isotropic-3f2a"), mteb.get_tasks(tasks=["SciFact"]))           # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError
from lodesmith.core.protocols import SEVERAL, Encoder, Metric, Side

if TYPE_CHECKING:
    import torch

__all__ = ["MtebEncoder", "wrap"]

_CHUNK = 4096
"""Texts encoded at once: mteb's own batches are too small to be packed well."""


def wrap(model: str | Path | Encoder, name: str | None = None) -> MtebEncoder:
    """A model as mteb takes it: `mteb.evaluate(wrap(model), tasks)`.

    Args:
        model: a run directory, model folder, hub name or `minilm`; or an encoder of one vector a text.
        name: what mteb's results call it, `OWNER/NAME`; made from the model's own name where None.

    Raises:
        InputError: there is no such model here, or it gives several vectors a text.
    """
    from lodesmith.recipes.systems import load_encoder

    if isinstance(model, str | Path):
        name = name or (Path(model).resolve().name if Path(model).exists() else str(model))
        model = load_encoder(str(model))
    if model.metric in SEVERAL:
        raise InputError("mteb takes encoders of one vector a text", "choose a model that gives one")
    return MtebEncoder(model, name or type(model).__name__)


class MtebEncoder:
    """mteb's encoder protocol over an encoder of this package.

    Prompts are the encoder's own, by side: mteb says which side of a retrieval task a text is on. Texts of tasks
    without sides (similarity, classification …) are encoded as queries, so that the texts of a pair get the same
    prompt. Similarities are those that the encoder was trained for, as in `lode evaluate`.

    Args:
        encoder: of one vector a text.
        name: what results call it; `lodesmith/` is put before a name without an owner, which mteb requires.
    """

    def __init__(self, encoder: Encoder, name: str) -> None:
        self.encoder = encoder
        self.name = name if "/" in name else f"lodesmith/{name}"

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **_: Any) -> NDArray[np.float32]:
        """Encode mteb's batches.

        Args:
            inputs: mappings with the key `text`: the texts of a batch.
            prompt_type: mteb's `PromptType`, `"query"` or `"document"`; None where the task has no sides.

        Returns:
            float32 [texts, d].

        Raises:
            InputError: a batch has no texts, or the encoder gives a text several vectors.
        """
        side = _side(prompt_type)
        rows = [self._rows(texts, side) for texts in _chunks(inputs)]
        return np.concatenate(rows) if rows else np.empty((0, self.encoder.dimension), np.float32)

    def _rows(self, texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        vectors = self.encoder.encode(texts, side)
        if not vectors.is_dense:
            raise InputError("mteb takes encoders of one vector a text", "load the model without passages")
        return np.asarray(vectors.values, np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """The scores of every row of the first [n, d] with every row of the second [m, d]: [n, m]."""
        return _compare(self.encoder.metric)(_rows(embeddings1), _rows(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """The scores of rows at the same place, [n, d] twice: [n]."""
        import torch

        from lodesmith.similarity.cosine import cosine_rows
        from lodesmith.similarity.dot import dot_rows
        from lodesmith.similarity.euclidean import euclidean_rows

        by_rows = {"cosine": cosine_rows, "dot": dot_rows, "euclidean": euclidean_rows}[self.encoder.metric]
        return torch.from_numpy(by_rows(_rows(embeddings1).numpy(), _rows(embeddings2).numpy()))

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb records of the model; its revision is the encoder's fingerprint, so that mteb's cache of results
        tells other weights apart.

        Raises:
            InputError: mteb is not installed.
        """
        try:
            meta = importlib.import_module("mteb.models.model_meta")
        except ImportError as error:
            raise InputError(f"mteb cannot be imported: {error}", "pip install 'mteb>=2'") from None
        known = {
            "name": self.name,
            "revision": self.encoder.fingerprint,
            "embed_dim": self.encoder.dimension,
            "similarity_fn_name": meta.ScoringFunction(self.encoder.metric),
            "framework": ["PyTorch"],
        }
        if parameters := getattr(self.encoder, "parameters", None):
            known["n_parameters"] = parameters if isinstance(parameters, int) else None
        return meta.ModelMeta.create_empty(known)


def _side(prompt_type: Any) -> Side:
    kind = getattr(prompt_type, "value", prompt_type)
    if kind not in (None, "query", "document"):
        raise InputError(f"mteb's prompt type is {kind!r}", "it must be query or document")
    return "document" if kind == "document" else "query"


def _chunks(inputs: Iterable[Mapping[str, Any]]) -> Iterable[list[str]]:
    texts: list[str] = []
    for batch in inputs:
        if "text" not in batch:
            raise InputError(f"a batch of mteb has no texts (it has: {', '.join(batch)})", "choose tasks of texts")
        texts.extend(batch["text"])
        if len(texts) >= _CHUNK:
            yield texts
            texts = []
    if texts:
        yield texts


def _rows(embeddings: Any) -> torch.Tensor:
    """Rows [n, d] of what mteb hands back: an array or tensor, of one row too."""
    import torch

    found = torch.as_tensor(embeddings, dtype=torch.float32).cpu()
    return found if found.ndim == 2 else found[None]


def _compare(metric: Metric) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    from lodesmith.similarity.cosine import cosine
    from lodesmith.similarity.dot import dot
    from lodesmith.similarity.euclidean import euclidean

    return {"cosine": cosine, "dot": dot, "euclidean": euclidean}[metric]
