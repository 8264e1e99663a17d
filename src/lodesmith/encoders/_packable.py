"""Whether a model gives the same vectors in packed batches; if so, it is set up for them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lodesmith.encoders._packing import ATTENTION, register

__all__ = ["check_texts", "first_position", "near"]

_log = logging.getLogger(__name__)

_SENTENCE = "Retrieval models turn a text into a vector; texts of like meaning lie close together. "
_DETAILS = "Numbers such as 3.14, and names like Zürich, count too."
CHECK_TEXTS = ("a", "What is a vector?", _SENTENCE, _SENTENCE + _DETAILS)
"""Texts of unequal length on which a model is checked when it is loaded."""
_TOLERANCE = 1e-4
"""Largest difference between packed and padded vectors, relative to the largest component, in float32."""
_LONGEST_CHECK = 1200
"""Tokens of the longest text that a sliding window is checked with."""


def check_texts(model: Any, limit: int) -> list[str]:
    """`CHECK_TEXTS`, and one beyond the sliding window where the model has one and reads so far."""
    window = getattr(getattr(model.transformers_model, "config", None), "sliding_window", None) or 0
    longer = window and window < limit
    return [*CHECK_TEXTS, "far " * min(2 * window, _LONGEST_CHECK)] if longer else list(CHECK_TEXTS)


def first_position(
    model: Any, source: str, limit: int, reference: Tensor, packed: Callable[[int], Tensor]
) -> int | None:
    """The position id of a packed sequence's first token with which a model gives the same vectors as unpacked.

    Args:
        model: of sentence-transformers; left set up for packed batches, or as it was.
        source: its name, for the log.
        limit: tokens of a text that it reads.
        reference: vectors of the check texts, each in a batch of its own.
        packed: position id → the same vectors, from one packed batch.

    Returns:
        None where there is none.
    """
    transformer = model.transformers_model
    if transformer is None or model[0].tokenizer is None:
        return None
    usual = transformer.config._attn_implementation
    reason = _unpackable(transformer, limit)
    for first in () if reason else (0, (transformer.config.pad_token_id or 0) + 1):
        try:
            register()
            transformer.set_attn_implementation(ATTENTION)
            with torch.inference_mode():
                found = packed(first).float()
                difference = float((found - reference).abs().max())
        except Exception as error:  # whatever a model's own code raises means the same: not this way
            reason = f"{type(error).__name__}: {error}"
            continue
        if near(found, reference):
            return first
        reason = f"packed vectors differ by {difference:.1g}"
    transformer.set_attn_implementation(usual)
    _log.info("%s: padded batches, packing does not fit this model (%s)", source, reason)
    return None


def near(found: Tensor, reference: Tensor) -> bool:
    """Whether vectors are those of the reference, but for rounding."""
    return float((found - reference).abs().max()) <= _TOLERANCE * float(reference.abs().max())


def _unpackable(transformer: Any, limit: int) -> str:
    if not getattr(transformer, "_can_set_attn_implementation", lambda: True)():
        return "its class computes attention in code of its own"
    window = getattr(transformer.config, "sliding_window", None) or 0
    if _LONGEST_CHECK // 2 < window < limit:
        return f"its sliding window of {window} tokens is too long to check"
    return ""
