"""The modules behind a frozen base, applied to the base's stored vectors."""

from __future__ import annotations

import numpy as np
import torch

from lodesmith.core.errors import InputError
from lodesmith.core.vectors import Vectors
from lodesmith.encoders.corpus import default_cache
from lodesmith.encoders.corpus.scratch import scratch
from lodesmith.encoders.transformer import TransformerEncoder

__all__ = ["through_head"]

_BLOCK = 65_536
"""Rows at once."""


def through_head(encoder: TransformerEncoder, base: TransformerEncoder, vectors: Vectors) -> Vectors:
    """What `encoder` would give for the texts whose `base` vectors these are, without reading a text.

    Args:
        encoder: a model that begins with the base's modules.
        base: what made `vectors`.
        vectors: float32 [total, base dimension].

    Raises:
        InputError: the model does not begin with the base's modules.
    """
    ours, theirs = list(encoder.model), list(base.model)
    if [type(m).__name__ for m in ours[: len(theirs)]] != [type(m).__name__ for m in theirs]:
        raise InputError(f"{encoder.source} does not begin with the modules of {base.source}")
    values = scratch((len(vectors.values), encoder.dimension), np.float32, default_cache())
    with torch.inference_mode():
        for start in range(0, len(values), _BLOCK):
            block = torch.from_numpy(np.array(vectors.values[start : start + _BLOCK], np.float32)).to(encoder.device)
            features = {"sentence_embedding": block}
            for module in ours[len(theirs) :]:
                features = module(features)
            values[start : start + _BLOCK] = features["sentence_embedding"].float().cpu().numpy()
    info = vectors.info | {"model": encoder.fingerprint, "metric": encoder.metric}
    return Vectors(values, vectors.offsets, vectors.ids, info)
