"""A `MultiVectorEncoder` of sentence-transformers: one that was saved, ColBERT's and PyLate's too, or a new one."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.encoders._loading import is_late, load_model, load_options, loading
from lodesmith.encoders._reading import prompts_of

__all__ = ["Asked", "Interaction", "late_model"]

PUNCTUATION = "punctuation"
"""A skip-list by name: the ASCII marks."""


class Asked(TypedDict, total=False):
    """The fields of `Interaction`."""

    dimension: int | None
    query_length: int | None
    document_length: int | None
    expansion: int | None
    attend: bool | None
    skip: str | Sequence[str] | None
    pool: int | None


@dataclass(frozen=True)
class Interaction:
    """How texts become token vectors. None is the model's own, or the default of a new one.

    Args:
        dimension: d of a token's vector; 128 in a new model.
        query_length: tokens of a query that the model sees, special ones included.
        document_length: the same of a document.
        expansion: queries are filled up to so many tokens with the tokenizer's mask token, whose vectors count too
            (query augmentation, Khattab and Zaharia 2020, arXiv 2004.12832, section 3.2); 0 for none.
        attend: whether the other tokens of a query see those it was filled up with.
        skip: documents' tokens that have no vector: `punctuation`, or the tokens.
        pool: a document keeps one vector of so many tokens: means of clusters by Ward's linkage on 1 − cos, scaled to
            length 1 (Clavié, Chaffin and Adams 2024, arXiv 2409.14683). The first token stays. 1 keeps all.
    """

    dimension: int | None = None
    query_length: int | None = None
    document_length: int | None = None
    expansion: int | None = None
    attend: bool | None = None
    skip: str | Sequence[str] | None = None
    pool: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("dimension", 1), ("query_length", 4), ("document_length", 4), ("expansion", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        if self.pool is not None and self.pool < 1:
            raise ConfigError(f"pool must be at least 1, not {self.pool}", "1 keeps a vector of each token")
        if isinstance(self.skip, str) and self.skip != PUNCTUATION:
            raise ConfigError(f"no skip-list is called {self.skip!r}", f"{PUNCTUATION}, or a list of tokens")

    @property
    def skipped(self) -> list[str]:
        """The tokens of the skip-list."""
        return list(string.punctuation) if self.skip == PUNCTUATION else list(self.skip or ())


def late_model(folder: Path, device: str | None, how: Interaction) -> Any:
    """The `MultiVectorEncoder` of a folder, in float32, with the settings; made from a dense model where it is none.

    A new one has the model's transformer, and under it a linear layer without bias, the skip-list and the scaling of
    each vector to length 1; its weights come from torch's generator.

    Raises:
        InputError: it does not load, or there is no transformer in it.
        ConfigError: a setting does not fit the model.
    """
    model = _opened(folder, device) if is_late(folder) else _made(folder, device, how)
    _set(model, how)
    return model.eval()


def _opened(folder: Path, device: str | None) -> Any:
    from sentence_transformers import MultiVectorEncoder

    with loading(folder):
        model = MultiVectorEncoder(str(folder), **load_options(device))
    return model


def _made(folder: Path, device: str | None, how: Interaction) -> Any:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    dense = load_model(folder, device)
    if dense.transformers_model is None or getattr(dense, "exported", None):
        raise InputError("a late-interaction model is made of a transformer, and this is none", path=folder)
    width = dense[0].get_embedding_dimension()
    projection = Dense(width, how.dimension or 128, bias=False, activation_function=nn.Identity(), **_tokens())
    modules = [dense[0], projection, MultiVectorMask(how.skipped), Normalize(**_tokens())]
    prompts = {side: text for side, text in prompts_of(dense, None, None).items() if text}
    return MultiVectorEncoder(modules=modules, device=str(dense.device), prompts=prompts or None)


def _tokens() -> dict[str, str]:
    return {"module_input_name": "token_embeddings"}


def _set(model: Any, how: Interaction) -> None:
    """The settings that are given, in place."""
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask

    transformer = model[0]
    if how.dimension not in (None, model.get_embedding_dimension()):
        raise ConfigError(
            f"dimension is {how.dimension}, and the model has {model.get_embedding_dimension()}", "leave it out"
        )
    _set_lengths(transformer, how)
    if how.skip is not None:
        mask = next((module for module in model if isinstance(module, MultiVectorMask)), None)
        if mask is None:
            raise ConfigError("skip: the model has no place for a skip-list", "leave it out")
        mask.skiplist_words = how.skipped
        mask.resolve_with_tokenizer(model.tokenizer)
    if how.pool is not None:
        kept = [module for module in model if not isinstance(module, HierarchicalTokenPooling)]
        kept += [HierarchicalTokenPooling(float(how.pool))] if how.pool > 1 else []
        for name, _ in list(model.named_children()):
            delattr(model, name)
        for at, module in enumerate(kept):
            model.add_module(str(at), module)


def _set_lengths(transformer: Any, how: Interaction) -> None:
    limit = getattr(transformer, "max_seq_length", None)
    for name in ("query_length", "document_length", "expansion"):
        value = getattr(how, name)
        if value and limit and value > limit:
            raise ConfigError(f"{name} is {value}, and the model reads {limit} tokens", "choose fewer")
    own = transformer.query_expansion
    length = how.expansion if how.expansion is not None else own and own["length"]
    attend = how.attend if how.attend is not None else bool(own and own.get("attend"))
    try:
        transformer.query_expansion = None
        if how.query_length is not None:
            transformer.query_length = how.query_length
        if how.document_length is not None:
            transformer.document_length = how.document_length
        if length:
            kept = {"strategy": own["strategy"], "token": own.get("token")} if own else {"strategy": "min"}
            transformer.query_expansion = {**kept, "attend": attend, "length": length}
    except ValueError as error:
        raise ConfigError(f"expansion does not fit the model: {error}", "set expansion to 0") from None
